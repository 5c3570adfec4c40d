"""Weights in a prompt: `(word)` has weight 1.1, `((word))` 1.21, `[word]` 1/1.1, `(word:1.3)` 1.3. `\\(` is a literal parenthesis.

The syntax is from AUTOMATIC1111's web interface. As there, an unclosed bracket extends to the end of the prompt, an unmatched
closing bracket is text, and the word BREAK starts a new section. A warning names any syntax that minisd does not support.
"""

import re
import warnings
from collections.abc import Iterable

FACTORS = {"(": 1.1, "[": 1 / 1.1}
TOKEN = re.compile(
    r"""\\(?P<literal>[()\[\]\\])
    | (?P<opening>[(\[])
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | (?P<closing>[)\]])
    | [^\\()\[\]:]+
    | .""",
    re.VERBOSE,
)
# [cat:dog:0.5] and [cat:10] (change the prompt at a step), [cat|dog] (alternate), AND (compose), <lora:name:1>
UNREAD = re.compile(r"(?<!\\)\[[^\[\]]*(?::\s*[\d.]+\s*|\|[^\[\]]*)\]|\bAND\b|<\w+:[^<>]+>")


def warn_of_unread(prompts: Iterable[str]):
    """Warn about syntax of web interfaces that minisd does not support."""
    found = dict.fromkeys(syntax for prompt in prompts for syntax in UNREAD.findall(prompt))
    if found:
        warnings.warn(f"{', '.join(found)} in a prompt is not implemented and is read as plain text", stacklevel=5)


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The pieces of a prompt, without brackets, each with its weight."""
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # the piece after each bracket that is still open

    def close(bracket: str, factor: float):
        start = opened[bracket].pop()
        pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]

    for token in TOKEN.finditer(prompt):
        if token["opening"]:
            opened[token[0]].append(len(pieces))
        elif token["weight"] and opened["("]:
            close("(", float(token["weight"]))
        elif token["closing"] and opened[bracket := "(" if token[0] == ")" else "["]:
            close(bracket, FACTORS[bracket])
        else:
            pieces.append((token["literal"] or token[0], 1.0))
    for bracket, starts in opened.items():
        while starts:
            close(bracket, FACTORS[bracket])
    return pieces


def sections(prompt: str) -> list[list[tuple[str, float]]]:
    """The sections between BREAKs. Neighbouring pieces of equal weight are merged, so that no word is split."""
    found: list[list[tuple[str, float]]] = [[]]
    for piece, weight in weighted(prompt):
        first, *later = re.split(r"\s*\bBREAK\b\s*", piece)
        for i, text in enumerate([first, *later]):
            if i:
                found.append([])
            if found[-1] and found[-1][-1][1] == weight:
                found[-1][-1] = (found[-1][-1][0] + text, weight)
            elif text:
                found[-1].append((text, weight))
    return found

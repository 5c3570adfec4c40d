"""The words that tokenizer files add to the vocabulary, including special tokens, with transformers' precedence and numbering."""

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken

from ..tokenizer import END, START
from .errors import CheckpointError
from .texts import parse_json
from .vetting import Settings, check, get, refuse_unless, required

ADDED, SPECIAL, CONFIG, WHOLE = "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"
DECODER = "added_tokens_decoder"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # how an added word is matched in a text
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA, OLD_EXTRA = "extra_special_tokens", "additional_special_tokens"
IMPLEMENTED = {
    "bos_token": START, "eos_token": END, "unk_token": END, "padding_side": "right", "truncation_side": "right",
    "split_special_tokens": False,
}  # fmt: skip


def parsed(texts: Mapping[str, str], file: str, where: str) -> dict[str, Any]:
    """An optional JSON file, parsed; empty if missing."""
    return parse_json(texts.get(file, "{}"), f"in {where}, {file}")


def tokenizer_settings(texts: Mapping[str, str], where: str) -> dict[str, Any]:
    """The settings of tokenizer_config.json, overridden by special_tokens_map.json unless the former lists the added words.

    Raises UnsupportedConfig for a tokenizer other than CLIP's.
    """
    settings, special = parsed(texts, CONFIG, where), parsed(texts, SPECIAL, where)
    if not settings.get(EXTRA):
        settings[EXTRA] = settings.pop(OLD_EXTRA, None)
    files = [settings] if DECODER in settings else [settings, special]  # in the official v2 folders, the second is right
    settings = {name: value for file in files for name, value in file.items() if value is not None}
    for side in ("padding", "truncation"):
        direction = get(get(parsed(texts, WHOLE, where), side, dict | None, None) or {}, "direction", str, "right")
        settings.setdefault(f"{side}_side", direction.lower())
    plain = {name: word(name, value).content if name in NAMED else value for name, value in settings.items()}
    refuse_unless(plain, IMPLEMENTED)
    if isinstance(length := plain.get("model_max_length"), int) and length < 2**20:  # larger values mean no limit
        refuse_unless(plain, {"model_max_length": 77})
    return settings


def word(name: str, entry: Any, **flags: bool) -> AddedToken:
    """An added word from its entry in a file: a string, or an object with the text and flags."""
    entry = entry if isinstance(check(name, entry, str | dict), dict) else {"content": entry}
    flags = {flag: get(entry, flag, bool, False) for flag in FLAGS if flag in entry} | flags
    return AddedToken(required(entry, "content", str), **flags)


def special_words(settings: Settings) -> Iterator[AddedToken]:
    """Special tokens: those with a role, such as padding, and those that the files list as special."""
    others = [name for name, value in settings.items() if name.endswith("_token") and isinstance(value, str)]
    for name in dict.fromkeys([*NAMED, *others]):
        if settings.get(name):
            yield word(name, settings[name], special=True)
    for name in (OLD_EXTRA, EXTRA):
        listed = get(settings, name, dict[str, str | dict] | tuple[str | dict, ...], ())
        for entry in listed.values() if isinstance(listed, dict) else listed:
            yield word(name, entry, special=True)


def declared_words(texts: Mapping[str, str], settings: Settings, where: str) -> dict[int, AddedToken]:
    """The words with an id in the files: in tokenizer_config.json, or else in the two files of old transformers versions."""
    if DECODER in settings:
        entries = [(id, word(DECODER, entry)) for id, entry in get(settings, DECODER, dict[str, dict], {}).items()]
    else:
        listed = {name: settings[name] for name in (*NAMED, EXTRA) if name in settings}
        special = {token.content for token in special_words(listed)}
        plain = check(ADDED, parsed(texts, ADDED, where), dict[str, int])
        entries = [(id, AddedToken(text, special=text in special, normalized=text not in special)) for text, id in plain.items()]
        whole = get(parsed(texts, WHOLE, where), "added_tokens", tuple[dict, ...], ())
        entries += [(entry.get("id"), word("added_tokens", entry)) for entry in whole]
    return {check("id", int(id) if str(id).isdecimal() and str(id).isascii() else id, int): token for id, token in entries}


def read_words(
    texts: Mapping[str, str], settings: Settings, vocab: Mapping[str, int], where: str
) -> tuple[list[AddedToken], dict[str, int]]:
    """All added words, and the vocabulary extended by them. New words get the next ids after the vocabulary.

    Raises CheckpointError if a file gives a word a different id; transformers would ignore that id.
    """
    declared = sorted(declared_words(texts, settings, where).items(), key=lambda entry: entry[0])
    words = {token.content: token for _, token in declared if token.content}
    for token in special_words(settings):
        words.setdefault(token.content, token)
    new = {text: len(vocab) + i for i, text in enumerate(text for text in words if text not in vocab)}
    ids = {**vocab, **new}
    for id, token in declared:
        if ids.get(token.content, id) != id:
            raise CheckpointError(
                f"in {where}, the added word {token.content!r:.80} has id {id} instead of {ids[token.content]}; "
                "correct the files so that added words follow the vocabulary without gaps"
            )
    return list(words.values()), ids

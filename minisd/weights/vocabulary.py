"""Reads and writes the files of a tokenizer: its vocabulary, its merges, its added words and its padding token."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tokenizers import AddedToken

from ..phrases import with_phrases
from ..tokenizer import END, START, CLIPTokenizer
from .added_words import ADDED, CONFIG, DECODER, FLAGS, SPECIAL, WHOLE, parsed, read_words, tokenizer_settings, word
from .errors import CheckpointError
from .texts import json_text, parse_json
from .vetting import Settings, check, fits, named

VOCABULARIES = ((WHOLE,), ("vocab.json", "merges.txt"))  # either is enough; as in transformers, the first takes precedence
COMPANIONS = (WHOLE, ADDED, SPECIAL, CONFIG)  # also read if they exist

T = TypeVar("T", bound=CLIPTokenizer)


class Vocabulary(NamedTuple):
    vocab: dict[str, int]
    merges: list[tuple[str, str]]


def vocabulary_files(names: Collection[str], folders: Sequence[str]) -> list[str]:
    """The files of a vocabulary and its companions, from the first folder ("tokenizer/") that has one."""
    for inside in folders:
        for files in VOCABULARIES:
            if all(inside + file in names for file in files):
                return [inside + file for file in dict.fromkeys((*files, *COMPANIONS)) if inside + file in names]
    return []


def absent_companions(names: Collection[str], folders: Sequence[str]) -> list[str]:
    """The companion files that the vocabulary lacks."""
    found = vocabulary_files(names, folders)
    insides = {file[: file.rfind("/") + 1] for file in found}
    return [inside + file for inside in insides for file in COMPANIONS if inside + file not in found]


def read_vocabulary(texts: Mapping[str, str], where: str) -> Vocabulary:
    """The vocabulary in the texts of these files, by file name.

    Raises CheckpointError unless every merge joins two tokens of the vocabulary into a third.
    """
    if WHOLE not in texts:
        file, vocab = "merges.txt", parse_json(texts["vocab.json"], f"in {where}, vocab.json")
        lines: list[Any] = [line for line in texts["merges.txt"].splitlines() if line and not line.startswith("#version")]
    else:
        file, model = WHOLE, parsed(texts, WHOLE, where).get("model")
        if not (isinstance(model, dict) and isinstance(model.get("vocab"), dict) and isinstance(model.get("merges"), list)):
            raise CheckpointError(f"in {where}, tokenizer.json has no byte-pair encoding; use one written by CLIP's tokenizer")
        vocab, lines = model["vocab"], model["merges"]
    check("vocab", vocab, dict[str, int])
    merges = []
    for line in lines:
        merge = line.split() if isinstance(line, str) else line
        if not fits(merge, tuple[str, str], "merge") or not {*merge, "".join(merge)} <= vocab.keys():
            words = " ".join(merge) if fits(merge, tuple[str, ...], "merge") else merge
            raise CheckpointError(
                f"in {where}, {file} is damaged: {words!r:.80} is not a pair of tokens of the vocabulary; get it again"
            )
        merges.append((merge[0], merge[1]))
    return Vocabulary(vocab, merges)


def read_tokenizer(kind: type[T], texts: Mapping[str, str], where: str, pad: str | None = None) -> T:
    """The tokenizer in the texts of these files, by file name; `pad` overrides the padding token."""
    with named(f"in {where}", CheckpointError):
        vocab, merges = read_vocabulary(texts, where)
        settings = tokenizer_settings(texts, where) | ({"pad_token": pad} if pad else {})
        pad = padding_token(settings)
        words, ids = read_words(texts, settings, vocab, where)
    plain = [AddedToken(text, special=True) for text in (START, END, pad)]  # every tokenizer adds these
    added = [token for token in words if token not in plain or token.content not in vocab]
    try:
        return with_phrases(kind(ids, merges, pad, added))
    except ValueError as error:
        raise CheckpointError(f"in {where}, {error}") from error


def padding_token(settings: Settings) -> str:
    return word("pad_token", settings.get("pad_token") or END).content


def special_tokens(pad: str) -> dict[str, Any]:
    return {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}


def tokenizer_texts(tokenizer: CLIPTokenizer) -> dict[str, str]:
    """The texts of a tokenizer's files, in transformers' format."""
    special = special_tokens(tokenizer.pad)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length, **special}
    lines = ["#version: 0.2", *(" ".join(merge) for merge in tokenizer.merges)]
    added = {tokenizer.vocab[word.content]: word for word in tokenizer.added}
    after = {word.content: id for id, word in added.items() if id > tokenizer.end_id}  # an added word can also be a BPE token
    texts = {
        "vocab.json": json_text({token: id for token, id in tokenizer.vocab.items() if token not in after}),
        "merges.txt": "\n".join(lines) + "\n",
        SPECIAL: json_text(special),
    }
    if added:
        flags = {id: {"content": word.content, **{flag: getattr(word, flag) for flag in FLAGS}} for id, word in added.items()}
        texts[ADDED], config[DECODER] = json_text(after), flags
    return texts | {CONFIG: json_text(config)}

"""The files of a tokenizer, in and out: its vocabulary, its merges, and which token pads."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..tokenizer import END, START, CLIPTokenizer
from .errors import CheckpointError
from .texts import json_text, parse_json

VOCABULARIES = (("vocab.json", "merges.txt"), ("tokenizer.json",))  # either is enough
PADDING = ("special_tokens_map.json", "tokenizer_config.json")  # in the official v2 folders they disagree, and the first is right

T = TypeVar("T", bound=CLIPTokenizer)


class Vocabulary(NamedTuple):
    vocab: dict[str, int]
    merges: list[tuple[str, str]]


def vocabulary_files(names: Collection[str], folders: Sequence[str]) -> list[str]:
    """A vocabulary among the names, with the files about padding, from the first of the folders ("tokenizer/") that has one."""
    for inside in folders:
        for files in VOCABULARIES:
            if all(inside + file in names for file in files):
                return [inside + file for file in (*files, *PADDING) if inside + file in names]
    return []


def read_vocabulary(texts: Mapping[str, str], where: str) -> Vocabulary:
    """The vocabulary in the texts of these files, by their names. Every merge must join two of its tokens to a third."""
    if "vocab.json" in texts:
        file, vocab = "merges.txt", parse_json(texts["vocab.json"], f"in {where}, vocab.json")
        lines = [line for line in texts["merges.txt"].splitlines() if line and not line.startswith("#version")]
    else:
        file, model = "tokenizer.json", parse_json(texts["tokenizer.json"], f"in {where}, tokenizer.json").get("model")
        if not (isinstance(model, dict) and isinstance(model.get("vocab"), dict) and "merges" in model):
            raise CheckpointError(
                f"in {where}, tokenizer.json holds no byte-pair encoding; take one that CLIP's tokenizer has written"
            )
        vocab, lines = model["vocab"], model["merges"]
    merges = []
    for line in lines:
        merge = line.split() if isinstance(line, str) else line
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys():
            words = " ".join(merge)
            raise CheckpointError(f"in {where}, {file} is damaged: {words!r} is no pair of the vocabulary's tokens; get it again")
        merges.append((merge[0], merge[1]))
        merges.append((merge[0], merge[1]))
    return Vocabulary(vocab, merges)


def read_tokenizer(kind: type[T], texts: Mapping[str, str], where: str) -> T:
    """The tokenizer in the texts of these files, by their names."""
    vocab, merges = read_vocabulary(texts, where)
    try:
        return kind(vocab, merges, padding_token(texts, where))
    except ValueError as error:
        raise CheckpointError(f"in {where}, {error}") from error


def padding_token(texts: Mapping[str, str], where: str) -> str:
    for file in PADDING:
        if token := parse_json(texts.get(file, "{}"), f"in {where}, {file}").get("pad_token"):
            return token["content"] if isinstance(token, dict) else token
    return END


def special_tokens(pad: str) -> dict[str, Any]:
    return {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}


def tokenizer_texts(tokenizer: CLIPTokenizer) -> dict[str, str]:
    """The files of a tokenizer as transformers reads them."""
    special = special_tokens(tokenizer.pad)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length, **special}
    lines = ["#version: 0.2", *(" ".join(merge) for merge in tokenizer.merges)]
    return {
        "vocab.json": json_text(tokenizer.vocab),
        "merges.txt": "\n".join(lines) + "\n",
        "special_tokens_map.json": json_text(special),
        "tokenizer_config.json": json_text(config),
    }

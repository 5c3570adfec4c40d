"""Prompt → 77 ids: CLIP's byte-level BPE, run by the `tokenizers` library.

A text is lowercased, split into words, every word into bytes, and bytes are merged in the order that was learnt, most frequent
pair first (Sennrich et al. 2016). The ids of a prompt stand between a start and an end token and are padded to 77: with the
end token in Stable Diffusion v1, with id 0 in v2. No mask hides the padding.
"""

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from .checkpoint import (
    HUB,
    CheckpointError,
    known,
    listing,
    merges_in,
    parse_json,
    read_text,
    resolve,
    stray_merge,
    write_folder,
    write_json,
)

SAY_HOW_TO_PAD = ["special_tokens_map.json", "tokenizer_config.json"]
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = rf"{END.replace('|', '[|]')}|{START.replace('|', '[|]')}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"


class TokenizerOutput(NamedTuple):
    input_ids: Tensor


def byte_pair_encoding(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """CLIP's way from text to ids, without start, end and padding."""
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    return tokenizer


class CLIPTokenizer:
    """Prompts to ids. `pad` is the padding token: `<|endoftext|>` in v1, `!` (id 0) in v2."""

    model_max_length = 77

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], pad: str = END):
        if lacking := {START, END, pad} - vocab.keys():
            raise CheckpointError(f"the vocabulary lacks {min(lacking)}, as no vocabulary of CLIP does")
        self.vocab, self.merges, self.pad = vocab, merges, pad
        self.bpe = byte_pair_encoding(vocab, merges)
        if pad != END:  # in v2's folders for diffusers padding is a special token: a typed "!" becomes it too
            self.bpe.add_special_tokens([AddedToken(pad, special=True)])
        self.start_id, self.end_id, self.pad_id = vocab[START], vocab[END], vocab[pad]

    def __call__(
        self,
        text: str | list[str],
        padding: str = "max_length",
        max_length: int = model_max_length,
        truncation: bool = True,
        return_tensors: str = "pt",
    ) -> TokenizerOutput:
        """One prompt or several → `.input_ids` (B, max_length), always padded and, with a warning, cut to that length."""
        if (padding, truncation, return_tensors) != ("max_length", True, "pt"):
            raise ValueError('only padding="max_length", truncation=True and return_tensors="pt" are implemented')
        rows = [self.encode(prompt, max_length) for prompt in ([text] if isinstance(text, str) else text)]
        return TokenizerOutput(torch.tensor(rows))

    def encode(self, prompt: str, max_length: int = model_max_length) -> list[int]:
        ids, room = self.bpe.encode(prompt).ids, max_length - 2
        if len(ids) > room:
            dropped = self.bpe.decode(ids[room:]).replace("</w>", " ").strip()
            warnings.warn(f"the prompt has {len(ids)} tokens, {room} fit; left out: {shortened(dropped)}", stacklevel=4)
        ids = [self.start_id, *ids[:room], self.end_id]
        return ids + [self.pad_id] * (max_length - len(ids))

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, subfolder: str = "", **hub) -> Self:
        """Load from a folder (or an id on the Hub) with vocab.json and merges.txt, or with tokenizer.json."""
        folder = resolve(source, lambda names: vocabulary_files(names, str(source), subfolder), **known(hub, HUB))
        paths = [folder / name for name in vocabulary_files(listing(folder), str(folder), subfolder)]
        texts = {path.name: read_text(path) for path in paths}
        try:
            return cls.from_files(texts)
        except CheckpointError as error:
            raise CheckpointError(f"in {paths[0].parent}, {error}") from error

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Load from the texts of these files, by their names."""
        if "vocab.json" in files:
            file, vocab = "merges.txt", parse_json(files["vocab.json"], "vocab.json")
            merges = merges_in(files["merges.txt"])
        else:
            file, model = "tokenizer.json", parse_json(files["tokenizer.json"], "tokenizer.json").get("model")
            if not (isinstance(model, dict) and {"vocab", "merges"} <= model.keys()):
                raise CheckpointError("tokenizer.json holds no byte-pair encoding; take one that CLIP's tokenizer has written")
            vocab = model["vocab"]
            merges = [tuple(merge.split()) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        if (stray := stray_merge(merges, vocab)) is not None:
            raise CheckpointError(f"{file} is damaged: {' '.join(stray)!r} is no pair of the vocabulary's tokens; get it again")
        return cls(vocab, merges, padding_token(files))

    def save_pretrained(self, folder: str | os.PathLike):
        write_folder(folder, self.write_to)

    def write_to(self, folder: Path):
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": self.pad}
        lines = ["#version: 0.2", *(" ".join(merge) for merge in self.merges)]
        write_json(folder / "vocab.json", self.vocab)
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_json(folder / "special_tokens_map.json", special)
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.model_max_length}
        write_json(folder / "tokenizer_config.json", {**config, **special})


def vocabulary_files(names: Collection[str], where: str, subfolder: str = "") -> list[str]:
    """Of a checkpoint's files those of its tokenizer: in the subfolder, or, if none is named, where they are.

    Raises CheckpointError if there is no vocabulary.
    """
    for inside in [f"{subfolder}/"] if subfolder else ["", "tokenizer/"]:
        for needed in (["vocab.json", "merges.txt"], ["tokenizer.json"]):
            if all(inside + file in names for file in needed):
                return [inside + file for file in [*needed, *SAY_HOW_TO_PAD] if inside + file in names]
    raise CheckpointError(f"{Path(where, subfolder)}/vocab.json or merges.txt is missing: is {where} a checkpoint?")


def padding_token(files: Mapping[str, str]) -> str:
    """What the JSON files name; they may disagree, and then the special tokens' map is right."""
    for file in SAY_HOW_TO_PAD:
        if token := parse_json(files.get(file, "{}"), file).get("pad_token"):
            return token["content"] if isinstance(token, dict) else token
    return END


def shortened(text: str, most: int = 200) -> str:
    return repr(text if len(text) <= most else text[:most] + "…")

"""Prompt → 77 ids: CLIP's byte-level BPE, run by the `tokenizers` library.

The text is lowercased and split into words, and each word into bytes. Pairs of bytes are merged in the order learnt in training,
most frequent pair first (Sennrich et al. 2016). A start and an end token enclose the prompt's ids, and padding fills them up to
77: the end token in Stable Diffusion v1, id 0 in v2. No mask hides the padding.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from .pretrained import Pretrained

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = rf"{END.replace('|', '[|]')}|{START.replace('|', '[|]')}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"


class TokenizerOutput(NamedTuple):
    input_ids: Tensor


def byte_pair_encoding(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """CLIP's text → ids, without start token, end token and padding."""
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


class CLIPTokenizer(Pretrained):
    """Prompts → ids. `pad` is `<|endoftext|>` in v1, `!` (id 0) in v2. `added` words of `vocab` are matched before splitting."""

    model_max_length = 77

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], pad: str = END, added: Sequence[AddedToken] = ()):
        if lacking := {START, END, pad} - vocab.keys():
            raise ValueError(f"the vocabulary lacks {min(lacking)}, which every CLIP vocabulary has")
        self.vocab, self.merges, self.pad, self.added = vocab, merges, pad, added
        self.bpe = byte_pair_encoding(vocab, merges)
        if pad != END:  # v2's diffusers folders make the padding a special token, so a typed "!" becomes id 0 too
            self.bpe.add_special_tokens([AddedToken(pad, special=True)])
        self.bpe.add_tokens(list(added))
        self.start_id, self.end_id, self.pad_id = vocab[START], vocab[END], vocab[pad]

    def __call__(
        self,
        text: str | list[str],
        padding: str = "max_length",
        max_length: int = model_max_length,
        truncation: bool = True,
        return_tensors: str = "pt",
    ) -> TokenizerOutput:
        """Prompts → `.input_ids` (B, max_length), padded or truncated to that length; truncation warns."""
        if (padding, truncation, return_tensors) != ("max_length", True, "pt"):
            raise ValueError('only padding="max_length", truncation=True and return_tensors="pt" are implemented')
        rows = [self.encode(prompt, max_length) for prompt in ([text] if isinstance(text, str) else text)]
        return TokenizerOutput(torch.tensor(rows, dtype=torch.int64, device="cpu"))

    def encode(self, prompt: str, max_length: int = model_max_length) -> list[int]:
        ids, room = self.bpe.encode(prompt).ids, max_length - 2
        if len(ids) > room:
            dropped = self.bpe.decode(ids[room:]).replace("</w>", " ").strip()
            warnings.warn(f"the prompt has {len(ids)} tokens, but only {room} fit; ignored: {shortened(dropped)}", stacklevel=4)
        ids = [self.start_id, *ids[:room], self.end_id]
        return ids + [self.pad_id] * (max_length - len(ids))


def shortened(text: str, most: int = 200) -> str:
    return repr(text if len(text) <= most else text[:most] + "…")

"""Learns the built-in model's vocabulary from the byte pairs of its captions, in CLIP's format (Sennrich et al. 2016)."""

import json
import random
from collections.abc import Iterable

from tokenizers import pre_tokenizers, trainers

from ..tiny.picture_book import caption, sample
from ..tokenizer import END, START, CLIPTokenizer, byte_pair_encoding


def learn_tokenizer(captions: int = 20_000, vocab_size: int = 1000) -> CLIPTokenizer:
    """Learn a tokenizer. Ids are as in CLIP: 256 bytes, the same bytes at the end of a word, merges in learnt order, start, end."""
    rng = random.Random("vocabulary")
    return tokenizer_of((caption(sample(rng), rng) for _ in range(captions)), vocab_size)


def tokenizer_of(texts: Iterable[str], vocab_size: int) -> CLIPTokenizer:
    """The tokenizer learnt from these texts, with at most `vocab_size` tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = letters + [letter + "</w>" for letter in letters]
    bpe = byte_pair_encoding({token: i for i, token in enumerate([*base, START, END])}, [])
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False),
    )
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = base + ["".join(pair) for pair in merges] + [START, END]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges)

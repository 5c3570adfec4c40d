"""Learns the vocabulary of the second edition from the byte pairs of its captions."""

import random

from ..tokenizer import CLIPTokenizer
from ..train.words import tokenizer_of
from .captions import caption
from .picture_book import sample


def learn_tokenizer(captions: int = 40_000, vocab_size: int = 1000) -> CLIPTokenizer:
    """The tokenizer learnt from the captions of random scenes."""
    rng = random.Random("vocabulary")
    return tokenizer_of((caption(sample(rng), rng) for _ in range(captions)), vocab_size)

"""Learning the built-in model's vocabulary: byte pairs of its captions, in the form of CLIP's own (Sennrich et al. 2016)."""

import random

from tokenizers import trainers
from tokenizers.pre_tokenizers import ByteLevel

from ..tiny.picture_book import caption, sample
from ..tokenizer import END, START, CLIPTokenizer, byte_pair_encoding


def learn_tokenizer(captions: list[str], vocab_size: int = 1000) -> CLIPTokenizer:
    """Ids as in CLIP: 256 bytes, the same at a word's end, the merges in the order they were learnt, start and end."""
    letters = sorted(ByteLevel.alphabet())
    base = letters + [letter + "</w>" for letter in letters]
    bpe = byte_pair_encoding({token: i for i, token in enumerate([*base, START, END])}, [])
    bpe.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=letters, end_of_word_suffix="</w>")
    )
    merges = [tuple(pair) for pair in __import__("json").loads(bpe.to_str())["model"]["merges"]]
    tokens = base + ["".join(pair) for pair in merges] + [START, END]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges)


def captions_of_the_world(count: int = 20000) -> list[str]:
    rng = random.Random("vocabulary")
    return [caption(sample(rng), rng) for _ in range(count)]

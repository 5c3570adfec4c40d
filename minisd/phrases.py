"""Words with several vectors: if `tok_1` and `tok_2` were added along with `tok`, CLIP reads all three where a text has `tok`."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from tokenizers import Tokenizer

from .tokenizer import CLIPTokenizer

T = TypeVar("T", bound=CLIPTokenizer)


class Ids(NamedTuple):
    ids: list[int]


class Phrases:
    """A byte-pair encoding that replaces the id of a word with the ids of its phrase."""

    def __init__(self, bpe: Tokenizer, phrases: dict[int, list[int]]):
        self.bpe, self.phrases = bpe, phrases

    def encode(self, text: str) -> Ids:
        return Ids([id for first in self.bpe.encode(text).ids for id in self.phrases.get(first, [first])])

    def decode(self, ids: list[int]) -> str:
        return self.bpe.decode(ids)


def phrases_of(words: Iterable[str]) -> dict[str, list[str]]:
    """The phrases among `words`: `tok` → tok, tok_1, tok_2, …"""
    words, phrases = set(words), {}
    for word in words:
        phrase = [word]
        while (following := f"{word}_{len(phrase)}") in words:
            phrase.append(following)
        if len(phrase) > 1:
            phrases[word] = phrase
    return phrases


def with_phrases(tokenizer: T) -> T:
    """Make a tokenizer read the phrases among its added words, and return it."""
    phrases = phrases_of(word.content for word in tokenizer.added)
    if phrases:
        ids = {tokenizer.vocab[word]: [tokenizer.vocab[piece] for piece in phrase] for word, phrase in phrases.items()}
        tokenizer.bpe = Phrases(tokenizer.bpe, ids)  # type: ignore[assignment]
    return tokenizer

"""Textual inversion: new words, each with one or several trained vectors in place of token embeddings (Gal et al. 2022, §3).

Nothing else changes: the embedding table gets new rows, and the tokenizer gets words for them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from ..compiled import uncompiled
from ..phrases import phrases_of, with_phrases
from ..tokenizer import CLIPTokenizer
from ..weights.compare import WEIGHTS
from ..weights.errors import CheckpointError
from ..weights.safetensors import DTYPE_NAMES, finite
from .adapter_files import BASES, find_adapter
from .word_files import USUAL, read_words

if TYPE_CHECKING:
    from ..components import Components


def added_words(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """The words added to CLIP's vocabulary, with their ids."""
    ids = {word.content: tokenizer.vocab[word.content] for word in tokenizer.added}
    return {word: id for word, id in ids.items() if id > tokenizer.end_id}


def load_words(pipe: "Components", source: str | os.PathLike, token: str | None, **where: Any):
    """Load the words of a file into a pipeline; see `Adaptable.load_textual_inversion`."""
    path = find_adapter(source, USUAL, **where)
    words = read_words(path, token)
    if again := [word for word in words if word in pipe.tokenizer.vocab]:
        raise ValueError(f"{path}: the tokenizer already has the word {again[0]!r:.60}; choose another with token=…")
    add_words(pipe, checked_words(pipe, words, str(path)))


def checked_words(pipe: "Components", words: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Words with vectors (n, D) that fit the pipeline, without those that it already has with the same vectors.

    Raises CheckpointError if vectors are damaged or for another base model, and ValueError if a word is taken.
    """
    table, vocab = uncompiled(pipe.text_encoder).token_embedding.weight, pipe.tokenizer.vocab
    fitting = {}
    for word, vectors in words.items():
        if (
            DTYPE_NAMES.get(vectors.dtype) not in WEIGHTS
            or vectors.ndim not in (1, 2)
            or not vectors.numel()
            or not finite(vectors)
        ):
            raise CheckpointError(f"{where} is damaged: {word!r:.60} is not one or several vectors of finite numbers")
        width, ours = vectors.shape[-1], table.shape[1]
        if width != ours:
            base = f", as in {BASES[width]}" if width in BASES else ""
            raise CheckpointError(f"{where} does not fit: its vectors have {width} channels{base}, this model's have {ours}")
        rows = vectors.detach().reshape(-1, width)
        own = [vocab[piece] for piece in pieces_of(word, len(rows)) if piece in vocab]
        if own and len(own) == len(rows) and torch.equal(table[own], rows.to(table)):
            continue
        fitting[word] = rows
    check_names(pipe.tokenizer, {word: len(rows) for word, rows in fitting.items()}, where)
    return fitting


def check_names(tokenizer: CLIPTokenizer, words: Mapping[str, int], where: str):
    """Raise ValueError for words that a prompt cannot contain or that already have a meaning, ignoring case."""
    known, before = {token.lower() for token in tokenizer.vocab}, [word.content for word in tokenizer.added]
    for word, count in words.items():
        if not word or word != " ".join(word.split()):
            raise ValueError(f"{where}: {word!r:.60} cannot be a word in a prompt; choose another with token=…")
        if taken := next((piece for piece in pieces_of(word, count) if {piece.lower(), f"{piece.lower()}</w>"} & known), None):
            raise ValueError(f"{where}: the tokenizer already has the word {taken!r:.60}; choose another with token=…")
        known |= {piece.lower() for piece in pieces_of(word, count)}
    new = {word: pieces_of(word, count) for word, count in words.items()}
    together = phrases_of([*before, *(piece for pieces in new.values() for piece in pieces)])
    if together != phrases_of(before) | {word: pieces for word, pieces in new.items() if len(pieces) > 1}:
        raise ValueError(f"{where}: {min(words)!r:.60} would become a part of an existing word; choose another with token=…")


def pieces_of(word: str, count: int) -> list[str]:
    return [word, *(f"{word}_{i}" for i in range(1, count))]


def add_words(pipe: "Components", words: Mapping[str, Tensor]):
    """Add checked words to a pipeline and to all pipelines that share its tokenizer and text encoder."""
    if not words:
        return
    table, size = uncompiled(pipe.text_encoder).token_embedding.weight, max(pipe.tokenizer.vocab.values()) + 1
    pieces = [piece for word, rows in words.items() for piece in pieces_of(word, len(rows))]
    ids = {piece: size + i for i, piece in enumerate(pieces)}
    set_table(pipe, torch.cat([table.data[:size], *(rows.to(table) for rows in words.values()), table.data[size:]]))
    added = [*pipe.tokenizer.added, *(AddedToken(piece, normalized=True) for piece in pieces)]
    set_words(pipe.tokenizer, pipe.tokenizer.vocab | ids, added)


def remove_words(pipe: "Components", words: str | Sequence[str] | None = None):
    """Remove added words, by default all; later ids close the gap. Raises ValueError for a word that was never added."""
    known = added_words(pipe.tokenizer)
    words = [words] if isinstance(words, str) else list(known) if words is None else list(words)
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"{unknown[0]!r:.60} was never added; added words: {', '.join(map(repr, known)) or 'none'}")
    phrases = phrases_of(known)
    gone = {known[piece] for word in words for piece in phrases.get(word, [word])}
    table = uncompiled(pipe.text_encoder).token_embedding.weight
    kept = [row for row in range(len(table)) if row not in gone]
    moved = {row: i for i, row in enumerate(kept)}
    set_table(pipe, table.data[kept])
    vocab = {token: moved.get(id, id) for token, id in pipe.tokenizer.vocab.items() if id not in gone}
    set_words(pipe.tokenizer, vocab, [word for word in pipe.tokenizer.added if word.content in vocab])


def set_table(pipe: "Components", rows: Tensor):
    text_encoder = uncompiled(pipe.text_encoder)
    table = text_encoder.token_embedding
    table.weight, table.num_embeddings = nn.Parameter(rows, table.weight.requires_grad), len(rows)
    text_encoder.config = replace(text_encoder.config, vocab_size=len(rows))


def set_words(tokenizer: CLIPTokenizer, vocab: dict[str, int], added: Sequence[AddedToken]):
    """Replace the words of a tokenizer in place, since pipelines may share it."""
    vars(tokenizer).update(vars(with_phrases(CLIPTokenizer(vocab, tokenizer.merges, tokenizer.pad, added))))

"""Textual inversion (Gal et al. 2022, §3): trains the embedding vectors of one new word; all networks are frozen."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapters.textual_inversion import add_words, added_words, checked_words, pieces_of
from ..disk import replacing
from ..pipeline import StableDiffusionPipeline
from ..weights.safetensors import write_tensors
from .learner import Learner
from .settings import Settings


class Vectors(nn.Module):
    """The trainable rows of the token embedding, (n, D)."""

    def __init__(self, rows: Tensor, first: int):
        super().__init__()
        self.rows, self.first = nn.Parameter(rows.clone()), first

    def replace_in(self, table: nn.Module, ids: tuple[Tensor], embeddings: Tensor) -> Tensor:
        """A forward hook of the token embedding: ids (B, T), embeddings (B, T, D)."""
        place = ids[0] - self.first
        return torch.where((place >= 0).unsqueeze(-1), self.rows[place.clamp(0, len(self.rows) - 1)], embeddings)


class NewWord(Learner):
    teaches_text = True

    def __init__(self, pipe: StableDiffusionPipeline, settings: Settings):
        super().__init__(pipe, settings)
        self.word = settings.word
        rows = initial_vectors(pipe, settings.init_word or "", settings.vectors)
        add_words(pipe, checked_words(pipe, {self.word: rows}, "--token"))
        self.trained = vectors = Vectors(rows, added_words(pipe.tokenizer)[pieces_of(self.word, len(rows))[0]])
        pipe.text_encoder.token_embedding.register_forward_hook(vectors.replace_in)

    def write(self, folder: Path, notes: dict[str, str]) -> Path:
        """Write a file in diffusers' layout, named after the word, because web interfaces take the word from the file name."""
        name = re.sub(r"[^\w.-]", "", self.word)
        path = folder / f"{name or folder.name}.safetensors"
        with replacing(path) as partial:
            write_tensors(partial, {self.word: next(self.trained.parameters()).detach()}, notes=notes)
        return path


def initial_vectors(pipe: StableDiffusionPipeline, init_word: str, vectors: int) -> Tensor:
    """The initial vectors (n, D): those of the word's tokens, or for a single vector their mean."""
    ids = pipe.tokenizer.bpe.encode(init_word).ids
    if not ids:
        raise ValueError(f"--init-word {init_word!r:.60} has no tokens; choose a word")
    rows = pipe.text_encoder.token_embedding.weight[ids]  # (tokens, D)
    return rows.mean(dim=0, keepdim=True) if vectors == 1 else rows[[i % len(ids) for i in range(vectors)]]

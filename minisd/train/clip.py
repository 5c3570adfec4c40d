"""Training the text encoder: captions and pictures learn to find each other (Radford et al. 2021, figure 3).

A picture's caption stands in a batch beside the captions of all others, and beside that of its twin, a scene that differs in
one respect. So the text states must tell colours, things, places and who is where apart, which is all the UNet will ever know.
"""

import math
import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from ..clip import CLIPTextModel
from ..clip_vision import CLIPVisionModel
from ..config import TINY_TEXT, TINY_VISION, CLIPTextConfig, CLIPVisionConfig
from ..image import to_tensor
from ..processes import rank_and_world, wait_for_all
from ..tiny.picture_book import caption, draw
from ..tiny.twins import scene_and_twin
from ..tokenizer import CLIPTokenizer
from .loop import Recipe, device, sample_seeds, train
from .words import learn_tokenizer

RECIPE = Recipe(steps=6000, batch_size=128, learning_rate=1e-3, weight_decay=0.05)
SMALL = 64  # pixels a side of the pictures that the vision tower looks at


class CLIP(nn.Module):
    """The two towers, a projection of each to one space, and the temperature of the similarities there."""

    def __init__(self, text: CLIPTextConfig, vision: CLIPVisionConfig, dim: int = 128):
        super().__init__()
        self.text, self.vision = CLIPTextModel(text), CLIPVisionModel(vision)
        self.text_projection = nn.Linear(text.hidden_size, dim, bias=False)
        self.visual_projection = nn.Linear(vision.hidden_size, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        begin_small(self.text)
        nn.init.normal_(self.vision.position_embedding.weight, std=0.1)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Similarity of each picture (rows) to each caption (columns), times the inverse temperature."""
        return self.similarity(*self.features(pixels, ids))

    def features(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of every picture and every caption a direction in the common space: (B, dim) each."""
        pictures = F.normalize(self.visual_projection(self.vision(pixels)), dim=-1)
        captions = F.normalize(self.text_projection(end_token_state(self.text(ids).last_hidden_state, ids)), dim=-1)
        return pictures, captions

    def similarity(self, pictures: Tensor, captions: Tensor) -> Tensor:
        return self.logit_scale.exp().clamp(max=100) * pictures @ captions.T


def end_token_state(states: Tensor, ids: Tensor) -> Tensor:
    """Of the text states (B, T, D) the one at the end token (B, D), which has seen the whole caption."""
    return states[torch.arange(len(states)), ids.argmax(dim=1)]  # the end token has the highest id of all


def begin_small(text: CLIPTextModel):
    """Words must differ from the start, and positions less than they."""
    nn.init.normal_(text.token_embedding.weight, std=0.5)
    nn.init.normal_(text.position_embedding.weight, std=0.1)


def of_all(share: Tensor) -> Tensor:
    """The rows of all processes, whose gradients find the way back to each: a caption is compared with all of the batch."""
    return torch.cat(all_gather(share)) if dist.is_initialized() else share


def contrastive_loss(similarity: Tensor) -> Tensor:
    """Every picture finds its caption and every caption its picture."""
    here = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, here) + F.cross_entropy(similarity.T, here)) / 2


def shortest(ids: Tensor, end_id: int) -> Tensor:
    """The ids up to the last end token of the batch: no state before it depends on the padding behind."""
    return ids[:, : int((ids == end_id).int().argmax(dim=1).max()) + 1]


def batch(tokenizer: CLIPTokenizer, seeds: list[random.Random]) -> tuple[Tensor, Tensor]:
    pairs = [(scene, rng) for rng in seeds for scene in scene_and_twin(rng)]
    pixels = torch.stack([to_tensor(draw(scene, SMALL)) for scene, _ in pairs])
    ids = tokenizer([caption(scene, rng) for scene, rng in pairs]).input_ids
    return pixels.to(device()), shortest(ids, tokenizer.end_id).to(device())


def loss_with(tokenizer: CLIPTokenizer, recipe: Recipe = RECIPE):
    def loss_of(model: CLIP, step: int) -> tuple[Tensor, dict[str, float]]:
        pixels, ids = batch(tokenizer, sample_seeds(replace(recipe, batch_size=recipe.batch_size // 2), step))
        pictures, captions = model.features(pixels, ids)
        similarity = model.similarity(of_all(pictures), of_all(captions)).float()
        return contrastive_loss(similarity), accuracy(similarity.detach())

    return loss_of


def accuracy(similarity: Tensor) -> dict[str, float]:
    """How often a picture's own caption is the first of all, and how often it comes before the twin's."""
    here = torch.arange(len(similarity), device=similarity.device)
    first = (similarity.argmax(dim=1) == here).float().mean()
    before_twin = (similarity[here, here] > similarity[here, here ^ 1]).float().mean()
    return {"first": float(first), "before_twin": float(before_twin)}


def show_with(tokenizer: CLIPTokenizer):
    @torch.inference_mode()
    def show(model: CLIP, path: Path) -> dict[str, float]:
        pixels, ids = batch(tokenizer, [random.Random(f"clip/{i}") for i in range(256)])
        return {f"test_{name}": value for name, value in accuracy(model(pixels, ids)).items()}

    return show


def run(folder: Path, recipe: Recipe = RECIPE):
    vocabulary = folder / "clip" / "tokenizer"
    if rank_and_world()[0] == 0 and not vocabulary.exists():
        learn_tokenizer().save_pretrained(vocabulary)
    wait_for_all()
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary)
    torch.manual_seed(recipe.seed)
    model = CLIP(replace(TINY_TEXT, vocab_size=len(tokenizer.vocab)), TINY_VISION)
    train(folder / "clip", model, recipe, loss_with(tokenizer, recipe), show_with(tokenizer))

"""Trains the text encoder: contrastive learning matches captions and images (Radford et al. 2021, figure 3).

The captions of other images in the batch are negatives, and so is the caption of the image's twin, a scene that differs in one
respect. So the text states must distinguish colours, things, places and arrangements; the UNet sees nothing else of the caption.
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
SMALL = 64  # side of the image encoder's input, in pixels


class CLIP(nn.Module):
    """The two encoders, a projection of each to a common space, and the temperature of the similarities."""

    def __init__(self, text: CLIPTextConfig, vision: CLIPVisionConfig, dim: int = 128):
        super().__init__()
        self.text, self.vision = CLIPTextModel(text), CLIPVisionModel(vision)
        self.text_projection = nn.Linear(text.hidden_size, dim, bias=False)
        self.visual_projection = nn.Linear(vision.hidden_size, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        begin_small(self.text)
        nn.init.normal_(self.vision.position_embedding.weight, std=0.1)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """The similarity of each image (rows) to each caption (columns), divided by the temperature."""
        return self.similarity(*self.features(pixels, ids))

    def features(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of the images and the captions in the common space, (B, dim) each."""
        pictures = F.normalize(self.visual_projection(self.vision(pixels)), dim=-1)
        captions = F.normalize(self.text_projection(end_token_state(self.text(ids).last_hidden_state, ids)), dim=-1)
        return pictures, captions

    def similarity(self, pictures: Tensor, captions: Tensor) -> Tensor:
        return self.logit_scale.exp().clamp(max=100) * pictures @ captions.T


def end_token_state(states: Tensor, ids: Tensor) -> Tensor:
    """The text state at the end token, which has seen the whole caption: (B, T, D) → (B, D)."""
    return states[torch.arange(len(states)), ids.argmax(dim=1)]  # the end token has the highest id


def begin_small(text: CLIPTextModel):
    """Initialise the embeddings so that tokens differ more than positions."""
    nn.init.normal_(text.token_embedding.weight, std=0.5)
    nn.init.normal_(text.position_embedding.weight, std=0.1)


def of_all(share: Tensor) -> Tensor:
    """Gather the rows of all processes, with gradients, so that each caption is compared with the whole batch."""
    return torch.cat(all_gather(share)) if dist.is_initialized() else share


def contrastive_loss(similarity: Tensor) -> Tensor:
    """Cross-entropy of images against captions and of captions against images (Radford et al. 2021, figure 3)."""
    here = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, here) + F.cross_entropy(similarity.T, here)) / 2


def shortest(ids: Tensor, end_id: int) -> Tensor:
    """Cut the ids off after the last end token of the batch; with the causal mask, no state depends on the padding after it."""
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
    """Measure how often an image's own caption ranks first, and how often it ranks before the twin's."""
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

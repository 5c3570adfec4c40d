"""The safety checker: a picture is hidden when CLIP finds it too close to one of 17 concepts.

It looks at the finished picture alone, at 224 × 224 pixels, never at the prompt. Its concepts are vectors; which words they were
made of was not published, but they are about sexual content only: violence and gore pass (Rando et al. 2022). It hides harmless
pictures and lets others through, so it is a help, not a guarantee. Only the v1 checkpoints have one.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .as_mapping import AsMapping
from .clip_vision import CLIPVisionModel
from .config import CLIPVisionConfig
from .numerics import raise_unless_finite
from .pretrained import Pretrained

# Of the red, green and blue of the pictures that CLIP was trained on.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def preprocess(images: list[Image.Image], size: int) -> Tensor:
    """Pictures as CLIP was trained on them (B, 3, size, size): the shorter side made `size`, the middle cut out, normalised."""
    squares = []
    for image in images:
        short = min(image.size)
        image = image.convert("RGB").resize([size * side // short for side in image.size], Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        squares.append(np.array(image.crop((left, top, left + size, top + size))))
    pixels = torch.from_numpy(np.stack(squares)).float() / 255
    return ((pixels - pixels.new_tensor(MEAN)) / pixels.new_tensor(STD)).permute(0, 3, 1, 2)


def decide(special: Tensor, concepts: Tensor) -> Tensor:
    """Which pictures are hidden (B,), from how far each is above the thresholds of special care (B, 3) and of concepts (B, 17).

    Above, after rounding to three digits, any one concept is enough. Special care, for pictures that seem to show children,
    hides nothing by itself: it lowers the concepts' thresholds by 0.01.
    """
    stricter = 0.01 * (special.round(decimals=3) > 0).any(dim=1, keepdim=True).float()
    return ((concepts + stricter).round(decimals=3) > 0).any(dim=1)


@dataclass(frozen=True)
class SafetyCheckerConfig(AsMapping):
    vision: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    projection_dim: int = 768


class StableDiffusionSafetyChecker(Pretrained, nn.Module):
    """CLIP's vision tower, and the directions to compare a picture with, each with the cosine from which it counts."""

    def __init__(self, config: SafetyCheckerConfig):
        super().__init__()
        self.config = config
        self.vision = CLIPVisionModel(config.vision)
        self.visual_projection = nn.Linear(config.vision.hidden_size, config.projection_dim, bias=False)
        self.concept_embeds = nn.Parameter(torch.ones(17, config.projection_dim))
        self.concept_thresholds = nn.Parameter(torch.ones(17))
        self.special_care_embeds = nn.Parameter(torch.ones(3, config.projection_dim))
        self.special_care_thresholds = nn.Parameter(torch.ones(3))

    def forward(self, images: list[Image.Image]) -> list[bool]:
        """A flag for each picture. Raises FloatingPointError where there is NaN, which no threshold would stop."""
        like = self.visual_projection.weight
        pixels = preprocess(images, self.config.vision.image_size).to(like)
        embeds = F.normalize(self.visual_projection(self.vision(pixels)))
        special = (embeds @ F.normalize(self.special_care_embeds).T).float() - self.special_care_thresholds.float()
        concepts = (embeds @ F.normalize(self.concept_embeds).T).float() - self.concept_thresholds.float()
        raise_unless_finite(torch.cat([special, concepts], dim=1), "the safety checker", like.dtype)
        return decide(special, concepts).tolist()

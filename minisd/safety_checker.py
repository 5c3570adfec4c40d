"""The safety checker: blacks out an image whose CLIP embedding is too close to one of 17 concepts.

It sees only the finished image, at 224 × 224 pixels, never the prompt. The concepts are vectors. The words behind them were not
published, but they concern sexual content only: violence and gore pass (Rando et al. 2022). It has false positives and false
negatives, so it is a help, not a guarantee. Only the v1 checkpoints have one.
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

# Mean and standard deviation of red, green and blue in CLIP's training images
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def preprocess(images: list[Image.Image], size: int) -> Tensor:
    """Images → (B, 3, size, size) as in CLIP's training: shorter side resized to `size`, centre crop, normalised."""
    squares = []
    for image in images:
        short = min(image.size)
        image = image.convert("RGB").resize([size * side // short for side in image.size], Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        squares.append(np.array(image.crop((left, top, left + size, top + size))))
    pixels = torch.from_numpy(np.stack(squares)).float() / 255
    return ((pixels - pixels.new_tensor(MEAN)) / pixels.new_tensor(STD)).permute(0, 3, 1, 2)


def decide(special: Tensor, concepts: Tensor) -> Tensor:
    """Which images to hide, (B,), given their cosines minus the thresholds for special care (B, 3) and for concepts (B, 17).

    An image is hidden if, rounded to three digits, it is above the threshold of any concept. Special care, for images that seem to
    show children, hides nothing by itself: it lowers the thresholds of the concepts by 0.01.
    """
    stricter = 0.01 * (special.round(decimals=3) > 0).any(dim=1, keepdim=True).float()
    return ((concepts + stricter).round(decimals=3) > 0).any(dim=1)


@dataclass(frozen=True)
class SafetyCheckerConfig(AsMapping):
    vision: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    projection_dim: int = 768


class StableDiffusionSafetyChecker(Pretrained, nn.Module):
    """CLIP's image encoder and the concept vectors, each with its cosine threshold."""

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
        """One flag per image. Raises FloatingPointError for NaN, which would pass every threshold."""
        like = self.visual_projection.weight
        pixels = preprocess(images, self.config.vision.image_size).to(like)
        embeds = F.normalize(self.visual_projection(self.vision(pixels)))
        special = (embeds @ F.normalize(self.special_care_embeds).T).float() - self.special_care_thresholds.float()
        concepts = (embeds @ F.normalize(self.concept_embeds).T).float() - self.concept_thresholds.float()
        raise_unless_finite(torch.cat([special, concepts], dim=1), "the safety checker", like.dtype)
        return decide(special, concepts).tolist()

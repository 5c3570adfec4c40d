"""Stable Diffusion, written to be read.

In reading order: config, tokenizer, layers, clip, unet, vae, schedule, schedulers (ddim, pndm, lms), pipeline; then checkpoint,
noise, image and generate, which are about files and people.
"""

from .tokenizer import CLIPTokenizer  # isort: skip
from .clip import CLIPTextModel  # isort: skip
from .unet import UNet2DConditionModel  # isort: skip
from .vae import AutoencoderKL  # isort: skip
from .schedulers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler  # isort: skip
from .pipeline import StableDiffusionPipeline  # isort: skip
from .checkpoint import CheckpointError
from .config import UnsupportedConfig
from .image import image_grid

__all__ = [
    "AutoencoderKL",
    "CLIPTextModel",
    "CLIPTokenizer",
    "CheckpointError",
    "DDIMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "StableDiffusionPipeline",
    "UNet2DConditionModel",
    "UnsupportedConfig",
    "image_grid",
]
__version__ = "0.1.0"

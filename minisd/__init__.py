"""Stable Diffusion, written to be read.

In reading order: pipeline, tokenizer, layers, clip, unet, vae, schedule, schedulers (ddim, pndm, lms), config; then
safety_checker, parts, checkpoint, hub, noise, faults, image and generate, which are about files and people.
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
from .noise import CudaNoise
from .safety_checker import StableDiffusionSafetyChecker

__all__ = [
    "AutoencoderKL",
    "CLIPTextModel",
    "CLIPTokenizer",
    "CheckpointError",
    "CudaNoise",
    "DDIMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "StableDiffusionPipeline",
    "StableDiffusionSafetyChecker",
    "UNet2DConditionModel",
    "UnsupportedConfig",
    "image_grid",
]
__version__ = "0.1.0"

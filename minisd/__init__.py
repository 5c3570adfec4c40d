"""Stable Diffusion, written to be read.

In reading order: pipeline, request, tokenizer, layers, clip, unet, vae, schedule, schedulers (spacing, base, ddim, pndm, sigmas,
lms), noise, image, numerics, config. Around them: components, safety_checker, cuda_noise, pretrained and weights (files),
image_files, flags and generate (the command). On top: editing (pipelines that start from an image).
"""

from importlib import import_module
from typing import Any

from . import exit_status  # isort: skip  # noqa: F401  # from here on, Ctrl-C ends commands without a traceback
from .tokenizer import CLIPTokenizer  # isort: skip
from .clip import CLIPTextModel  # isort: skip
from .unet import UNet2DConditionModel  # isort: skip
from .vae import AutoencoderKL  # isort: skip
from .schedulers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler  # isort: skip
from .pipeline import StableDiffusionPipeline  # isort: skip
from .config import UnsupportedConfig
from .cuda_noise import CudaNoise
from .safety_checker import StableDiffusionSafetyChecker
from .sheet import image_grid
from .weights.errors import CheckpointError

LATER = {  # imported on first use; the modules above do not need them
    "DDPMScheduler": "schedulers",
    "DPMSolverMultistepScheduler": "schedulers",
    "EulerAncestralDiscreteScheduler": "schedulers",
    "EulerDiscreteScheduler": "schedulers",
    "HeunDiscreteScheduler": "schedulers",
    "LCMScheduler": "schedulers",
    "UniPCMultistepScheduler": "schedulers",
    "ControlNetModel": "controlnet",
    "AutoencoderTiny": "taesd",
    "LatentConsistencyModelPipeline": "consistency",
    "StableDiffusionControlNetPipeline": "editing",
    "StableDiffusionImg2ImgPipeline": "editing",
    "StableDiffusionInpaintPipeline": "editing",
    "StableDiffusionInstructPix2PixPipeline": "editing",
}

__all__ = [
    "AutoencoderKL",
    "AutoencoderTiny",
    "CLIPTextModel",
    "CLIPTokenizer",
    "CheckpointError",
    "ControlNetModel",
    "CudaNoise",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "LatentConsistencyModelPipeline",
    "PNDMScheduler",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionSafetyChecker",
    "UNet2DConditionModel",
    "UniPCMultistepScheduler",
    "UnsupportedConfig",
    "image_grid",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(f".{LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

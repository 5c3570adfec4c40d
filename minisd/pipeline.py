"""From a prompt to pictures: `StableDiffusionPipeline` holds the parts, and its `__call__` is the way the data takes.

prompt → ids → context (2B, 77, D): without the prompt, then with it
noise → latents (B, 4, H/8, W/8) → … a step for each timestep … → latents
latents → pictures (B, 3, H, W) in [-1, 1] → PIL images
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from .checkpoint import read_json, resolve, write_folder, write_json
from .clip import CLIPTextModel
from .config import UnsupportedConfig
from .image import to_pil
from .noise import randn
from .schedulers import SCHEDULERS, DDIMScheduler, Scheduler
from .tokenizer import CLIPTokenizer
from .unet import UNet2DConditionModel
from .vae import AutoencoderKL

Generators = torch.Generator | Sequence[torch.Generator] | None


class StableDiffusionPipelineOutput(NamedTuple):
    """`images` as asked by `output_type`; `nsfw_content_detected` a flag for each, or None where nothing checks."""

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None


class Step(NamedTuple):
    """A step of the loop: latents (B, 4, h, w) after it, and the clean latents that it guesses."""

    index: int
    timestep: Tensor
    latents: Tensor
    pred_original_sample: Tensor


def guide(eps_uncond: Tensor, eps_cond: Tensor, guidance_scale: float) -> Tensor:
    """Away from what would be drawn without the prompt: ε = ε_∅ + w (ε_c − ε_∅) (Ho & Salimans 2022, eq. 6 with w = 1 + their w)."""
    return eps_uncond + guidance_scale * (eps_cond - eps_uncond)


class StableDiffusionPipeline:
    """Text to image: tokenizer and text encoder, UNet and scheduler, VAE."""

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
    ):
        """The last two are what a call does when it is not told."""
        self.vae, self.text_encoder, self.tokenizer, self.unet, self.scheduler = vae, text_encoder, tokenizer, unet, scheduler
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.progress_bar_config: dict = {}

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> StableDiffusionPipelineOutput:
        """Draw `num_images_per_prompt` pictures of each prompt, `height` × `width` pixels, multiples of 8.

        `guidance_scale` of 1 or less asks the UNet once a step instead of twice, and ignores the negative prompt. `eta` is
        DDIM's. `latents` (B, 4, H/8, W/8) replaces the noise drawn from `generator`. `output_type` is "pil", "np" (B, H, W, 3) or
        "pt" (B, 3, H, W) in [0, 1], or "latent".

        Raises ValueError or TypeError for arguments that do not fit, before anything is computed.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f'output_type {output_type!r} is not "pil", "np", "pt" or "latent"')
        steps = self.denoise(
            prompt,
            height,
            width,
            num_inference_steps,
            guidance_scale,
            negative_prompt,
            num_images_per_prompt,
            eta,
            generator,
            latents,
        )
        for step in steps:
            latents = step.latents
        if output_type == "latent":
            return StableDiffusionPipelineOutput(latents, None)
        pictures = self.decode(latents)
        if output_type == "pil":
            return StableDiffusionPipelineOutput(to_pil(pictures), None)
        pictures = (pictures.float() / 2 + 0.5).clamp(0, 1)
        return StableDiffusionPipelineOutput(pictures if output_type == "pt" else pictures.permute(0, 2, 3, 1).cpu().numpy(), None)

    @torch.inference_mode()
    def denoise(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Iterator[Step]:
        """The loop, a step at a time, for whoever wants to watch, draw or stop it; arguments as of a call."""
        # What was not said is the model's own
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        height = self.unet.config.sample_size * factor if height is None else height
        width = self.unet.config.sample_size * factor if width is None else width
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        prompts, negatives = check(prompt, negative_prompt, height, width, factor, scale, num_images_per_prompt)
        guided = scale > 1

        # The words
        context = self.encode_prompt(prompts)
        if guided:
            context = torch.cat([self.encode_prompt(negatives), context])
        context = context.repeat_interleave(num_images_per_prompt, dim=0)  # (B or 2B, 77, D)

        # The noise
        self.scheduler.set_timesteps(steps, device=self.device)
        shape = (len(prompts) * num_images_per_prompt, self.unet.config.in_channels, height // factor, width // factor)
        if latents is None:
            latents = randn(shape, generator, self.device)
        elif latents.shape != shape:
            raise ValueError(f"latents have the shape {tuple(latents.shape)} instead of {shape}")
        latents = latents.to(self.device, torch.float32) * self.scheduler.init_noise_sigma
        more = {"eta": eta, "generator": generator} if isinstance(self.scheduler, DDIMScheduler) else {}
        if eta and not more:
            raise ValueError(f"eta is a setting of DDIMScheduler; {type(self.scheduler).__name__} has none")

        # From noise to a picture's latents
        for i, t in enumerate(tqdm(self.scheduler.timesteps, **self.progress_bar_config)):
            x = self.scheduler.scale_model_input(latents, t).to(self.dtype)
            if guided:
                eps = guide(*self.unet(torch.cat([x, x]), t, encoder_hidden_states=context).sample.float().chunk(2), scale)
            else:
                eps = self.unet(x, t, encoder_hidden_states=context).sample
            latents, x0 = self.scheduler.step(eps, t, latents, **more)
            yield Step(i, t, latents, x0)

    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """Prompts → (B, 77, D)."""
        return self.text_encoder(self.tokenizer(prompts).input_ids.to(self.device)).last_hidden_state

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, h, w) → pictures (B, 3, H, W), about -1 to 1."""
        return self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype)).sample

    @property
    def networks(self) -> list[torch.nn.Module]:
        return [self.vae, self.text_encoder, self.unet]

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def to(self, *device_or_dtype: torch.device | torch.dtype | str) -> Self:
        """Move every network: `.to("cuda")`, `.to(torch.float16)`, or both."""
        for network in self.networks:
            network.to(*device_or_dtype)
        return self

    def set_progress_bar_config(self, **settings):
        """Settings of tqdm; `disable=True` switches it off."""
        self.progress_bar_config = settings

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **parts,
    ) -> Self:
        """The built-in model ("tiny"), a diffusers folder, or an id on the Hub; `parts` replaces parts, as in `scheduler=…`.

        Raises CheckpointError or UnsupportedConfig with what to do.
        """
        hub = {"revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        folder = resolve(source, ["*.json", "*/*.json", "*/merges.txt", "*/*.safetensors"], **hub)
        index = read_json(folder / "model_index.json")
        if index.get("_class_name") != cls.__name__:
            raise UnsupportedConfig(f"{source} is a {index.get('_class_name')}; minisd implements {cls.__name__}")
        for name, part in {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "unet": UNet2DConditionModel}.items():
            if name not in parts:
                parts[name] = part.from_pretrained(folder, name, torch_dtype, variant)
        if "tokenizer" not in parts:
            parts["tokenizer"] = CLIPTokenizer.from_pretrained(folder, "tokenizer")
        if "scheduler" not in parts:
            name = index["scheduler"][1]
            if name not in SCHEDULERS:
                raise UnsupportedConfig(f"{name} is not implemented; choose another, as in scheduler=DDIMScheduler()")
            parts["scheduler"] = SCHEDULERS[name].from_pretrained(folder, "scheduler")
        defaults = read_json(folder / "defaults.json") if (folder / "defaults.json").exists() else {}
        return cls(**parts, **defaults)

    def save_pretrained(self, folder: str | os.PathLike):
        """Write a new folder that minisd and diffusers load."""
        write_folder(folder, self.write_to)

    def write_to(self, folder: Path):
        library = {"vae": "diffusers", "unet": "diffusers", "scheduler": "diffusers"}
        parts = {name: getattr(self, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
        index = {name: [library.get(name, "transformers"), type(part).__name__] for name, part in parts.items()}
        none = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
        write_json(
            folder / "model_index.json", {"_class_name": type(self).__name__, "_diffusers_version": "0.10.2", **index, **none}
        )
        for name, part in parts.items():
            (folder / name).mkdir()
            part.write_to(folder / name)
        defaults = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
        write_json(folder / "defaults.json", defaults)


def check(prompt, negative_prompt, height, width, factor, guidance_scale, num_images) -> tuple[list[str], list[str]]:
    """The prompts and the negative prompts as lists of one length; raises TypeError or ValueError for what cannot be drawn."""
    if not (isinstance(prompt, str) or (isinstance(prompt, list) and prompt and all(isinstance(p, str) for p in prompt))):
        raise TypeError(f"a prompt is a string or a list of strings, not {prompt!r}"[:200])
    if negative_prompt is not None and type(negative_prompt) is not type(prompt):
        raise TypeError("give the negative prompt as the prompt is given: a string, or a list of as many strings")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    negatives = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or [""] * len(prompts)
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} prompts")
    if height % factor or width % factor or height <= 0 or width <= 0:
        near = [max(factor, round(side / factor) * factor) for side in (height, width)]
        raise ValueError(f"height and width must be multiples of {factor}: {height}×{width} is not, {near[0]}×{near[1]} is")
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale must be a number, not {guidance_scale}")
    if num_images < 1:
        raise ValueError(f"num_images_per_prompt must be at least 1, not {num_images}")
    return prompts, negatives

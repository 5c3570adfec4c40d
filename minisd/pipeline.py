"""From a prompt to pictures: `StableDiffusionPipeline` holds the parts, and its `__call__` is the way the data takes.

prompt → ids → context (2B, 77, D): without the prompt, then with it
noise → latents (B, 4, H/8, W/8) → … a step for each timestep … → latents
latents → pictures (B, 3, H, W) in [-1, 1] → safety checker, if there is one → PIL images
"""

import math
import os
import warnings
from collections.abc import Iterator
from copy import copy
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .checkpoint import either, write_folder
from .clip import CLIPTextModel
from .faults import PictureWarning, refuse_faults, warn_if_flat
from .image import to_pil
from .noise import Generators, randn
from .parts import from_file, from_folder, replacements, write_parts
from .safety_checker import StableDiffusionSafetyChecker
from .schedulers import DDIMScheduler, Scheduler
from .tokenizer import CLIPTokenizer
from .unet import UNet2DConditionModel
from .vae import AutoencoderKL


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
    """Away from what is drawn without the prompt: ε = ε_∅ + w (ε_c − ε_∅) (Ho & Salimans 2022, eq. 6 with w = 1 + their w)."""
    return eps_uncond + guidance_scale * (eps_cond - eps_uncond)


class StableDiffusionPipeline:
    """Text to image: tokenizer and text encoder, UNet and scheduler, VAE, and a safety checker or None."""

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        safety_checker: StableDiffusionSafetyChecker | None = None,
    ):
        """`num_inference_steps` and `guidance_scale` are what a call does when it is not told.

        Raises ValueError for a tokenizer that has ids which the text encoder does not know.
        """
        if max(tokenizer.vocab.values()) >= text_encoder.config.vocab_size:
            raise ValueError(
                f"the tokenizer has ids up to {max(tokenizer.vocab.values()):,}, and the text encoder knows the first "
                f"{text_encoder.config.vocab_size:,}: they do not belong together"
            )
        self.vae, self.text_encoder, self.tokenizer, self.unet, self.scheduler = vae, text_encoder, tokenizer, unet, scheduler
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.safety_checker = safety_checker
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
        "pt" (B, 3, H, W) in [0, 1], or "latent". `generator` is one, or a list with one for each picture; `CudaNoise(seed)` draws
        on any machine what torch.Generator("cuda") draws.

        Pictures that the safety checker flags come back black. Raises ValueError or TypeError for arguments that do not fit, before
        anything is computed, and FloatingPointError for NaN or infinity on the way: they are no pictures.
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
        pictures, flags = self.run_safety_checker(self.decode(latents))
        if output_type == "pil":
            return StableDiffusionPipelineOutput(to_pil(pictures), flags)
        pictures = (pictures.float() / 2 + 0.5).clamp(0, 1)
        return StableDiffusionPipelineOutput(pictures if output_type == "pt" else pictures.permute(0, 2, 3, 1).cpu().numpy(), flags)

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
        prompts, negatives = check(prompt, negative_prompt, height, width, factor, steps, scale, eta, num_images_per_prompt)
        guided = scale > 1
        more = {"eta": eta, "generator": generator} if isinstance(self.scheduler, DDIMScheduler) else {}
        if eta and not more:
            raise ValueError(f"eta is a setting of DDIMScheduler; {type(self.scheduler).__name__} has none")

        # The noise
        scheduler = copy(self.scheduler)  # two loops at once are two trajectories
        scheduler.set_timesteps(steps, device=self.device)
        shape = (len(prompts) * num_images_per_prompt, self.unet.config.in_channels, height // factor, width // factor)
        if latents is None:
            latents = randn(shape, generator, self.device)
        elif not isinstance(latents, Tensor) or latents.shape != shape:
            found = tuple(latents.shape) if isinstance(latents, Tensor) else latents
            raise ValueError(f"latents must be a tensor of shape {shape}, not {found}"[:200])
        latents = latents.to(self.device, torch.float32) * scheduler.init_noise_sigma

        # The words
        context = self.encode_prompt(prompts)
        if guided:
            context = torch.cat([self.encode_prompt(negatives), context])
        context = context.repeat_interleave(num_images_per_prompt, dim=0)  # (B or 2B, 77, D)

        # From noise to a picture's latents
        for i, t in enumerate(tqdm(scheduler.timesteps, **self.progress_bar_config)):
            x = scheduler.scale_model_input(latents, t).to(self.dtype)
            if guided:
                eps = guide(*self.unet(torch.cat([x, x]), t, encoder_hidden_states=context).sample.float().chunk(2), scale)
            else:
                eps = self.unet(x, t, encoder_hidden_states=context).sample
            latents, x0 = scheduler.step(eps, t, latents, **more)
            refuse_faults(latents, f"the latents after timestep {float(t):g}", self.dtype)
            yield Step(i, t, latents, x0)

    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """Prompts → (B, 77, D)."""
        return self.text_encoder(self.tokenizer(prompts).input_ids.to(self.device)).last_hidden_state

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, h, w) → pictures (B, 3, H, W), about -1 to 1, computed in the VAE's own dtype.

        Where half precision is too little for the VAE alone, `pipe.vae.to(torch.float32)` is enough. Raises FloatingPointError for
        NaN or infinity, and warns of pictures of a single colour.
        """
        dtype = self.vae.post_quant_conv.weight.dtype
        pictures = self.vae.decode((latents / self.vae.config.scaling_factor).to(dtype)).sample
        refuse_faults(pictures, "what the VAE decoded", dtype)
        warn_if_flat(pictures)
        return pictures

    @torch.inference_mode()
    def run_safety_checker(self, pictures: Tensor) -> tuple[Tensor, list[bool] | None]:
        """The pictures with the flagged ones black, and the flags; the same pictures and None if there is no safety checker."""
        if self.safety_checker is None:
            return pictures, None
        flags = self.safety_checker(to_pil(pictures))
        if any(flags):
            which = ", ".join(str(i) for i, flag in enumerate(flags) if flag)
            warnings.warn(f"the safety checker hides picture {which}: another seed or prompt may pass", PictureWarning, 3)
        return pictures.masked_fill(torch.tensor(flags, device=pictures.device).view(-1, 1, 1, 1), -1), flags

    @property
    def networks(self) -> list[torch.nn.Module]:
        return [part for part in (self.vae, self.text_encoder, self.unet, self.safety_checker) if part is not None]

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def to(self, *device_or_dtype: torch.device | torch.dtype | str, **by_name: torch.device | torch.dtype | str) -> Self:
        """Move every network: `.to("cuda")`, `.to(torch.float16)`, or both; also by name, `.to(dtype=torch.float16)`."""
        for network in self.networks:
            network.to(*device_or_dtype, **by_name)
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
        dtype: torch.dtype | None = None,
        **parts,
    ) -> Self:
        """The built-in model ("tiny"), a diffusers folder, an id on the Hub, or what `from_single_file` reads.

        Weights are cast on the way in to `dtype` (or `torch_dtype`), float32 if not given, whatever they are stored in.
        `variant="fp16"` takes the files in half precision. `parts` replaces parts, as in `vae=…`; `scheduler=DDIMScheduler`, the
        class, takes the checkpoint's settings. A checkpoint's safety checker is loaded too; `safety_checker=None` leaves it out.

        Raises CheckpointError or UnsupportedConfig with what to do, and TypeError for a keyword that nothing here knows; then
        nothing is loaded. Four that programs for diffusers pass change nothing here: `use_safetensors=True`, `low_cpu_mem_usage`,
        `feature_extractor`, `requires_safety_checker`.
        """
        hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        if source != "tiny" and Path(source).is_file():
            if given := variant or revision:
                raise ValueError(f"{source} is a single file, which has no variants and no revisions; leave out {given!r}")
            return cls.from_single_file(source, dtype=either(dtype, torch_dtype), **hub, **parts)
        parts, hub = replacements(parts), {"revision": revision, **hub}
        return cls(**from_folder(source, parts, either(dtype, torch_dtype), variant, hub))

    @classmethod
    def from_single_file(
        cls,
        path: str | os.PathLike,
        tokenizer: str | os.PathLike | CLIPTokenizer | None = None,
        prediction_type: str | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **parts,
    ) -> Self:
        """A .safetensors file that holds all parts: minisd's own, or one in the layout in which v1 and v2 were first published.

        Those have no vocabulary: `tokenizer` names a folder or an id on the Hub that has it; without it, that of CLIP is taken from
        the Hub or its cache, as `cache_dir`, `token` and `local_files_only` say. `prediction_type` ("epsilon" or "v_prediction")
        overrules what is known or guessed of the file. Where a file holds the UNet twice, as trained and averaged (EMA), this takes
        the first; `weights_convert --averaged` the other.

        Raises as `from_pretrained` does; then nothing is loaded.
        """
        if prediction_type not in (None, "epsilon", "v_prediction"):
            raise ValueError(f'prediction_type {prediction_type!r} is not "epsilon" or "v_prediction"')
        if isinstance(tokenizer, CLIPTokenizer):
            parts["tokenizer"] = tokenizer
        parts = replacements(parts)
        hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        return cls(**from_file(Path(path), parts, either(dtype, torch_dtype), tokenizer, prediction_type, hub))

    @property
    def components(self) -> dict[str, Any]:
        """The parts by their names; the safety checker may be None. How many steps and what scale by default are no parts."""
        return {name: getattr(self, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker")}

    def save_pretrained(self, folder: str | os.PathLike):
        """Write a new folder that minisd and diffusers load."""
        write_folder(folder, self.write_to)

    def write_to(self, folder: Path):
        defaults = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
        write_parts(folder, self.components, defaults)


def check(prompt, negative_prompt, height, width, factor, steps, guidance_scale, eta, num_images) -> tuple[list[str], list[str]]:
    """The prompts and the negative prompts as lists of one length; raises TypeError or ValueError for what cannot be drawn."""
    if not (isinstance(prompt, str) or (isinstance(prompt, list) and prompt and all(isinstance(p, str) for p in prompt))):
        raise TypeError(f"a prompt is a string or a list of strings, not {prompt!r}"[:200])
    if negative_prompt is None:
        negative_prompt = "" if isinstance(prompt, str) else [""] * len(prompt)
    prompts, negatives = ([text] if isinstance(text, str) else text for text in (prompt, negative_prompt))
    if type(negative_prompt) is not type(prompt) or not all(isinstance(negative, str) for negative in negatives):
        raise TypeError("give the negative prompt as the prompt is given: a string, or a list of as many strings")
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} prompts")
    for text in [*prompts, *negatives]:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{text!a} holds bytes that are no text in UTF-8"[:200])
    for name, number in {
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "num_images_per_prompt": num_images,
    }.items():
        if not isinstance(number, Integral):
            raise TypeError(f"{name} must be a whole number, not {number!r}")
    if height % factor or width % factor or height <= 0 or width <= 0:
        near = [max(factor, round(side / factor) * factor) for side in (height, width)]
        raise ValueError(f"height and width must be multiples of {factor}: {height}×{width} is not, {near[0]}×{near[1]} is")
    if not (isinstance(guidance_scale, Real) and math.isfinite(guidance_scale)):
        raise ValueError(f"guidance_scale must be a number, not {guidance_scale!r}")
    if not (isinstance(eta, Real) and 0 <= eta <= 1):
        raise ValueError(f"eta must be from 0 to 1, not {eta}")
    if num_images < 1:
        raise ValueError(f"num_images_per_prompt must be at least 1, not {num_images}")
    return prompts, negatives

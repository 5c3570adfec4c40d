"""From a prompt to images: `StableDiffusionPipeline` holds the components, and `__call__` passes the data through them.

    prompt → ids → context (2B, 77, D): unconditional, then conditional
    noise → latents (B, 4, H/8, W/8) → … one step per timestep … → latents → images (B, 3, H, W) in [-1, 1]

The safety checker, if there is one, sees the images before they become PIL images.
"""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .clip import CLIPTextModel
from .components import Components
from .image import to_pil
from .noise import Generators, randn
from .numerics import ImageWarning, raise_unless_finite, warn_if_flat
from .request import Request, check_output, latents_in
from .safety_checker import StableDiffusionSafetyChecker
from .schedulers import Scheduler
from .tasks import refuse_other_tasks
from .tokenizer import CLIPTokenizer
from .unet import UNet2DConditionModel
from .vae import AutoencoderKL


class StableDiffusionPipelineOutput(NamedTuple):
    """`images` in the format that `output_type` names; `nsfw_content_detected`: one flag per image, or None if unchecked."""

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None


class Step(NamedTuple):
    """One step of the loop: the latents (B, 4, h, w) after it, and the clean latents that it predicts."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which a step does not need
    timestep: Tensor
    latents: Tensor
    pred_original_sample: Tensor


Steps = Generator[Step, Tensor | None, None]  # `steps.send(latents)` replaces the latents for the next step


def guide(eps_uncond: Tensor, eps_cond: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: ε = ε_∅ + w (ε_c − ε_∅) (Ho & Salimans 2022, eq. 6 with w = 1 + their w)."""
    return eps_uncond + guidance_scale * (eps_cond - eps_uncond)


def rescale(eps: Tensor, eps_cond: Tensor, share: float) -> Tensor:
    """Remove a share (0 to 1) of the contrast that guidance added to ε (Lin et al. 2023, eq. 15 and 16)."""
    as_before = eps * eps_cond.std(dim=(1, 2, 3), keepdim=True) / eps.std(dim=(1, 2, 3), keepdim=True)
    return share * as_before + (1 - share) * eps


class StableDiffusionPipeline(Components):
    """Text to image with a tokenizer, a text encoder, a UNet, a scheduler, a VAE and an optional safety checker."""

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
        """`num_inference_steps` and `guidance_scale` are the defaults for calls.

        Raises ValueError if the UNet is for another task, or if the tokenizer has ids outside the text encoder's vocabulary.
        """
        refuse_other_tasks(unet.config.in_channels, self.unet_channels, "this UNet")
        if max(tokenizer.vocab.values()) >= text_encoder.config.vocab_size:
            raise ValueError(
                f"the tokenizer has ids up to {max(tokenizer.vocab.values()):,}, but the text encoder has only "
                f"{text_encoder.config.vocab_size:,} embeddings; take both from the same model"
            )
        self.vae, self.text_encoder, self.tokenizer, self.unet, self.scheduler = vae, text_encoder, tokenizer, unet, scheduler
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.safety_checker = safety_checker

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
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
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance_rescale: float = 0.0,
        **words: Any,
    ) -> StableDiffusionPipelineOutput:
        """Draw `num_images_per_prompt` images per prompt. `height` and `width` are in pixels and must be multiples of 8.

        A `guidance_scale` of 1 or less disables guidance: the UNet runs once per step instead of twice and ignores the negative
        prompt. `eta` is DDIM's. `generator` is one generator or a list with one per image; `CudaNoise(seed)` reproduces
        torch.Generator("cuda") on any machine. `latents` (B, 4, H/8, W/8) replaces the initial noise. `output_type` is "pil", "np"
        (B, H, W, 3) or "pt" (B, 3, H, W) in [0, 1], or "latent". `callback_on_step_end(pipe, i, t, {"latents": latents})` runs
        after each step and may return new latents in such a dictionary; `denoise` is a simpler way to watch. `guidance_rescale`,
        0 to 1, removes contrast that guidance adds. `words` are passed to `minisd.words.embed`: `clip_skip`, `prompt_embeds`, ….

        Images that the safety checker flags are returned black. Raises ValueError or TypeError for invalid arguments, before any
        computation, and FloatingPointError if an intermediate result contains NaN or infinity.
        """
        check_output(output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        request = Request.of(
            self, prompt, height, width, num_inference_steps, guidance_scale, negative_prompt, num_images_per_prompt, eta,
            generator, latents, guidance_rescale, **words,
        )  # fmt: skip
        return self.finish(self.run_to_end(self.steps(request), callback_on_step_end), output_type)

    @torch.no_grad()
    def denoise(self, *arguments: Any, **settings: Any) -> Steps:
        """The loop as a generator of steps, to watch, plot or stop; takes the arguments of `__call__` except `output_type`."""
        yield from self.steps(Request.of(self, *arguments, **settings))

    def steps(self, request: Request) -> Steps:
        """Encode the prompt, draw the noise, run the loop. A generator: each step is computed on demand."""
        # Words: the prompt and, for guidance, the negative prompt (default "")
        context = self.encode_words(request.texts, request.num_images_per_prompt)  # (B or 2B, T, D)

        # Noise: drawn on the CPU, then scaled to the sampler's first timestep
        scheduler = copy(self.scheduler)  # so that concurrent loops have separate trajectories
        scheduler.set_timesteps(request.num_inference_steps, device=self.device)
        noise = randn(request.shape, request.generator) if request.latents is None else request.latents
        latents = noise.to(self.device, torch.float32) * scheduler.init_noise_sigma  # (B, 4, h, w)

        # Loop: from noise to the latents of an image
        predict = partial(self.predict, context=context, **request.guidance)
        step = partial(scheduler.step, **request.step_settings)
        yield from self.loop(scheduler, latents, predict, step)

    def loop(self, scheduler: Scheduler, latents: Tensor, predict: Callable[[Tensor, Tensor], Tensor], step: Callable) -> Steps:
        """Visit the timesteps: `predict(x, t)` is the network's prediction, `step(prediction, t, latents)` the sampler's update."""
        for i, t in enumerate(self.progress(scheduler.timesteps[scheduler.begin_index :])):
            x = scheduler.scale_model_input(latents, t).to(self.dtype)
            latents, x0 = step(predict(x, t), t, latents)
            raise_unless_finite(latents, f"the latents after timestep {float(t):g}", self.dtype)
            sent = yield Step(i, t, latents, x0)
            latents = latents if sent is None else sent

    def run_to_end(self, steps: Steps, callback: Callable | None = None) -> Tensor:
        """The latents after the last step. After each step, the callback may return {"latents": …} to replace them."""
        latents: Tensor | None = None
        with suppress(StopIteration):
            while True:
                step = steps.send(latents)
                latents = step.latents
                if callback is not None:
                    latents = latents_in(callback(self, step.index, step.timestep, {"latents": latents}), latents)
        assert latents is not None  # a request has at least one step
        return latents

    def predict(self, x: Tensor, t: Tensor, context: Tensor, guidance_scale: float, guidance_rescale: float = 0.0) -> Tensor:
        """The noise in x (B, 4, h, w), predicted by the UNet; guided if the context (2B, T, D) has an unconditional half."""
        if len(context) == len(x):  # no guidance
            return self.unet(x, t, encoder_hidden_states=context).sample
        eps = self.unet(torch.cat([x, x]), t, encoder_hidden_states=context).sample.float()  # (2B, 4, h, w)
        eps_uncond, eps_cond = eps.chunk(2)
        guided = guide(eps_uncond, eps_cond, guidance_scale)
        return rescale(guided, eps_cond, guidance_rescale) if guidance_rescale else guided

    def finish(self, latents: Tensor, output_type: str) -> StableDiffusionPipelineOutput:
        """Latents (B, 4, h, w) → images in the format that `output_type` names."""
        if output_type == "latent":
            return StableDiffusionPipelineOutput(latents, None)
        return self.present(self.decode(latents), output_type)

    def present(self, images: Tensor, output_type: str) -> StableDiffusionPipelineOutput:
        """Run the safety checker on images (B, 3, H, W) in [-1, 1] and convert them to `output_type`."""
        images, flags = self.run_safety_checker(images)
        if output_type == "pil":
            return StableDiffusionPipelineOutput(to_pil(images), flags)
        images = (images.float() / 2 + 0.5).clamp(0, 1)
        return StableDiffusionPipelineOutput(images if output_type == "pt" else images.permute(0, 2, 3, 1).cpu().numpy(), flags)

    def encode_words(self, texts: Sequence[list[str] | Tensor], num_images_per_prompt: int) -> Tensor:
        """k lists of prompts, or their text states, concatenated → (k · B, T, D), where B is the number of images."""
        states = [prompts if isinstance(prompts, Tensor) else self.encode_prompt(prompts) for prompts in texts]
        return torch.cat(states).repeat_interleave(num_images_per_prompt, dim=0).to(self.dtype)

    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """Prompts → text states (B, 77, D)."""
        return self.text_encoder(self.tokenizer(prompts).input_ids.to(self.device)).last_hidden_state

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, h, w) → images (B, 3, H, W), about -1 to 1, computed in the VAE's own dtype.

        If only the VAE overflows in half precision, `pipe.vae.to(torch.float32)` is enough. Raises FloatingPointError for NaN or
        infinity, and warns about images of a single colour.
        """
        dtype = next(self.vae.parameters()).dtype
        images = self.vae.decode((latents / self.vae.config.scaling_factor).to(dtype)).sample
        raise_unless_finite(images, "what the VAE decoded", dtype)
        warn_if_flat(images)
        return images

    @torch.no_grad()
    def run_safety_checker(self, images: Tensor) -> tuple[Tensor, list[bool] | None]:
        """Images (B, 3, H, W) in [-1, 1], the flagged ones black, and the flags; without a checker, the same images and None."""
        if self.safety_checker is None:
            return images, None
        flags = self.safety_checker(to_pil(images))
        if any(flags):
            which = ", ".join(str(i) for i, flag in enumerate(flags) if flag)
            warnings.warn(f"the safety checker blacked out image {which}; try another seed or prompt", ImageWarning, 3)
        return images.masked_fill(torch.tensor(flags, dtype=torch.bool, device=images.device).view(-1, 1, 1, 1), -1), flags

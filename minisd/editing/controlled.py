"""Text to image steered by a control image, such as edges, a pose or a depth map (Zhang et al. 2023)."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from ..compiled import uncompiled
from ..controlnet import ControlNetModel, ControlNetOutput, steered
from ..noise import Generators, randn
from ..pipeline import StableDiffusionPipeline, StableDiffusionPipelineOutput, Steps, guide, rescale
from ..request import Request, check_output, real
from .from_picture import for_each
from .image_request import check_number_of
from .pictures import Pictures, read_pictures


@dataclass(frozen=True)
class ControlRequest(Request):
    """A request with, per ControlNet, images (k, 3, H, W) in [0, 1], a strength, and the range of steps that it affects."""

    images: list[Tensor]
    scales: list[float]
    starts: list[float]
    ends: list[float]

    @classmethod
    def with_control(
        cls,
        pipe: "StableDiffusionControlNetPipeline",
        prompt: str | list[str] | None,
        image: Pictures | Sequence[Pictures],
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        control_guidance_start: float | Sequence[float] = 0.0,
        control_guidance_end: float | Sequence[float] = 1.0,
        **settings: Any,
    ) -> Self:
        """Several ControlNets take a list with one image each. The images determine the size.

        Raises TypeError or ValueError for invalid arguments.
        """
        if given := [name for name in ("height", "width") if settings.get(name) is not None]:
            raise TypeError(f"{given[0]} is not an argument here: it follows from the image")
        nets = len(pipe.controlnets)
        several: Any = [image] if nets == 1 else image
        if not isinstance(several, list | tuple) or len(several) != nets:
            raise ValueError(f"{nets} ControlNets need a list of {nets} images")
        for net in pipe.controlnets:
            theirs, ours = (f"{weight.dtype} on {weight.device}" for weight in (net.conv_in.weight, pipe.unet.conv_in.weight))
            if theirs != ours:
                raise ValueError(f"the ControlNet is in {theirs} but the UNet in {ours}; call pipe.to({pipe.dtype}) to move both")
        images = [read_pictures(one) / 2 + 0.5 for one in several]
        if len({one.shape[-2:] for one in images}) > 1:
            raise ValueError("the images of several ControlNets must have the same size")
        request = Request.of(pipe, prompt, *images[0].shape[-2:], **settings)
        for one in images:
            check_number_of(len(one), request, "control images")
        scales = for_nets("controlnet_conditioning_scale", controlnet_conditioning_scale, nets)
        starts = for_nets("control_guidance_start", control_guidance_start, nets, 0, 1)
        ends = for_nets("control_guidance_end", control_guidance_end, nets, 0, 1)
        for start, end in zip(starts, ends):
            if start >= end:
                raise ValueError(
                    f"control_guidance_start must be less than control_guidance_end: {start:g} is not less than {end:g}"
                )
        return cls(**vars(request), images=images, scales=scales, starts=starts, ends=ends)

    def strengths(self, step: int, steps: int) -> list[float]:
        """The scale of each ControlNet at a step: 0 outside its range of steps."""
        inside = [start <= step / steps and (step + 1) / steps <= end for start, end in zip(self.starts, self.ends)]
        return [scale * on for scale, on in zip(self.scales, inside)]


def for_nets(name: str, given: float | Sequence[float], nets: int, *limits: float) -> list[float]:
    """One number per ControlNet, given a single number or a list. Raises ValueError for a wrong count or out-of-range value."""
    numbers = list(given) if isinstance(given, list | tuple) else [given] * nets
    if len(numbers) != nets:
        raise ValueError(f"{name} must be one number, or a list of {nets}, one per ControlNet, not {given!r}"[:200])
    return [real(name, number, *limits) for number in numbers]


class StableDiffusionControlNetPipeline(StableDiffusionPipeline):
    """Text to image, steered by one or several ControlNets."""

    not_in_checkpoints = ("controlnet",)

    def __init__(self, *parts: Any, controlnet: ControlNetModel | Sequence[ControlNetModel], **named: Any):
        """As for StableDiffusionPipeline. Raises TypeError or ValueError for a ControlNet that does not fit the UNet."""
        super().__init__(*parts, **named)
        self.controlnet = controlnet
        nets: Sequence[Any] = self.controlnets or [controlnet]
        for net in nets:
            if not isinstance(uncompiled(net), ControlNetModel):
                raise TypeError(f"controlnet must be a ControlNetModel or a list of them, not {net!r}"[:200])
            for name in ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block"):
                ours, theirs = getattr(self.unet.config, name), getattr(net.config, name)
                if ours != theirs:
                    raise ValueError(f"this ControlNet is for another base model: its {name} is {theirs}, the UNet's is {ours}")
        self.unet = steered(self.unet)

    @property
    def controlnets(self) -> list[ControlNetModel]:
        return list(self.controlnet) if isinstance(self.controlnet, Sequence) else [self.controlnet]

    @property
    def networks(self) -> list[nn.Module]:
        return [*super().networks, *self.controlnets]

    def save_pretrained(self, *arguments: Any, **options: Any) -> NoReturn:
        """Not implemented, because a ControlNet is saved as a separate folder. Raises NotImplementedError."""
        raise NotImplementedError(
            "save both separately: controlnet.save_pretrained(a), StableDiffusionPipeline.from_pipe(pipe).save_pretrained(b)"
        )

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None,
        image: Pictures | Sequence[Pictures],
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
        **control_and_words: Any,
    ) -> StableDiffusionPipelineOutput:
        """Draw the prompt, steered by `image`, which shows what the ControlNet was trained on, for example white edges on black.

        `controlnet_conditioning_scale` is its strength. It is active from `control_guidance_start` to `control_guidance_end`, given
        as fractions of the steps from 0 to 1. For several ControlNets, `image` is a list and these may be lists. Everything else is
        as in StableDiffusionPipeline.
        """
        check_output(output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        request = ControlRequest.with_control(
            self, prompt, image, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            negative_prompt=negative_prompt, num_images_per_prompt=num_images_per_prompt, eta=eta, generator=generator,
            latents=latents, **control_and_words,
        )  # fmt: skip
        return self.finish(self.run_to_end(self.steps(request), callback_on_step_end), output_type)

    @torch.no_grad()
    def denoise(self, *arguments: Any, **settings: Any) -> Steps:
        """The loop as a generator of steps. Takes the prompt and the image in this order, and the rest by name."""
        yield from self.steps(ControlRequest.with_control(self, *arguments, **settings))

    def steps(self, request: ControlRequest) -> Steps:  # type: ignore[override]
        """Encode the prompt, draw the noise, prepare the control images, run the loop."""
        context = self.encode_words(request.texts, request.num_images_per_prompt)
        scheduler = copy(self.scheduler)
        scheduler.set_timesteps(request.num_inference_steps, device=self.device)
        noise = randn(request.shape, request.generator) if request.latents is None else request.latents
        latents = noise.to(self.device, torch.float32) * scheduler.init_noise_sigma
        calls = len(scheduler.timesteps)
        strengths = iter([request.strengths(i, calls) for i in range(calls)])

        # Control images: one per latent of the batch, for both halves of guidance
        images = [for_each(image, request.shape[0]).repeat(len(request.texts), 1, 1, 1) for image in request.images]
        images = [image.to(self.device, self.dtype) for image in images]
        unet = steered(self.unet)

        # Loop: the ControlNets get the same latents as the UNet
        def predict(x: Tensor, t: Tensor) -> Tensor:
            x = torch.cat([x] * len(request.texts))
            residuals = self.steer(x, t, context, images, next(strengths))
            eps = unet(x, t, encoder_hidden_states=context, **residuals).sample
            return self.guided(eps.float(), request) if request.guided else eps

        yield from self.loop(scheduler, latents, predict, partial(scheduler.step, **request.step_settings))

    def steer(self, x: Tensor, t: Tensor, context: Tensor, images: list[Tensor], strengths: list[float]) -> dict[str, Any]:
        """The sum of the ControlNets' residuals, as arguments of the UNet. ControlNets of strength 0 are skipped."""
        outputs: list[ControlNetOutput] = [
            net(x, t, context, image, strength) for net, image, strength in zip(self.controlnets, images, strengths) if strength
        ]
        if not outputs:
            return {}
        down, middle = zip(*outputs)
        return {
            "down_block_additional_residuals": [torch.stack(level).sum(0) for level in zip(*down)],
            "mid_block_additional_residual": torch.stack(middle).sum(0),
        }

    def guided(self, eps: Tensor, request: Request) -> Tensor:
        """Apply guidance to both halves of a prediction: (2B, 4, h, w) → (B, 4, h, w)."""
        eps_uncond, eps_cond = eps.chunk(2)
        eps = guide(eps_uncond, eps_cond, request.guidance_scale)
        return rescale(eps, eps_cond, request.guidance_rescale) if request.guidance_rescale else eps

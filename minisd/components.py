"""The components of a pipeline: moved to a device together, and shared with another pipeline."""

import sys
from collections.abc import Iterable
from typing import Any, Self

import torch
from tqdm import tqdm

from .adaptable import Adaptable
from .clip import CLIPTextModel
from .foreign import ForeignParts
from .pretrained import PretrainedPipeline
from .switches import Switches
from .tokenizer import CLIPTokenizer
from .unet import UNet2DConditionModel
from .vae import AutoencoderKL


class Components(ForeignParts, Switches, Adaptable, PretrainedPipeline):
    """What a pipeline is made of. `num_inference_steps` and `guidance_scale` are the defaults of a call.

    `scheduler` and `safety_checker` are properties, in foreign.py, which also accept those of diffusers. Memory switches are in
    switches.py, loading and saving in pretrained.py, LoRA and textual inversion in adaptable.py.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    num_inference_steps: int
    guidance_scale: float
    progress_bar_config: dict[str, Any] = {}

    @property
    def components(self) -> dict[str, Any]:
        """The parts by their names; the safety checker may be None. Default steps and scale are not parts."""
        return {name: getattr(self, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker")}

    @classmethod
    def from_pipe(cls, pipe: "Components", **parts: Any) -> Self:
        """A pipeline of this class with the parts of another, shared with it; those given by keyword replace its own."""
        defaults = {"num_inference_steps": pipe.num_inference_steps, "guidance_scale": pipe.guidance_scale}
        return cls(**{**pipe.components, **defaults, **parts})

    @property
    def networks(self) -> list[torch.nn.Module]:
        return [part for part in self.components.values() if isinstance(part, torch.nn.Module)]

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def to(self, *device_or_dtype: Any, **by_name: Any) -> Self:
        """Move every network: `.to("cuda")`, `.to(torch.float16)`, or both; also by name, `.to(dtype=torch.float16)`."""
        for network in self.networks:
            network.to(*device_or_dtype, **by_name)
        return self

    def progress(self, timesteps: torch.Tensor) -> Iterable[torch.Tensor]:
        """The timesteps, with a progress bar, if there is somewhere to show it."""
        return tqdm(timesteps, **{"disable": sys.stderr is None, **self.progress_bar_config})

    def set_progress_bar_config(self, **settings: Any):
        """Settings of tqdm; `disable=True` switches it off."""
        self.progress_bar_config = settings

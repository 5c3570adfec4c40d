"""The components of a pipeline: moved to a device together, and shared between pipelines."""

import sys
from collections.abc import Iterable
from typing import Any, Self

import torch
from tqdm import tqdm

from .adaptable import Adaptable
from .clip import CLIPTextModel
from .fast.offload import computes_on, refuse_to_move
from .foreign import ForeignParts
from .pretrained import PretrainedPipeline
from .switches import Switches
from .tokenizer import CLIPTokenizer
from .unet import UNet2DConditionModel
from .vae import AutoencoderKL


class Components(ForeignParts, Switches, Adaptable, PretrainedPipeline):
    """The components of a pipeline. `num_inference_steps` and `guidance_scale` are the defaults for calls.

    `scheduler` and `safety_checker` are properties, in foreign.py, which also accept diffusers' classes. Memory switches are in
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
        """The components by name, without the defaults for calls. The safety checker may be None."""
        return {name: getattr(self, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker")}

    @classmethod
    def from_pipe(cls, pipe: "Components", **parts: Any) -> Self:
        """A pipeline of this class that shares the components of another; keywords replace single components."""
        defaults = {"num_inference_steps": pipe.num_inference_steps, "guidance_scale": pipe.guidance_scale}
        return cls(**{**pipe.components, **defaults, **parts})

    @property
    def networks(self) -> list[torch.nn.Module]:
        return [part for part in self.components.values() if isinstance(part, torch.nn.Module)]

    @property
    def device(self) -> torch.device:
        """The device on which the networks compute."""
        return computes_on(self.unet, self.unet.conv_in.weight)

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def to(self, *device_or_dtype: Any, **by_name: Any) -> Self:
        """Move or cast all networks: `.to("cuda")`, `.to(torch.float16)`, or both; also by keyword, `.to(dtype=torch.float16)`.

        Raises ValueError for a device other than the CPU if the networks are offloaded.
        """
        nothing = torch.empty(0, dtype=torch.float32, device="cpu")
        refuse_to_move(self.networks, nothing.to(*device_or_dtype, **by_name).device)
        for network in self.networks:
            network.to(*device_or_dtype, **by_name)
        return self

    def progress(self, timesteps: torch.Tensor) -> Iterable[torch.Tensor]:
        """Iterate over the timesteps, with a progress bar if standard error can show one."""
        return tqdm(timesteps, **{"disable": sys.stderr is None, **self.progress_bar_config})

    def set_progress_bar_config(self, **settings: Any):
        """Set tqdm's options; `disable=True` hides the bar."""
        self.progress_bar_config = settings

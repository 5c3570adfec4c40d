"""Methods that programs for diffusers call to save memory: each does so, has no reason to, or says what to do instead."""

from types import MethodType
from typing import Any, NoReturn

import torch
from torch import Tensor

from .vae import AutoencoderKL, DecoderOutput


def decode_one_by_one(vae: AutoencoderKL, latents: Tensor) -> DecoderOutput:
    return DecoderOutput(torch.cat([AutoencoderKL.decode(vae, one).sample for one in latents.split(1)]))


class Switches:
    """Memory switches. Attention here is a fused kernel, which never holds all scores at once, so slicing it would save nothing."""

    vae: AutoencoderKL

    def enable_vae_slicing(self):
        """Decode the images of a batch one by one: the same images, in the memory of one."""
        self.vae.decode = MethodType(decode_one_by_one, self.vae)  # type: ignore[method-assign]

    def disable_vae_slicing(self):
        vars(self.vae).pop("decode", None)

    def enable_attention_slicing(self, slice_size: Any = "auto"):
        """Has no effect: the fused kernel of attention never holds all scores."""

    def disable_attention_slicing(self):
        """Has no effect."""

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None):
        """Has no effect: the fused kernel of attention never holds all scores."""

    def disable_xformers_memory_efficient_attention(self):
        """Has no effect."""

    def enable_vae_tiling(self) -> NoReturn:
        """Not implemented: tiles change the image."""
        raise NotImplementedError("VAE tiling is not implemented; draw a smaller image, or call enable_vae_slicing for a batch")

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> NoReturn:
        """Not implemented."""
        raise NotImplementedError('offloading is not implemented; call pipe.to("cuda", torch.float16), which halves the memory')

    enable_sequential_cpu_offload = enable_model_cpu_offload

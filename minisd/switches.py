"""Switches for memory and speed: each acts, or has no effect because there is nothing to save."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .compiled import uncompiled
from .config import sides
from .fast.offload import by_layer, by_network, gpu
from .fast.tiles import in_tiles
from .unet import UNet2DConditionModel
from .vae import AutoencoderKL, DecoderOutput, DiagonalGaussian, EncoderOutput


def encode(vae: AutoencoderKL, images: Tensor, one_by_one: bool, tiled: bool) -> EncoderOutput:
    """`vae.encode`, optionally with the images of a batch one by one, and large images in tiles."""

    def moments(x: Tensor) -> Tensor:
        return vae.quant_conv(vae.encoder(x))

    large, small = tile_sizes(vae)
    whole = not tiled or max(images.shape[-2:]) <= large
    parts = images.split(1 if one_by_one else len(images))
    return EncoderOutput(
        DiagonalGaussian(torch.cat([moments(part) if whole else in_tiles(moments, part, large, small) for part in parts]))
    )


def decode(vae: AutoencoderKL, latents: Tensor, one_by_one: bool, tiled: bool) -> DecoderOutput:
    """`vae.decode`, optionally with the images of a batch one by one, and large images in tiles."""

    def images(z: Tensor) -> Tensor:
        return vae.decoder(vae.post_quant_conv(z))

    large, small = tile_sizes(vae)
    whole = not tiled or max(latents.shape[-2:]) <= small
    parts = latents.split(1 if one_by_one else len(latents))
    return DecoderOutput(torch.cat([images(part) if whole else in_tiles(images, part, small, large) for part in parts]))


def tile_sizes(vae: AutoencoderKL) -> tuple[int, int]:
    """The side of a tile in pixels and in latents: the size of the model's training images."""
    side = max(sides(vae.config.sample_size))
    return side, side // 2 ** (len(vae.config.block_out_channels) - 1)


def switch(vae: nn.Module, **changed: bool):
    """Set `one_by_one` or `tiled` and keep the other. Pipelines that share a VAE share its switches."""
    vae = uncompiled(vae)
    if isinstance(vae, AutoencoderKL):  # AutoencoderTiny needs little memory anyway
        switches = {"one_by_one": False, "tiled": False, **getattr(vars(vae).get("decode"), "keywords", {}), **changed}
        for method in (encode, decode):
            vars(vae).pop(method.__name__, None)
            if any(switches.values()):
                setattr(vae, method.__name__, partial(method, vae, **switches))


class Switches:
    """Switches. Attention uses a fused kernel that never holds all scores at once, so slicing it would save nothing."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel

    def compile(self, **options: Any):
        """Compile the blocks of the UNet and the VAE, each at its first call with a new shape; `options` are torch.compile's."""
        from .fast.blocks import compile_blocks

        for network in (self.unet, self.vae):
            compile_blocks(network, **options)

    def enable_vae_slicing(self):
        """Encode and decode the images of a batch one by one: the same images with the memory of one."""
        switch(self.vae, one_by_one=True)

    def disable_vae_slicing(self):
        switch(self.vae, one_by_one=False)

    def enable_vae_tiling(self):
        """Encode and decode large images in overlapping, blended tiles: nearly the same images with the memory of one tile."""
        switch(self.vae, tiled=True)

    def disable_vae_tiling(self):
        switch(self.vae, tiled=False)

    def enable_attention_slicing(self, slice_size: Any = "auto"):
        """Has no effect: the fused attention kernel never holds all scores."""

    def disable_attention_slicing(self):
        """Has no effect."""

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None):
        """Has no effect: the fused attention kernel never holds all scores."""

    def disable_xformers_memory_efficient_attention(self):
        """Has no effect."""

    def enable_model_cpu_offload(self: Any, gpu_id: int | None = None, device: str | torch.device | None = None):
        """Keep the networks in main memory and move each to the GPU when it computes; those that compute in turn stay together.

        Raises ValueError if there is no GPU.
        """
        before_and_after: list[Any] = [self.text_encoder, self.vae, self.safety_checker]
        groups = [[network] for network in self.networks if network in before_and_after]
        groups += [[network for network in self.networks if network not in before_and_after]]  # at every step
        by_network(groups, gpu(gpu_id, device))

    def enable_sequential_cpu_offload(self: Any, gpu_id: int | None = None, device: str | torch.device | None = None):
        """Keep the networks in main memory and copy each layer to the GPU when it computes: the least memory, and slow.

        Raises ValueError if there is no GPU.
        """
        by_layer(self.networks, gpu(gpu_id, device))

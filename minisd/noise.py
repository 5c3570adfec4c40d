"""Gaussian noise from a seed, drawn on the generator's own device: a CPU generator gives the same image on every machine."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class NoiseSource(Protocol):
    """Anything that draws standard normal numbers; `CudaNoise` is one."""

    def randn(self, shape: Sequence[int]) -> Tensor: ...


Generator = torch.Generator | NoiseSource
Generators = Generator | Sequence[Generator] | None


def randn(
    shape: Sequence[int], generator: Generators = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal numbers of the given shape, drawn in float32.

    With a list of generators, generator i draws image i, which makes an image independent of the batch it is in.

    Raises ValueError when the list is not as long as the batch, and TypeError for anything that is not a generator.
    """
    check_generators(generator, shape[0])
    if isinstance(generator, Sequence):
        return torch.cat([randn((1, *shape[1:]), one, device, dtype) for one in generator])
    if isinstance(generator, NoiseSource):
        return generator.randn(shape).to(device, dtype)
    source = generator.device if generator is not None else "cpu"
    return torch.randn(shape, generator=generator, device=source, dtype=torch.float32).to(device, dtype)


def check_generators(generator: Generators, images: int):
    """Raises as `randn` does if `generator` cannot draw the noise of that many images."""
    if isinstance(generator, Sequence) and len(generator) != images:
        raise ValueError(f"{len(generator)} generators for a batch of {images}: give one for each image, or a single one")
    for one in generator if isinstance(generator, Sequence) else [generator]:
        if not (one is None or isinstance(one, torch.Generator | NoiseSource)):
            raise TypeError(f"a generator is a torch.Generator, a CudaNoise, or a list of them, not {one!r}")

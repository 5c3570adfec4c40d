"""Gaussian noise from a seed, drawn on the generator's device: a CPU generator gives the same image on every machine."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class NoiseSource(Protocol):
    """Any source of standard normal numbers, such as `CudaNoise`."""

    def randn(self, shape: Sequence[int]) -> Tensor: ...


Generator = torch.Generator | NoiseSource
Generators = Generator | Sequence[Generator] | None


def randn(
    shape: Sequence[int], generator: Generators = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal numbers of the given shape, drawn in float32.

    With a list of generators, generator i draws image i, so an image does not depend on the rest of its batch.

    Raises ValueError if the list and the batch differ in length, and TypeError for anything that is not a generator.
    """
    check_generators(generator, shape[0])
    if isinstance(generator, Sequence):
        return torch.cat([randn((1, *shape[1:]), one, device, dtype) for one in generator])
    if isinstance(generator, NoiseSource):
        return generator.randn(shape).to(device, dtype)
    source = generator.device if generator is not None else "cpu"
    return torch.randn(shape, generator=generator, device=source, dtype=torch.float32).to(device, dtype)


def check_generators(generator: Generators, images: int):
    """Raise the errors of `randn` if `generator` cannot draw noise for that many images."""
    if isinstance(generator, Sequence) and len(generator) != images:
        raise ValueError(f"{len(generator)} generators for a batch of {images} images: give one per image, or a single one")
    for one in generator if isinstance(generator, Sequence) else [generator]:
        if not (one is None or isinstance(one, torch.Generator | NoiseSource)):
            raise TypeError(f"generator must be a torch.Generator, a CudaNoise, or a list of them, not {one!r}")

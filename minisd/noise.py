"""Gaussian noise from a seed: drawn on the generator's own device, so a CPU generator means the same picture on every machine."""

from collections.abc import Sequence

import torch
from torch import Tensor


def randn(
    shape: Sequence[int],
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal numbers of the given shape, drawn in float32.

    A list of generators draws image i with generator i, which makes it independent of the batch it is in.

    Raises ValueError when the list is not as long as the batch.
    """
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one for each image, or a single one")
        return torch.cat([randn((1, *shape[1:]), one, device, dtype) for one in generator])
    source = generator.device if generator is not None else "cpu"
    return torch.randn(shape, generator=generator, device=source).to(device, dtype)

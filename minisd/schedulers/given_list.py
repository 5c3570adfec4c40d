"""Lists of timesteps or noise levels given by the caller instead of a number of steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Scheduler


def falling(values: Sequence[float] | Tensor, name: str, most: float, least: int = 1) -> list[float]:
    """The caller's list. Raises ValueError unless it is falling, between 0 and `most`, and at least `least` numbers long."""
    given = [float(value) for value in values]
    if len(given) < least or not all(a > b for a, b in zip(given, given[1:])) or not 0 <= given[-1] <= given[0] <= most:
        count = f"{least} or more numbers"
        raise ValueError(f"{name} must be a falling list of {count} from {most:g} to 0, not {given}"[:200])
    return given


def spaced_or_given(sampler: Scheduler, n: int | None, timesteps: Sequence[float] | Tensor | None) -> Tensor:
    """n timesteps in the sampler's spacing, or the caller's list of integers. Raises ValueError unless exactly one is given."""
    if (n is None) == (timesteps is None):
        raise ValueError("give either num_inference_steps or timesteps")
    if n is not None:
        return sampler.spaced_timesteps(n)
    last = sampler.config.num_train_timesteps - 1
    return torch.tensor(falling(timesteps or (), "timesteps", last), dtype=torch.float64, device="cpu").long()

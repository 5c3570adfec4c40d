"""Timestep spacings: which timesteps a sampler visits, (n,) in falling order. Each raises ValueError if n is out of range.

How to choose n of the 1,000 training timesteps is a convention; Lin et al. 2023, table 2, compare the three in use.
"""

import numpy as np
import torch
from torch import Tensor

from ..config import SchedulerConfig


def check_steps(n: int, most: int):
    if not 0 < n <= most:
        raise ValueError(f"the number of steps must be from 1 to {most}, not {n}")


def leading(n: int, config: SchedulerConfig) -> Tensor:
    """Evenly spaced integers that end at `steps_offset`: 981, 961, … 21, 1 for n = 50."""
    check_steps(n, config.num_train_timesteps - config.steps_offset)
    return torch.arange(n - 1, -1, -1, dtype=torch.int64, device="cpu") * (config.num_train_timesteps // n) + config.steps_offset


def linspace(n: int, config: SchedulerConfig) -> Tensor:
    """Evenly spaced, fractional timesteps from the last training timestep to 0: 999, 978.6, … 0 for n = 50."""
    check_steps(n, config.num_train_timesteps)
    return torch.from_numpy(np.linspace(0, config.num_train_timesteps - 1, n)[::-1].copy())


def trailing(n: int, config: SchedulerConfig) -> Tensor:
    """Evenly spaced integers that start at the last training timestep and omit 0: 999, 979, … 19 for n = 50."""
    check_steps(n, config.num_train_timesteps)
    times = np.arange(config.num_train_timesteps, 0, -config.num_train_timesteps / n)[:n]  # rounding may give one too many
    return torch.from_numpy(times.round().astype(np.int64) - 1)


SPACINGS = {"leading": leading, "linspace": linspace, "trailing": trailing}

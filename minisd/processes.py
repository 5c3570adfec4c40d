"""Several processes that share one job under torchrun, and the device of each. Without torchrun, this is the first of one."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def join_processes(backend: str, timeout: timedelta | None = None):
    """Under torchrun, meet the other processes; each then uses one CPU thread."""
    if "WORLD_SIZE" in os.environ:
        torch.set_num_threads(1)
        dist.init_process_group(backend, timeout=timeout)


def rank_and_world() -> tuple[int, int]:
    """The number of this process, counted from 0, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def wait_for_all():
    if dist.is_initialized():
        dist.barrier()


def from_all(share: Tensor) -> list[Tensor]:
    """The shares of all processes, in the order of their ranks; all have one shape."""
    shares = [torch.empty_like(share) for _ in range(rank_and_world()[1])]
    if len(shares) == 1:
        return [share]
    dist.all_gather(shares, share)
    return shares


def objects_from_all(share: Any) -> list[Any]:
    """The same for any Python object."""
    shares = [share] * rank_and_world()[1]
    if len(shares) > 1:
        dist.all_gather_object(shares, share)
    return shares


def best_device() -> str:
    if torch.cuda.is_available():  # under torchrun, each process has a GPU of its own
        return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

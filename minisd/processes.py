"""Processes that share one job under torchrun, and the device of each. Without torchrun, there is one process, with rank 0."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def join_processes(backend: str, timeout: timedelta | None = None):
    """Under torchrun, join the process group and limit this process to one CPU thread."""
    if "WORLD_SIZE" in os.environ:
        torch.set_num_threads(1)
        dist.init_process_group(backend, timeout=timeout)


def rank_and_world() -> tuple[int, int]:
    """The rank of this process, from 0, and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def wait_for_all():
    if dist.is_initialized():
        dist.barrier()


def from_all(share: Tensor) -> list[Tensor]:
    """All-gather: the tensors of all processes, in order of rank. All must have the same shape."""
    shares = [torch.empty_like(share) for _ in range(rank_and_world()[1])]
    if len(shares) == 1:
        return [share]
    dist.all_gather(shares, share)
    return shares


def objects_from_all(share: Any) -> list[Any]:
    """All-gather for any Python object."""
    shares = [share] * rank_and_world()[1]
    if len(shares) > 1:
        dist.all_gather_object(shares, share)
    return shares


def best_device() -> str:
    if torch.cuda.is_available():  # under torchrun, each process has a GPU of its own
        return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

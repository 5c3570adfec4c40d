"""Half precision in memory and float32 in arithmetic, for CPUs that have to emulate products of half precision."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

HALF = (torch.float16, torch.bfloat16)
MANY_TIMES = 4  # slower than float32; emulation is 15 to 200 times slower, and real instructions are faster


class InFloat32(TorchFunctionMode):
    """Inside, every function of PyTorch computes in float32 what it would compute in half precision."""

    def __torch_function__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__ in ("__get__", "to"):  # a property, or a cast
            return function(*args, **(kwargs or {}))
        args, kwargs = ([widened(a) for a in args], {name: widened(a) for name, a in (kwargs or {}).items()})
        return function(*args, **kwargs)


def widened(argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        return type(argument)([widened(a) for a in argument])
    return argument.float() if isinstance(argument, Tensor) and argument.dtype in HALF else argument


def arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """In which to draw: `InFloat32` where a CPU emulates this dtype."""
    return InFloat32() if device.type == "cpu" and dtype in HALF and emulates(dtype) else nullcontext()


def emulates(dtype: torch.dtype) -> bool:
    """Whether this CPU emulates products of a dtype, found by trying."""
    return seconds(dtype) > MANY_TIMES * seconds(torch.float32)


def seconds(dtype: torch.dtype) -> float:
    """The least time that a product of two matrices takes in three."""
    matrix, times = torch.ones(256, 256, dtype=dtype, device="cpu"), []
    for _ in range(3):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return min(times)

"""Weights in half precision but arithmetic in float32, for CPUs that emulate half-precision products."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

HALF = (torch.float16, torch.bfloat16)
MANY_TIMES = 4  # slower than float32; emulation is 15 to 200 times slower, hardware support is faster


class InFloat32(TorchFunctionMode):
    """A context in which PyTorch's functions compute half-precision inputs in float32."""

    def __torch_function__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__ in ("__get__", "to"):  # a property or a cast
            return function(*args, **(kwargs or {}))
        args, kwargs = ([widened(a) for a in args], {name: widened(a) for name, a in (kwargs or {}).items()})
        return function(*args, **kwargs)


def widened(argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        return type(argument)([widened(a) for a in argument])
    return argument.float() if isinstance(argument, Tensor) and argument.dtype in HALF else argument


def arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """The context for drawing: `InFloat32` if the device is a CPU that emulates this dtype, otherwise none."""
    return InFloat32() if device.type == "cpu" and dtype in HALF and emulates(dtype) else nullcontext()


def emulates(dtype: torch.dtype) -> bool:
    """Whether this CPU emulates products of a dtype, measured."""
    return seconds(dtype) > MANY_TIMES * seconds(torch.float32)


def seconds(dtype: torch.dtype) -> float:
    """The shortest time of three for a product of two matrices."""
    matrix, times = torch.ones(256, 256, dtype=dtype, device="cpu"), []
    for _ in range(3):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return min(times)

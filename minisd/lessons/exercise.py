"""Exercises that check themselves. A check prints a tick, a hint, or how far off an attempt is."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

NOT_YET = "not filled in yet: replace the … above, run that cell, then run this one"
NOTHING = "✗ your function returns None: does it end with “return …”?"


@dataclass(frozen=True)
class Exercise:
    """A right answer, and known mistakes, each under the hint that helps with it.

    Answer and mistakes have the form that the reader writes: a function, or a value. `run` turns each of them into something that
    can be compared: a tensor, a number, a word or a list. By default the attempt itself is compared. Numbers may differ by up to
    `tolerance`.
    """

    answer: Any
    mistakes: Mapping[str, Any] = field(default_factory=dict)
    run: Callable[[Any], Any] = lambda attempt: attempt
    tolerance: float = 1e-4

    def check(self, attempt: Any):
        """Print the verdict on an attempt."""
        print(self.verdict(attempt))

    def verdict(self, attempt: Any) -> str:
        """The verdict in one line. An exception in the attempt becomes part of the verdict, so it never stops the notebook."""
        returned: list[Any] = []
        try:
            result = self.run(watched(attempt, returned))
        except Exception as error:
            if any(value is None for value in returned):
                return NOTHING
            return NOT_YET if "ellipsis" in str(error) else f"✗ it raises {type(error).__name__}: {error}"
        if result is ...:
            return NOT_YET
        expected: list[Any] = []
        right = self.run(watched(self.answer, expected))
        if difference(result, right) <= self.tolerance:
            return "✓"
        off, hint = min(
            ((difference(result, self.run(slip)), hint) for hint, slip in self.mistakes.items()), default=(math.inf, "")
        )
        if off <= self.tolerance:
            return f"✗ hint: {hint}"
        if any(value is None for value in returned):
            return NOTHING
        if returned and expected and different_shapes(returned[0], expected[0]):
            result, right = returned[0], expected[0]
        return f"✗ {objection(result, right)}"


def watched(attempt: Any, returned: list[Any]) -> Any:
    """The attempt; if it is a function, one that appends each result to `returned`. NumPy's results become tensors."""
    if not callable(attempt):
        return attempt

    def call(*given: Any, **named: Any) -> Any:
        value = attempt(*given, **named)
        returned.append(torch.as_tensor(value) if isinstance(value, np.ndarray | np.generic) else value)
        return returned[-1]

    return call


def stack(results: Iterable[Any]) -> Tensor:
    """Several results of one shape, tensors or numbers, as one tensor in float64."""
    return torch.stack([torch.as_tensor(result, dtype=torch.float64) for result in results])


def difference(a: Any, b: Any) -> float:
    """The largest absolute difference between two results; infinite if they differ and cannot be subtracted.

    Words are compared by letters and digits, ignoring case. NaN equals NaN, so that a mistake that produces NaN gets its hint.
    """
    if isinstance(a, str) and isinstance(b, str):
        return 0.0 if bare(a) == bare(b) else math.inf
    try:
        a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    except (TypeError, ValueError, RuntimeError):
        return 0.0 if type(a) is type(b) is list and a == b else math.inf
    if a.shape != b.shape:
        return math.inf
    off = (a - b).abs().masked_fill(a.isnan() & b.isnan(), 0).max().item()
    return math.inf if math.isnan(off) else off


def bare(words: str) -> str:
    return "".join(filter(str.isalnum, words.casefold()))


def different_shapes(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape != b.shape


def objection(result: Any, right: Any) -> str:
    """What is wrong with a result, without giving the right one away."""
    if isinstance(right, str):
        return "that is none of the names"
    if different_shapes(result, right):
        if right.dim() == 0:
            return f"it should be one number, not a tensor of shape {tuple(result.shape)}"
        return f"the shape is {tuple(result.shape)} and should be {tuple(right.shape)}"
    off = difference(result, right)
    return f"the largest difference from the right answer is {off:.3g}" if math.isfinite(off) else "not right yet"

"""Exercises that check themselves: a tick, a hint, or how far off an attempt is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

NOT_YET = "not filled in yet: replace the … above, run the cell, then run this one"
NOTHING = "✗ it returns nothing: does it end with “return …”?"


@dataclass(frozen=True)
class Exercise:
    """`answer` is right; every mistake is wrong in a well-known way, and stands under the hint that helps out of it.

    Both are what the reader is to write: a function, or a value. `run` makes of either what can be compared, a tensor, a number,
    a word or a list; without it, the attempt itself is compared. Numbers may be off by `tolerance`.
    """

    answer: Any
    mistakes: Mapping[str, Any] = field(default_factory=dict)
    run: Callable[[Any], Any] = lambda attempt: attempt
    tolerance: float = 1e-4

    def check(self, attempt: Any):
        """Print what there is to say of an attempt."""
        print(self.verdict(attempt))

    def verdict(self, attempt: Any) -> str:
        """Nothing that a reader writes stops the notebook: an error in it is part of the verdict."""
        returned: list[Any] = []

        def watched(*given: Any, **named: Any) -> Any:
            returned.append(attempt(*given, **named))
            return returned[-1]

        try:
            result = self.run(watched if callable(attempt) else attempt)
        except Exception as error:
            if any(value is None for value in returned):
                return NOTHING
            return NOT_YET if "ellipsis" in str(error) else f"✗ it stops with {type(error).__name__}: {error}"
        if result is ...:
            return NOT_YET
        right = self.run(self.answer)
        if difference(result, right) <= self.tolerance:
            return "✓"
        off, hint = min(
            ((difference(result, self.run(slip)), hint) for hint, slip in self.mistakes.items()), default=(math.inf, "")
        )
        if off <= self.tolerance:
            return f"✗ hint: {hint}"
        return NOTHING if any(value is None for value in returned) else f"✗ {objection(result, right)}"


def difference(a: Any, b: Any) -> float:
    """The largest difference between two results; infinite if they cannot be subtracted and are not equal.

    Of words, capital letters and spaces do not count.
    """
    if isinstance(a, str) and isinstance(b, str):
        return 0.0 if "".join(a.split()).casefold() == "".join(b.split()).casefold() else math.inf
    try:
        a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    except (TypeError, ValueError, RuntimeError):
        return 0.0 if a == b else math.inf
    if a.shape != b.shape:
        return math.inf
    off = (a - b).abs().max().item()
    return math.inf if math.isnan(off) else off


def objection(result: Any, right: Any) -> str:
    """What is wrong with a result, without giving the right one away."""
    if isinstance(result, torch.Tensor) and isinstance(right, torch.Tensor) and result.shape != right.shape:
        return f"the shape is {tuple(result.shape)} and should be {tuple(right.shape)}"
    off = difference(result, right)
    return f"the largest difference from the right answer is {off:.3g}" if math.isfinite(off) else "not yet"

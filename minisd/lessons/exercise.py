"""Exercises that check themselves. A check prints a tick, a hint, or how far off an attempt is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

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

        def watched(*given: Any, **named: Any) -> Any:
            returned.append(attempt(*given, **named))
            return returned[-1]

        try:
            result = self.run(watched if callable(attempt) else attempt)
        except Exception as error:
            if any(value is None for value in returned):
                return NOTHING
            return NOT_YET if "ellipsis" in str(error) else f"✗ it raises {type(error).__name__}: {error}"
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
    """The largest absolute difference between two results; infinite if they differ and cannot be subtracted.

    Comparing words ignores case and spaces.
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
    return f"the largest difference from the right answer is {off:.3g}" if math.isfinite(off) else "not right yet"

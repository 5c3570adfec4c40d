"""Verdicts of judges, and the rates of right images that follow from them."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from torch import Tensor

from ...evaluate.rates import Rate, rate
from .prompts import Prompt

Verdict = dict[str, bool]  # for each aspect that the prompt mentions, whether the image shows it
Judge = Callable[[Tensor, list[Prompt]], list[Verdict]]  # images (B, 3, 128, 128) in [-1, 1] and their prompts → verdicts


def right(verdicts: Sequence[Verdict]) -> list[bool]:
    """Whether each image shows everything that its prompt mentions."""
    return [all(verdict.values()) for verdict in verdicts]


def skills(verdicts: Sequence[Verdict]) -> dict[str, Rate]:
    """The rate of each aspect among the prompts that mention it."""
    outcomes = defaultdict[str, list[bool]](list)
    for verdict in verdicts:
        for aspect, good in verdict.items():
            outcomes[aspect].append(good)
    return {aspect: rate(goods) for aspect, goods in outcomes.items()}

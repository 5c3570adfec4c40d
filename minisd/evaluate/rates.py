"""Success rates with confidence intervals, and the rates expected by chance or from independent skills."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from .findings import Finding, is_right, verdict
from .prompts import Prompt


@dataclass(frozen=True)
class Rate:
    """The number of right images among all."""

    right: int
    of: int

    @property
    def share(self) -> float:
        return self.right / max(self.of, 1)

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """The 95 % confidence interval of the true share (Wilson 1927; Brown et al. 2001, §3)."""
        n, p = max(self.of, 1), self.share
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)


def rate(outcomes: Sequence[bool]) -> Rate:
    return Rate(sum(outcomes), len(outcomes))


def right(findings: Sequence[Finding], prompts: Sequence[Prompt]) -> list[bool]:
    return [is_right(finding, prompt.scene) for finding, prompt in zip(findings, prompts)]


def skills(findings: Sequence[Finding], prompts: Sequence[Prompt]) -> dict[str, Rate]:
    """The rate of each skill that a set of prompts requires, separately."""
    verdicts = [verdict(finding, prompt.scene) for finding, prompt in zip(findings, prompts)]
    return {name: rate([each[name] for each in verdicts]) for name in verdicts[0]}


def shuffled(findings: Sequence[Finding], prompts: Sequence[Prompt]) -> Rate:
    """How often an image is right for the next prompt instead of its own, that is, by chance."""
    others = [*prompts[1:], *prompts[:1]]
    return rate(right(findings, others))


def expected(single: Mapping[str, Rate], findings: Sequence[Finding], prompts: Sequence[Prompt]) -> float:
    """How often everything would be right if the skills were independent (Okawa et al. 2023).

    This is the product of the rates of kind and colour for a single thing, once per thing, of the place's rate, and of the rate of
    the relation or size among images with the right things.
    """
    product = (single["things"].share * single["colours"].share) ** len(prompts[0].scene.things) * single["place"].share
    verdicts = [verdict(finding, prompt.scene) for finding, prompt in zip(findings, prompts)]
    for name in {"relation", "size"} & verdicts[0].keys():
        product *= rate([each[name] for each in verdicts if each["things"]]).share
    return product

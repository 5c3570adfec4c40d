"""The tensors of a file against those that networks expect, by names, shapes and dtypes. No weight is read."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from .names import Place
from .safetensors import Header

Shapes = Mapping[str, tuple[int, ...]]
Spell = Callable[[str], str]  # minisd's name for a tensor → the file's

WEIGHTS = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")  # dtypes of weights; the last three are rare


class Findings(NamedTuple):
    """How a file differs from what was expected, in the file's own names."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]
    mistyped: list[str]

    @property
    def refused(self) -> bool:
        """Unexpected tensors do no harm: a network that has all of its own computes what it should."""
        return bool(self.missing or self.misshaped or self.mistyped)

    def warn(self, where: str):
        if self.unexpected:
            warnings.warn(
                f"{where} holds tensors that nothing here needs, and they are left out: {listed(self.unexpected)}", stacklevel=1
            )

    def __str__(self) -> str:
        heads = ("it lacks", "it has unexpected", "shapes differ:", "these are no weights:")
        return "; ".join(f"{head} {listed(names)}" for head, names in zip(heads, self) if names)


def listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def compare(header: Header, places: Mapping[str, Place], unexpected: Iterable[str], expected: Shapes, spell: Spell) -> Findings:
    """The tensors of a file, found at `places` by minisd's names, against the `expected` shapes, by the same names.

    `unexpected` are the file's names that have no place.
    """
    missing = {spell(native) for native in expected.keys() - places.keys()}
    extra = {*unexpected, *(place.name for native, place in places.items() if native not in expected)}
    misshaped, mistyped = {}, {}  # by name, as q, k and v may be one tensor in the file
    for native, (name, third) in places.items():
        if native not in expected:
            continue
        rows, *rest = expected[native]
        wanted = (rows if third is None else 3 * rows, *rest)
        if header.shapes[name] not in (wanted, (*wanted, 1, 1)):  # a linear layer may be stored as a 1×1 convolution
            misshaped[name] = f"{name} has {header.shapes[name]} instead of {wanted}"
        if header.dtypes[name] not in WEIGHTS:
            mistyped[name] = f"{name} is stored as {header.dtypes[name]}"
    return Findings(sorted(missing), sorted(extra), list(misshaped.values()), list(mistyped.values()))


def arranged(tensors: Mapping[str, Tensor], places: Mapping[str, Place], shapes: Shapes) -> dict[str, Tensor]:
    """The tensors by minisd's names, in the shapes that the networks have: views, except of odd pickles."""
    natives = {}
    for native, shape in shapes.items():
        name, third = places[native]
        tensor = tensors[name] if third is None else tensors[name].chunk(3)[third]
        natives[native] = tensor.reshape(shape)
    return natives

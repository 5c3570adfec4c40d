"""Compares the tensors of a file with those that networks expect, by name, shape and dtype, without reading weights."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from .names import Place
from .safetensors import Header

Shapes = Mapping[str, tuple[int, ...]]
Spell = Callable[[str], str]  # minisd's name of a tensor → the file's name

WEIGHTS = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")  # dtypes of weights; the last three are rare


class Findings(NamedTuple):
    """The differences between a file and the expected tensors, under the file's names."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]
    mistyped: list[str]

    @property
    def refused(self) -> bool:
        """Whether the file does not fit. Unexpected tensors are harmless, since the network has all of its own."""
        return bool(self.missing or self.misshaped or self.mistyped)

    def warn(self, where: str):
        if self.unexpected:
            warnings.warn(f"{where} has tensors that are not needed and are ignored: {listed(self.unexpected)}", stacklevel=1)

    def __str__(self) -> str:
        heads = ("it lacks", "it has unexpected", "shapes differ:", "not stored as weights:")
        return "; ".join(f"{head} {listed(names)}" for head, names in zip(heads, self) if names)


def listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def compare(header: Header, places: Mapping[str, Place], unexpected: Iterable[str], expected: Shapes, spell: Spell) -> Findings:
    """Compare a file's tensors, at `places` by minisd's names, with the `expected` shapes by the same names.

    `unexpected` are the names in the file that have no place.
    """
    missing = {spell(native) for native in expected.keys() - places.keys()}
    extra = {*unexpected, *(place.name for native, place in places.items() if native not in expected)}
    misshaped, mistyped = {}, {}  # by the file's name, since q, k and v may be one tensor there
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
    """The tensors by minisd's names, in the networks' shapes. All are views, except for non-contiguous tensors of pickles."""
    natives = {}
    for native, shape in shapes.items():
        name, third = places[native]
        tensor = tensors[name] if third is None else tensors[name].chunk(3)[third]
        natives[native] = tensor.reshape(shape)
    return natives

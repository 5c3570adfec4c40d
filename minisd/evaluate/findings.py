"""What a judge finds in a picture, and whether that is what was asked for."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..tiny.picture_book import COLORS, SCENERY, Thing

PLACES = ("", *COLORS, *SCENERY)


class Finding(NamedTuple):
    """Everything that is to be seen: the things (kind, colour, x, y and scale are judged, the rest is not) and the place."""

    things: tuple[Thing, ...]
    place: str


Judge = Callable[[Tensor], list[Finding]]  # pictures (B, 3, 128, 128) in [-1, 1] → what is in each

"""What the notebooks need and is too long for a cell: one look for all figures, the diagram, exercises that check themselves.

Nothing else in minisd imports this package; it alone needs matplotlib and IPython (`pip install "minisd[notebooks]"`).
"""

import os

from .diagram import you_are_here
from .exercise import Exercise
from .shapes import shapes

__all__ = ["Exercise", "shapes", "unless_fast", "you_are_here"]


def unless_fast(full: int, quick: int) -> int:
    """`full`, or `quick` if the environment says MINISD_FAST=1: the tests run every notebook, and have less time than a reader."""
    return quick if os.environ.get("MINISD_FAST") == "1" else full

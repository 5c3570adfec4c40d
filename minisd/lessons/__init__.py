"""Code that is too long for a notebook cell: the style of the figures, the pipeline diagram, and exercises that check themselves.

No other package of minisd imports this one, and only this one needs matplotlib and IPython (`pip install "minisd[notebooks]"`).
"""

import os

from .diagram import you_are_here
from .exercise import Exercise
from .shapes import shapes

__all__ = ["Exercise", "shapes", "unless_fast", "you_are_here"]


def unless_fast(full: int, quick: int) -> int:
    """`quick` if the environment variable MINISD_FAST is 1, else `full`. The tests run every notebook in this fast mode."""
    return quick if os.environ.get("MINISD_FAST") == "1" else full

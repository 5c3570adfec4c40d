"""Print tensor shapes next to the shapes in Stable Diffusion 1.5."""

from torch import Tensor


def shapes(**tensors: tuple[Tensor, tuple[int, ...]]):
    """Print a line for each tensor: its name, its shape here, and the given shape in SD 1.5."""
    rows = [("", "here", "in SD 1.5")] + [(name, str(tuple(x.shape)), str(there)) for name, (x, there) in tensors.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for name, here, there in rows:
        print(f"{name:<{widths[0]}}   {here:<{widths[1]}}   {there}".rstrip())

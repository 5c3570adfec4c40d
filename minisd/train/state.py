"""A training's state in a file: replaced whole, and read with an error that names it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..disk import replacing

Network = TypeVar("Network", bound=nn.Module)


def write_state(path: Path, state: dict[str, Any]):
    """A kill in the middle leaves the old file, never half of the new one."""
    with replacing(path) as partial:
        torch.save(state, partial)


def read_state(path: Path, device: torch.device | str = "cpu") -> Any:
    """What `write_state` wrote. Raises ValueError for a damaged file."""
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path} is damaged; move it away and train again") from error


@contextmanager
def taking(path: Path) -> Iterator[None]:
    """While a model takes the state in a file: raises ValueError for the state of another model."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} belongs to another model; move it away, or name another --folder") from error


def require(folder: Path):
    if not (folder / "state.pt").exists():
        raise FileNotFoundError(f"{folder} has no training yet; begin with: python -m minisd.train {folder.name}")


def finished(folder: Path, model: Network, averaged: bool = True) -> Network:
    """The averaged weights of a training, or the last ones, put into `model`. Raises FileNotFoundError if it has not begun."""
    require(folder)
    state = read_state(folder / "state.pt")
    with taking(folder / "state.pt"):
        model.load_state_dict(state["average" if averaged else "model"])
    return model.eval().requires_grad_(False)

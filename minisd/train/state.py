"""Save and load the state of a training run. The file is replaced atomically, and errors name it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..disk import replacing

Network = TypeVar("Network", bound=nn.Module)


def write_state(path: Path, state: dict[str, Any]):
    """Write a state. If the process is killed while writing, the old file remains intact."""
    with replacing(path) as partial:
        torch.save(state, partial)


def read_state(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read a state written by `write_state`. Raises ValueError for a damaged file."""
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path} is damaged; move it away and train again") from error


@contextmanager
def taking(path: Path) -> Iterator[None]:
    """A context manager for loading a state file into a model. Raises ValueError if the state belongs to another model."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} belongs to another model; move it away or choose another --folder") from error


def require(folder: Path):
    """Raise FileNotFoundError if a training run has not started."""
    if not (folder / "state.pt").exists():
        raise FileNotFoundError(f"{folder} has no training yet; start one with: python -m minisd.train {folder.name}")


def finished(folder: Path, model: Network, averaged: bool = True) -> Network:
    """Load the averaged (or last) weights of a training run into `model`. Raises FileNotFoundError if it does not exist."""
    require(folder)
    state = read_state(folder / "state.pt")
    with taking(folder / "state.pt"):
        model.load_state_dict(state["average" if averaged else "model"])
    return model.eval().requires_grad_(False)

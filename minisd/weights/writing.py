"""All-or-nothing writing: a new file or folder appears only when it is complete; after a failure, nothing remains."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..disk import is_taken, sync
from .errors import CheckpointError


@contextmanager
def hidden_folder(out: Path) -> Iterator[Path]:
    """A temporary folder next to `out`. At the end, it is removed with its remaining content and any new, empty parents."""
    new = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # the folder is not empty
            for folder in new:
                folder.rmdir()


@contextmanager
def new_file(out: str | os.PathLike) -> Iterator[Path]:
    """A path to write to, moved to `out` at the end of the block. Raises CheckpointError if `out` exists."""
    out = Path(out).expanduser()
    if out.exists():
        raise CheckpointError(f"{out} exists; choose a new file")
    with hidden_folder(out) as partial:
        yield partial / out.name
        sync(partial / out.name)
        os.replace(partial / out.name, out)


@contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill, moved to `folder` at the end of the block. Raises CheckpointError if `folder` is not empty."""
    folder = Path(folder).expanduser()
    if is_taken(folder):
        raise CheckpointError(f"{folder} exists and is not empty; choose a new folder")
    with hidden_folder(folder) as partial:
        new = partial / "new"
        new.mkdir()
        yield new
        for file in new.rglob("*.*"):
            sync(file)
        if folder.exists():
            folder.rmdir()  # it is empty; Windows cannot replace a folder
        os.replace(new, folder)

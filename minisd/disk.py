"""Files on a disk: whether a folder can be written, asked before the work, and files that are replaced whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def user_path(text: str) -> Path:
    """A path on the command line. The shell leaves the ~ in `--out=~/pictures` to the command."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text} names a user who has no home folder here") from None


def check_writable(folder: Path, remedy: str, name: str = ""):
    """Raises ValueError, which ends with the remedy, unless files can be written into a folder that is there or can be made.

    Their names may begin with `name` and have 20 bytes more.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.NamedTemporaryFile(dir=nearest, prefix=name, suffix=".partial-file").close()
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}; {remedy}") from None


def is_taken(folder: Path) -> bool:
    """Whether a new folder of this name would replace anything."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def sync(path: Path):
    """Bring a file to the disk itself, so that it outlives a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. It takes the place of `path` at the end of the block; if that fails, `path` stays as it was."""
    partial = path.with_stem(f".{path.stem}-partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

"""Files on disk: checks that a folder is writable before work starts, and replaces files atomically."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def user_path(text: str) -> Path:
    """A path from the command line. Expands ~, which the shell does not do in `--out=~/pictures`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: this user has no home folder here") from None


def check_writable(folder: Path, remedy: str, name: str = ""):
    """Raise ValueError, ending with the remedy, unless files can be written to a folder, which is created if needed.

    File names may consist of `name` and up to 20 further bytes.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.NamedTemporaryFile(dir=nearest, prefix=name, suffix=".partial-file").close()
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}; {remedy}") from None


def is_taken(folder: Path) -> bool:
    """Whether a new folder with this name would replace anything."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def sync(path: Path):
    """Flush a file to the disk, so that it survives a power failure."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which replaces `path` at the end of the block. After an error, `path` is unchanged."""
    partial = path.with_stem(f".{path.stem}-partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

"""A folder of pictures as people have it: which pictures there are, what their captions say, and what a ControlNet is to see.

Captions are in a text file beside each picture (`cat.png`, `cat.txt`), or in `metadata.jsonl`, a line a picture, as in imagefolders
of 🤗 datasets: {"file_name": "cat.png", "text": "a cat", "conditioning_image": "edges.png"}. Without that file, what a ControlNet
sees is called `cat.condition.png`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..weights.texts import read_text

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
METADATA = "metadata.jsonl"
CONDITION = ".condition"


@dataclass(frozen=True)
class Example:
    """A picture, what may be said of it, and the picture that steers a ControlNet to it."""

    picture: Path
    captions: tuple[str, ...]
    condition: Path | None = None


def read_examples(folder: Path, captions: Sequence[str] = (), steered: bool = False) -> list[Example]:
    """The examples in a folder, by name; `captions` are for pictures that have none. Raises ValueError, which says what lacks."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name a folder with pictures by --data")
    found = list(listed(folder) if (folder / METADATA).exists() else beside(folder))
    if not found:
        raise ValueError(f"{folder} holds no pictures; {', '.join(PICTURES)} are read")
    examples = [Example(picture, (caption,) if caption else tuple(captions), condition) for picture, caption, condition in found]
    missing = {
        "are in metadata.jsonl and not in the folder": [e.picture for e in examples if not e.picture.is_file()],
        "have no caption: write one into a .txt file beside each, or give one for all by --caption": [
            e.picture for e in examples if not e.captions
        ],
    }
    if steered:
        missing["have no picture that a ControlNet could see: put NAME.condition.png beside each, or name it in metadata.jsonl"] = [
            e.picture for e in examples if not (e.condition and e.condition.is_file())
        ]
    for what, pictures in missing.items():
        if pictures:
            raise ValueError(f"{named(pictures)} of {len(examples)} pictures in {folder} {what}")
    return examples


def listed(folder: Path) -> Iterator[tuple[Path, str, Path | None]]:
    """Picture, caption and condition of each line of metadata.jsonl."""
    for number, line in enumerate(read_text(folder / METADATA).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry: Any = json.loads(line)
            name, text, condition = entry["file_name"], entry.get("text", ""), entry.get("conditioning_image")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(
                f'{folder / METADATA}, line {number}: write {{"file_name": "cat.png", "text": "a cat"}}, not {line!r:.60}'
            ) from None
        if not isinstance(name, str) or not isinstance(text, str) or not isinstance(condition, str | None):
            raise ValueError(f"{folder / METADATA}, line {number}: file_name, text and conditioning_image must be strings")
        yield folder / name, text.strip(), folder / condition if condition else None


def beside(folder: Path) -> Iterator[tuple[Path, str, Path | None]]:
    """The same of every picture, from the files beside it."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    conditions = {path.stem.removesuffix(CONDITION): path for path in files if path.stem.endswith(CONDITION)}
    for picture in files:
        if picture not in conditions.values():
            text = picture.with_suffix(".txt")
            yield picture, read_text(text).strip() if text.is_file() else "", conditions.get(picture.stem)


def named(paths: Sequence[Path], most: int = 3) -> str:
    """How many, and the first names: "5 (a.png, b.png, c.png, …)"."""
    return f"{len(paths)} ({', '.join(path.name for path in paths[:most])}{', …' * (len(paths) > most)})"


def fingerprint_of(examples: Iterable[Example]) -> str:
    """Sixteen hexadecimal digits that change with the pictures' names and sizes and with the captions."""
    entries = [[[path.name, path.stat().st_size] for path in (e.picture, e.condition) if path] + list(e.captions) for e in examples]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]

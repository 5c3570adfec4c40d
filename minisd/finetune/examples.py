"""Reads a folder of images with captions and, for a ControlNet, conditioning images.

Captions are in a text file beside each image (`cat.png`, `cat.txt`), or in `metadata.jsonl`, one line per image, as in an
imagefolder of 🤗 datasets: {"file_name": "cat.png", "text": "a cat", "conditioning_image": "edges.png"}. Without that file, the
conditioning image of `cat.png` is `cat.condition.png`.
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
    """An image, its possible captions, and its conditioning image for a ControlNet."""

    picture: Path
    captions: tuple[str, ...]
    condition: Path | None = None


def read_examples(folder: Path, captions: Sequence[str] = (), steered: bool = False) -> list[Example]:
    """The examples in a folder, by name. `captions` are for images that have none. Raises ValueError if anything is missing."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose a folder of images with --data")
    found = list(listed(folder) if (folder / METADATA).exists() else beside(folder))
    if not found:
        raise ValueError(f"{folder} contains no images; supported are {', '.join(PICTURES)}")
    examples = [Example(picture, (caption,) if caption else tuple(captions), condition) for picture, caption, condition in found]
    missing = {
        "are in metadata.jsonl but not in the folder": [e.picture for e in examples if not e.picture.is_file()],
        "have no caption: write one in a .txt file beside each, or give one for all with --caption": [
            e.picture for e in examples if not e.captions
        ],
    }
    if steered:
        missing["have no conditioning image: put NAME.condition.png beside each, or name it in metadata.jsonl"] = [
            e.picture for e in examples if not (e.condition and e.condition.is_file())
        ]
    for what, pictures in missing.items():
        if pictures:
            raise ValueError(f"{named(pictures)} of {len(examples)} images in {folder} {what}")
    return examples


def listed(folder: Path) -> Iterator[tuple[Path, str, Path | None]]:
    """The image, caption and conditioning image of each line of metadata.jsonl."""
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
    """The image, caption and conditioning image of each image file, from the files beside it."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    conditions = {path.stem.removesuffix(CONDITION): path for path in files if path.stem.endswith(CONDITION)}
    for picture in files:
        if picture not in conditions.values():
            text = picture.with_suffix(".txt")
            yield picture, read_text(text).strip() if text.is_file() else "", conditions.get(picture.stem)


def named(paths: Sequence[Path], most: int = 3) -> str:
    """The number of paths and the first names: "5 (a.png, b.png, c.png, …)"."""
    return f"{len(paths)} ({', '.join(path.name for path in paths[:most])}{', …' * (len(paths) > most)})"


def fingerprint_of(examples: Iterable[Example]) -> str:
    """Sixteen hexadecimal digits that identify the image names, the file sizes and the captions."""
    entries = [[[path.name, path.stat().st_size] for path in (e.picture, e.condition) if path] + list(e.captions) for e in examples]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]

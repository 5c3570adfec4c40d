"""Reads and writes the small text files of a checkpoint, most of them JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError


def read_text(path: Path) -> str:
    """The content of a UTF-8 file. Raises CheckpointError, naming the file, if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint?") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not a text file: {error}") from error


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The settings in a JSON text. Raises CheckpointError unless it is a JSON object."""
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{where} must contain a JSON object, not {parsed!r:.50}")
    return parsed


def json_text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"


def write_texts(folder: Path, texts: Mapping[str, str]):
    """Write small files, such as "unet/config.json", into an existing folder."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

"""Files of tensors: safetensors headers, tensors mapped into memory, pickles that are never run, and writing all or nothing."""

import json
import math
import mmap
import os
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # of weights, as headers write them
ALL_DTYPES = {word: dtype for dtype, word in DTYPES.items()} | {
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
WINDOW = 2**27  # bytes of a file that are mapped at once

# What official .ckpt files carry of their training: the class that wrote them, and numbers of NumPy.
TRAINING = [
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
]


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read, or made to fit; nothing was loaded or written."""


def as_settings(parsed: object, where: str) -> dict[str, Any]:
    """What was parsed from a JSON file, which has to be an object."""
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{where} holds no settings, but {parsed!r:.50}")
    return parsed


class Header(NamedTuple):
    """What a safetensors file says before its tensors: of each, by name, dtype, shape and first byte; and notes of its writer."""

    dtypes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    begins: dict[str, int]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header alone (8 bytes that tell its length, then JSON); raises CheckpointError that says what the file is instead."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name a file in it")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start.ljust(8, b"\0"))[0]
            text = file.read(min(length, LONGEST_HEADER))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        raise not_safetensors(path, what_it_is(path, start + text[:100]))
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        dtypes = {name: entry["dtype"] for name, entry in entries.items()}
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        spans = {name: tuple(entry["data_offsets"]) for name, entry in entries.items()}
        lengths = {name: end - begin for name, (begin, end) in spans.items()}
        expected = {name: math.prod(shape) * ALL_DTYPES[dtypes[name]].itemsize for name, shape in shapes.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise not_safetensors(path, f"its header cannot be read ({type(error).__name__}: {error})") from error
    whole = 8 + length + max((end for _, end in spans.values()), default=0)
    if whole != size:
        raise not_safetensors(path, f"it has {size:,} bytes and should have {whole:,}; get it again")
    whole_numbers = all(type(n) is int and n >= 0 for numbers in (*shapes.values(), *spans.values()) for n in numbers)
    notes = isinstance(metadata, dict) and all(isinstance(note, str) for note in metadata.values())
    in_line = sorted(spans.values())  # without gaps, and no byte belongs to two
    no_gaps = all(begin == end for (_, end), (begin, _) in pairwise([(0, 0), *in_line]))
    if not (whole_numbers and notes and no_gaps and lengths == expected):
        raise not_safetensors(path, "its header contradicts itself")
    return Header(dtypes, shapes, {name: 8 + length + begin for name, (begin, _) in spans.items()}, metadata)


def not_safetensors(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or not a safetensors file: {why}")


def header_of(tensors: Mapping[str, Tensor]) -> Header:
    """The same of tensors that came from a pickle."""
    dtypes = {name: DTYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()}
    return Header(dtypes, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, {}, {})


def what_it_is(path: Path, start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is what Git LFS leaves in the place of a file; get the file by `git lfs pull`"
    if begins_a_pickle(start):
        return f"it is a pickle, which can run code; convert it safely by `python -m weights_convert {path} OUT`"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "it is a text"
    return "its header would reach beyond its end"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory: the system reads what is used, when it is used.

    Whoever changes one of them gets a copy of its page; the file stays as it is. The file is mapped window by window, so that
    the memory of what is let go of is free before the whole file is.
    """
    header, size, end = read_header(path), path.stat().st_size, 0
    tensors = {}
    with path.open("rb") as file:
        for name, begin in sorted(header.begins.items(), key=lambda item: item[1]):
            dtype, shape = ALL_DTYPES[header.dtypes[name]], header.shapes[name]
            count = math.prod(shape)
            if begin + count * dtype.itemsize > end:
                start = begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
                end = min(size, max(start + WINDOW, begin + count * dtype.itemsize))
                window = mmap.mmap(file.fileno(), end - start, access=mmap.ACCESS_COPY, offset=start)
            flat = (
                torch.frombuffer(window, dtype=dtype, count=count, offset=begin - start) if count else torch.empty(0, dtype=dtype)
            )
            tensors[name] = flat.view(shape)
    return tensors


def begins_a_pickle(start: bytes) -> bool:
    """By its first bytes, which can also be the length of a safetensors header; but that begins with a brace in the ninth."""
    return start.startswith((b"PK", b"\x80")) and start[8:9] != b"{"


def is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return begins_a_pickle(file.read(9))


class Inert:
    """What a pickle may call and set the state of, as it likes: nothing is kept, and nothing happens."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt or .bin file, by PyTorch's reader of weights, which builds tensors and containers and runs nothing.

    In the place of what is in TRAINING it puts something Inert. Raises CheckpointError for a pickle that asks for anything else,
    and names it.
    """
    stand_ins = [type(name, (Inert,), {"__module__": module}) for module, name in TRAINING]  # the reader goes by these names
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever the reader stumbles over
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} is refused and nothing in it was run: besides tensors its pickle asks for {asked[1]}; "
                "get the model as a .safetensors file"
            ) from error
        raise CheckpointError(f"{path} is damaged or not a pickle of tensors") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    items = content.items() if isinstance(content, dict) else []
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name")
    return tensors


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
):
    """A safetensors file, written a tensor at a time, each cast to `dtype`; `metadata` stands in its header.

    Raises CheckpointError for a tensor that holds NaN or infinity, or does once it is cast.
    """
    header: dict = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, tensor in tensors.items():
        kind = dtype or tensor.dtype
        begin, end = end, end + tensor.numel() * kind.itemsize
        header[name] = {"dtype": DTYPES[kind], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust((len(text) + 7) // 8 * 8)  # the tensors begin at a multiple of 8
    if len(text) > LONGEST_HEADER:
        raise CheckpointError(f"{path} would need a header of {len(text):,} bytes; safetensors files end at {LONGEST_HEADER:,}")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise CheckpointError(f"{name} holds NaN or infinity: the weights are damaged, and nothing was written")
            cast = tensor.to(dtype or tensor.dtype)
            if cast.dtype != tensor.dtype and not cast.isfinite().all():
                raise CheckpointError(f"{name} has numbers too large for float16: choose bfloat16 or float32")
            file.write(cast.contiguous().reshape(-1).view(torch.uint8).numpy())


@contextmanager
def all_or_nothing(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` to write into. What is not moved out of it is gone in the end, whatever the end."""
    new = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # of a folder that is not empty
            for folder in new:
                folder.rmdir()


def write_file(out: str | os.PathLike, fill: Callable[[Path], None]):
    """Has a new file written by `fill`; on any failure nothing of it remains."""
    out = Path(out)
    if out.exists():
        raise CheckpointError(f"{out} exists; name a new file")
    with all_or_nothing(out) as partial:
        fill(partial / out.name)
        os.replace(partial / out.name, out)


def write_folder(folder: str | os.PathLike, fill: Callable[[Path], None]):
    """Has a new folder, or one that is empty, filled by `fill`; on any failure nothing of it remains."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty; name a new folder")
    with all_or_nothing(folder) as partial:
        fill(partial)
        partial.chmod(0o755)
        if folder.exists():
            folder.rmdir()  # it is empty; Windows replaces no folder
        os.replace(partial, folder)

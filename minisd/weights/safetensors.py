"""Safetensors files: read the header, memory-map the tensors, and write a file."""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError
from .pickles import begins_a_pickle

# By their names in a header. Weights have one of the first three.
DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
DTYPE_NAMES = {dtype: word for word, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
WINDOW = 2**27  # bytes of a file that are mapped at a time


class Header(NamedTuple):
    """The header of a safetensors file: dtype, shape and first byte of each tensor, by name, and the metadata."""

    dtypes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    begins: dict[str, int]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read only the header: 8 bytes with its length, then JSON. Raises CheckpointError, saying what the file is instead."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; pass a file in it")
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
    return parse_header(path, text, size)


def parse_header(path: Path, text: bytes, size: int) -> Header:
    """Parse the JSON of a header. Raises CheckpointError unless the tensors fill the file without gaps and overlaps."""
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        dtypes = {name: entry["dtype"] for name, entry in entries.items()}
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        spans = {name: tuple(entry["data_offsets"]) for name, entry in entries.items()}
        lengths = {name: end - begin for name, (begin, end) in spans.items()}
        expected = {name: math.prod(shape) * DTYPES[dtypes[name]].itemsize for name, shape in shapes.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise not_safetensors(path, "its header cannot be read; get it again") from error
    data = 8 + len(text)  # where the tensors begin
    whole = data + max((end for _, end in spans.values()), default=0)
    if whole != size:
        raise not_safetensors(path, f"it has {size:,} bytes instead of {whole:,}; get it again")
    whole_numbers = all(type(n) is int and n >= 0 for numbers in (*shapes.values(), *spans.values()) for n in numbers)
    notes = isinstance(metadata, dict) and all(isinstance(note, str) for note in metadata.values())
    no_gaps = all(begin == end for (_, end), (begin, _) in pairwise([(0, 0), *sorted(spans.values())]))
    if not (whole_numbers and notes and no_gaps and lengths == expected):
        raise not_safetensors(path, "its header is inconsistent")
    return Header(dtypes, shapes, {name: data + begin for name, (begin, _) in spans.items()}, metadata)


def not_safetensors(path: Path, why: str) -> CheckpointError:
    if "snapshots" in path.parts:  # a file in the Hub's cache
        why = why.replace("get it again", "get it again with force_download=True")
    return CheckpointError(f"{path} is damaged or not a safetensors file: {why}")


def what_it_is(path: Path, start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; get the file with `git lfs pull`"
    if begins_a_pickle(start):
        return f"it is a pickle, which can run code; convert it safely with `python -m weights_convert {path} OUT`"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "it is a text"
    return "its header would extend beyond its end"


def header_of(tensors: Mapping[str, Tensor]) -> Header:
    """The header that a file with these tensors would have."""
    dtypes = {name: DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)) for name, tensor in tensors.items()}
    return Header(dtypes, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, {}, {})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped, so that the system reads data only when it is used.

    Changing a tensor copies the changed page and leaves the file unchanged. The file is mapped window by window, so that memory can
    be freed before the last tensor is released.
    """
    header, size = read_header(path), path.stat().st_size
    tensors = {}
    window, start, end = None, 0, 0  # the mapped bytes of the file
    with path.open("rb") as file:
        for name, begin in sorted(header.begins.items(), key=lambda item: item[1]):
            dtype, shape = DTYPES[header.dtypes[name]], header.shapes[name]
            count = math.prod(shape)
            if count == 0:  # nothing to map
                tensors[name] = torch.empty(shape, dtype=dtype, device="cpu")
                continue
            if begin + count * dtype.itemsize > end:
                start = begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
                end = min(size, max(start + WINDOW, begin + count * dtype.itemsize))
                window = mmap.mmap(file.fileno(), end - start, access=mmap.ACCESS_COPY, offset=start)
            tensors[name] = torch.frombuffer(window, dtype=dtype, count=count, offset=begin - start).view(shape)
    return tensors


def finite(tensor: Tensor) -> bool:
    return bool((tensor.float() if tensor.dtype.itemsize == 1 else tensor).isfinite().all())  # PyTorch lacks it for 8 bits


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None, notes: Mapping[str, str] | None = None
):
    """Write a safetensors file tensor by tensor, each cast to `dtype`, with `notes` as the metadata in its header.

    Raises CheckpointError if a tensor contains NaN or infinity, before or after the cast.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(notes or {})}}
    end = 0
    for name, tensor in tensors.items():
        stored = dtype or tensor.dtype
        begin, end = end, end + tensor.numel() * stored.itemsize
        header[name] = {"dtype": DTYPE_NAMES[stored], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust((len(text) + 7) // 8 * 8)  # the tensors start at a multiple of 8
    if len(text) > LONGEST_HEADER:
        raise CheckpointError(f"{path} would need a header of {len(text):,} bytes; safetensors allows {LONGEST_HEADER:,}")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            if not finite(tensor):
                raise CheckpointError(f"{name} contains NaN or infinity: the weights are damaged; nothing was written")
            cast = tensor.to(dtype or tensor.dtype)
            if cast.dtype != tensor.dtype and not finite(cast):
                raise CheckpointError(f"{name} has values too large for float16; use bfloat16 or float32")
            file.write(cast.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

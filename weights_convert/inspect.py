"""The report of `python -m weights_convert inspect` on a file, from its header or, on request, from the whole file."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from minisd.tasks import TASKS
from minisd.weights.checkpoint import self_described
from minisd.weights.compare import Findings, listed
from minisd.weights.errors import CheckpointError
from minisd.weights.official import OFFICIAL, of_sha256, of_size, sha256, sha256_for_free
from minisd.weights.pickles import content_of, is_pickle, read_pickle
from minisd.weights.prediction import TOLD_BY, prediction_type
from minisd.weights.safetensors import Header, finite, header_of, read_header, read_tensors
from minisd.weights.single_file import Layout, layout_of

from .other_files import INVERSION, other_kind


def report(path: Path, full: bool = False) -> str:
    """The report, one line per property. `full` reads the whole file for its sha256 and to check for NaN and infinity.

    Raises CheckpointError if the file is neither a safetensors file nor a pickle of tensors.
    """
    if path.is_file() and is_pickle(path):
        header = header_of(tensors := pickled(path))
    else:
        header, tensors = read_header(path), read_tensors(path)
    return "\n".join(f"{head:<12}{text}" for head, text in lines(path, header, tensors, full))


def pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle, including those in a nested dictionary, as in textual inversions."""
    content = content_of(path)
    vectors: Any = content.get(INVERSION) if isinstance(content, dict) else None
    found = {f"{INVERSION}.{name}": value for name, value in vectors.items()} if hasattr(vectors, "items") else {}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)} or read_pickle(path)


def lines(path: Path, header: Header, tensors: Mapping[str, Tensor], full: bool) -> Iterator[tuple[str, str]]:
    numbers = sum(math.prod(shape) for shape in header.shapes.values())
    yield "file", f"{path.name}: {path.stat().st_size:,} bytes, {len(header.shapes):,} tensors, {numbers:,} numbers"
    yield "dtypes", ", ".join(f"{dtype} × {count:,}" for dtype, count in Counter(header.dtypes.values()).most_common())
    try:
        layout = layout_of(header)
    except CheckpointError as error:
        yield "kind", other_kind(header.shapes, str(error))
    else:
        yield from about_checkpoint(path, header, tensors, layout, full)
    yield "official", about_official(path, full)
    if full:
        broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not finite(tensor)]
        yield "weights", f"NaN or infinity in {listed(broken)}" if broken else "all finite"


def about_checkpoint(
    path: Path, header: Header, tensors: Mapping[str, Tensor], layout: Layout, full: bool
) -> Iterator[tuple[str, str]]:
    task = "" if layout.in_channels == 4 else f", {TASKS[layout.in_channels][0]}"
    of = {"v1": "Stable Diffusion v1", "v2": "Stable Diffusion v2", "": "a minisd checkpoint"}[layout.generation]
    yield "kind", of + task + (", a single file in the original layout" if layout.generation else "")
    needed = Counter(native.split(".")[0] for native in layout.places)
    yield "parts", ", ".join(f"{part} {count}" for part, count in needed.items())
    used = {place.name for place in layout.places.values()} | set(layout.findings.unexpected)
    yield "not needed", listed(sorted(header.shapes.keys() - used)) or "none"
    yield "predicts", about_prediction(path, header, tensors, layout, full)
    copies = sum(name.startswith("model_ema.") for name in header.shapes)
    yield "EMA", "also has a moving average of the UNet; --averaged selects it" if copies > 2 else "no second UNet"
    for head, names in zip(Findings._fields, layout.findings):
        yield head, listed(names, 10) or "none"


def about_prediction(path: Path, header: Header, tensors: Mapping[str, Tensor], layout: Layout, full: bool) -> str:
    """The prediction type and how it was determined."""
    if not layout.generation:
        checkpoint = self_described(path, header, layout, tensors)
        return f"{checkpoint.prediction_type} ({checkpoint.decided})"
    if TOLD_BY not in layout.places:
        return "unknown"
    kind, decided = prediction_type(path, layout.generation, {TOLD_BY: tensors[layout.places[TOLD_BY].name]}, full)
    return f"{kind} ({decided})"


def about_official(path: Path, full: bool) -> str:
    """Whether the file is an official one: by sha256 if `full`, otherwise by size."""
    if full or sha256_for_free(path):
        digest = sha256(path)
        official = of_sha256(digest)
        return f"sha256 {digest}: {official.name if official else 'none of the official files'}"
    same_size = [file.name for file in of_size(path.stat().st_size)]
    if same_size:
        return f"same size as {' and '.join(same_size)}; --full compares the sha256"
    return f"its size matches none of the {len(OFFICIAL)} official files known to minisd; --full compares the sha256"

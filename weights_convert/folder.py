"""A diffusers folder: which of its files are needed, and what to say when they are not there."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from .files import CheckpointError, read_tensors

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "safety_checker": "model",
}
SMALL_FILES = r"(model_index|defaults|\w+/config|scheduler/\w+|tokenizer/\w+|feature_extractor/\w+)\.json|tokenizer/merges\.txt"


def listing(folder: Path) -> list[str]:
    """The files in a folder and in the folders in it, "unet/config.json"."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def weight_files(names: Collection[str], stem: str, variant: str | None = None) -> list[str]:
    """The file of weights "unet/diffusion_pytorch_model.fp16.safetensors", or its shards; empty if neither is there."""
    dot = f".{variant}" if variant else ""
    if f"{stem}{dot}.safetensors" in names:
        return [f"{stem}{dot}.safetensors"]
    # Sharded: every name says how many there are, and the tensors say which is where, so the index is not needed.
    counts = {
        int(match[1]) for name in names if (match := re.fullmatch(re.escape(stem + dot) + r"-\d{5}-of-(\d{5})\.safetensors", name))
    }
    return [f"{stem}{dot}-{i:05d}-of-{n:05d}.safetensors" for n in counts for i in range(1, n + 1)]


def part_files(names: Collection[str], where: str, part: str, stem: str, variants: Sequence[str | None] = (None,)) -> list[str]:
    """The files that a part needs, config.json first, then its weights in the first of the variants that is there.

    `names` are the files that `where` has, `part` is the name of a folder in it, or "". Raises CheckpointError if one is missing,
    and says what is there instead.
    """
    inside = f"{part}/" if part else ""
    weights = next(filter(None, (weight_files(names, inside + stem, variant) for variant in variants)), [])
    for name in [f"{inside}config.json", *weights]:
        if name not in names:
            raise CheckpointError(f"{where}/{name} is missing: is {where} a checkpoint?")
    if not weights:
        file = ".".join(word for word in (inside + stem, variants[0], "safetensors") if word)
        raise CheckpointError(f"{where}/{file} is missing: {instead(names, where, inside, stem)}")
    return [f"{inside}config.json", *weights]


def instead(names: Collection[str], where: str, inside: str, stem: str) -> str:
    """What could be read in the place of missing weights."""
    if weight_files(names, inside + stem):
        return "there are only weights without a variant; leave it out"
    for name in names:
        if match := re.fullmatch(re.escape(inside + stem) + r"\.(\w+)\.safetensors", name):
            return f'there is {name}; ask for it by variant="{match[1]}"'
    if any(name.startswith(inside) and name.endswith((".bin", ".ckpt")) for name in names):
        return (
            "there are only pickles, which can run code; convert them safely by "
            f"`python -m weights_convert {where} NEW_FOLDER --to diffusers`"
        )
    return f"is {where} a checkpoint with safetensors weights?"


def read_weights(folder: Path, files: list[str]) -> dict[str, Tensor]:
    """The tensors of a part's files, mapped into memory."""
    return {name: tensor for file in files if file.endswith(".safetensors") for name, tensor in read_tensors(folder / file).items()}


def merges_in(text: str) -> list[tuple[str, ...]]:
    """The pairs of a merges.txt, one a line."""
    return [tuple(line.split()) for line in text.splitlines() if line and not line.startswith("#version")]


def stray_merge(merges: Sequence[tuple[str, ...]], vocab: Mapping[str, int]) -> tuple[str, ...] | None:
    """The first merge that is no pair of tokens which makes a third, if there is one."""
    return next((merge for merge in merges if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys()), None)

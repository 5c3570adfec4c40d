"""A diffusers folder: which of its files are needed, as data, and which of them are there."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .vocabulary import vocabulary_files

SCHEDULER, DEFAULTS = "scheduler/scheduler_config.json", "defaults.json"
SMALL_FILES = r"(model_index|defaults|\w+/config|scheduler/\w+|tokenizer/\w+|feature_extractor/\w+)\.json|tokenizer/merges\.txt"


def listing(folder: Path) -> list[str]:
    """The files in a folder and in the folders in it, "unet/config.json"."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


@dataclass(frozen=True)
class Needed:
    """What a loader needs of a checkpoint."""

    texts: tuple[str, ...] = ()  # small files, by their paths
    optional_texts: str = ""  # a pattern of those that are taken if they are there
    vocabulary: tuple[str, ...] = ()  # the folders, "tokenizer/", in one of which a vocabulary must be
    networks: Mapping[str, str] = field(default_factory=dict)  # by folder ("" for the checkpoint's own), how weights are named
    variants: tuple[str | None, ...] = (None,)  # of weights: of each network the first that is there
    variant_somewhere: bool = False  # at least one network must have the first of the variants
    pickles: bool = False  # weights may be pickles where there is no safetensors file


class Selection(NamedTuple):
    """The needed files among those of a checkpoint; `missing` is a sentence about the first that is not there, or empty."""

    texts: list[str]
    weights: dict[str, list[str]]  # of each network
    missing: str

    @property
    def files(self) -> list[str]:
        return [*self.texts, *(file for files in self.weights.values() for file in files)]


def select(names: Collection[str], needed: Needed, where: str) -> Selection:
    """The needed files among `names`, which are those that `where` has."""
    texts = [*needed.texts, *(name for name in names if re.fullmatch(needed.optional_texts, name))]
    texts += vocabulary_files(names, needed.vocabulary)
    texts += [within(part, "config.json") for part in needed.networks]
    weights = {part: network_weights(names, within(part, stem), needed) for part, stem in needed.networks.items()}
    return Selection(list(dict.fromkeys(texts)), weights, next(missing(names, needed, weights, where), ""))


def within(part: str, file: str) -> str:
    return f"{part}/{file}" if part else file


def folder_of(stem: str) -> str:
    return stem[: stem.rfind("/") + 1]


def network_weights(names: Collection[str], stem: str, needed: Needed) -> list[str]:
    found = (weight_files(names, stem, variant) for variant in needed.variants)
    pickles = [name for name in (f"{stem}.bin", f"{folder_of(stem)}pytorch_model.bin") if name in names]
    return next(filter(None, found), pickles[:1] if needed.pickles else [])


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


def missing(names: Collection[str], needed: Needed, weights: Mapping[str, list[str]], where: str) -> Iterator[str]:
    """A sentence about each needed file that is not there."""
    for name in needed.texts:
        if name not in names:
            yield f"{where}/{name} is missing: is {where} a checkpoint?"
    if needed.vocabulary and not vocabulary_files(names, needed.vocabulary):
        yield f"{where}/{needed.vocabulary[0]}vocab.json or merges.txt is missing: is {where} a checkpoint?"
    stems = {part: within(part, stem) for part, stem in needed.networks.items()}
    variant = needed.variants[0]
    if needed.variant_somewhere and not any(weight_files(names, stem, variant) for stem in stems.values()):
        yield f'{where} has no variant "{variant}"; leave it out'
    if "safety_checker" in stems and not any(name.startswith("safety_checker/") for name in names):
        yield f"the safety checker of {where} is missing; do without it by safety_checker=None"
    for part, stem in stems.items():
        for name in [within(part, "config.json"), *weights[part]]:
            if name not in names:
                yield f"{where}/{name} is missing: is {where} a checkpoint?"
        if not weights[part]:
            file = ".".join(filter(None, (stem, variant, "safetensors")))
            yield f"{where}/{file} is missing: {alternative(names, where, stem)}"


def alternative(names: Collection[str], where: str, stem: str) -> str:
    """What could be read in place of missing weights."""
    if weight_files(names, stem):
        return "there are only weights without a variant; leave it out"
    for name in names:
        if match := re.fullmatch(re.escape(stem) + r"\.(\w+)\.safetensors", name):
            return f'there is {name}; ask for it by variant="{match[1]}"'
    if any(name.startswith(folder_of(stem)) and name.endswith((".bin", ".ckpt")) for name in names):
        return (
            "there are only pickles, which can run code; convert them safely by "
            f"`python -m weights_convert {where} NEW_FOLDER --to diffusers`"
        )
    return f"is {where} a checkpoint with safetensors weights?"

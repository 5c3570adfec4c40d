"""A diffusers folder: which of its files are needed, as data, and which of them are there."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .errors import CheckpointError
from .texts import parse_json, read_text
from .vetting import named, required
from .vocabulary import absent_companions, vocabulary_files

SCHEDULER, DEFAULTS = "scheduler/scheduler_config.json", "defaults.json"
SMALL_FILES = r"(model_index|defaults|\w+/config|scheduler/\w+|tokenizer/\w+|feature_extractor/\w+)\.json|tokenizer/merges\.txt"


@dataclass(frozen=True)
class Needed:
    """What a loader needs of a checkpoint."""

    texts: tuple[str, ...] = ()  # small files, by their paths
    optional: tuple[str, ...] = ()  # those that are taken if they are there
    vocabulary: tuple[str, ...] = ()  # the folders, "tokenizer/", in one of which a vocabulary must be
    networks: Mapping[str, str] = field(default_factory=dict)  # by folder ("" for the checkpoint's own), how weights are named
    variants: tuple[str | None, ...] = (None,)  # of weights: of each network the first that is there
    variant_somewhere: bool = False  # at least one network must have the first of the variants
    pickles: bool = False  # weights may be pickles where there is no safetensors file

    @property
    def depth(self) -> int:
        """How many folders deep the files are, 2 in the usual layout."""
        files = [*self.texts, *self.optional, *self.vocabulary, *(f"{part}/" for part in self.networks)]
        return max(2, *(file.count("/") + 1 for file in files))


class Selection(NamedTuple):
    """The needed files among those of a checkpoint; `missing` is a sentence about the first that is not there, or empty."""

    texts: list[str]
    weights: dict[str, list[str]]  # of each network
    manifests: list[str]  # of sharded weights
    absent: list[str]  # files that would be taken if they were there
    missing: str

    @property
    def files(self) -> list[str]:
        return [*self.texts, *self.manifests, *(file for files in self.weights.values() for file in files)]


def listing(folder: Path, depth: int = 2) -> list[str]:
    """The files in a folder and in the folders in it, "unet/config.json"."""
    found = (path for i in range(depth) for path in folder.glob("*/" * i + "*"))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def select(names: Collection[str], needed: Needed, where: str, read: Callable[[str], str]) -> Selection:
    """The needed files among `names`, which are those that `where` has; `read` reads a manifest."""
    texts = [*needed.texts, *(name for name in needed.optional if name in names)]
    texts += vocabulary_files(names, needed.vocabulary)
    texts += [within(part, "config.json") for part in needed.networks]
    stems = {part: within(part, stem) for part, stem in needed.networks.items()}
    weights = {part: network_weights(names, stem, needed) for part, stem in stems.items()}
    manifests = [file for files in weights.values() for file in files if file.endswith(".json")]
    weights = {
        part: [file for name in files for file in (shards(name, read(name), where) if name in manifests else [name])]
        for part, files in weights.items()
    }
    could_be = [manifest for stem in stems.values() for variant in needed.variants for manifest in manifests_of(stem, variant)]
    absent = [name for name in (*needed.optional, *could_be) if name not in names]
    absent += absent_companions(names, needed.vocabulary)
    first = next(missing(names, needed, weights, where), "")
    return Selection(list(dict.fromkeys(texts)), weights, manifests, absent, first)


def select_in(folder: Path, needed: Needed, where: str | None = None) -> Selection:
    """The needed files in a folder, which messages call `where`."""
    return select(listing(folder, needed.depth), needed, where or str(folder), lambda name: read_text(folder / name))


def within(part: str, file: str) -> str:
    return f"{part}/{file}" if part else file


def folder_of(stem: str) -> str:
    return stem[: stem.rfind("/") + 1]


def network_weights(names: Collection[str], stem: str, needed: Needed) -> list[str]:
    """The file of a network's weights or the manifest of its shards; empty if there is none."""
    found = (weight_file(names, stem, variant) for variant in needed.variants)
    pickles = [name for name in (f"{stem}.bin", f"{folder_of(stem)}pytorch_model.bin") if name in names]
    return next(filter(None, found), pickles[:1] if needed.pickles else [])


def weight_file(names: Collection[str], stem: str, variant: str | None = None) -> list[str]:
    """The manifest of "unet/diffusion_pytorch_model"'s shards, else the file of its weights; empty if neither is there."""
    dot = f".{variant}" if variant else ""
    return [name for name in (*manifests_of(stem, variant), f"{stem}{dot}.safetensors") if name in names][:1]


def manifests_of(stem: str, variant: str | None) -> list[str]:
    """How a manifest is called now, and how diffusers called that of a variant before."""
    if variant is None:
        return [f"{stem}.safetensors.index.json"]
    return [f"{stem}.safetensors.index.{variant}.json", f"{stem}.safetensors.{variant}.index.json"]


def shards(manifest: str, text: str, where: str) -> list[str]:
    """The files that a manifest names."""
    with named(f"{where}/{manifest}", CheckpointError):
        files = sorted(set(required(parse_json(text, f"{where}/{manifest}"), "weight_map", dict[str, str]).values()))
    if not files or not all(re.fullmatch(r"[\w.-]+\.safetensors", file) for file in files):
        raise CheckpointError(f"{where}/{manifest} is damaged: it must name .safetensors files beside it, not {files!r:.80}")
    return [folder_of(manifest) + file for file in files]


def missing(names: Collection[str], needed: Needed, weights: Mapping[str, list[str]], where: str) -> Iterator[str]:
    """A sentence about each needed file that is not there."""
    for name in needed.texts:
        if name not in names:
            yield f"{where}/{name} is missing: is {where} a checkpoint?"
    if needed.vocabulary and not vocabulary_files(names, needed.vocabulary):
        yield f"{where}/{needed.vocabulary[0]}vocab.json or merges.txt is missing: is {where} a checkpoint?"
    stems = {part: within(part, stem) for part, stem in needed.networks.items()}
    variant = needed.variants[0]
    if needed.variant_somewhere and not any(weight_file(names, stem, variant) for stem in stems.values()):
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
    if weight_file(names, stem):
        return "there are only weights without a variant; leave it out"
    for name in names:
        if match := re.fullmatch(re.escape(stem) + r"\.(\w+)\.safetensors", name):
            return f'there is {name}; ask for it by variant="{match[1]}"'
        if match := re.fullmatch(re.escape(stem) + r"(?:\.(\w+))?-\d+-of-\d+\.safetensors", name):
            return f"there are shards, {name} and others, without their index; get {manifests_of(stem, match[1])[0]} too"
    if any(name.startswith(folder_of(stem)) and name.endswith((".bin", ".ckpt")) for name in names):
        return (
            "there are only pickles, which can run code; convert them safely by "
            f"`python -m weights_convert {where} NEW_FOLDER --to diffusers`"
        )
    return f"is {where} a checkpoint with safetensors weights?"

"""A diffusers folder: which files are needed, as data, and which of them exist."""

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
    """The files that a loader needs from a checkpoint."""

    texts: tuple[str, ...] = ()  # required small files, by path
    optional: tuple[str, ...] = ()  # small files that are used if they exist
    vocabulary: tuple[str, ...] = ()  # folders such as "tokenizer/", one of which must have a vocabulary
    networks: Mapping[str, str] = field(default_factory=dict)  # folder ("" for the top one) → stem of the weight file
    variants: tuple[str | None, ...] = (None,)  # variants of weights; each network uses the first that exists
    variant_somewhere: bool = False  # whether at least one network must have the first variant
    pickles: bool = False  # whether pickles are accepted if there is no safetensors file

    @property
    def depth(self) -> int:
        """The depth of the files in the folder, 2 in the usual layout."""
        files = [*self.texts, *self.optional, *self.vocabulary, *(f"{part}/" for part in self.networks)]
        return max(2, *(file.count("/") + 1 for file in files))


class Selection(NamedTuple):
    """The needed files of a checkpoint; `missing` is a sentence about the first missing file, or empty."""

    texts: list[str]
    weights: dict[str, list[str]]  # per network
    manifests: list[str]  # index files of sharded weights
    absent: list[str]  # optional files that do not exist
    missing: str

    @property
    def files(self) -> list[str]:
        return [*self.texts, *self.manifests, *(file for files in self.weights.values() for file in files)]


def listing(folder: Path, depth: int = 2) -> list[str]:
    """The files in a folder and its subfolders, such as "unet/config.json"."""
    found = (path for i in range(depth) for path in folder.glob("*/" * i + "*"))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def select(names: Collection[str], needed: Needed, where: str, read: Callable[[str], str]) -> Selection:
    """Select the needed files among `names`, the files in `where`. `read` reads a manifest."""
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
    """Select the needed files in a folder; messages call it `where`."""
    return select(listing(folder, needed.depth), needed, where or str(folder), lambda name: read_text(folder / name))


def within(part: str, file: str) -> str:
    return f"{part}/{file}" if part else file


def folder_of(stem: str) -> str:
    return stem[: stem.rfind("/") + 1]


def network_weights(names: Collection[str], stem: str, needed: Needed) -> list[str]:
    """The weight file of a network or the manifest of its shards; empty if there is none."""
    found = (weight_file(names, stem, variant) for variant in needed.variants)
    pickles = [name for name in (f"{stem}.bin", f"{folder_of(stem)}pytorch_model.bin") if name in names]
    return next(filter(None, found), pickles[:1] if needed.pickles else [])


def weight_file(names: Collection[str], stem: str, variant: str | None = None) -> list[str]:
    """For a stem such as "unet/diffusion_pytorch_model": the manifest of its shards, else its weight file, else empty."""
    dot = f".{variant}" if variant else ""
    return [name for name in (*manifests_of(stem, variant), f"{stem}{dot}.safetensors") if name in names][:1]


def manifests_of(stem: str, variant: str | None) -> list[str]:
    """The names of a manifest: the current one, and diffusers' former one for variants."""
    if variant is None:
        return [f"{stem}.safetensors.index.json"]
    return [f"{stem}.safetensors.index.{variant}.json", f"{stem}.safetensors.{variant}.index.json"]


def shards(manifest: str, text: str, where: str) -> list[str]:
    """The files that a manifest names. Raises CheckpointError if it is damaged."""
    with named(f"{where}/{manifest}", CheckpointError):
        files = sorted(set(required(parse_json(text, f"{where}/{manifest}"), "weight_map", dict[str, str]).values()))
    if not files or not all(re.fullmatch(r"[\w.-]+\.safetensors", file) for file in files):
        raise CheckpointError(f"{where}/{manifest} is damaged: it must name .safetensors files in its folder, not {files!r:.80}")
    return [folder_of(manifest) + file for file in files]


def missing(names: Collection[str], needed: Needed, weights: Mapping[str, list[str]], where: str) -> Iterator[str]:
    """A sentence about each needed file that is missing."""
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
        yield f"the safety checker of {where} is missing; pass safety_checker=None to load without it"
    for part, stem in stems.items():
        for name in [within(part, "config.json"), *weights[part]]:
            if name not in names:
                yield f"{where}/{name} is missing: is {where} a checkpoint?"
        if not weights[part]:
            file = ".".join(filter(None, (stem, variant, "safetensors")))
            yield f"{where}/{file} is missing: {alternative(names, where, stem)}"


def alternative(names: Collection[str], where: str, stem: str) -> str:
    """What could be used instead of missing weights."""
    if weight_file(names, stem):
        return "there are only weights without a variant; leave it out"
    for name in names:
        if match := re.fullmatch(re.escape(stem) + r"\.(\w+)\.safetensors", name):
            return f'there is {name}; request it with variant="{match[1]}"'
        if match := re.fullmatch(re.escape(stem) + r"(?:\.(\w+))?-\d+-of-\d+\.safetensors", name):
            return f"there are shards, such as {name}, without their index; get {manifests_of(stem, match[1])[0]} too"
    if any(name.startswith(folder_of(stem)) and name.endswith((".bin", ".ckpt")) for name in names):
        return (
            "there are only pickles, which can run code; convert them safely with "
            f"`python -m weights_convert {where} NEW_FOLDER --to diffusers`"
        )
    return f"is {where} a checkpoint with safetensors weights?"

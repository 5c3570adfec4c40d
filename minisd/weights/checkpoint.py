"""A whole checkpoint, read from a folder or a single file, for pipelines and the converter. No network is filled yet."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import schedule
from ..config import SD1_SCHEDULER, UnsupportedConfig
from ..tokenizer import CLIPTokenizer
from .added_words import tokenizer_settings
from .compare import arranged, compare
from .errors import CheckpointError
from .fill import NETWORKS, described, from_diffusers, part_of, unfilled
from .folder import SCHEDULER, SMALL_FILES, Needed, listing, select_in
from .generations import GENERATIONS
from .original_names import averaged_places
from .pickles import is_pickle, read_pickle
from .pipeline_index import INDEX, PIPELINES, pipeline_of
from .prediction import prediction_type
from .safetensors import Header, header_of, read_header, read_tensors
from .settings import config_json
from .single_file import Layout, description, layout_of
from .texts import json_text, parse_json, read_text
from .vocabulary import padding_token, read_tokenizer, tokenizer_texts, vocabulary_files

N = TypeVar("N", bound=nn.Module)
NO_AVERAGE = "{} has no moving average; --averaged is for original single files"


@dataclass(frozen=True)
class Checkpoint:
    """All components of a Stable Diffusion checkpoint. All names, shapes and dtypes have been checked; no weight has been read.

    `files` are the texts of the small files of a diffusers folder, by path. `networks` are empty networks. `tensors` are their
    weights, memory-mapped, by minisd's names with the component in front ("unet.conv_in.weight"). `decided` says how the prediction
    type was determined.
    """

    source: Path
    files: dict[str, str]
    networks: dict[str, nn.Module]
    tensors: dict[str, Tensor]
    decided: str

    @property
    def parts(self) -> list[str]:
        return list(self.networks)

    def json(self, path: str) -> dict[str, Any]:
        """One of the files, parsed. Raises CheckpointError if it is missing or damaged."""
        where = f"{self.source}/{path}" if self.source.is_dir() else f"the checkpoint's {path}"
        if path not in self.files:
            raise CheckpointError(f"{where} is missing")
        return parse_json(self.files[path], where)

    @property
    def prediction_type(self) -> str:
        return self.json(SCHEDULER).get("prediction_type", "epsilon")

    def with_prediction(self, prediction: str | None) -> "Checkpoint":
        """The checkpoint with another prediction type in its scheduler config, if one is given."""
        if prediction is None:
            return self
        scheduler = {**self.json(SCHEDULER), "prediction_type": prediction}
        return replace(self, files={**self.files, SCHEDULER: json_text(scheduler)}, decided="as requested")

    @property
    def tokenizer_files(self) -> dict[str, str]:
        """The tokenizer's files, by file name."""
        return {path.removeprefix("tokenizer/"): text for path, text in self.files.items() if path.startswith("tokenizer/")}

    @property
    def has_vocabulary(self) -> bool:
        return bool(vocabulary_files(self.files, ["tokenizer/"]))

    def with_vocabulary(self, folder: Path) -> "Checkpoint":
        """The checkpoint with the vocabulary of a folder, but its own padding token. Raises CheckpointError if it does not fit."""
        found = vocabulary_files(listing(folder), ["", "tokenizer/"])
        if not found:
            raise CheckpointError(f"{folder} has neither vocab.json and merges.txt nor tokenizer.json")
        texts = {Path(name).name: read_text(folder / name) for name in found}
        pad = padding_token(tokenizer_settings(self.tokenizer_files, str(self.source)))
        tokenizer = read_tokenizer(CLIPTokenizer, texts, str(folder), pad)
        size, known = len(tokenizer.vocab), self.tensors.get("text_encoder.token_embedding.weight")
        if known is not None and size != len(known):
            text_encoder = f"the text encoder of {self.source} has {len(known):,}"
            raise CheckpointError(f"{folder} has a vocabulary of {size:,} tokens, but {text_encoder}")
        rest = {path: text for path, text in self.files.items() if not path.startswith("tokenizer/")}
        return replace(self, files=rest | {f"tokenizer/{name}": text for name, text in tokenizer_texts(tokenizer).items()})

    def with_network(self, part: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> "Checkpoint":
        """The checkpoint with one network replaced."""
        config: Any = network.config
        files = {**self.files, f"{part}/config.json": json_text(config_json(config))}
        rest = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(f"{part}.")}
        rest |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
        return replace(self, files=files, networks={**self.networks, part: network}, tensors=rest)

    def take(self, part: str) -> dict[str, Tensor]:
        """Remove and return the tensors of one component, by their names in its network."""
        return {name.removeprefix(f"{part}."): self.tensors.pop(name) for name in list(self.tensors) if name.startswith(f"{part}.")}


def read_any(source: Path, prediction: str | None = None, averaged: bool = False, given: Collection[str] = ()) -> Checkpoint:
    """Read a folder, a single file, or a pickle (.ckpt, .bin), which only the converter reads.

    In a folder, plain weights take precedence over the variant "fp16", and both over pickles. The options are those of
    `read_single_file`.
    """
    if source.is_dir():
        if averaged:
            raise CheckpointError(NO_AVERAGE.format(source))
        return read_whole_folder(source, given).with_prediction(prediction)
    if source.is_file() and is_pickle(source):
        tensors = read_pickle(source)
        return from_tensors(source, header_of(tensors), tensors, prediction, averaged, given, hashed=True)
    return read_single_file(source, prediction, averaged, given, hashed=True)


# Folders


def read_whole_folder(folder: Path, given: Collection[str] = ()) -> Checkpoint:
    """Read everything in a diffusers folder except the networks that are `given`, even components that minisd cannot run."""
    kind = pipeline_of(parse_json(read_text(folder / INDEX), str(folder / INDEX)), str(folder))
    if kind not in PIPELINES:
        raise CheckpointError(f"{folder} is a {kind:.50}; only Stable Diffusion v1 and v2 can be converted")
    networks = {part: kind.weights for part, kind in NETWORKS.items() if part not in given}
    if not (folder / "safety_checker" / "config.json").is_file():
        del networks["safety_checker"]
    small = tuple(name for name in listing(folder) if re.fullmatch(SMALL_FILES, name))
    needed = Needed((INDEX, SCHEDULER), small, networks=networks, variants=(None, "fp16"), pickles=True)
    return read_folder(folder, needed)


def read_folder(folder: Path, needed: Needed) -> Checkpoint:
    """Read the needed files of a diffusers folder."""
    selection = select_in(folder, needed)
    if selection.missing:
        raise CheckpointError(selection.missing)
    checkpoint = Checkpoint(
        folder, {name: read_text(folder / name) for name in selection.texts}, {}, {}, f"according to {SCHEDULER}"
    )
    for part, files in selection.weights.items():
        checkpoint.networks[part], tensors = read_part(NETWORKS[part].network, folder, part, files)
        checkpoint.tensors.update({f"{part}.{name}": tensor for name, tensor in tensors.items()})
    return checkpoint


def read_part(kind: type[N], folder: Path, subfolder: str, files: list[str]) -> tuple[N, dict[str, Tensor]]:
    """The empty network that a component's config.json describes, and its tensors, checked."""
    config = folder / subfolder / "config.json"
    network = described(kind, parse_json(read_text(config), str(config)), str(config))
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= (read_tensors if file.endswith(".safetensors") else read_pickle)(folder / file)
    return network, from_diffusers(part_of(kind), tensors, network, str(folder / files[0]))


# Single files


def read_single_file(
    path: Path, prediction: str | None = None, averaged: bool = False, given: Collection[str] = (), hashed: bool = False
) -> Checkpoint:
    """Read a .safetensors file in minisd's or the original layout.

    `prediction` ("epsilon" or "v_prediction") overrides the file's prediction type. `averaged` selects the moving average of the
    UNet, which some original files also contain. The file may lack networks that are `given`. `hashed` reads the whole file if its
    sha256 would tell ε from v.

    Raises CheckpointError for anything other than Stable Diffusion v1 or v2, such as XL or a LoRA. It does not check for NaN, which
    would read the whole file; writing a checkpoint and `inspect --full` do.
    """
    return from_tensors(path, read_header(path), read_tensors(path), prediction, averaged, given, hashed)


def from_tensors(
    path: Path,
    header: Header,
    tensors: Mapping[str, Tensor],
    prediction: str | None,
    averaged: bool,
    given: Collection[str],
    hashed: bool,
) -> Checkpoint:
    """A checkpoint from the tensors of a single file. Raises CheckpointError, as `read_single_file`."""
    try:
        layout = layout_of(header, given)
    except (CheckpointError, UnsupportedConfig) as error:
        raise type(error)(f"{path} is {error}") from None
    if layout.findings.refused:
        kind = f"Stable Diffusion {layout.generation}" if layout.generation else "its own description"
        raise CheckpointError(f"{path} does not fit {kind}: {layout.findings}")
    layout.findings.warn(str(path))
    if not layout.generation:
        if averaged:
            raise CheckpointError(NO_AVERAGE.format(path))
        return self_described(path, header, layout, tensors).with_prediction(prediction)
    check_schedule(path, tensors)
    places = {native: layout.places[native] for native in layout.shapes}
    places = averaged_places(places) if averaged else places
    if absent := next((place.name for place in places.values() if place.name not in tensors), None):
        raise CheckpointError(f"{path} has no moving average of the UNet: it lacks {absent}")
    if averaged and (findings := compare(header, places, (), layout.shapes, str)).refused:
        raise CheckpointError(f"{path} does not fit Stable Diffusion {layout.generation}: {findings}")
    native = arranged(tensors, places, layout.shapes)
    predicts, decided = (prediction, "as requested") if prediction else prediction_type(path, layout.generation, native, hashed)
    generation = GENERATIONS[layout.generation]
    configs = generation.configs(layout.in_channels, predicts)
    networks = {
        part: network if network.config == configs[part] else unfilled(type(network), configs[part])
        for part, network in layout.networks.items()
    }
    return Checkpoint(path, generation.texts(layout.in_channels, predicts), networks, native, decided)


def self_described(path: Path, header: Header, layout: Layout, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """A checkpoint from a minisd file, which describes itself in its header."""
    about = description(header)
    return Checkpoint(path, about["files"], layout.networks, arranged(tensors, layout.places, layout.shapes), about["decided"])


def check_schedule(path: Path, tensors: Mapping[str, Tensor]):
    """Raise CheckpointError if an original file contains a noise schedule other than Stable Diffusion's."""
    if "alphas_cumprod" in tensors:
        config, stored = SD1_SCHEDULER, tensors["alphas_cumprod"].double()
        betas = schedule.betas(config.beta_schedule, config.beta_start, config.beta_end, config.num_train_timesteps)
        if stored.shape != betas.shape or not torch.allclose(stored, (1 - betas.double()).cumprod(0), rtol=0.01, atol=1e-3):
            raise CheckpointError(f"{path} was trained with a noise schedule (alphas_cumprod) other than Stable Diffusion's")

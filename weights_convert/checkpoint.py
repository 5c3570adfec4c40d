"""A whole checkpoint, whatever it was read from, and the two forms in which it is written: one file, or a diffusers folder."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .diffusers import diffusers_name, native_places, to_diffusers
from .files import (
    CheckpointError,
    Header,
    as_settings,
    header_of,
    is_pickle,
    read_header,
    read_pickle,
    read_tensors,
    write_file,
    write_folder,
    write_tensors,
)
from .folder import SMALL_FILES, WEIGHTS, listing, part_files, read_weights, weight_files
from .identify import compare, layout_of
from .official import configs, prediction_type
from .shapes import shapes_of
from .single_file import averaged_places

SCHEDULER = "scheduler/scheduler_config.json"
VOCABULARIES = [{"tokenizer/vocab.json", "tokenizer/merges.txt"}, {"tokenizer/tokenizer.json"}]
NO_AVERAGE = "{} holds no moving average; --averaged is for original single files"


@dataclass(frozen=True)
class Checkpoint:
    """All parts of a Stable Diffusion.

    `files` are the small files of a diffusers folder, each a text by its path; `tensors` are the weights by minisd's names, the
    part in front ("unet.conv_in.weight"), mapped into memory; `decided` says how ε or v was decided.
    """

    files: dict[str, str]
    tensors: dict[str, Tensor]
    decided: str

    @property
    def parts(self) -> list[str]:
        return [part for part in WEIGHTS if f"{part}/config.json" in self.files]

    @property
    def has_vocabulary(self) -> bool:
        return any(needed <= self.files.keys() for needed in VOCABULARIES)

    def json(self, path: str) -> dict[str, Any]:
        """One of the files, parsed."""
        try:
            parsed = json.loads(self.files[path])
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"the checkpoint's {path} is missing or not valid JSON") from error
        return as_settings(parsed, f"the checkpoint's {path}")

    @property
    def prediction_type(self) -> str:
        return self.json(SCHEDULER).get("prediction_type", "epsilon")

    def take(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part by their names in its network; the checkpoint lets go of them."""
        return {name.removeprefix(f"{part}."): self.tensors.pop(name) for name in list(self.tensors) if name.startswith(f"{part}.")}


def read_single_file(path: Path, prediction: str | None = None, averaged: bool = False, hashed: bool = False) -> Checkpoint:
    """A .safetensors file in minisd's or the original layout: every name, shape and dtype is checked, and no weight is read.

    `prediction` ("epsilon" or "v_prediction") overrules what the file says or suggests; `averaged` takes the moving average of the
    UNet that some original files hold beside it; `hashed` reads the whole file where its sha256 would tell ε from v.
    Raises CheckpointError, also for Stable Diffusion XL, LoRAs, and all else that is not Stable Diffusion v1 or v2. NaN is not
    looked for, as that would read everything: `write_minisd` and `write_diffusers` do, and `inspect --full`.
    """
    return from_tensors(path, read_header(path), read_tensors(path), prediction, averaged, hashed)


def read_any(source: Path, prediction: str | None = None, averaged: bool = False) -> Checkpoint:
    """What `read_single_file` reads, and also a diffusers folder or a pickle (.ckpt, .bin), which nothing else here opens."""
    if source.is_dir():
        if averaged:
            raise CheckpointError(NO_AVERAGE.format(source))
        return read_folder(source, prediction)
    if source.is_file() and is_pickle(source):
        tensors = read_pickle(source)
        return from_tensors(source, header_of(tensors), tensors, prediction, averaged, hashed=True)
    return read_single_file(source, prediction, averaged, hashed=True)


def from_tensors(
    path: Path, header: Header, tensors: Mapping[str, Tensor], prediction: str | None, averaged: bool, hashed: bool
) -> Checkpoint:
    """A checkpoint from the tensors of a single file."""
    try:
        layout = layout_of(header)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is {error}") from None
    kind = f"Stable Diffusion {layout.generation or 'as it describes itself'}"
    if any(layout.findings):
        raise CheckpointError(f"{path} does not fit {kind}: {layout.findings}")
    if not layout.generation:
        if averaged:
            raise CheckpointError(NO_AVERAGE.format(path))
        return with_prediction(described_by(header, tensors), prediction)
    check_schedule(path, tensors)
    places = averaged_places(layout.places) if averaged else layout.places
    if absent := next((place.name for place in places.values() if place.name not in tensors), None):
        raise CheckpointError(f"{path} holds no moving average of the UNet: {absent} is not in it")
    if any(findings := compare(header, places, (), layout.shapes, str)):
        raise CheckpointError(f"{path} does not fit {kind}: {findings}")
    native = {}
    for name, place in places.items():
        tensor = tensors[place.name] if place.third is None else tensors[place.name].chunk(3)[place.third]
        native[name] = tensor.reshape(layout.shapes[name])  # a view, but for odd pickles
    told, decided = (prediction, "as asked") if prediction else prediction_type(path, layout.generation, native, hashed)
    files = configs(layout.generation, told, layout.in_channels)
    return Checkpoint({path: json.dumps(file) for path, file in files.items()}, native, decided)


def described_by(header: Header, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """A minisd file's own account of itself, which `layout_of` has checked."""
    about = json.loads(header.metadata["minisd"])
    return Checkpoint(about["files"], dict(tensors), str(about.get("decided", "it says so")))


def check_schedule(path: Path, tensors: Mapping[str, Tensor]):
    """Original files hold the noise schedule of their training; raises CheckpointError if it is not Stable Diffusion's."""
    if "alphas_cumprod" in tensors:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        stored = tensors["alphas_cumprod"].double()
        if stored.shape != betas.shape or not torch.allclose(stored, (1 - betas).cumprod(0), rtol=0.01, atol=1e-3):
            raise CheckpointError(f"{path} was trained with another noise schedule (alphas_cumprod) than Stable Diffusion's")


def with_prediction(checkpoint: Checkpoint, prediction: str | None) -> Checkpoint:
    """The checkpoint with another prediction type in its scheduler's file, if one is given."""
    if prediction is None:
        return checkpoint
    scheduler = {**checkpoint.json(SCHEDULER), "prediction_type": prediction}
    return replace(checkpoint, files={**checkpoint.files, SCHEDULER: json.dumps(scheduler)}, decided="as asked")


def read_folder(folder: Path, prediction: str | None = None) -> Checkpoint:
    """A diffusers folder: of each part the plain weights, else the variant "fp16", else a pickle. Checked as a single file is."""
    names = listing(folder)
    try:
        files = {name: (folder / name).read_text(encoding="utf-8") for name in names if re.fullmatch(SMALL_FILES, name)}
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{folder} holds a .json or .txt file that is no text: {error}") from error
    needed = {"model_index.json", SCHEDULER, "unet/config.json", "vae/config.json", "text_encoder/config.json"}
    if missing := needed - files.keys():
        raise CheckpointError(f"{folder / min(missing)} is missing: is {folder} a checkpoint?")
    checkpoint = Checkpoint(files, {}, f"{SCHEDULER} says so")
    kind = checkpoint.json("model_index.json").get("_class_name")
    if kind not in ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"):
        raise CheckpointError(f"{folder} is a {kind}; only Stable Diffusion v1 and v2 can be converted")
    for part in checkpoint.parts:
        tensors = read_part(folder, names, part)
        places, repeated = native_places(part, tensors)
        shapes = shapes_of(part, checkpoint.json(f"{part}/config.json"))
        findings = compare(header_of(tensors), places, repeated, shapes, partial(diffusers_name, part))
        if any(findings):
            raise CheckpointError(f"{folder / part} does not fit its config.json: {findings}")
        checkpoint.tensors.update({f"{part}.{name}": tensors[place.name].reshape(shapes[name]) for name, place in places.items()})
    return with_prediction(checkpoint, prediction)


def read_part(folder: Path, names: list[str], part: str) -> dict[str, Tensor]:
    stem = WEIGHTS[part]
    pickles = [name for name in (f"{part}/{stem}.bin", f"{part}/pytorch_model.bin") if name in names]
    if pickles and not any(weight_files(names, f"{part}/{stem}", variant) for variant in (None, "fp16")):
        return read_pickle(folder / pickles[0])
    return read_weights(folder, part_files(names, str(folder), part, stem, (None, "fp16")))


def write_minisd(checkpoint: Checkpoint, out: Path, dtype: torch.dtype | None = None):
    """One .safetensors file that describes itself; it is there when it is whole, and not before."""
    about = json.dumps({"files": checkpoint.files, "decided": checkpoint.decided})
    write_file(out, lambda path: write_tensors(path, checkpoint.tensors, dtype, {"minisd": about}))


def write_diffusers(checkpoint: Checkpoint, out: Path, dtype: torch.dtype | None = None):
    """A diffusers folder, whole or not at all. Raises CheckpointError without a vocabulary to put in it."""
    if not checkpoint.has_vocabulary:
        raise CheckpointError("a diffusers folder needs a vocabulary, and the source has none; --tokenizer FOLDER puts one in")

    def fill(folder: Path):
        for path, text in checkpoint.files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        for part in checkpoint.parts:
            convolutions = part == "unet" and not checkpoint.json("unet/config.json").get("use_linear_projection")
            tensors = to_diffusers(part, checkpoint.take(part), convolutions)
            write_tensors(folder / part / f"{WEIGHTS[part]}.safetensors", tensors, dtype)

    write_folder(out, fill)

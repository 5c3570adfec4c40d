"""Reads one network from a file or folder that holds only this network or a whole checkpoint."""

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from ..controlnet import ControlNetConfig
from .checkpoint import read_part, read_single_file
from .compare import Spell, arranged, compare
from .errors import CheckpointError
from .fill import ALONE, KINDS, NETWORKS, part_of, shapes_of, unfilled
from .folder import Needed, select_in
from .generations import GENERATIONS
from .names import Place, diffusers_name, diffusers_places
from .original_names import LAYOUTS, original_name, original_places
from .pickles import is_pickle, read_pickle
from .prediction import TOLD_BY, prediction_type
from .safetensors import Header, header_of, read_header, read_tensors

N = TypeVar("N", bound=nn.Module)

# A name that only files in diffusers' layout have; v1's text encoder has the same names in both layouts.
OF_DIFFUSERS = {
    **dict.fromkeys(("unet", "controlnet"), "time_embedding.linear_1.weight"),
    "vae": "decoder.mid_block.resnets.0.conv1.weight",
}


def read_network(kind: type[N], path: Path) -> tuple[N, dict[str, Tensor]]:
    """An empty network of this class and its tensors in a file or folder, checked. Raises CheckpointError if they do not fit."""
    part = part_of(kind)
    if path.is_dir():
        return read_network_folder(kind, path, part)
    if part in ALONE and is_pickle(path):  # some ControlNets were published as pickles
        tensors = read_pickle(path)
        header = header_of(tensors)
    else:
        header, tensors = read_header(path), {}
    if part not in LAYOUTS["v1"]:
        raise CheckpointError(f"a {kind.__name__} cannot be loaded from a single file; pass its folder")
    if "minisd" in header.metadata and part in NETWORKS:
        checkpoint = read_single_file(path, given=NETWORKS.keys() - {part})
        return unfilled(kind, checkpoint.networks[part].config), checkpoint.take(part)
    misfits = []
    for generation in GENERATIONS:
        places, unexpected, spell = located(part, header.shapes, generation)
        network = unfilled(kind, config_of(part, generation, header, places, path))
        findings = compare(header, places, unexpected, shapes_of(network), spell)
        if not findings.refused:
            findings.warn(str(path))
            return network, arranged(tensors or read_tensors(path), places, shapes_of(network))
        misfits.append(findings)
    closest = min(misfits, key=lambda findings: sum(map(len, findings)))
    raise CheckpointError(f"{path} does not fit a {kind.__name__} of Stable Diffusion: {closest}")


def read_network_folder(kind: type[N], folder: Path, part: str) -> tuple[N, dict[str, Tensor]]:
    """The network in a folder or in the subfolder of its component."""
    subfolder = part if (folder / part).is_dir() else ""
    selection = select_in(folder, Needed(networks={subfolder: KINDS[part].weights}, variants=(None, "fp16"), pickles=True))
    if selection.missing:
        raise CheckpointError(selection.missing)
    return read_part(kind, folder, subfolder, selection.weights[subfolder])


def located(part: str, names: Collection[str], generation: str) -> tuple[dict[str, Place], list[str], Spell]:
    """The places of a network's tensors in a file, the names without a place, and a map from minisd's names to the file's."""
    if OF_DIFFUSERS.get(part) in names:
        return *diffusers_places(part, names), lambda native: diffusers_name(part, native)
    prefix = LAYOUTS[generation][part][0]
    own = [name for name in names if name.startswith(prefix)]
    left_out = "" if own else prefix  # files with only this network may omit the prefix
    places, unexpected = original_places([left_out + name for name in own or names], generation)
    inside = {
        native.removeprefix(f"{part}."): Place(place.name.removeprefix(left_out), place.third) for native, place in places.items()
    }
    bare = [name.removeprefix(left_out) for name in unexpected]
    return inside, bare, lambda native: original_name(f"{part}.{native}", generation).removeprefix(left_out)


def config_of(part: str, generation: str, header: Header, places: dict[str, Place], path: Path):
    """The configuration of a network of v1 or v2; for a UNet, it depends on the input channels and the prediction type."""
    if part == "controlnet":
        return ControlNetConfig(**vars(GENERATIONS[generation].configs(4)["unet"]))
    shape = header.shapes.get(places["conv_in.weight"].name, ()) if "conv_in.weight" in places else ()
    in_channels = shape[1] if part == "unet" and len(shape) == 4 else 4
    told_by = places.get(TOLD_BY.removeprefix("unet."))
    if part != "unet" or generation == "v1" or told_by is None:
        return GENERATIONS[generation].configs(in_channels)[part]
    predicts, _ = prediction_type(path, generation, {TOLD_BY: read_tensors(path)[told_by.name]})
    return GENERATIONS[generation].configs(in_channels, predicts)[part]

"""Recognises a single file from its header (the names, shapes and dtypes of its tensors) and checks that it is complete."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

from torch import nn

from ..tasks import TASKS
from .compare import Findings, Shapes, compare
from .errors import CheckpointError
from .fill import NETWORKS, described, shapes_of, unfilled
from .folder import SMALL_FILES
from .generations import GENERATIONS
from .names import Place
from .original_names import original_name, original_places
from .safetensors import Header
from .texts import parse_json
from .vetting import get, named, required

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
READS_TEXT = r"model\.diffusion_model\..*\.attn2\.to_k\.weight"

# A part of a tensor name that identifies each kind of file.
CONTROLNET = (
    "a ControlNet, which steers a checkpoint but is not one itself: load it with ControlNetModel.from_single_file (--control)"
)
LORA = "a LoRA, which changes a checkpoint but is not one itself: load its base model, then this with load_lora_weights (--lora)"
OTHERS = {
    **dict.fromkeys(("lora_", "lora.", ":up", "hada_", "lokr_"), LORA),
    "conditioner.embedders.": "Stable Diffusion XL; minisd supports v1 and v2",
    "add_embedding.": "the UNet of Stable Diffusion XL; minisd supports v1 and v2",
    "joint_blocks.": "Stable Diffusion 3; minisd supports v1 and v2",
    "double_blocks.": "a Flux model; minisd supports Stable Diffusion v1 and v2",
    "time_embed.cond_proj.": "a latent consistency model in a single file; pass its folder or id in diffusers' layout instead",
    "control_model.": CONTROLNET,
    "controlnet_cond_embedding.": CONTROLNET,
    "input_hint_block.": CONTROLNET,
    "label_emb.": "a class-conditional UNet, as in unCLIP and the upscaler; minisd supports text to image",
    "emb_params": "a textual inversion, a word for a checkpoint: load it with load_textual_inversion (--embedding)",
    "concept_embeds": "the safety checker of a diffusers folder; pass the folder that contains all components",
}
OF_ONE_NETWORK = {
    "time_embedding.linear_1.weight": "the UNet of a diffusers folder; pass the folder that contains all components",
    "decoder.mid_block.resnets.0.conv1.weight": "the VAE of a diffusers folder; pass the folder that contains all components",
    "decoder.mid.block_1.conv1.weight": "only a VAE, without a UNet and a text encoder",
    "first_stage_model.decoder.mid.block_1.conv1.weight": "only a VAE, without a UNet and a text encoder",
    "text_model.final_layer_norm.weight": "only a CLIP text encoder; pass the folder that contains all components",
    "final_layer_norm.weight": "only a CLIP text encoder; pass the folder that contains all components",
}
OTHER_TASKS = {5: "a depth-to-image model", 7: "an upscaler"}


class Layout(NamedTuple):
    """How to read a file: `generation` is "v1" or "v2" in the original layout, "" in minisd's.

    `networks` are empty; `shapes` maps minisd's tensor names to shapes, and `places` maps them to positions in the file.
    """

    generation: str
    networks: dict[str, nn.Module]
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, Place]
    findings: Findings

    @property
    def in_channels(self) -> int:
        """The input channels of the UNet, which determine its task (`tasks.TASKS`)."""
        config: Any = self.networks["unet"].config
        return config.in_channels


def layout_of(header: Header, given: Collection[str] = ()) -> Layout:
    """Recognise a single file. Components that are `given` may be missing.

    Raises CheckpointError for any other kind of file; its message completes the sentence "this file is …".
    """
    if "minisd" in header.metadata:
        generation, networks = "", described_networks(header, given)
        places, unexpected = {name: Place(name) for name in header.shapes}, list[str]()
    else:
        generation, in_channels = identify(header.shapes)
        configs = GENERATIONS[generation].configs(in_channels)
        networks = {part: unfilled(NETWORKS[part].network, config) for part, config in configs.items() if part not in given}
        places, unexpected = original_places(header.shapes, generation)
    places = {native: place for native, place in places.items() if native.split(".")[0] not in given}
    shapes = {f"{part}.{name}": shape for part, network in networks.items() for name, shape in shapes_of(network).items()}
    findings = compare(
        header, places, unexpected, shapes, lambda native: original_name(native, generation) if generation else native
    )
    return Layout(generation, networks, shapes, places, findings)


def description(header: Header) -> dict[str, Any]:
    """Parse the description in a minisd file's header: `files` maps paths to texts, `decided` says what set the prediction type."""
    about = parse_json(header.metadata["minisd"], "damaged: its description of itself")
    with named("damaged: its description of itself", CheckpointError):
        return {"files": required(about, "files", dict[str, str]), "decided": get(about, "decided", str, "according to the file")}


def described_networks(header: Header, given: Collection[str]) -> dict[str, nn.Module]:
    """The empty networks of a minisd file, built from the description in its header."""
    files = description(header)["files"]
    settings = {}
    for part in NETWORKS.keys() - given:
        where = f"{part}/config.json"
        if where in files:
            settings[part] = parse_json(files[where], f"damaged: its {where}")
        elif part != "safety_checker":
            raise CheckpointError(f"incomplete: it has no {where}")
    if strange := next((path for path in files if not re.fullmatch(SMALL_FILES, path)), None):
        raise CheckpointError(f"damaged or malicious: it claims to contain {strange!r}, which is not a file of a checkpoint")
    return {
        part: described(NETWORKS[part].network, settings[part], f"damaged: its {part}/config.json")
        for part in NETWORKS
        if part in settings
    }


def identify(shapes: Shapes) -> tuple[str, int]:
    """The generation and input channels of an original single file. Raises CheckpointError like `layout_of`."""
    for piece, kind in OTHERS.items():
        if any(piece in name for name in shapes):
            raise CheckpointError(kind)
    for name, kind in OF_ONE_NETWORK.items():
        if name in shapes and FIRST not in shapes:
            raise CheckpointError(kind)
    if FIRST not in shapes:
        raise CheckpointError(f"not a Stable Diffusion checkpoint: it lacks {FIRST} and contains {next(iter(shapes), 'no tensor')}")
    in_channels = shapes[FIRST][1]
    context = next((shape[-1] for name, shape in shapes.items() if re.match(READS_TEXT, name)), 0)
    if in_channels in OTHER_TASKS:
        raise CheckpointError(
            f"{OTHER_TASKS[in_channels]}, since it has {in_channels} input channels; minisd has no pipeline for it"
        )
    widths = {generation.text_encoder.hidden_size: name for name, generation in GENERATIONS.items()}
    if context not in widths or in_channels not in TASKS:
        raise CheckpointError(f"not Stable Diffusion v1 or v2: it has {in_channels} input channels and {context} text channels")
    return widths[context], in_channels

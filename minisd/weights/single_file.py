"""What a single file is and whether it is whole, by its header: the names, shapes and dtypes of its tensors."""

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

# A piece of a name that only files of this kind have.
CONTROLNET = (
    "a ControlNet, which steers another checkpoint and is none itself: load it by ControlNetModel.from_single_file (--control)"
)
LORA = "a LoRA, which changes another checkpoint and is none itself: load that, then this by load_lora_weights (--lora)"
OTHERS = {
    **dict.fromkeys(("lora_", "lora.", ":up", "hada_", "lokr_"), LORA),
    "conditioner.embedders.": "Stable Diffusion XL; minisd knows v1 and v2",
    "add_embedding.": "the UNet of Stable Diffusion XL; minisd knows v1 and v2",
    "joint_blocks.": "Stable Diffusion 3; minisd knows v1 and v2",
    "double_blocks.": "a Flux model; minisd knows Stable Diffusion v1 and v2",
    "time_embed.cond_proj.": "a latent consistency model in one file; name the folder or the id that it was published as",
    "control_model.": CONTROLNET,
    "controlnet_cond_embedding.": CONTROLNET,
    "input_hint_block.": CONTROLNET,
    "label_emb.": "a UNet conditioned on classes, as unCLIP's and the upscaler's are; minisd knows text to image",
    "emb_params": "a textual inversion, a word for another checkpoint: load_textual_inversion (--embedding)",
    "concept_embeds": "the safety checker of a diffusers folder; name the folder that holds all parts",
}
OF_ONE_NETWORK = {
    "time_embedding.linear_1.weight": "the UNet of a diffusers folder; name the folder that holds all parts",
    "decoder.mid_block.resnets.0.conv1.weight": "the VAE of a diffusers folder; name the folder that holds all parts",
    "decoder.mid.block_1.conv1.weight": "a VAE alone, without a UNet and a text encoder",
    "first_stage_model.decoder.mid.block_1.conv1.weight": "a VAE alone, without a UNet and a text encoder",
    "text_model.final_layer_norm.weight": "a CLIP text encoder alone; name the folder that holds all parts",
    "final_layer_norm.weight": "a CLIP text encoder alone; name the folder that holds all parts",
}
OTHER_TASKS = {5: "a depth-to-image model", 7: "an upscaler"}


class Layout(NamedTuple):
    """How to read a file: `generation` is "v1" or "v2" in the original layout, "" in minisd's.

    `networks` are empty, `shapes` those of all their tensors, and `places` says where in the file they are, by minisd's names.
    """

    generation: str
    networks: dict[str, nn.Module]
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, Place]
    findings: Findings

    @property
    def in_channels(self) -> int:
        """Of the UNet: `tasks.TASKS` says what for."""
        config: Any = self.networks["unet"].config
        return config.in_channels


def layout_of(header: Header, given: Collection[str] = ()) -> Layout:
    """Recognise a single file; raises CheckpointError for any other kind, with the end of the sentence "this file is …".

    Of parts that are `given` nothing is expected.
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
    """What a minisd file says of itself in its header: `files`, by their paths, and how it was `decided` what it predicts."""
    about = parse_json(header.metadata["minisd"], "damaged: its description of itself")
    with named("damaged: its description of itself", CheckpointError):
        return {"files": required(about, "files", dict[str, str]), "decided": get(about, "decided", str, "it says so")}


def described_networks(header: Header, given: Collection[str]) -> dict[str, nn.Module]:
    """The empty networks of a minisd file, by the description of itself in its header."""
    files = description(header)["files"]
    settings = {}
    for part in NETWORKS.keys() - given:
        where = f"{part}/config.json"
        if where in files:
            settings[part] = parse_json(files[where], f"damaged: its {where}")
        elif part != "safety_checker":
            raise CheckpointError(f"incomplete: it has no {where}")
    if strange := next((path for path in files if not re.fullmatch(SMALL_FILES, path)), None):
        raise CheckpointError(f"damaged or malicious: it says it holds {strange!r}, which is no file of a checkpoint")
    return {
        part: described(NETWORKS[part].network, settings[part], f"damaged: its {part}/config.json")
        for part in NETWORKS
        if part in settings
    }


def identify(shapes: Shapes) -> tuple[str, int]:
    """Generation and input channels of an original single file; raises CheckpointError for anything else, as `layout_of` does."""
    for piece, kind in OTHERS.items():
        if any(piece in name for name in shapes):
            raise CheckpointError(kind)
    for name, kind in OF_ONE_NETWORK.items():
        if name in shapes and FIRST not in shapes:
            raise CheckpointError(kind)
    if FIRST not in shapes:
        raise CheckpointError(f"no Stable Diffusion: {FIRST} is not in it, and {next(iter(shapes), 'no tensor at all')} is")
    in_channels = shapes[FIRST][1]
    context = next((shape[-1] for name, shape in shapes.items() if re.match(READS_TEXT, name)), 0)
    if in_channels in OTHER_TASKS:
        raise CheckpointError(f"{OTHER_TASKS[in_channels]}, by its {in_channels} input channels; minisd has no pipeline for it")
    widths = {generation.text_encoder.hidden_size: name for name, generation in GENERATIONS.items()}
    if context not in widths or in_channels not in TASKS:
        raise CheckpointError(f"no Stable Diffusion v1 or v2: {in_channels} input channels, text states {context} wide")
    return widths[context], in_channels

"""What a single file is and whether it is whole, by its header: the names, shapes and dtypes of its tensors."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .diffusers import Place
from .files import DTYPES, CheckpointError, Header
from .folder import SMALL_FILES
from .official import configs
from .shapes import expected_shapes
from .single_file import native_places, original_name

Shapes = Mapping[str, tuple[int, ...]]

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
READS_TEXT = r"model\.diffusion_model\..*\.attn2\.to_k\.weight"
GENERATIONS = {768: "v1", 1024: "v2"}  # by the width of the text states

# A piece of a name that only files of this kind have.
OTHERS = {
    "lora_": "a LoRA, which changes another checkpoint and is none itself; minisd has no use for it yet",
    "conditioner.embedders.": "Stable Diffusion XL; minisd knows v1 and v2",
    "add_embedding.": "the UNet of Stable Diffusion XL; minisd knows v1 and v2",
    "joint_blocks.": "Stable Diffusion 3; minisd knows v1 and v2",
    "double_blocks.": "a Flux model; minisd knows Stable Diffusion v1 and v2",
    "control_model.": "a ControlNet, which steers another checkpoint and is none itself",
    "controlnet_cond_embedding.": "a ControlNet, which steers another checkpoint and is none itself",
    "input_hint_block.": "a ControlNet, which steers another checkpoint and is none itself",
    "label_emb.": "a UNet conditioned on classes, as unCLIP's and the upscaler's are; minisd knows text to image",
    "emb_params": "a textual inversion, a word for another checkpoint",
    "concept_embeds": "the safety checker of a diffusers folder; name the folder that holds all parts",
}
PARTS = {
    "time_embedding.linear_1.weight": "the UNet of a diffusers folder; name the folder that holds all parts",
    "decoder.mid_block.resnets.0.conv1.weight": "the VAE of a diffusers folder; name the folder that holds all parts",
    "decoder.mid.block_1.conv1.weight": "a VAE alone, without a UNet and a text encoder",
    "first_stage_model.decoder.mid.block_1.conv1.weight": "a VAE alone, without a UNet and a text encoder",
    "text_model.final_layer_norm.weight": "a CLIP text encoder alone; name the folder that holds all parts",
    "final_layer_norm.weight": "a CLIP text encoder alone; name the folder that holds all parts",
}
TASKS = {8: "InstructPix2Pix, which edits pictures", 5: "a depth-to-image model", 7: "an upscaler"}


class Findings(NamedTuple):
    """How a file differs from what was expected, in the file's own names."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]
    mistyped: list[str]

    def __str__(self) -> str:
        heads = ("it lacks", "it has unexpected", "shapes differ:", "these are no weights:")
        return "; ".join(f"{head} {some(names)}" for head, names in zip(heads, self) if names)


class Layout(NamedTuple):
    """How to read a file: `generation` is "v1" or "v2" in the original layout, "" in minisd's; 9 `in_channels` are for inpainting.

    `configs` has a JSON for each part, `shapes` what they ask for, and `places` says where in the file it is, by minisd's names.
    """

    generation: str
    in_channels: int
    configs: dict[str, dict[str, Any]]
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, Place]
    findings: Findings


def layout_of(header: Header) -> Layout:
    """Recognise a single file; raises CheckpointError for any other kind, with the end of the sentence "this file is …"."""
    if "minisd" in header.metadata:
        try:
            files = dict(json.loads(header.metadata["minisd"])["files"])
            networks = {path.split("/")[0]: json.loads(text) for path, text in files.items() if path.endswith("/config.json")}
            generation, in_channels = "", networks["unet"]["in_channels"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"damaged: its description of itself cannot be read ({type(error).__name__})") from error
        if strange := next((path for path in files if not re.fullmatch(SMALL_FILES, path)), None):
            raise CheckpointError(f"damaged or malicious: it says it holds {strange!r}, which is no file of a checkpoint")
        places, unexpected = {name: Place(name) for name in header.shapes}, []
    else:
        generation, in_channels = identify(header.shapes)
        networks = {
            path.split("/")[0]: file for path, file in configs(generation, "epsilon", in_channels).items() if "/config." in path
        }
        places, unexpected = native_places(header.shapes, generation)
    shapes = expected_shapes(networks)
    findings = compare(
        header, places, unexpected, shapes, lambda native: original_name(native, generation) if generation else native
    )
    return Layout(generation, in_channels, networks, shapes, places, findings)


def identify(shapes: Shapes) -> tuple[str, int]:
    """Generation and input channels of an original single file; raises CheckpointError for anything else, as `layout_of` does."""
    for piece, kind in OTHERS.items():
        if any(piece in name for name in shapes):
            raise CheckpointError(kind)
    for name, kind in PARTS.items():
        if name in shapes and FIRST not in shapes:
            raise CheckpointError(kind)
    if FIRST not in shapes:
        raise CheckpointError(f"no Stable Diffusion: {FIRST} is not in it, and {next(iter(shapes), 'no tensor at all')} is")
    in_channels = shapes[FIRST][1]
    context = next((shape[-1] for name, shape in shapes.items() if re.match(READS_TEXT, name)), 0)
    if in_channels in TASKS:
        raise CheckpointError(f"{TASKS[in_channels]}, by its {in_channels} input channels; minisd draws from text alone")
    if context not in GENERATIONS or in_channels not in (4, 9):
        raise CheckpointError(f"no Stable Diffusion v1 or v2: {in_channels} input channels, text states {context} wide")
    return GENERATIONS[context], in_channels


def compare(
    header: Header, places: Mapping[str, Place], unexpected: Iterable[str], expected: Shapes, spell: Callable[[str], str]
) -> Findings:
    """The tensors of a file, with minisd's names for them, against those `expected`, which are minisd's.

    `spell` turns a name of minisd's into the file's.
    """
    missing = dict.fromkeys(spell(native) for native in expected if native not in places)
    extra, misshaped, mistyped = dict.fromkeys(unexpected), {}, {}
    for native, (name, third) in places.items():
        if native not in expected:
            extra[name] = None
            continue
        rows, *rest = expected[native]
        wanted = (rows if third is None else 3 * rows, *rest)
        if header.shapes[name] not in (wanted, (*wanted, 1, 1)):  # a linear layer may be stored as a 1×1 convolution
            misshaped[name] = f"{name} has {header.shapes[name]} instead of {wanted}"
        if header.dtypes[name] not in DTYPES.values():
            mistyped[name] = f"{name} is stored as {header.dtypes[name]}"
    return Findings(list(missing), list(extra), list(misshaped.values()), list(mistyped.values()))


def some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

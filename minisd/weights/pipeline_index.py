"""model_index.json: the pipeline of a checkpoint and the class of each component."""

from collections.abc import Collection, Mapping
from typing import Any

from ..config import UnsupportedConfig
from ..schedulers import SCHEDULERS
from ..tasks import TASKS
from .vetting import check, named, required

INDEX = "model_index.json"
PIPELINES = [*(pipeline for _, pipeline, _ in TASKS.values()), "StableDiffusionImg2ImgPipeline", "LatentConsistencyModelPipeline"]
LIBRARIES = {"vae": "diffusers", "unet": "diffusers", "scheduler": "diffusers", "safety_checker": "stable_diffusion"}

CLASSES = {  # supported classes of each component
    "vae": ["AutoencoderKL"],
    "unet": ["UNet2DConditionModel"],
    "text_encoder": ["CLIPTextModel"],
    "tokenizer": ["CLIPTokenizer", "CLIPTokenizerFast"],
}


def index_json(classes: Mapping[str, str], in_channels: int) -> dict[str, Any]:
    """The content of model_index.json. `classes` has the class name of each component; `in_channels` determines the pipeline."""
    parts = {part: [LIBRARIES.get(part, "transformers"), name] for part, name in classes.items()}
    checked = "safety_checker" in classes
    rest = {
        "safety_checker": parts.get("safety_checker", [None, None]),
        "feature_extractor": ["transformers", "CLIPImageProcessor"] if checked else [None, None],
        "requires_safety_checker": checked,
    }
    return {"_class_name": TASKS[in_channels][1], "_diffusers_version": "0.10.2", **parts, **rest}


def pipeline_of(index: Mapping[str, Any], where: str) -> str:
    with named(f"{where}/{INDEX}"):
        return required(index, "_class_name", str)


def class_of(index: Mapping[str, Any], part: str, where: str) -> str | None:
    """The class of a component, stored as [library, class]; None if the pipeline has no such component."""
    with named(f"{where}/{INDEX}"):
        pair = check(part, index.get(part), tuple[str | None, str | None] | None)
    return pair and pair[1]


def refuse_unsupported(index: Mapping[str, Any], given: Collection[str], where: str):
    """Raise UnsupportedConfig for an unsupported pipeline or component, unless the component is `given`."""
    kind = pipeline_of(index, where)
    if kind not in PIPELINES:
        raise UnsupportedConfig(f"{where} is a {kind:.50}; minisd implements {', '.join(PIPELINES)}")
    for part, classes in CLASSES.items():
        if part not in given and (found := class_of(index, part, where)) not in classes:
            if found is None:
                raise UnsupportedConfig(f"{where} names no {part}; give one, as in {part}={classes[0]}.from_pretrained(…)")
            raise UnsupportedConfig(f"{where}: {part} is a {found}, which is not implemented; it must be a {classes[0]}")
    if "scheduler" in given:
        return
    scheduler = class_of(index, "scheduler", where)
    if not scheduler:
        raise UnsupportedConfig(f"{where} names no scheduler; give one, as in scheduler=DDIMScheduler()")
    if scheduler not in SCHEDULERS:
        raise UnsupportedConfig(
            f"{scheduler} is not implemented; use another sampler with the settings of {where}: scheduler=DDIMScheduler or, "
            "on the command line, --sampler ddim"
        )

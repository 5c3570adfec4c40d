"""Determines whether a single file predicts ε or v, which its names and shapes do not show."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .official import EPSILON, V, of_sha256, of_size, sha256, sha256_for_free

TOLD_BY = "unet.up_blocks.3.attentions.2.block.norm1.bias"
LEAST_SPREAD = 0.09  # the minimum standard deviation of TOLD_BY in v-models (found by ComfyUI)


def prediction_type(path: Path, generation: str, tensors: Mapping[str, Tensor], hashed: bool = False) -> tuple[str, str]:
    """The prediction type of a single file with these tensors, "epsilon" or "v_prediction", and how it was determined.

    In this order: the sha256 of an official file, if `hashed` or if the Hub's cache has it; a YAML file with the same name next to
    the file; for v2, the standard deviation of one tensor.
    """
    if generation == "v2" and any(file.prediction_type for file in of_size(path.stat().st_size)):
        official = of_sha256(sha256(path)) if hashed or sha256_for_free(path) else None
        if official and official.prediction_type:
            return official.prediction_type, f"its sha256 is that of {official.name}"
    yaml = path.with_suffix(".yaml")
    if yaml.is_file():
        v = re.search(r"parameterization:\s*[\"']?v\b", yaml.read_text(encoding="utf-8", errors="replace"))
        return (V if v else EPSILON), f"according to {yaml.name}"
    if generation == "v1":
        return EPSILON, "every official v1 predicts ε"
    spread = tensors[TOLD_BY].float().std(correction=0).item()
    decided = f"guessed from the weights: {TOLD_BY} has a standard deviation of {spread:.3f}, v-models more than {LEAST_SPREAD}"
    return (V if spread > LEAST_SPREAD else EPSILON), decided

"""Loads the model to evaluate and fingerprints its weights."""

import hashlib

from torch import nn

from ..pipeline import StableDiffusionPipeline
from ..processes import best_device
from ..schedulers.names import SAMPLERS


def load(model: str, sampler: str | None = None) -> StableDiffusionPipeline:
    """The model on the best device, without progress bars."""
    pipe = StableDiffusionPipeline.from_pretrained(model).to(best_device())
    pipe.set_progress_bar_config(disable=True)
    if sampler:
        pipe.scheduler = SAMPLERS[sampler].from_config(pipe.scheduler.config)
    return pipe


def fingerprint(network: nn.Module) -> str:
    """Eight hexadecimal digits that identify a network's weights in a report."""
    total = hashlib.sha256()
    for weight in network.parameters():
        total.update(weight.detach().float().cpu().numpy().tobytes())
    return total.hexdigest()[:8]

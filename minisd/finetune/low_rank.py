"""LoRA (Hu et al. 2021): trains low-rank matrices beside the weights of attention or of all layers, and writes only these."""

import re
from pathlib import Path

import torch
from torch import nn

from ..adapters.lora import LoRA, attach, layers_of, loras_of
from ..adapters.lora_writer import lora_tensors
from ..adapters.pipeline_loras import networks_of
from ..disk import replacing
from ..pipeline import StableDiffusionPipeline
from ..weights.safetensors import write_tensors
from .learner import Learner
from .settings import Settings

LAYERS = {"attention": re.compile(r"\.to_(q|k|v|out)$"), "all": re.compile("")}


class LowRank(Learner):
    def __init__(self, pipe: StableDiffusionPipeline, settings: Settings):
        super().__init__(pipe, settings)
        self.teaches_text = settings.train_text_encoder
        self.networks = {part: network for part, network in networks_of(pipe).items() if part == "unet" or self.teaches_text}
        which = LAYERS[settings.layers or settings.defaults.layers]
        torch.manual_seed(settings.seed)
        for network in self.networks.values():
            for path, layer in layers_of(network).items():
                if which.search(path):
                    attach(layer, LoRA(layer, settings.rank, name=settings.out.name))
        self.trained = nn.ModuleList(lora for network in self.networks.values() for lora in loras_of(network))

    def write(self, folder: Path, notes: dict[str, str]) -> Path:
        path = folder / f"{folder.name}.safetensors"
        shown = {"ss_network_module": "networks.lora", "ss_network_dim": self.settings.rank, "ss_network_alpha": self.settings.rank}
        tensors = {name: t for part, network in self.networks.items() for name, t in lora_tensors(part, network).items()}
        with replacing(path) as partial:
            write_tensors(partial, tensors, notes={**notes, **{name: str(value) for name, value in shown.items()}})
        return path

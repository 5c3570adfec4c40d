"""LoRA (Hu et al. 2021): thin matrices beside the weights of attention learn, and the file holds nothing else.

The file has the names of kohya-ss, which minisd, diffusers and AUTOMATIC1111's web interface read.
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapters.lora import LoRA, attach, layers_of
from ..adapters.pipeline_loras import networks_of
from ..disk import replacing
from ..pipeline import StableDiffusionPipeline
from ..weights.names import diffusers_name
from ..weights.safetensors import write_tensors
from .learner import Learner
from .settings import Settings

ATTENTION = re.compile(r"\.to_(q|k|v|out)$")
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_"}


class LowRank(Learner):
    def __init__(self, pipe: StableDiffusionPipeline, settings: Settings):
        super().__init__(pipe, settings)
        self.teaches_text = settings.train_text_encoder
        self.loras: dict[str, LoRA] = {}  # by the names of their layers in the file
        torch.manual_seed(settings.seed)
        for part, network in networks_of(pipe).items():
            if part == "unet" or self.teaches_text:
                for path, layer in layers_of(network).items():
                    if ATTENTION.search(path):
                        attach(layer, lora := LoRA(layer, settings.rank, name=settings.out.name))
                        self.loras[kohya_name(part, path)] = lora
        self.trained = nn.ModuleList(self.loras.values())

    def tensors(self) -> dict[str, Tensor]:
        """The content of the file. α is the rank, so that a scale of 1 is what was trained."""
        sides = {"lora_down": "down", "lora_up": "up"}
        found = {f"{name}.{s}.weight": getattr(lora, side).weight for name, lora in self.loras.items() for s, side in sides.items()}
        alphas = {name: torch.tensor(float(lora.alpha), dtype=torch.float32, device="cpu") for name, lora in self.loras.items()}
        return {name: tensor.detach() for name, tensor in found.items()} | {f"{name}.alpha": a for name, a in alphas.items()}

    def write(self, folder: Path, notes: dict[str, str]) -> Path:
        path = folder / f"{folder.name}.safetensors"
        shown = {"ss_network_module": "networks.lora", "ss_network_dim": self.settings.rank, "ss_network_alpha": self.settings.rank}
        with replacing(path) as partial:
            write_tensors(partial, self.tensors(), notes={**notes, **{name: str(value) for name, value in shown.items()}})
        return path


def kohya_name(part: str, path: str) -> str:
    """What kohya-ss calls a layer: diffusers' path, with underscores."""
    return KOHYA[part] + diffusers_name(part, f"{path}.weight").removesuffix(".weight").replace(".", "_")

"""Full fine-tuning: trains all weights of the UNet, and optionally the text encoder. DreamBooth adds class images (`prior`)."""

from pathlib import Path

from torch import nn

from ..pipeline import StableDiffusionPipeline
from .learner import Learner
from .settings import Settings


class WholeNetwork(Learner):
    def __init__(self, pipe: StableDiffusionPipeline, settings: Settings):
        super().__init__(pipe, settings)
        self.teaches_text = settings.train_text_encoder
        networks: list[nn.Module] = [pipe.unet, pipe.text_encoder] if self.teaches_text else [pipe.unet]
        self.trained = nn.ModuleList(networks).requires_grad_(True)

    def write(self, folder: Path, notes: dict[str, str]) -> Path:
        """Write a folder that minisd and diffusers load."""
        self.pipe.save_pretrained(folder / "model")
        return folder / "model"

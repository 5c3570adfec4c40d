"""Stable Diffusion v1 and v2: the configurations of the official models, which original single files do not contain."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from .. import config
from ..config import CLIPTextConfig, SchedulerConfig, UNetConfig, VAEConfig
from ..tokenizer import END
from .folder import SCHEDULER
from .official import EPSILON, V
from .pipeline_index import INDEX, index_json
from .settings import config_json
from .texts import json_text
from .vocabulary import special_tokens


class Generation(NamedTuple):
    """The configurations that the official models of a generation share. The UNet's depends on the prediction type."""

    unets: Mapping[str, UNetConfig]
    vae: VAEConfig
    text_encoder: CLIPTextConfig
    pad: str

    def configs(self, in_channels: int, prediction_type: str = EPSILON) -> dict[str, UNetConfig | VAEConfig | CLIPTextConfig]:
        """The configuration of each network; `tasks.TASKS` lists the values of `in_channels`."""
        unet = replace(self.unets[prediction_type], in_channels=in_channels)
        return {"unet": unet, "vae": self.vae, "text_encoder": self.text_encoder}

    def texts(self, in_channels: int, prediction_type: str) -> dict[str, str]:
        """The texts of the small files of a diffusers folder, by path."""
        sampler = "DDIMScheduler" if prediction_type == V else "PNDMScheduler"
        classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
        classes |= {"tokenizer": "CLIPTokenizer", "scheduler": sampler}
        scheduler = {"_class_name": sampler, **config_json(SchedulerConfig(prediction_type=prediction_type))}
        files = {
            INDEX: index_json(classes, in_channels),
            SCHEDULER: scheduler,
            "tokenizer/special_tokens_map.json": special_tokens(self.pad),
        }
        files |= {f"{part}/config.json": config_json(c) for part, c in self.configs(in_channels, prediction_type).items()}
        return {path: json_text(file) for path, file in files.items()}


GENERATIONS = {
    "v1": Generation({EPSILON: config.SD1_UNET, V: config.SD1_UNET}, config.SD1_VAE, config.SD1_TEXT, END),
    "v2": Generation({EPSILON: config.SD2_BASE_UNET, V: config.SD2_UNET}, config.SD2_VAE, config.SD2_TEXT, "!"),
}

"""The JSON of networks in a diffusers folder ↔ minisd's configurations. Unimplemented settings raise errors with their names."""

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from ..config import (
    CLIPTextConfig,
    CLIPVisionConfig,
    SchedulerConfig,
    UNetConfig,
    UnsupportedConfig,
    VAEConfig,
)
from ..controlnet import ControlNetConfig
from ..guided_unet import GuidedUNetConfig
from ..safety_checker import SafetyCheckerConfig
from ..taesd import TAESDConfig
from .sampler_settings import scheduler_json
from .vetting import Settings, check, checked, get, refuse_blocks, refuse_uneven, refuse_unknown, refuse_unless, required, single

Config = CLIPTextConfig | CLIPVisionConfig | SafetyCheckerConfig | UNetConfig | VAEConfig | SchedulerConfig
C = TypeVar("C", CLIPTextConfig, CLIPVisionConfig, SafetyCheckerConfig, UNetConfig, ControlNetConfig, VAEConfig, TAESDConfig)
PER_LEVEL = tuple[int, ...]  # one number per level


def read_config(kind: type[C], settings: Settings) -> C:
    """The configuration that a JSON describes. Raises UnsupportedConfig if it is invalid or not implemented."""
    return READERS[kind](settings)


def config_json(config: Config) -> dict[str, Any]:
    """The JSON of a configuration, for diffusers and transformers."""
    return next(WRITERS[kind] for kind in type(config).__mro__ if kind in WRITERS)(config)  # a sampler's class may extend another


# CLIP

# Defaults for keys that transformers may omit: the sizes of CLIP ViT-B/32.
TEXT_DEFAULTS = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
VISION_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32,
}  # fmt: skip


def read_text(settings: Settings) -> CLIPTextConfig:
    """The configuration of a text encoder from transformers' settings. Raises UnsupportedConfig."""
    settings = TEXT_DEFAULTS | get(settings, "text_config", dict, settings)  # a full CLIP nests the text settings
    refuse_unless(settings, {"layer_norm_eps": 1e-5, "use_attention_mask": False})
    config = CLIPTextConfig(**checked(CLIPTextConfig, settings))
    refuse_uneven([config.hidden_size], config.num_attention_heads, "heads")
    if config.hidden_act not in ("quick_gelu", "gelu"):
        raise UnsupportedConfig(f'hidden_act must be "quick_gelu" or "gelu", not {config.hidden_act!r:.50}')
    return config


def text_json(config: CLIPTextConfig) -> dict[str, Any]:
    """The settings with correct token ids; 0, 2 and 1 in official files are ignored. Added words come after CLIP's own words."""
    end = min(config.vocab_size, CLIPTextConfig.vocab_size) - 1
    special = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **asdict(config), **special}


def read_vision(settings: Settings) -> CLIPVisionConfig:
    """The configuration of an image encoder from transformers' settings. Raises UnsupportedConfig."""
    settings = VISION_DEFAULTS | get(settings, "vision_config", dict, settings)  # a full CLIP nests the vision settings
    refuse_unless(settings, {"layer_norm_eps": 1e-5, "num_channels": 3, "hidden_act": "quick_gelu"})
    config = CLIPVisionConfig(**checked(CLIPVisionConfig, settings))
    refuse_uneven([config.hidden_size], config.num_attention_heads, "heads")
    if config.patch_size > config.image_size:
        raise UnsupportedConfig(f"patch_size = {config.patch_size} is larger than image_size = {config.image_size}")
    return config


def vision_json(config: CLIPVisionConfig) -> dict[str, Any]:
    return {"model_type": "clip_vision_model", **asdict(config)}


def read_safety_checker(settings: Settings) -> SafetyCheckerConfig:
    return SafetyCheckerConfig(read_vision(required(settings, "vision_config", dict)), required(settings, "projection_dim", int))


def safety_checker_json(config: SafetyCheckerConfig) -> dict[str, Any]:
    kind = {"architectures": ["StableDiffusionSafetyChecker"], "model_type": "clip"}
    return {**kind, "projection_dim": config.projection_dim, "vision_config": vision_json(config.vision)}


# UNet

# Settings of diffusers' UNet that Stable Diffusion never changes.
UNET_IMPLEMENTED = {
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False, "downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu", "norm_eps": 1e-5,
    "transformer_layers_per_block": 1, "dual_cross_attention": False, "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional", "conv_in_kernel": 3, "conv_out_kernel": 3,
    "num_attention_heads": None,
}  # fmt: skip
# Settings that are read below or have no effect on the output.
UNET_KNOWN = {
    "down_block_types", "up_block_types", "attention_head_dim", "upcast_attention", "dropout", "addition_embed_type_num_heads",
}  # fmt: skip
DOWN, UP = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}, {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}


def read_unet(settings: Settings) -> UNetConfig:
    """The configuration of a UNet from diffusers' settings. Raises UnsupportedConfig."""
    kind = GuidedUNetConfig if settings.get("time_cond_proj_dim") is not None else UNetConfig
    refuse_unless(settings, UNET_IMPLEMENTED)
    refuse_unknown(settings, {*UNET_KNOWN, *UNET_IMPLEMENTED, *kind.__dataclass_fields__})
    default = UNetConfig()
    widths = get(settings, "block_out_channels", PER_LEVEL, default.block_out_channels)
    cross_attention = read_levels(settings, len(widths))
    heads = get(settings, "attention_head_dim", int | PER_LEVEL, 8)  # the number of heads, despite its name
    heads = heads if isinstance(heads, tuple) else (heads,) * len(widths)
    if len(heads) != len(widths):
        raise UnsupportedConfig(f"attention_head_dim = {list(heads)} must have one number for each of {len(widths)} levels")
    for level, (width, n) in enumerate(zip(widths, heads)):
        if cross_attention[level] or level == len(widths) - 1:  # the mid block uses the last level's heads
            refuse_uneven([width], n, "heads")
    read = {
        "block_out_channels": widths,
        "cross_attention": cross_attention,
        "num_attention_heads": heads,
        "layers_per_block": single("layers_per_block", get(settings, "layers_per_block", int | PER_LEVEL, 2)),
        "cross_attention_dim": single("cross_attention_dim", required(settings, "cross_attention_dim", int | PER_LEVEL)),
        "sample_size": read_sample_size(settings),
    }
    config = kind(**checked(kind, {**settings, **read}))
    refuse_uneven(widths, config.norm_num_groups, "groups")
    refuse_uneven(widths[:1], 2, "halves, sine and cosine of the timestep")
    return config


def read_levels(settings: Settings, levels: int) -> tuple[bool, ...]:
    """Which levels have attention, from the names of the down blocks; the up blocks must mirror them."""
    default = UNetConfig().cross_attention
    down = get(settings, "down_block_types", tuple[str, ...], [DOWN[cross] for cross in default])
    up = get(settings, "up_block_types", tuple[str, ...], [UP[cross] for cross in reversed(default)])
    refuse_blocks({*down, *up}, {*DOWN.values(), *UP.values()})
    cross_attention = tuple(block == DOWN[True] for block in down)
    if cross_attention != tuple(block == UP[True] for block in reversed(up)) or not len(down) == levels > 0:
        raise UnsupportedConfig("down_block_types and up_block_types must mirror each other, with one block for each width")
    return cross_attention


def read_sample_size(settings: Settings) -> int | tuple[int, int]:
    """The size of latents, corrected as in diffusers: files by its first versions say 32 although the models draw 64 × 64."""
    size = check("sample_size", settings.get("sample_size"), int | tuple[int, int] | None) or UNetConfig().sample_size
    version = re.match(r"(\d+)\.(\d+)", get(settings, "_diffusers_version", str, ""))
    early = version is not None and (int(version[1]), int(version[2])) < (0, 9)
    return 64 if early and isinstance(size, int) and size < 64 else size


def unet_json(config: UNetConfig) -> dict[str, Any]:
    plain = asdict(config)
    heads, cross_attention = plain.pop("num_attention_heads"), plain.pop("cross_attention")
    return {
        "_class_name": "UNet2DConditionModel",
        **plain,
        "attention_head_dim": heads,
        "down_block_types": [DOWN[cross] for cross in cross_attention],
        "up_block_types": [UP[cross] for cross in reversed(cross_attention)],
    }


# ControlNet

CONTROLNET_IMPLEMENTED = {
    "conditioning_channels": 3, "controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False, "in_channels": 4,
}  # fmt: skip
CONTROLNET_LACKS = ("out_channels", "sample_size", "up_block_types")  # needed only by the up blocks


def read_controlnet(settings: Settings) -> ControlNetConfig:
    refuse_unless(settings, CONTROLNET_IMPLEMENTED)
    default = [DOWN[cross] for cross in UNetConfig().cross_attention]
    down = get(settings, "down_block_types", tuple[str, ...], default)
    own = {"conditioning_embedding_out_channels", *CONTROLNET_IMPLEMENTED}
    mirrored = {"up_block_types": [block.replace("Down", "Up") for block in reversed(down)]}
    unet = read_unet({name: value for name, value in settings.items() if name not in own} | mirrored)
    return ControlNetConfig(**vars(unet) | checked(ControlNetConfig, {name: settings[name] for name in own & settings.keys()}))


def controlnet_json(config: ControlNetConfig) -> dict[str, Any]:
    shared = {name: value for name, value in unet_json(config).items() if name not in CONTROLNET_LACKS}
    return {**CONTROLNET_IMPLEMENTED, **shared, "_class_name": "ControlNetModel"}


# VAE

VAE_IMPLEMENTED = {"act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True}
VAE_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


def read_vae(settings: Settings) -> VAEConfig:
    """The configuration of a VAE from diffusers' settings. Raises UnsupportedConfig."""
    refuse_unless(settings, VAE_IMPLEMENTED)
    refuse_unknown(settings, {"force_upcast", *VAE_BLOCKS, *VAE_IMPLEMENTED, *VAEConfig.__dataclass_fields__})
    widths = required(settings, "block_out_channels", PER_LEVEL)
    for name, block in VAE_BLOCKS.items():
        blocks = get(settings, name, tuple[str, ...], [block])
        refuse_blocks(blocks, [block])
        if not len(blocks) == len(widths) > 0:
            raise UnsupportedConfig(f"{name} must name one block for each of {len(widths)} widths, not {len(blocks)}")
    config = VAEConfig(**checked(VAEConfig, {"layers_per_block": 1, **settings, "block_out_channels": widths}))
    refuse_uneven(widths, config.norm_num_groups, "groups")
    return config


def vae_json(config: VAEConfig) -> dict[str, Any]:
    blocks = {name: [block] * len(config.block_out_channels) for name, block in VAE_BLOCKS.items()}
    return {"_class_name": "AutoencoderKL", **asdict(config), **blocks}


# TAESD

TAESD_IMPLEMENTED = {
    "act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2, "latent_magnitude": 3, "latent_shift": 0.5,
    "shift_factor": 0.0,
}  # fmt: skip
TAESD_WIDTHS = ("encoder_block_out_channels", "decoder_block_out_channels")


def read_taesd(settings: Settings) -> TAESDConfig:
    refuse_unless(settings, TAESD_IMPLEMENTED)
    refuse_unknown(settings, {"force_upcast", *TAESD_WIDTHS, *TAESD_IMPLEMENTED, *TAESDConfig.__dataclass_fields__})
    default = TAESDConfig()
    widths = [get(settings, name, PER_LEVEL, default.block_out_channels) for name in TAESD_WIDTHS]
    blocks = [get(settings, name, PER_LEVEL, getattr(default, name)) for name in ("num_encoder_blocks", "num_decoder_blocks")]
    if len({width for each in widths for width in each}) != 1 or len({len(each) for each in widths + blocks}) != 1:
        raise UnsupportedConfig(f"{' and '.join(TAESD_WIDTHS)} must have one entry per group of blocks, all with the same width")
    return TAESDConfig(**checked(TAESDConfig, {**settings, "block_out_channels": widths[1]}))


def taesd_json(config: TAESDConfig) -> dict[str, Any]:
    widths = dict.fromkeys(TAESD_WIDTHS, config.block_out_channels)
    return {"_class_name": "AutoencoderTiny", **asdict(config), **widths, **TAESD_IMPLEMENTED}


READERS: dict[type, Callable[[Settings], Any]] = {
    CLIPTextConfig: read_text,
    CLIPVisionConfig: read_vision,
    SafetyCheckerConfig: read_safety_checker,
    UNetConfig: read_unet,
    ControlNetConfig: read_controlnet,
    VAEConfig: read_vae,
    TAESDConfig: read_taesd,
}
WRITERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    CLIPTextConfig: text_json,
    CLIPVisionConfig: vision_json,
    SafetyCheckerConfig: safety_checker_json,
    UNetConfig: unet_json,
    ControlNetConfig: controlnet_json,
    VAEConfig: vae_json,
    TAESDConfig: taesd_json,
    SchedulerConfig: scheduler_json,
}

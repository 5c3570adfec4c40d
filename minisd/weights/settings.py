"""diffusers' JSON ↔ minisd's configurations. What a JSON asks for and minisd does not implement is refused by name."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import (
    CLIPTextConfig,
    CLIPVisionConfig,
    SafetyCheckerConfig,
    SchedulerConfig,
    UNetConfig,
    UnsupportedConfig,
    VAEConfig,
)

if TYPE_CHECKING:
    from ..schedulers.configured import Configured

Settings = Mapping[str, Any]
Config = CLIPTextConfig | CLIPVisionConfig | SafetyCheckerConfig | UNetConfig | VAEConfig | SchedulerConfig
C = TypeVar("C", CLIPTextConfig, CLIPVisionConfig, SafetyCheckerConfig, UNetConfig, VAEConfig, SchedulerConfig)


def read_config(kind: type[C], settings: Settings) -> C:
    """The configuration that a JSON describes. Raises UnsupportedConfig for one that minisd does not implement."""
    return FORMS[kind][0](settings)


def config_json(config: Config) -> dict[str, Any]:
    """The JSON of a configuration, as diffusers and transformers read it."""
    return next(FORMS[kind][1] for kind in type(config).__mro__ if kind in FORMS)(config)  # a sampler's may extend another


# Vetting


def refuse_unless(settings: Settings, implemented: Settings, where: str):
    """Raise UnsupportedConfig if a setting differs from the only value that is implemented."""
    for name, value in implemented.items():
        if (given := settings.get(name, value)) != value:
            raise UnsupportedConfig(f"{where}: {name} = {given!r} is not implemented, only {value!r}")


def refuse_unknown(settings: Settings, known: Iterable[str], where: str):
    """Raise UnsupportedConfig for a setting that is switched on and not known."""
    for name in settings.keys() - set(known):
        value = settings[name]
        if not name.startswith("_") and value not in (None, False, "default"):
            raise UnsupportedConfig(f"{where}: {name} = {value!r} is not implemented")


def refuse_blocks(found: Iterable[str], implemented: Iterable[str], where: str):
    for block in set(found) - set(implemented):
        raise UnsupportedConfig(f"{where}: a {block} is not implemented")


def refuse_uneven(widths: Iterable[int], heads: Iterable[int], where: str):
    """Raise UnsupportedConfig if a width cannot be divided among the attention's heads."""
    for width, n in zip(widths, heads):
        if n < 1 or width % n:
            raise UnsupportedConfig(f"{where}: a width of {width} cannot be shared among {n} heads")


def required(settings: Settings, name: str, where: str) -> Any:
    if name not in settings:
        raise UnsupportedConfig(f"{where}: the configuration does not say {name}")
    return settings[name]


def single(value: Any, where: str) -> Any:
    """The one value of a setting that must not differ between levels."""
    values = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(values) > 1:
        raise UnsupportedConfig(f"{where} = {value!r} is not implemented, only one value for all levels")
    return values.pop()


def for_each_level(value: Any, levels: int) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels


def names_of(kind: type[Config]) -> list[str]:
    return [field.name for field in fields(kind)]


def of_fields(kind: type[Config], settings: Settings) -> dict[str, Any]:
    """The settings that are fields of the configuration."""
    return {name: settings[name] for name in names_of(kind) if name in settings}


# CLIP

# Defaults for keys that transformers may omit: the sizes of its smallest CLIP.
TEXT_DEFAULTS = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
VISION_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32,
}  # fmt: skip


def read_text(settings: Settings) -> CLIPTextConfig:
    settings = TEXT_DEFAULTS | settings.get("text_config", settings)  # where a full CLIP has its text half
    refuse_unless(settings, {"layer_norm_eps": 1e-5}, "text encoder")
    config = CLIPTextConfig(**of_fields(CLIPTextConfig, settings))
    refuse_uneven([config.hidden_size], [config.num_attention_heads], "text encoder")
    if config.hidden_act not in ("quick_gelu", "gelu"):
        raise UnsupportedConfig(f'text encoder: hidden_act {config.hidden_act!r} is not "quick_gelu" or "gelu"')
    return config


def text_json(config: CLIPTextConfig) -> dict[str, Any]:
    """The ids are right, unlike 0, 2 and 1 in the official files, which are not read."""
    end = config.vocab_size - 1
    special = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **asdict(config), **special}


def read_vision(settings: Settings) -> CLIPVisionConfig:
    settings = VISION_DEFAULTS | settings.get("vision_config", settings)  # where a full CLIP has its vision half
    refuse_unless(settings, {"layer_norm_eps": 1e-5, "num_channels": 3, "hidden_act": "quick_gelu"}, "vision tower")
    config = CLIPVisionConfig(**of_fields(CLIPVisionConfig, settings))
    refuse_uneven([config.hidden_size], [config.num_attention_heads], "vision tower")
    return config


def vision_json(config: CLIPVisionConfig) -> dict[str, Any]:
    return {"model_type": "clip_vision_model", **asdict(config)}


def read_safety_checker(settings: Settings) -> SafetyCheckerConfig:
    vision = read_vision(required(settings, "vision_config", "safety checker"))
    return SafetyCheckerConfig(vision, required(settings, "projection_dim", "safety checker"))


def safety_checker_json(config: SafetyCheckerConfig) -> dict[str, Any]:
    kind = {"architectures": ["StableDiffusionSafetyChecker"], "model_type": "clip"}
    return {**kind, "projection_dim": config.projection_dim, "vision_config": vision_json(config.vision)}


# UNet

# What diffusers' UNet can vary and Stable Diffusion never does.
UNET_IMPLEMENTED = {
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False, "downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu", "norm_eps": 1e-5,
    "transformer_layers_per_block": 1, "dual_cross_attention": False, "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional", "conv_in_kernel": 3, "conv_out_kernel": 3,
    "num_attention_heads": None,
}  # fmt: skip
# Read below, or without effect on what is computed.
UNET_KNOWN = {
    "down_block_types", "up_block_types", "attention_head_dim", "upcast_attention", "dropout", "addition_embed_type_num_heads",
}  # fmt: skip
DOWN, UP = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}, {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}


def read_unet(settings: Settings) -> UNetConfig:
    refuse_unless(settings, UNET_IMPLEMENTED, "UNet")
    refuse_unknown(settings, {*UNET_KNOWN, *UNET_IMPLEMENTED, *names_of(UNetConfig)}, "UNet")
    default = UNetConfig()
    widths = tuple(settings.get("block_out_channels", default.block_out_channels))
    down = settings.get("down_block_types", [DOWN[cross] for cross in default.cross_attention])
    up = settings.get("up_block_types", [UP[cross] for cross in reversed(default.cross_attention)])
    refuse_blocks({*down, *up}, {*DOWN.values(), *UP.values()}, "UNet")
    cross_attention = tuple(block == DOWN[True] for block in down)
    if cross_attention != tuple(block == UP[True] for block in reversed(up)) or len(down) != len(widths):
        raise UnsupportedConfig("UNet: the levels on the way up must mirror those on the way down, one for each width")
    heads = for_each_level(settings.get("attention_head_dim", 8), len(widths))  # the number of heads, despite its name
    refuse_uneven(widths, heads, "UNet")
    read = {
        "block_out_channels": widths,
        "cross_attention": cross_attention,
        "num_attention_heads": heads,
        "layers_per_block": single(settings.get("layers_per_block", default.layers_per_block), "UNet: layers_per_block"),
        "cross_attention_dim": single(required(settings, "cross_attention_dim", "UNet"), "UNet: cross_attention_dim"),
        "sample_size": settings.get("sample_size") or default.sample_size,
    }
    return UNetConfig(**(of_fields(UNetConfig, settings) | read))


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


# VAE

VAE_IMPLEMENTED = {"act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True}
VAE_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


def read_vae(settings: Settings) -> VAEConfig:
    refuse_unless(settings, VAE_IMPLEMENTED, "VAE")
    refuse_unknown(settings, {"force_upcast", *VAE_BLOCKS, *VAE_IMPLEMENTED, *names_of(VAEConfig)}, "VAE")
    for name, block in VAE_BLOCKS.items():
        refuse_blocks(settings.get(name, []), [block], "VAE")
    widths = tuple(required(settings, "block_out_channels", "VAE"))
    layers = settings.get("layers_per_block", 1)
    return VAEConfig(**(of_fields(VAEConfig, settings) | {"block_out_channels": widths, "layers_per_block": layers}))


def vae_json(config: VAEConfig) -> dict[str, Any]:
    blocks = {name: [block] * len(config.block_out_channels) for name, block in VAE_BLOCKS.items()}
    return {"_class_name": "AutoencoderKL", **asdict(config), **blocks}


# Samplers

# Known and without effect: latents are never clipped, and PNDM refuses `skip_prk_steps` itself.
SAMPLER_KNOWN = {"skip_prk_steps", "clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"}


def read_scheduler(
    settings: Settings, kind: type[SchedulerConfig] = SchedulerConfig, known: Iterable[str] = (), where: str = "scheduler"
) -> SchedulerConfig:
    refuse_unknown(settings, {*SAMPLER_KNOWN, *known, *names_of(kind)}, where)
    read = of_fields(kind, settings)
    return kind(**dict[str, Any]({name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}))


def scheduler_json(config: SchedulerConfig) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(config).items() if value is not None}
    return {"trained_betas": None, "skip_prk_steps": True, "clip_sample": False, **plain}


def scheduler_config(sampler: "type[Configured]", settings: Settings) -> SchedulerConfig:
    """The configuration of a sampler from diffusers' settings for it, or for another sampler, named by `_class_name`.

    Settings that only the other one has are dropped, as are its `solver_type` and `variance_type`, where they mean nothing here.
    """
    own = {*names_of(sampler.config_class), *sampler.implemented}
    if settings.get("_class_name", sampler.__name__) != sampler.__name__:
        settings = {name: value for name, value in settings.items() if name in own}
        for name in ("solver_type", "variance_type"):
            if settings.get(name) not in sampler.choices.get(name, ()):
                settings.pop(name, None)
    refuse_unless(settings, sampler.implemented, sampler.__name__)
    return read_scheduler(settings, sampler.config_class, sampler.implemented, sampler.__name__)


FORMS: dict[type, tuple[Callable[[Settings], Any], Callable[[Any], dict[str, Any]]]] = {
    CLIPTextConfig: (read_text, text_json),
    CLIPVisionConfig: (read_vision, vision_json),
    SafetyCheckerConfig: (read_safety_checker, safety_checker_json),
    UNetConfig: (read_unet, unet_json),
    VAEConfig: (read_vae, vae_json),
    SchedulerConfig: (read_scheduler, scheduler_json),
}

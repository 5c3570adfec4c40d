"""The settings of every part, with the presets that have names; each class reads and writes the JSON of a diffusers folder.

A field's default is Stable Diffusion v1's. What a JSON asks for and minisd does not implement is refused by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


class UnsupportedConfig(ValueError):
    """A configuration asks for something that minisd does not implement."""


def refuse_unless(settings: Mapping[str, Any], implemented: Mapping[str, Any], where: str):
    """Raises UnsupportedConfig if a setting differs from the one value that is implemented."""
    for name, value in implemented.items():
        if (given := settings.get(name, value)) != value:
            raise UnsupportedConfig(f"{where}: {name} = {given!r} is not implemented, only {value!r}")


def refuse_unknown(settings: Mapping[str, Any], known: set[str], where: str):
    """Raises UnsupportedConfig for a setting that is switched on and that nothing here knows."""
    for name, value in settings.items():
        if not name.startswith("_") and name not in known and value not in (None, False, "default"):
            raise UnsupportedConfig(f"{where}: {name} = {value!r} is not implemented")


def required(settings: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in settings:
        raise UnsupportedConfig(f"{where}: the configuration does not say {name}")
    return settings[name]


def refuse_uneven(widths: Iterable[int], heads: Iterable[int], where: str):
    """Raises UnsupportedConfig if a width cannot be shared out among its attention's heads."""
    for width, n in zip(widths, heads):
        if n < 1 or width % n:
            raise UnsupportedConfig(f"{where}: a width of {width} cannot be shared among {n} heads")


def for_each_level(value: Any, levels: int) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels


@dataclass(frozen=True)
class CLIPTextConfig:
    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"

    UNSAID = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}  # what transformers may leave out

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "CLIPTextConfig":
        settings = cls.UNSAID | settings.get("text_config", settings)  # a full CLIP has its text half in there
        refuse_unless(settings, {"layer_norm_eps": 1e-5}, "text encoder")
        config = cls(**{name: settings[name] for name in asdict(cls()) if name in settings})
        refuse_uneven([config.hidden_size], [config.num_attention_heads], "text encoder")
        if config.hidden_act not in ("quick_gelu", "gelu"):
            raise UnsupportedConfig(f'text encoder: hidden_act {config.hidden_act!r} is not "quick_gelu" or "gelu"')
        return config

    def to_json(self) -> dict[str, Any]:
        special = {"bos_token_id": self.vocab_size - 2, "eos_token_id": self.vocab_size - 1, "pad_token_id": self.vocab_size - 1}
        return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **asdict(self), **special}


@dataclass(frozen=True)
class CLIPVisionConfig:
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"

    UNSAID = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 32,
    }  # fmt: skip

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "CLIPVisionConfig":
        settings = cls.UNSAID | settings.get("vision_config", settings)  # a full CLIP has its vision half in there
        refuse_unless(settings, {"layer_norm_eps": 1e-5, "num_channels": 3, "hidden_act": "quick_gelu"}, "vision tower")
        config = cls(**{name: settings[name] for name in cls.UNSAID})
        refuse_uneven([config.hidden_size], [config.num_attention_heads], "vision tower")
        return config


@dataclass(frozen=True)
class SafetyCheckerConfig:
    vision: CLIPVisionConfig = CLIPVisionConfig()
    projection_dim: int = 768

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "SafetyCheckerConfig":
        vision = CLIPVisionConfig.from_json(required(settings, "vision_config", "safety checker"))
        return cls(vision, required(settings, "projection_dim", "safety checker"))

    def to_json(self) -> dict[str, Any]:
        vision = {"model_type": "clip_vision_model", **asdict(self.vision)}
        kind = {"architectures": ["StableDiffusionSafetyChecker"], "model_type": "clip"}
        return {**kind, "projection_dim": self.projection_dim, "vision_config": vision}


@dataclass(frozen=True)
class UNetConfig:
    """`cross_attention` and `num_attention_heads` have an entry for each level of `block_out_channels`, the finest first."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    cross_attention_dim: int = 768
    num_attention_heads: tuple[int, ...] = (8, 8, 8, 8)
    norm_num_groups: int = 32
    use_linear_projection: bool = False
    sample_size: int = 64

    # What diffusers' UNet can vary and Stable Diffusion never does.
    IMPLEMENTED = {
        "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_type": "UNetMidBlock2DCrossAttn",
        "only_cross_attention": False, "downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu", "norm_eps": 1e-5,
        "transformer_layers_per_block": 1, "dual_cross_attention": False, "resnet_time_scale_shift": "default",
        "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional", "conv_in_kernel": 3, "conv_out_kernel": 3,
        "num_attention_heads": None,
    }  # fmt: skip
    # Read here, or without effect on what is computed.
    KNOWN = {
        "sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels",
        "layers_per_block", "cross_attention_dim", "attention_head_dim", "norm_num_groups", "use_linear_projection",
        "upcast_attention", "dropout", "addition_embed_type_num_heads",
    }  # fmt: skip

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "UNetConfig":
        refuse_unless(settings, cls.IMPLEMENTED, "UNet")
        refuse_unknown(settings, cls.KNOWN | set(cls.IMPLEMENTED), "UNet")
        widths = tuple(settings.get("block_out_channels", cls.block_out_channels))
        down = settings.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
        up = settings.get("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
        for kind in {*down, *up} - {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}:
            raise UnsupportedConfig(f"UNet: a {kind} is not implemented")
        cross_attention = tuple(kind == "CrossAttnDownBlock2D" for kind in down)
        if cross_attention != tuple(kind == "CrossAttnUpBlock2D" for kind in reversed(up)) or len(down) != len(widths):
            raise UnsupportedConfig("UNet: the levels on the way up must mirror those on the way down, one for each width")
        heads = for_each_level(settings.get("attention_head_dim", 8), len(widths))  # its name is wrong
        refuse_uneven(widths, heads, "UNet")
        return cls(
            in_channels=settings.get("in_channels", 4),
            out_channels=settings.get("out_channels", 4),
            block_out_channels=widths,
            layers_per_block=single(settings.get("layers_per_block", 2), "UNet: layers_per_block"),
            cross_attention=cross_attention,
            cross_attention_dim=single(required(settings, "cross_attention_dim", "UNet"), "UNet: cross_attention_dim"),
            num_attention_heads=heads,
            norm_num_groups=settings.get("norm_num_groups", 32),
            use_linear_projection=settings.get("use_linear_projection", False),
            sample_size=settings.get("sample_size") or cls.sample_size,
        )

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        heads, cross_attention = plain.pop("num_attention_heads"), plain.pop("cross_attention")
        return {
            "_class_name": "UNet2DConditionModel",
            **plain,
            "attention_head_dim": heads,
            "down_block_types": ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in cross_attention],
            "up_block_types": ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(cross_attention)],
        }


def single(value: Any, where: str) -> Any:
    """The one value of a setting that may not differ between levels."""
    values = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(values) > 1:
        raise UnsupportedConfig(f"{where} = {value!r} is not implemented, only one value for all levels")
    return values.pop()


@dataclass(frozen=True)
class VAEConfig:
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    sample_size: int = 512

    IMPLEMENTED = {"act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True}
    KNOWN = {"down_block_types", "up_block_types", "force_upcast"}

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "VAEConfig":
        refuse_unless(settings, cls.IMPLEMENTED, "VAE")
        refuse_unknown(settings, cls.KNOWN | set(cls.IMPLEMENTED) | set(asdict(cls())), "VAE")
        for kind in {*settings.get("down_block_types", []), *settings.get("up_block_types", [])}:
            if kind not in ("DownEncoderBlock2D", "UpDecoderBlock2D"):
                raise UnsupportedConfig(f"VAE: a {kind} is not implemented")
        known = {name: settings[name] for name in asdict(cls()) if name in settings}
        widths = tuple(required(settings, "block_out_channels", "VAE"))
        return cls(**{**known, "block_out_channels": widths, "layers_per_block": settings.get("layers_per_block", 1)})

    def to_json(self) -> dict[str, Any]:
        levels = len(self.block_out_channels)
        kinds = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
        return {"_class_name": "AutoencoderKL", **asdict(self), **kinds}


@dataclass(frozen=True)
class SchedulerConfig:
    """`timestep_spacing` None is the sampler's own: "leading" for PNDM and DDIM, "linspace" for LMS."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    prediction_type: str = "epsilon"
    timestep_spacing: str | None = None

    IMPLEMENTED = {"trained_betas": None}
    KNOWN = {"skip_prk_steps", "clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"}

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "SchedulerConfig":
        refuse_unless(settings, cls.IMPLEMENTED, "scheduler")
        refuse_unknown(settings, cls.KNOWN | set(cls.IMPLEMENTED) | set(asdict(cls())), "scheduler")
        return cls(**{name: settings[name] for name in asdict(cls()) if name in settings})

    def to_json(self) -> dict[str, Any]:
        plain = {name: value for name, value in asdict(self).items() if value is not None}
        return {**plain, "skip_prk_steps": True, "clip_sample": False, "trained_betas": None}


SD1_TEXT, SD1_UNET, SD1_VAE, SD1_SCHEDULER = CLIPTextConfig(), UNetConfig(), VAEConfig(), SchedulerConfig()
SD2_TEXT = CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")
SD2_BASE_UNET = replace(SD1_UNET, cross_attention_dim=1024, num_attention_heads=(5, 10, 20, 20), use_linear_projection=True)
SD2_UNET = replace(SD2_BASE_UNET, sample_size=96)  # and this one predicts v
SD2_VAE = replace(SD1_VAE, sample_size=768)
SD2_BASE_SCHEDULER, SD2_SCHEDULER = SD1_SCHEDULER, replace(SD1_SCHEDULER, prediction_type="v_prediction")

TINY_TEXT = CLIPTextConfig(vocab_size=734, hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
TINY_VISION = CLIPVisionConfig(128, 512, 4, 4, image_size=64, patch_size=8)
TINY_VAE = VAEConfig(block_out_channels=(16, 32, 64, 128), layers_per_block=1, norm_num_groups=4, sample_size=128)
TINY_UNET = UNetConfig(
    block_out_channels=(64, 96, 128),
    layers_per_block=1,
    cross_attention=(True, True, True),
    cross_attention_dim=128,
    num_attention_heads=(2, 3, 4),
    norm_num_groups=16,
    sample_size=16,
)

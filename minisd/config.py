"""The configuration of every network and sampler, and the presets of the official models.

Defaults are Stable Diffusion v1's values. `minisd.weights.settings` reads and writes them as the JSON of a diffusers folder.
"""

from dataclasses import dataclass, replace

from .as_mapping import AsMapping


class UnsupportedConfig(ValueError):
    """A configuration requires a feature that minisd does not implement."""


@dataclass(frozen=True)
class CLIPTextConfig(AsMapping):
    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"  # or "gelu"


@dataclass(frozen=True)
class CLIPVisionConfig(AsMapping):
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"


@dataclass(frozen=True)
class UNetConfig(AsMapping):
    """`cross_attention` and `num_attention_heads` have one entry per level of `block_out_channels`, finest level first."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    cross_attention_dim: int = 768
    num_attention_heads: tuple[int, ...] = (8, 8, 8, 8)
    norm_num_groups: int = 32
    use_linear_projection: bool = False  # whether files store proj_in and proj_out as linear layers or as 1×1 convolutions
    sample_size: int | tuple[int, int] = 64  # or (height, width)


@dataclass(frozen=True)
class VAEConfig(AsMapping):
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    sample_size: int | tuple[int, int] = 512


def sides(sample_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width; a single number means a square."""
    return (sample_size, sample_size) if isinstance(sample_size, int) else sample_size


@dataclass(frozen=True)
class SchedulerConfig(AsMapping):
    """The settings that all samplers share; a sampler with more settings extends this class in its own file.

    `timestep_spacing` None means the sampler's default: "leading" for PNDM and DDIM, "linspace" for LMS. `trained_betas` replaces
    the schedule; `rescale_betas_zero_snr` rescales it so that nothing of the image remains at the last timestep.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    prediction_type: str = "epsilon"  # or "v_prediction", or "sample" (x0)
    timestep_spacing: str | None = None  # or "leading", "linspace", "trailing"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False


SD1_TEXT, SD1_UNET, SD1_VAE, SD1_SCHEDULER = CLIPTextConfig(), UNetConfig(), VAEConfig(), SchedulerConfig()
SD2_TEXT = CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")
SD2_BASE_UNET = replace(SD1_UNET, cross_attention_dim=1024, num_attention_heads=(5, 10, 20, 20), use_linear_projection=True)
SD2_UNET = replace(SD2_BASE_UNET, sample_size=96)
SD2_VAE = replace(SD1_VAE, sample_size=768)
SD2_SCHEDULER = replace(SD1_SCHEDULER, prediction_type="v_prediction")

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

"""Settings: the official JSON files are the presets, what is written is read again, and what is not implemented is named."""

import json
import re
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch
import transformers
from helpers import NETWORKS, OFFICIAL, SMALL, V1_TEXT, V1_UNET, VAE

from minisd import UnsupportedConfig, config
from minisd.config import CLIPTextConfig, CLIPVisionConfig, SchedulerConfig, UNetConfig, VAEConfig
from minisd.safety_checker import SafetyCheckerConfig
from minisd.schedulers import SCHEDULERS
from minisd.weights.settings import TEXT_DEFAULTS, VISION_DEFAULTS, config_json, read_config

CLASSES = {"unet": UNetConfig, "vae": VAEConfig, "text_encoder": CLIPTextConfig, "scheduler": SchedulerConfig}
PRESETS = {
    "v1": {"unet": config.SD1_UNET, "vae": config.SD1_VAE, "text_encoder": config.SD1_TEXT, "scheduler": config.SD1_SCHEDULER},
    "v2": {
        "unet": replace(config.SD2_UNET, sample_size=96),  # v2-1; v2-1-base has 64
        "vae": config.SD2_VAE,
        "text_encoder": config.SD2_TEXT,
        "scheduler": replace(config.SD1_SCHEDULER, prediction_type="v_prediction"),
    },
}
# Tensors and parameters of the official networks.
SIZES = {
    ("v1", "unet"): (686, 859_520_964),
    ("v2", "unet"): (686, 865_910_724),
    ("v1", "vae"): (248, 83_653_863),
    ("v2", "vae"): (248, 83_653_863),
    ("v1", "text_encoder"): (196, 123_060_480),
    ("v2", "text_encoder"): (372, 340_387_840),
}
PARTS = pytest.mark.parametrize("part", CLASSES)


def read(part, settings):
    """The configuration in a JSON file."""
    if part == "scheduler":
        return SCHEDULERS[settings.get("_class_name", "PNDMScheduler")].from_config(settings).config
    return read_config(CLASSES[part], settings)


@PARTS
def test_official_files_are_the_presets(kind, part):
    assert read(part, OFFICIAL[kind][part]) == PRESETS[kind][part]


@PARTS
def test_what_is_written_is_read_again(kind, part):
    for settings in (PRESETS[kind][part], read(part, SMALL[kind][part])):
        assert read(part, json.loads(json.dumps(config_json(settings)))) == settings


@pytest.mark.parametrize(("kind", "part"), SIZES)
def test_official_networks_have_their_tensors_and_parameters(kind, part):
    with torch.device("meta"):
        model = NETWORKS[part](PRESETS[kind][part])
    assert (len(model.state_dict()), sum(p.numel() for p in model.parameters())) == SIZES[kind, part]


def test_an_inpainting_unet_has_nine_channels():
    settings = read_config(UNetConfig, {**OFFICIAL["v1"]["unet"], "in_channels": 9})
    with torch.device("meta"):
        assert sum(p.numel() for p in NETWORKS["unet"](settings).parameters()) == 859_535_364


@PARTS
def test_settings_cannot_be_changed(part):
    settings = PRESETS["v1"][part]
    with pytest.raises(FrozenInstanceError):
        settings.sample_size = 3


def test_ids_in_the_official_json_are_not_believed():
    """They are 0, 2 and 1 there, and wrong; what minisd writes is right."""
    written = config_json(read_config(CLIPTextConfig, OFFICIAL["v1"]["text_encoder"]))
    assert (written["bos_token_id"], written["eos_token_id"]) == (49406, 49407)


def test_the_text_half_of_a_full_clip():
    full = {"model_type": "clip", "text_config": V1_TEXT, "vision_config": {"hidden_size": 3}}
    assert read_config(CLIPTextConfig, full) == read_config(CLIPTextConfig, V1_TEXT)


def test_a_fine_tuned_checkers_configuration_that_leaves_out_what_transformers_thinks_usual():
    """As transformers 4.33 has written it: what is as in its smallest CLIP does not stand there."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14}
    written = {"projection_dim": 768, "text_config": {"hidden_size": 768}, "vision_config": vision}
    assert read_config(SafetyCheckerConfig, written) == SafetyCheckerConfig()


def test_what_is_left_out_is_what_transformers_takes():
    text, vision = transformers.CLIPTextConfig().to_dict(), transformers.CLIPVisionConfig().to_dict()
    assert {name: text[name] for name in TEXT_DEFAULTS} == TEXT_DEFAULTS
    assert {name: vision[name] for name in VISION_DEFAULTS} == VISION_DEFAULTS
    assert asdict(read_config(CLIPTextConfig, {})) == {name: text[name] for name in asdict(CLIPTextConfig())}
    assert asdict(read_config(CLIPVisionConfig, {})) == {name: vision[name] for name in asdict(CLIPVisionConfig())}


REFUSED = [
    ("unet", {"act_fn": "gelu"}, "act_fn = 'gelu' is not implemented, only 'silu'"),
    ("unet", {"norm_eps": 1e-6}, "norm_eps = 1e-06 is not implemented"),
    ("unet", {"flip_sin_to_cos": False}, "flip_sin_to_cos = False"),
    ("unet", {"freq_shift": 1}, "freq_shift = 1"),
    ("unet", {"downsample_padding": 0}, "downsample_padding = 0"),
    ("unet", {"mid_block_type": None}, "mid_block_type = None"),
    ("unet", {"center_input_sample": True}, "center_input_sample = True"),
    ("unet", {"only_cross_attention": True}, "only_cross_attention = True"),
    ("unet", {"dual_cross_attention": True}, "dual_cross_attention = True"),
    ("unet", {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift = 'scale_shift'"),
    ("unet", {"transformer_layers_per_block": [1, 2, 10]}, "transformer_layers_per_block = [1, 2, 10]"),
    ("unet", {"num_attention_heads": 8}, "num_attention_heads = 8"),
    ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type = 'text_time'"),
    ("unet", {"class_embed_type": "projection"}, "class_embed_type = 'projection'"),
    ("unet", {"encoder_hid_dim": 2048}, "encoder_hid_dim = 2048"),
    ("unet", {"num_class_embeds": 1000}, "num_class_embeds = 1000"),
    ("unet", {"a_later_invention": 3}, "a_later_invention = 3"),
    ("unet", {"down_block_types": ["AttnDownBlock2D"] * 3}, "a AttnDownBlock2D is not implemented"),
    ("unet", {"up_block_types": ["UpBlock2D"] * 3}, "down_block_types and up_block_types must mirror each other"),
    ("unet", {"block_out_channels": [32, 64]}, "must mirror each other"),
    ("unet", {"layers_per_block": [1, 2, 2]}, "layers_per_block = [1, 2, 2] is not implemented, only one value for all levels"),
    ("unet", {"cross_attention_dim": [48, 48, 32]}, "cross_attention_dim = [48, 48, 32]"),
    ("unet", {"attention_head_dim": [4, 5, 4]}, "a width of 64 cannot be divided into 5 heads"),
    ("vae", {"act_fn": "relu"}, "act_fn = 'relu'"),
    ("vae", {"use_quant_conv": False}, "use_quant_conv = False"),
    ("vae", {"mid_block_add_attention": False}, "mid_block_add_attention = False"),
    ("vae", {"shift_factor": 0.1}, "shift_factor = 0.1"),
    ("vae", {"latents_mean": [0, 0, 0, 0]}, "latents_mean = [0, 0, 0, 0]"),
    ("vae", {"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "a AttnDownEncoderBlock2D is not implemented"),
    ("text_encoder", {"hidden_act": "relu"}, "hidden_act must be"),
    ("text_encoder", {"num_attention_heads": 5}, "a width of 48 cannot be divided into 5 heads"),
    ("text_encoder", {"num_attention_heads": 0}, "num_attention_heads = 0 is not a whole number from 1 to 1,048,576"),
    ("text_encoder", {"layer_norm_eps": 1e-6}, "layer_norm_eps = 1e-06"),
    ("scheduler", {"use_karras_sigmas": True}, "use_karras_sigmas = True"),
    ("scheduler", {"thresholding": True}, "thresholding = True"),
]


@pytest.mark.parametrize(
    ("part", "change", "sentence"), REFUSED, ids=[f"{part}-{next(iter(change))}" for part, change, _ in REFUSED]
)
def test_what_is_not_implemented_is_refused_by_name(part, change, sentence):
    with pytest.raises(UnsupportedConfig, match=re.escape(sentence)):
        read(part, {**SMALL["v1"][part], **change})


def test_heads_of_the_vision_tower_share_its_width():
    settings = {**asdict(config.CLIPVisionConfig()), "num_attention_heads": 15}
    with pytest.raises(UnsupportedConfig, match="a width of 1024 cannot be divided into 15 heads"):
        read_config(config.CLIPVisionConfig, settings)


@pytest.mark.parametrize(
    "change", [{"upcast_attention": True}, {"dropout": 0.1}, {"_name_or_path": "x"}, {"class_embed_type": None}], ids=str
)
def test_what_changes_nothing_is_accepted(change):
    assert read_config(UNetConfig, {**V1_UNET, **change}) == read_config(UNetConfig, V1_UNET)


@pytest.mark.parametrize(("part", "name"), [("unet", "cross_attention_dim"), ("vae", "block_out_channels")])
def test_what_has_no_safe_default_must_be_said(part, name):
    settings = {key: value for key, value in SMALL["v1"][part].items() if key != name}
    with pytest.raises(UnsupportedConfig, match=f"{name} is missing"):
        read_config(CLASSES[part], settings)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_what_diffusers_writes_is_read(part):
    """Every key that diffusers 0.42 writes, at its value for Stable Diffusion."""
    diffusers = pytest.importorskip("diffusers")
    settings = {"unet": V1_UNET, "vae": VAE}[part]
    with torch.device("meta"):
        theirs = getattr(diffusers, NETWORKS[part].__name__)(**settings)
    assert read_config(CLASSES[part], dict(theirs.config)) == read_config(CLASSES[part], settings)


def test_what_a_vae_file_leaves_out_is_diffusers_default():
    theirs = pytest.importorskip("diffusers").AutoencoderKL(block_out_channels=[64]).config
    ours = read_config(VAEConfig, {"block_out_channels": [64]})
    for name in ("in_channels", "out_channels", "latent_channels", "layers_per_block", "norm_num_groups", "scaling_factor"):
        assert getattr(ours, name) == theirs[name], name

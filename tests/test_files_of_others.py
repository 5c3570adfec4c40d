"""Files that other programs write: read as diffusers and transformers read them, what they leave behind included."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import END, SMALL, V1_TEXT, V1_UNET, small_network, small_pipeline, small_tokenizer, small_vocabulary
from originals import original_tensors, write_original
from safetensors.torch import load_file, save_file
from test_bad_folders import WEIGHTS, change_json

from minisd import (
    AutoencoderKL,
    CheckpointError,
    CLIPTextModel,
    CLIPTokenizer,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UnsupportedConfig,
)
from minisd.config import CLIPTextConfig, UNetConfig
from minisd.request import Request
from minisd.schedulers import SCHEDULERS
from minisd.weights.settings import read_config
from weights_convert.__main__ import main as convert

N = len(small_vocabulary()[0])
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "special": False}
PROMPTS = ["a <toy> cat", "a <TOY> cat", "a<toy>cat", "a cat toy", "a <Two> <toy>"]


# Words added to a vocabulary


def added_tokens(folder: Path):
    (folder / "added_tokens.json").write_text(json.dumps({"<toy>": N, "<Two>": N + 1}))


def added_tokens_decoder(folder: Path):
    words = {N: {"content": "<toy>", "normalized": False, **FLAGS}, N + 1: {"content": "<Two>", "normalized": True, **FLAGS}}
    change_json(folder / "tokenizer_config.json", added_tokens_decoder=words)


def tokenizer_json(folder: Path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    theirs.add_tokens(["<toy>", "<Two>"])
    shutil.rmtree(folder)
    theirs.save_pretrained(folder)
    assert not (folder / "vocab.json").exists()


@pytest.fixture(params=[added_tokens, added_tokens_decoder, tokenizer_json])
def after_inversion(request, folder) -> Path:
    """A checkpoint with two words more, as textual inversion leaves one."""
    request.param(folder / "tokenizer")
    change_json(folder / "text_encoder" / "config.json", vocab_size=N + 2)
    tensors = dict(load_file(folder / "text_encoder" / "model.safetensors"))
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = torch.cat([tensors[name], torch.ones(2, 48)])
    save_file(tensors, folder / "text_encoder" / "model.safetensors")
    return folder


def test_added_words_have_the_ids_that_transformers_gives_them(after_inversion):
    theirs = pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(after_inversion / "tokenizer")
    ours = CLIPTokenizer.from_pretrained(after_inversion, "tokenizer")
    assert ours("a <toy> cat").input_ids[0, 2] == N
    expected = theirs(PROMPTS, padding="max_length", max_length=77, truncation=True).input_ids
    assert ours(PROMPTS).input_ids.tolist() == expected


def test_added_words_stay_when_a_pipeline_is_saved_and_converted(after_inversion, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(after_inversion)
    expected = pipe.tokenizer(PROMPTS).input_ids
    pipe.save_pretrained(tmp_path / "saved")
    assert convert([str(after_inversion), str(tmp_path / "one.safetensors")]) == 0
    assert convert([str(tmp_path / "one.safetensors"), str(tmp_path / "back"), "--to", "diffusers"]) == 0
    for source in ("saved", "one.safetensors", "back"):
        assert torch.equal(StableDiffusionPipeline.from_pretrained(tmp_path / source).tokenizer(PROMPTS).input_ids, expected)
    theirs = pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(tmp_path / "saved" / "tokenizer")
    assert theirs(PROMPTS, padding="max_length", max_length=77).input_ids == expected.tolist()


def test_a_vocabulary_put_in_brings_its_words_and_takes_the_old_ones_away(after_inversion, folders, tmp_path):
    assert convert([str(folders["v1"]), str(tmp_path / "plain.safetensors")]) == 0
    arguments = [str(after_inversion), str(tmp_path / "new.safetensors"), "--tokenizer"]
    assert convert([*arguments, str(folders["v1"])]) == 1  # the text encoder knows two words more
    assert convert([*arguments, str(after_inversion / "tokenizer")]) == 0
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "new.safetensors").tokenizer.vocab["<toy>"] == N


def test_saving_repeats_no_merge(tmp_path):
    """A tokenizer that was loaded and saved ever again kept its merges twice, four times, …"""
    small_tokenizer("v1").save_pretrained(tmp_path / "a")
    CLIPTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / "merges.txt").read_text() == (tmp_path / "b" / "merges.txt").read_text()


# Manifests of sharded weights


def sharded(folder: Path, factor: float, count: int) -> Path:
    """The UNet's weights times a factor, in shards beside what is there, and their manifest."""
    tensors = {name: factor * tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    files = [f"diffusion_pytorch_model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in list(tensors)[i::count]}, folder / file)
    places = {name: files[i] for i in range(count) for name in list(tensors)[i::count]}
    manifest = folder / "diffusion_pytorch_model.safetensors.index.json"
    manifest.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return manifest


def test_the_manifest_says_which_weights_are_read(folder):
    """Not the older shards, not the whole file, and a stray shard is no error. diffusers reads the same."""
    unet = folder / "unet"
    bias = load_file(unet / WEIGHTS)["conv_in.bias"]
    sharded(unet, 2.0, 3)
    sharded(unet, 3.0, 2)
    (unet / "diffusion_pytorch_model-00001-of-00009.safetensors").write_bytes(b"stray")
    assert torch.equal(UNet2DConditionModel.from_pretrained(unet).conv_in.bias, 3 * bias)
    theirs = pytest.importorskip("diffusers").UNet2DConditionModel.from_pretrained(unet, low_cpu_mem_usage=False)
    assert torch.equal(theirs.conv_in.bias, 3 * bias)


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({}, "index.json: weight_map is missing"),
        ({"weight_map": {"a": "../vae/x.safetensors"}}, "index.json is damaged: it must name .safetensors files in its folder"),
        ({"weight_map": {}}, "index.json is damaged: it must name .safetensors files in its folder, not []"),
        ({"weight_map": ["a"]}, "index.json: weight_map = ['a'] is not an object, each value a string"),
        ({"weight_map": {"a": "gone.safetensors"}}, "unet/gone.safetensors is missing"),
    ],
)
def test_damaged_manifests(folder, manifest, sentence):
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        StableDiffusionPipeline.from_pretrained(folder)


# Gaps in JSON files


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_a_samplers_file_leaves_out_is_diffusers_default(name):
    theirs = getattr(pytest.importorskip("diffusers"), name)().config
    gaps = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    ours = SCHEDULERS[name].from_config({"_class_name": name, **gaps})
    for setting in ours.config.__dataclass_fields__.keys() & theirs.keys() - {"timestep_spacing"}:
        found, default = getattr(ours.config, setting), theirs[setting]
        assert found == (tuple(default) if isinstance(default, list) else default), setting
    assert ours.spacing == theirs.get("timestep_spacing", ours.spacing)


def test_a_file_of_pndm_without_skip_prk_steps_asks_for_the_runge_kutta_steps(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    del settings["skip_prk_steps"]
    path.write_text(json.dumps(settings))
    with pytest.raises(
        UnsupportedConfig, match=r"scheduler_config\.json: PNDMScheduler: skip_prk_steps = False is not implemented"
    ):
        StableDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("offset", [{"steps_offset": 0}, {}], ids=str)
def test_pipelines_take_steps_offset_for_1(folder, offset):
    path = folder / "scheduler" / "scheduler_config.json"
    settings = {name: value for name, value in json.loads(path.read_text()).items() if name != "steps_offset"}
    path.write_text(json.dumps(settings | offset))
    assert StableDiffusionPipeline.from_pretrained(folder).scheduler.config.steps_offset == 1
    assert SCHEDULERS["PNDMScheduler"].from_pretrained(folder, "scheduler").config.steps_offset == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sample_size": 32, "_diffusers_version": "0.6.0"}, 64),
        ({"sample_size": 32, "_diffusers_version": "0.9.0"}, 32),
        ({"sample_size": 32, "_diffusers_version": "0.10.2"}, 32),
        ({"sample_size": 96, "_diffusers_version": "0.6.0"}, 96),
        ({"sample_size": 32}, 32),
        ({"sample_size": None}, 64),
    ],
    ids=str,
)
def test_sample_sizes_of_the_first_versions(settings, expected):
    assert read_config(UNetConfig, {**V1_UNET, **settings}).sample_size == expected


def test_a_mask_for_the_padding_is_refused_by_name():
    with pytest.raises(UnsupportedConfig, match="use_attention_mask = True is not implemented"):
        read_config(CLIPTextConfig, {**V1_TEXT, "use_attention_mask": True})


# Settings of two types


def test_a_sample_size_of_two_sides(folder, tmp_path):
    change_json(folder / "unet" / "config.json", sample_size=[8, 16])
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    request = Request.of(pipe, "a cat")
    assert (request.height, request.width, request.shape) == (64, 128, (1, 4, 8, 16))
    pipe.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "unet" / "config.json").read_text())["sample_size"] == [8, 16]


def test_heads_are_those_of_levels_with_attention():
    """The UNet of diffusers' own fast tests."""
    settings = {
        "block_out_channels": (4, 8), "layers_per_block": 1, "sample_size": 32, "norm_num_groups": 2, "cross_attention_dim": 32,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "time_cond_proj_dim": None, "attention_head_dim": 8, "only_cross_attention": [False, False],
    }  # fmt: skip
    assert read_config(UNetConfig, settings).num_attention_heads == (8, 8)
    with pytest.raises(UnsupportedConfig, match="a width of 4 cannot be divided into 8 heads"):
        read_config(UNetConfig, {**settings, "block_out_channels": (8, 4)})


@pytest.mark.parametrize(
    "betas", [torch.linspace(0.001, 0.02, 10), torch.linspace(0.001, 0.02, 10).numpy()], ids=["tensor", "array"]
)
def test_trained_betas_of_any_kind(betas):
    scheduler = DDIMScheduler(trained_betas=betas, num_train_timesteps=10)
    assert torch.allclose(scheduler.alphas_cumprod, (1 - torch.as_tensor(betas)).cumprod(0))


def test_what_old_samplers_set_and_means_nothing_here():
    assert DDIMScheduler.from_config({**SMALL["v1"]["scheduler"], "tensor_format": "pt"})


BAD = [
    ("text_encoder/config.json", {"hidden_size": 4.5}, "hidden_size = 4.5 is not a whole number from 1 to 1,048,576"),
    ("text_encoder/config.json", {"hidden_act": []}, "hidden_act = [] is not a string"),
    ("text_encoder/config.json", {"text_config": 5}, "text_config = 5 is not an object"),
    ("unet/config.json", {"block_out_channels": 8}, "block_out_channels = 8 is not a list, each a whole number"),
    ("unet/config.json", {"down_block_types": [["a"]]}, "down_block_types = [['a']] is not a list, each a string"),
    ("unet/config.json", {"in_channels": {}}, "in_channels = {} is not a whole number"),
    ("unet/config.json", {"attention_head_dim": [4]}, "attention_head_dim = [4] must have one number for each of 3 levels"),
    ("unet/config.json", {"norm_num_groups": 7}, "a width of 32 cannot be divided into 7 groups"),
    ("unet/config.json", {"norm_num_groups": None}, "norm_num_groups = None is not a whole number"),
    ("vae/config.json", {"latent_channels": -1}, "latent_channels = -1 is not a whole number"),
    ("vae/config.json", {"scaling_factor": float("nan")}, "scaling_factor = nan is not a number from 1e-06 to 1,048,576"),
    ("vae/config.json", {"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types must name one block for each of 4 widths"),
    ("model_index.json", {"scheduler": 5}, "scheduler = 5 is not a list of 2, each a string or null or null"),
    ("model_index.json", {"safety_checker": [5, {}]}, "safety_checker = [5, {}] is not a list of 2"),
    ("defaults.json", {"num_inference_steps": "50"}, "num_inference_steps = '50' is not a whole number"),
    ("scheduler/scheduler_config.json", {"beta_start": "0.1"}, "PNDMScheduler: beta_start = '0.1' is not a number from 0 to 1"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "x"}, "beta_schedule must be"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "change", "sentence"), BAD, ids=[f"{file}-{next(iter(change))}" for file, change, _ in BAD])
def test_settings_of_a_wrong_type_are_named_with_their_file(folder, file, change, sentence):
    change_json(folder / file, **change)
    with pytest.raises(UnsupportedConfig, match=re.escape(sentence)) as caught:
        StableDiffusionPipeline.from_pretrained(folder)
    assert f"{folder / file}: " in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("vocab.json", {"cat</w>": 1.5}, "vocab = "),
        ("added_tokens.json", {"<toy>": "x"}, "added_tokens.json = {'<toy>': 'x'} is not an object, each value a whole number"),
        ("special_tokens_map.json", {"pad_token": [1]}, "pad_token = [1] is not a string or an object"),
        ("special_tokens_map.json", {"pad_token": {"content": 1}}, "content = 1 is not a string"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<toy>"}}}, "id = 'x' is not a whole number"),
    ],
)
def test_tokenizer_files_of_a_wrong_type(folder, file, change, sentence):
    path = folder / "tokenizer" / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **change}))
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        CLIPTokenizer.from_pretrained(folder, "tokenizer")


# Folders in folders


def test_a_subfolder_of_a_subfolder(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "all" / "sd" / "v1")
    for subfolder in ("sd/v1/unet", "sd/v1/unet/", "./sd/v1/unet"):
        assert UNet2DConditionModel.from_pretrained(tmp_path / "all", subfolder=subfolder)
    assert CLIPTokenizer.from_pretrained(tmp_path / "all", subfolder="sd/v1/tokenizer")
    assert DDIMScheduler.from_pretrained(tmp_path / "all", subfolder="sd/v1/scheduler")


# What is left behind in single files, and what is left out


V1_LEFTOVERS = [
    "cond_stage_model.transformer.text_projection.weight", "cond_stage_model.logit_scale", "first_stage_model.loss.logvar",
    "logvar", "scale_factor", "lvlb_weights", "embedding_manager.string_to_param_dict.*",
]  # fmt: skip
V2_LEFTOVERS = ["cond_stage_model.model.attn_mask", "cond_stage_model.model.transformer.text_model.embeddings.position_ids"]


@pytest.mark.filterwarnings("ignore:.* is assumed to predict")
@pytest.mark.parametrize(("kind", "leftovers"), [("v1", V1_LEFTOVERS), ("v2", V2_LEFTOVERS)])
def test_what_other_programs_leave_behind_passes_and_the_unknown_is_named(tmp_path, small_presets, kind, leftovers, recwarn):
    tensors = original_tensors(kind) | {name: torch.zeros(2) for name in leftovers}
    save_file(tensors, tmp_path / "model.safetensors")
    load = StableDiffusionPipeline.from_single_file
    assert load(tmp_path / "model.safetensors", tokenizer=small_tokenizer("v1"))
    assert not [warning for warning in recwarn if "not needed" in str(warning.message)]
    save_file(tensors | {"optimizer.state": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"model.safetensors has tensors that are not needed and are ignored: .*optimizer.state"):
        load(tmp_path / "model.safetensors", tokenizer=small_tokenizer("v1"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_weights_in_other_precisions_are_cast(tmp_path, small_presets, dtype):
    tensors = {
        name: tensor.to(dtype) if name[0] in "mcf" and tensor.is_floating_point() else tensor
        for name, tensor in original_tensors("v1").items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    pipe = StableDiffusionPipeline.from_single_file(tmp_path / "model.safetensors", tokenizer=small_tokenizer("v1"))
    expected = tensors["model.diffusion_model.input_blocks.0.0.weight"].float()
    assert pipe.dtype == torch.float32 and torch.equal(pipe.unet.conv_in.weight, expected)
    assert convert([str(tmp_path / "model.safetensors"), str(tmp_path / "out.safetensors"), "--dtype", "float16"]) == 0


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_part_that_is_given_need_not_be_in_a_file_or_folder(tmp_path, small_presets, folder, part):
    prefix = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model."}[part]
    tensors = original_tensors("v1")
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}, tmp_path / "less.safetensors")
    given = {part: small_network(part, "v1"), "tokenizer": small_tokenizer("v1")}
    pipe = StableDiffusionPipeline.from_single_file(tmp_path / "less.safetensors", **given)
    assert getattr(pipe, part) is given[part]
    with pytest.raises(CheckpointError, match=f"it lacks {prefix}"):
        StableDiffusionPipeline.from_single_file(tmp_path / "less.safetensors", tokenizer=given["tokenizer"])
    shutil.rmtree(folder / part)
    assert getattr(StableDiffusionPipeline.from_pretrained(folder, **given), part) is given[part]


def test_the_converter_puts_a_vae_in(tmp_path, small_presets, folder, folders):
    tensors = original_tensors("v1")
    less = {name: tensor for name, tensor in tensors.items() if not name.startswith("first_stage_model.")}
    save_file(less, tmp_path / "less.safetensors")
    vae = {name: tensor for name, tensor in tensors.items() if name not in less}
    save_file(vae, tmp_path / "vae.safetensors")
    shutil.rmtree(folder / "vae")
    for source, words in ((tmp_path / "less.safetensors", small_tokenizer("v1")), (folder, None)):
        out = tmp_path / f"{source.stem}-whole.safetensors"
        assert convert([str(source), str(out)]) == 1
        assert convert([str(source), str(out), "--vae", str(tmp_path / "vae.safetensors")]) == 0
        pipe = StableDiffusionPipeline.from_single_file(out, tokenizer=words)
        assert torch.equal(pipe.vae.quant_conv.bias, vae["first_stage_model.quant_conv.bias"])
    for place in (folders["v1"], folders["v1"] / "vae"):
        assert convert([str(folder), str(tmp_path / "from a folder.safetensors"), "--vae", str(place)]) == 0
        assert StableDiffusionPipeline.from_single_file(tmp_path / "from a folder.safetensors").vae.config.norm_num_groups == 8
        (tmp_path / "from a folder.safetensors").unlink()


# One network in a file


@pytest.mark.filterwarnings("ignore:.* is assumed to predict")
@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("form", ["whole", "prefixed", "bare", "minisd", "diffusers"])
@pytest.mark.parametrize("network", [AutoencoderKL, UNet2DConditionModel])
def test_a_network_from_a_single_file(tmp_path, small_presets, kind, form, network):
    path, prefix = (
        tmp_path / "a.safetensors",
        {AutoencoderKL: "first_stage_model.", UNet2DConditionModel: "model.diffusion_model."}[network],
    )
    tensors = original_tensors(kind)
    save_file(tensors, tmp_path / "original.safetensors")
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if form == "minisd":
        assert convert([str(tmp_path / "original.safetensors"), str(path)]) == 0
    elif form == "diffusers":
        network.from_single_file(tmp_path / "original.safetensors").save_pretrained(tmp_path / "folder")
        path = next((tmp_path / "folder").glob("*.safetensors"))
    else:
        bare = {name.removeprefix(prefix): tensor for name, tensor in own.items()}
        if network is AutoencoderKL:
            bare |= {"loss.logvar": torch.zeros(2)}
        save_file({"whole": tensors, "prefixed": own, "bare": bare}[form], path)
    loaded = network.from_single_file(path, dtype=torch.bfloat16)
    first = {AutoencoderKL: "encoder.conv_in.weight", UNet2DConditionModel: "input_blocks.0.0.weight"}[network]
    ours = loaded.encoder.conv_in.weight if network is AutoencoderKL else loaded.conv_in.weight
    assert torch.equal(ours, tensors[prefix + first].bfloat16())


def test_networks_that_a_file_does_not_hold(tmp_path, small_presets):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a.safetensors does not fit a AutoencoderKL of Stable Diffusion: it lacks decoder"):
        AutoencoderKL.from_single_file(tmp_path / "a.safetensors")
    with pytest.raises(TypeError, match="a CLIPTokenizer cannot be loaded from a single file"):
        CLIPTokenizer.from_single_file(tmp_path / "a.safetensors")
    assert CLIPTextModel.from_single_file(write_original(tmp_path / "v1.safetensors", "v1"))


# Saving


def test_saving_twice_into_one_folder(tmp_path):
    """The second takes the place of the first; weights of another variant stay."""
    pipe = small_pipeline("v1")
    pipe.save_pretrained(tmp_path / "out")
    before = pipe.unet.conv_in.bias.clone()
    pipe.unet.conv_in.bias += 1
    pipe.save_pretrained(tmp_path / "out", variant="fp16")
    assert torch.equal(StableDiffusionPipeline.from_pretrained(tmp_path / "out").unet.conv_in.bias, before)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "out", variant="fp16")
    assert torch.equal(loaded.unet.conv_in.bias, before + 1)
    loaded.save_pretrained(tmp_path / "out")  # its weights are mapped from there
    assert torch.equal(StableDiffusionPipeline.from_pretrained(tmp_path / "out").unet.conv_in.bias, before + 1)
    theirs = pytest.importorskip("diffusers").UNet2DConditionModel.from_pretrained(
        tmp_path / "out", subfolder="unet", variant="fp16"
    )
    assert torch.equal(theirs.conv_in.bias, before + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("file", ["README.md", "unet/diffusion_pytorch_model.bin", "tokenizer/tokenizer.json"])
def test_nothing_that_saving_did_not_write_is_lost(folder, file):
    (folder / file).write_text("mine")
    with pytest.raises(CheckpointError, match=f"contains {file}, which save_pretrained did not write; choose a new folder"):
        small_pipeline("v1").save_pretrained(folder)
    assert (folder / file).read_text() == "mine"


class Tuned(UNet2DConditionModel):
    """Somebody's own class."""


def test_compiled_and_derived_networks_are_saved_under_minisds_names(tmp_path):
    pipe = small_pipeline("v1")
    expected = pipe.unet.conv_in.weight
    pipe.unet.__class__ = Tuned
    pipe.unet = torch.compile(pipe.unet)
    pipe.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert torch.equal(StableDiffusionPipeline.from_pretrained(tmp_path / "out").unet.conv_in.weight, expected)
    assert small_tokenizer("v1").pad == END


def test_saving_one_network_leaves_the_rest_of_a_folder(tmp_path):
    """Also what only looks as if it was written here, and into the folder behind a link."""
    pipe = small_pipeline("v1")
    pipe.save_pretrained(tmp_path / "out")
    (tmp_path / "out" / "lora").mkdir()
    (tmp_path / "out" / "lora" / "model.safetensors").write_bytes(b"mine")
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    (tmp_path / "link").symlink_to(tmp_path / "out")
    pipe.unet.save_pretrained(tmp_path / "link")
    pipe.save_pretrained(tmp_path / "link")
    after = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} - {Path("link")}
    assert after - before == {Path("out/config.json"), Path("out/diffusion_pytorch_model.safetensors")} and before <= after
    assert (tmp_path / "out" / "lora" / "model.safetensors").read_bytes() == b"mine"
    assert (tmp_path / "link").is_symlink()


def test_saving_into_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_pipeline("v1").save_pretrained(".")
    StableDiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("part", "kind"), [("unet", "UNet3DConditionModel"), ("vae", "AsymmetricAutoencoderKL"), ("text_encoder", "BertModel")]
)
def test_parts_of_other_classes_are_refused(tmp_path, part, kind):
    small_pipeline("v1").save_pretrained(tmp_path / "out")
    index = tmp_path / "out" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {part: ["diffusers", kind]}))
    with pytest.raises(UnsupportedConfig, match=f"{part} is a {kind}, which is not implemented; it must be"):
        StableDiffusionPipeline.from_pretrained(tmp_path / "out")

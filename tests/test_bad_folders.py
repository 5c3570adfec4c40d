"""Folders that are damaged or foreign: each is refused in a sentence that names the fault, and nothing is half-loaded."""

import json
import re
from pathlib import Path

import diffusers
import pytest
import torch
from helpers import small_network, small_pipeline
from safetensors.torch import load_file, save_file

from minisd import CheckpointError, CLIPTokenizer, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel, UnsupportedConfig
from minisd.schedulers import SCHEDULERS
from minisd.weights.fill import load_strictly
from weights_convert.__main__ import main as convert

WEIGHTS = "diffusion_pytorch_model.safetensors"


def change_json(path: Path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(path: Path, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


DAMAGE = {
    "a tensor is missing": (
        lambda tensors: tensors.pop("conv_in.weight"),
        "does not fit the network: it lacks conv_in.weight",
    ),
    "a shape is off by one": (
        lambda tensors: tensors.update({"conv_in.weight": torch.zeros(33, 4, 3, 3)}),
        "shapes differ: conv_in.weight has (33, 4, 3, 3) instead of (32, 4, 3, 3)",
    ),
    "a shape is right but for its order": (
        lambda tensors: tensors.update({"time_embedding.linear_1.weight": torch.zeros(32, 128)}),
        "time_embedding.linear_1.weight has (32, 128) instead of (128, 32)",
    ),
    "everything is another model's": (
        lambda tensors: [tensors.clear(), tensors.update(a=torch.zeros(1))],
        "it lacks conv_in.bias, conv_in.weight, conv_norm_out.bias and 493 more",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_tensors_that_do_not_fit(folder, change, sentence):
    change_tensors(folder / "unet" / WEIGHTS, change)
    with pytest.raises(CheckpointError, match=re.escape(sentence)) as caught:
        StableDiffusionPipeline.from_pretrained(folder)
    assert str(folder / "unet" / WEIGHTS) in str(caught.value)


def test_a_tensor_too_many_is_named_and_does_no_harm(folder):
    change_tensors(folder / "unet" / WEIGHTS, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.warns(UserWarning, match=f"{WEIGHTS} has tensors that are not needed and are ignored: extra"):
        StableDiffusionPipeline.from_pretrained(folder)


def test_another_configuration_than_the_weights(folder):
    change_json(folder / "unet" / "config.json", cross_attention_dim=49)
    with pytest.raises(CheckpointError, match=r"attn2.to_k.weight has \(32, 48\) instead of \(32, 49\)"):
        UNet2DConditionModel.from_pretrained(folder, "unet")


def test_nothing_of_a_misfit_is_loaded():
    model = small_network("vae", "v1")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    tensors["quant_conv.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointError):
        load_strictly(model, tensors, "these")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def truncated(path: Path):
    path.write_bytes(path.read_bytes()[:-100])


def header_only(path: Path):
    path.write_bytes(path.read_bytes()[:2000])


def header_beyond_the_file(path: Path):
    path.write_bytes((10**9).to_bytes(8, "little") + b"{}")


def empty(path: Path):
    path.write_bytes(b"")


def text(path: Path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3438167540\n")


def pickle(path: Path):
    torch.save({"conv_in.weight": torch.zeros(1)}, path)


@pytest.mark.parametrize("harm", [truncated, header_only, header_beyond_the_file, empty, text, pickle])
def test_files_that_are_no_safetensors(folder, harm):
    harm(folder / "vae" / WEIGHTS)
    with pytest.raises(CheckpointError, match=re.escape(f"{folder / 'vae' / WEIGHTS} is damaged or not a safetensors file")):
        StableDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    "file",
    [
        f"unet/{WEIGHTS}", "unet/config.json", f"vae/{WEIGHTS}", "vae/config.json", "text_encoder/model.safetensors",
        "text_encoder/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "model_index.json",
    ],
)  # fmt: skip
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=r"is missing: is .* a checkpoint"):
        StableDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "{", '{"in_channels": }', "[1, 2]", "\xff"])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_broken_json_is_named(folder, file, content):
    (folder / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(
        CheckpointError, match=re.escape(str(folder / file)) + " (is not valid JSON|must contain a JSON object|is not a text file)"
    ):
        StableDiffusionPipeline.from_pretrained(folder)


def test_a_missing_variant_is_named(folder):
    with pytest.raises(CheckpointError, match=r"fp16.safetensors is missing"):
        UNet2DConditionModel.from_pretrained(folder, "unet", variant="fp16")


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"model_index.json is missing: is .* a checkpoint\?"):
        StableDiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("source", ["nowhere.safetensors", "some/nowhere.safetensors", "/no/where/model.ckpt"])
def test_a_file_that_is_not_there(source):
    with pytest.raises(CheckpointError, match=f'file "{source}" not found; check its name and folder'):
        StableDiffusionPipeline.from_pretrained(source)


@pytest.mark.parametrize("source", ["no/such/folder", "nowhere", "./nowhere/at/all"])
def test_a_source_that_is_neither_folder_nor_id(source):
    with pytest.raises(CheckpointError, match=f'"{source}" is neither a checkpoint folder nor an id on the Hub'):
        StableDiffusionPipeline.from_pretrained(source)


@pytest.mark.parametrize("source", ["./tiny", "../tiny", "~/tiny", "models/of/tiny"])
def test_a_folder_tiny_that_is_not_there(source, monkeypatch):
    monkeypatch.setattr("minisd.weights.find.on_the_hub", lambda *_: pytest.fail("the Hub is asked"))
    with pytest.raises(
        CheckpointError, match=f'"{source}" is neither a checkpoint folder nor .* the built-in model is called "tiny"'
    ):
        StableDiffusionPipeline.from_pretrained(source)


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_without_their_index_are_named(folder, variant):
    shard = f"unet/diffusion_pytorch_model{variant}-00001-of-00002.safetensors"
    (folder / "unet" / WEIGHTS).rename(folder / shard)
    index = f"unet/{WEIGHTS}.index{variant}.json"
    sentence = f"there are shards, such as {shard}, without their index; get {index} too"
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        StableDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("changes", [{"_class_name": None}, {"_class_name": 5}])
def test_the_converter_names_an_index_that_names_no_pipeline(folder, tmp_path, capsys, changes):
    change_json(folder / "model_index.json", **changes)
    assert convert([str(folder), str(tmp_path / "out.safetensors")]) == 1
    assert f"model_index.json: _class_name = {changes['_class_name']} is not a string" in capsys.readouterr().err


def test_an_id_that_cannot_be_had(tmp_path):
    with pytest.raises(CheckpointError, match='"someone/something" is neither a local folder nor available from the Hub'):
        StableDiffusionPipeline.from_pretrained("someone/something", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "sentence"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            "is a StableDiffusionXLPipeline; minisd implements Stable",
        ),
        ("model_index.json", {"_class_name": None}, "model_index.json: _class_name = None is not a string"),
        ("model_index.json", {"unet": None}, "names no unet; give one, as in unet=UNet2DConditionModel.from_pretrained(…)"),
        ("model_index.json", {"vae": [None, None]}, "names no vae; give one, as in vae=AutoencoderKL.from_pretrained(…)"),
        ("model_index.json", {"scheduler": ["diffusers", "DEISMultistepScheduler"]}, "DEISMultistepScheduler is not implemented"),
        ("model_index.json", {"scheduler": None}, "names no scheduler; give one, as in scheduler=DDIMScheduler()"),
        ("model_index.json", {"scheduler": [None, None]}, "names no scheduler"),
        (
            "text_encoder/config.json",
            {"num_attention_heads": 5},
            "text_encoder/config.json: a width of 48 cannot be divided into 5 heads",
        ),
        ("unet/config.json", {"act_fn": "mish"}, "unet/config.json: act_fn = 'mish' is not implemented, only 'silu'"),
        ("vae/config.json", {"use_quant_conv": False}, "vae/config.json: use_quant_conv = False"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "text_encoder/config.json: hidden_act must be"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type 'sample'"),
        ("scheduler/scheduler_config.json", {"skip_prk_steps": False}, "skip_prk_steps = False"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(folder, file, changes, sentence):
    change_json(folder / file, **changes)
    with pytest.raises(UnsupportedConfig, match=re.escape(sentence)):
        StableDiffusionPipeline.from_pretrained(folder)


def test_a_part_can_be_replaced_when_the_folders_own_is_not_implemented(folder):
    change_json(folder / "model_index.json", scheduler=["diffusers", "DEISMultistepScheduler"])
    scheduler = small_pipeline("v1").scheduler
    assert StableDiffusionPipeline.from_pretrained(folder, scheduler=scheduler).scheduler is scheduler


# Keywords


def test_what_programs_for_diffusers_pass_is_accepted(folder):
    needless = {"use_safetensors": True, "low_cpu_mem_usage": True, "requires_safety_checker": False, "feature_extractor": None}
    assert StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, **needless).safety_checker is None
    assert UNet2DConditionModel.from_pretrained(folder, subfolder="unet", use_safetensors=True, low_cpu_mem_usage=False)


@pytest.mark.parametrize(
    ("keyword", "kind", "sentence"),
    [
        ({"custom_pipeline": "x"}, TypeError, "unknown argument custom_pipeline; valid arguments are "),
        (
            {"use_safetensors": False},
            ValueError,
            "use_safetensors=False requests pickles, which can run code and are not supported",
        ),
    ],
    ids=["unknown", "pickles"],
)
def test_keywords_are_refused_before_anything_is_looked_for(tmp_path, keyword, kind, sentence):
    for load in (
        StableDiffusionPipeline.from_pretrained,
        StableDiffusionPipeline.from_single_file,
        UNet2DConditionModel.from_pretrained,
    ):
        with pytest.raises(kind, match=sentence):
            load(tmp_path / "nowhere", **keyword)


FOREIGN = ["EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep", "LCM", "DDPM"]


@pytest.mark.parametrize("foreign", [*FOREIGN, "LMSDiscrete", "PNDM", "DDIM"])
@pytest.mark.parametrize("single_file", [False, True], ids=["folder", "file"])
def test_every_sampler_of_diffusers_gives_its_settings_to_every_one_here(folder, tmp_path, foreign, single_file):
    """What they mean alike, such as that the model predicts v, and nothing that would be refused."""
    settings = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    settings |= {"prediction_type": "v_prediction", "beta_end": 0.013}
    getattr(diffusers, f"{foreign}Scheduler").from_config(settings).save_config(folder / "scheduler")
    change_json(folder / "model_index.json", scheduler=["diffusers", f"{foreign}Scheduler"])
    source = tmp_path / "model.safetensors" if single_file else folder
    if single_file:
        assert convert([str(folder), str(source)]) == 0
    assert type(StableDiffusionPipeline.from_pretrained(source).scheduler) is SCHEDULERS[f"{foreign}Scheduler"]
    for ours in SCHEDULERS.values():
        scheduler = StableDiffusionPipeline.from_pretrained(source, scheduler=ours).scheduler
        assert type(scheduler) is ours
        assert (scheduler.config.prediction_type, scheduler.config.beta_end) == ("v_prediction", 0.013)


def test_a_sampler_takes_over_all_that_changes_the_noise_schedule():
    settings = {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "num_train_timesteps": 2}
    changes = {"rescale_betas_zero_snr": True, "trained_betas": (0.1, 0.2), "timestep_spacing": "trailing"}
    config = DDIMScheduler.from_config({**settings, **changes}).config
    assert {name: getattr(config, name) for name in changes} == changes


def test_a_vocabulary_that_the_text_encoder_does_not_know(folder):
    with pytest.raises(ValueError, match="the tokenizer has ids up to 733, but the text encoder has only"):
        StableDiffusionPipeline.from_pretrained(folder, tokenizer=CLIPTokenizer.from_pretrained("tiny"))


@pytest.mark.parametrize(
    ("defaults", "sentence"),
    [({"steps": 50}, "has 'steps', which is not a default of a pipeline"), ([], "must contain a JSON object")],
)
def test_defaults_that_are_none(folder, defaults, sentence):
    (folder / "defaults.json").write_text(json.dumps(defaults))
    with pytest.raises(CheckpointError, match=sentence):
        StableDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", ["vae", "tokenizer"])
def test_a_part_is_no_name_of_a_part(folder, part):
    with pytest.raises(TypeError, match=f"pass a loaded {part}, for example "):
        StableDiffusionPipeline.from_pretrained(folder, **{part: "somewhere/else"})

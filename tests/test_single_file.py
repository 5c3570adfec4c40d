"""`from_single_file`: the original files give the reference's networks, and say or are told what they do not hold."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import END, NETWORKS, distance, randn, small_pipeline, small_tokenizer
from originals import WORDS, original_tensors, write_original
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minisd import CheckpointError, CLIPTokenizer, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UnsupportedConfig
from minisd.generate import main as generate
from minisd.weights import official
from minisd.weights.generations import GENERATIONS
from weights_convert.__main__ import main as convert

pytestmark = pytest.mark.filterwarnings("ignore:.* is assumed to predict")
UNET_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.fixture
def original(kind, tmp_path, small_presets):
    return write_original(tmp_path / f"{kind}.safetensors", kind)


def load(path: Path, tokenizer=None, **options) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_single_file(path, tokenizer=tokenizer or small_tokenizer("v1"), **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def the_references_networks(generation: str, tensors: dict[str, Tensor]) -> dict[str, nn.Module]:
    """What diffusers and transformers build of an original file, by diffusers' own translation of the names."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    from diffusers.loaders import single_file_utils as theirs

    files = GENERATIONS[generation].texts(4, "epsilon")
    unet, vae, text = (
        {k: v for k, v in json.loads(files[f"{part}/config.json"]).items() if k != "_class_name"}
        for part in ("unet", "vae", "text_encoder")
    )
    with torch.device("meta"):
        networks = {"unet": diffusers.UNet2DConditionModel(**unet), "vae": diffusers.AutoencoderKL(**vae)}
    networks["text_encoder"] = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text))
    translated = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(tensors), dict(networks["unet"].config)),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(tensors), dict(networks["vae"].config)),
    }
    if generation == "v1":
        translated["text_encoder"] = theirs.convert_ldm_clip_checkpoint(dict(tensors))
    else:
        translated["text_encoder"] = theirs.convert_open_clip_checkpoint(networks["text_encoder"], dict(tensors))
    for part, network in networks.items():
        state = {
            name.removeprefix("text_model."): tensor for name, tensor in translated[part].items() if "position_ids" not in name
        }
        expected = network.state_dict()
        state = {name: tensor.reshape(expected[name].shape) for name, tensor in state.items() if name in expected}
        network.load_state_dict(state, assign=True)
        network.eval().requires_grad_(False)
    return networks


def distances(pipe: StableDiffusionPipeline, theirs: dict[str, nn.Module], distance) -> dict[str, float]:
    """How far the networks of a pipeline are from the reference's, as shares of the outputs' scale."""
    width, vocabulary = pipe.unet.config.cross_attention_dim, pipe.text_encoder.config.vocab_size
    x, context, t = randn(2, 4, 8, 8), randn(2, 77, width, seed=1), torch.tensor([981, 1])
    ids = torch.randint(vocabulary, (2, 77), generator=torch.Generator().manual_seed(2))
    pictures = randn(1, 3, 64, 64, seed=3).clamp(-1, 1)
    with torch.inference_mode():
        return {
            "unet": distance(pipe.unet(x, t, context).sample, theirs["unet"](x, t, context).sample),
            "text encoder": distance(pipe.text_encoder(ids)[0], theirs["text_encoder"](ids)[0]),
            "vae, decoding": distance(pipe.vae.decode(x).sample, theirs["vae"].decode(x).sample),
            "vae, encoding": distance(pipe.vae.encode(pictures).latent_dist.mean, theirs["vae"].encode(pictures).latent_dist.mean),
        }


def test_an_original_file_gives_the_references_networks(original, kind, measure):
    for name, share in distances(load(original), the_references_networks(kind, load_file(original)), measure).items():
        assert share <= 1e-5, name


def test_it_draws_what_the_same_weights_draw_from_a_folder(original, tmp_path):
    small_tokenizer("v1").save_pretrained(tmp_path / "words")
    assert convert([str(original), str(tmp_path / "folder"), "--to", "diffusers", "--tokenizer", str(tmp_path / "words")]) == 0
    pipes = [load(original, tokenizer=tmp_path / "words"), StableDiffusionPipeline.from_pretrained(tmp_path / "folder")]
    pictures = []
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
        options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "pt"}
        pictures.append(pipe("a red ball", generator=torch.Generator().manual_seed(0), **options).images)
    assert distance(*pictures) <= 1e-4  # sums come out differently, in their last digits, where weights lie differently in memory
    assert pipes[0].tokenizer.pad == pipes[1].tokenizer.pad and type(pipes[0].scheduler) is type(pipes[1].scheduler)


# ε or v


def v2_with_spread(path: Path, spread: float) -> Path:
    tensors = original_tensors("v2")
    shape = tensors[UNET_BIAS].shape
    tensors[UNET_BIAS] = spread * torch.tensor([-1.0, 1.0]).repeat(shape[0] // 2)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("spread", "prediction"), [(0.0, "epsilon"), (0.08, "epsilon"), (0.1, "v_prediction"), (0.3, "v_prediction")]
)
def test_a_v2_file_is_told_by_the_spread_of_one_tensor(tmp_path, small_presets, spread, prediction):
    pipe = load(v2_with_spread(tmp_path / "v2.safetensors", spread))
    assert pipe.scheduler.config.prediction_type == prediction
    assert type(pipe.scheduler) is {"epsilon": PNDMScheduler, "v_prediction": DDIMScheduler}[prediction]
    assert pipe.unet.config.sample_size == {"epsilon": 64, "v_prediction": 96}[prediction]


def test_a_guess_is_said(tmp_path, small_presets, recwarn):
    path = v2_with_spread(tmp_path / "v2.safetensors", 0.3)
    with pytest.warns(
        UserWarning, match=r"v2.safetensors is assumed to predict v_prediction, guessed .*; prediction_type=.* overrides it"
    ):
        load(path)
    recwarn.clear()
    load(path, prediction_type="v_prediction")
    (tmp_path / "v2.yaml").write_text("parameterization: v")
    load(path)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("yaml", "prediction"),
    [
        ('model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("model:\n  params:\n    parameterization: v\n", "v_prediction"),
        ('model:\n  params:\n    parameterization: "eps"\n', "epsilon"),
        ("model:\n  params:\n    linear_start: 0.00085\n", "epsilon"),
    ],
)
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_a_yaml_file_beside_it_has_precedence(tmp_path, small_presets, yaml, prediction, spread):
    (tmp_path / "v2.yaml").write_text(yaml)
    assert load(v2_with_spread(tmp_path / "v2.safetensors", spread)).scheduler.config.prediction_type == prediction


def test_the_sha256_of_an_official_file_has_precedence(tmp_path, small_presets, monkeypatch):
    """Loading knows it where the Hub's cache has named the file by it; converting reads the file for it."""
    path = v2_with_spread(tmp_path / "v2.safetensors", 0.3)
    (tmp_path / "v2.yaml").write_text('parameterization: "v"')
    digest = official.sha256(path)
    monkeypatch.setattr(official, "OFFICIAL", [official.OfficialFile("the one", path.stat().st_size, digest[:16], "epsilon")])
    assert load(path).scheduler.config.prediction_type == "v_prediction"
    (tmp_path / "blobs").mkdir()
    (tmp_path / "linked.safetensors").symlink_to(path.rename(tmp_path / "blobs" / digest))
    assert load(tmp_path / "linked.safetensors").scheduler.config.prediction_type == "epsilon"
    assert convert([str(tmp_path / "blobs" / digest), str(tmp_path / "out.safetensors")]) == 0
    assert load(tmp_path / "out.safetensors").scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_whoever_asks_has_the_last_word(original, tmp_path, prediction):
    pipe = load(original, prediction_type=prediction)
    assert pipe.scheduler.config.prediction_type == prediction
    convert([str(original), str(tmp_path / "out.safetensors"), "--prediction-type", prediction])
    assert load(tmp_path / "out.safetensors").scheduler.config.prediction_type == prediction
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[prediction]
    assert load(tmp_path / "out.safetensors", prediction_type=other).scheduler.config.prediction_type == other


def test_other_predictions_are_refused(original):
    with pytest.raises(ValueError, match='prediction_type must be "epsilon" or "v_prediction", not '):
        load(original, prediction_type="sample")


# The vocabulary


def test_v2_pads_with_an_exclamation_mark_whatever_the_vocabularys_folder_says(original, kind, tmp_path):
    small_tokenizer("v1").save_pretrained(tmp_path / "words")
    pipe = load(original, tokenizer=tmp_path / "words")
    assert pipe.tokenizer.pad == {"v1": END, "v2": "!"}[kind]
    assert pipe.tokenizer("a cat").input_ids[0, -1] == {"v1": pipe.tokenizer.end_id, "v2": 0}[kind]


def test_a_whole_checkpoint_has_a_vocabulary_too(original, folders):
    assert load(original, tokenizer=str(folders["v1"])).tokenizer.vocab == small_tokenizer("v1").vocab


def test_without_a_vocabulary_that_of_clip_comes_from_the_cache(original, tmp_path, monkeypatch):
    repo = tmp_path / "hub" / "models--openai--clip-vit-large-patch14"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    small_tokenizer("v1").save_pretrained(repo / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert StableDiffusionPipeline.from_single_file(original).tokenizer.vocab == small_tokenizer("v1").vocab


def test_where_there_is_no_vocabulary_it_is_said(original, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(
        CheckpointError, match=r'has no vocabulary; .*tokenizer="folder": "openai/clip-vit-large-patch14" is neither'
    ):
        StableDiffusionPipeline.from_single_file(original)
    with pytest.raises(CheckpointError, match=r'has no vocabulary; .*tokenizer="folder": .*merges.txt is missing'):
        StableDiffusionPipeline.from_single_file(original, tokenizer=tmp_path)


def test_another_models_vocabulary_is_refused(original, tmp_path):
    words = small_tokenizer("v1")
    CLIPTokenizer({**words.vocab, "more": len(words.vocab)}, words.merges).save_pretrained(tmp_path / "more")
    size = WORDS
    with pytest.raises(CheckpointError, match=f"more has a vocabulary of {size + 1} tokens, but the text encoder of .* has {size}"):
        load(original, tokenizer=tmp_path / "more")


# What can be asked


def test_a_minisd_file_needs_nothing_else(folders, kind, tmp_path):
    convert([str(folders[kind]), str(tmp_path / "mine.safetensors")])
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "mine.safetensors")
    expected = small_pipeline(kind)
    assert pipe.tokenizer.vocab == expected.tokenizer.vocab and pipe.tokenizer.pad == expected.tokenizer.pad
    assert pipe.scheduler.config == expected.scheduler.config
    for name in NETWORKS:
        ours, theirs = getattr(pipe, name), getattr(expected, name)
        assert ours.config == theirs.config
        assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_weights_are_cast_on_the_way_in(original, name):
    pipe = load(original, **{name: torch.bfloat16})
    assert {parameter.dtype for network in pipe.networks for parameter in network.parameters()} == {torch.bfloat16}
    whole = load(original)
    assert torch.equal(pipe.unet.conv_in.weight, whole.unet.conv_in.weight.bfloat16())


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, "float16"])
def test_dtypes_that_no_weights_have_are_refused(original, dtype):
    with pytest.raises(TypeError, match=r"dtype must be torch.float32, torch.float16 or torch.bfloat16, not"):
        load(original, dtype=dtype)


def test_a_file_in_several_dtypes_is_read_in_one(tmp_path, small_presets):
    tensors = original_tensors("v1")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not name.startswith("first_stage_model."):
            tensors[name] = tensor.half()
    save_file(tensors, tmp_path / "mixed.safetensors")
    pipe = load(tmp_path / "mixed.safetensors")
    assert {parameter.dtype for network in pipe.networks for parameter in network.parameters()} == {torch.float32}


def test_parts_can_be_given(original):
    scheduler = DDIMScheduler()
    assert load(original, scheduler=scheduler, safety_checker=None).scheduler is scheduler


@pytest.mark.parametrize("setting", ["variant", "revision"])
def test_a_file_has_no_variants(original, setting):
    with pytest.raises(ValueError, match="is a single file, which has no variants and no revisions; leave out 'fp16'"):
        StableDiffusionPipeline.from_pretrained(original, **{setting: "fp16"})


def test_inpainting_is_refused_and_converted(tmp_path, small_presets, capsys):
    path = write_original(tmp_path / "inpainting.safetensors", "v1", in_channels=9)
    assert convert([str(path), str(tmp_path / "out.safetensors")]) == 0
    for file in (path, tmp_path / "out.safetensors"):
        with pytest.raises(UnsupportedConfig, match=r"is for inpainting, with 9 .* load it with StableDiffusionInpaintPipeline"):
            load(file)


def test_the_command_line_takes_a_file(folders, tmp_path, capsys):
    convert([str(folders["v1"]), str(tmp_path / "mine.safetensors")])
    options = ["--model", str(tmp_path / "mine.safetensors"), "--steps", "2", "--out", str(tmp_path / "cat.png"), "--device", "cpu"]
    assert generate(["a cat", *options]) == 0
    assert (tmp_path / "cat.png").exists()


# In memory


def test_weights_stay_in_the_file_until_they_are_used(original, tmp_path):
    """Tensors are views of the mapped file: thirds of a fused tensor, too, and where official headers leave them unaligned."""
    content = original.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length] + b" " * 3
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    pipe, expected = load(odd), load(original)
    weights = [tensor for network in pipe.networks for tensor in network.parameters()]
    assert all(tensor.data_ptr() % 4 == 3 for tensor in weights)
    same = zip(weights, (tensor for network in expected.networks for tensor in network.parameters()))
    assert all(torch.equal(one, other) for one, other in same)
    x, context = randn(1, 4, 8, 8), randn(1, 77, pipe.unet.config.cross_attention_dim)
    assert distance(pipe.unet(x, 1, context).sample, expected.unet(x, 1, context).sample) <= 1e-5


def test_changing_weights_in_memory_leaves_the_file_alone(original):
    before = original.read_bytes()
    load(original).unet.conv_in.weight.zero_()
    assert original.read_bytes() == before


MEASURED = """
import sys, torch
from minisd import CLIPTokenizer, StableDiffusionPipeline

def own():  # memory that is not a file's, in MB
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024

before = own()
words = CLIPTokenizer({"<|startoftext|>": 0, "<|endoftext|>": 1}, [])
pipe = StableDiffusionPipeline.from_single_file(sys.argv[1], tokenizer=words)
print(own() - before)
"""


@pytest.fixture
def room(tmp_path):
    """A folder that is emptied as soon as the test is over: pytest would keep the gigabytes for a while."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc")
def test_full_size_files_give_the_references_networks(kind, room, measure):
    """The original layout, and the diffusers folder that the converter makes of it: 4.3 GB for v1, 5.2 GB for v2, each."""
    path = write_original(room / f"{kind}.safetensors", kind, small=False)
    program = [sys.executable, "-c", MEASURED, path]
    loading = subprocess.run(program, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert float(loading.stdout) < 100, "loading copies no weights"
    theirs = the_references_networks(kind, load_file(path))
    for name, share in distances(load(path), theirs, measure).items():
        assert share <= 1e-4, name
    words = room / "words"
    tokens = ["!", *(str(i) for i in range(49405)), "<|startoftext|>", END]
    CLIPTokenizer({token: i for i, token in enumerate(tokens)}, []).save_pretrained(words)
    assert convert([str(path), str(room / "folder"), "--to", "diffusers", "--tokenizer", str(words)]) == 0
    pipe = StableDiffusionPipeline.from_pretrained(room / "folder")
    for name, share in distances(pipe, theirs, measure).items():
        assert share <= 1e-4, name

"""`python -m weights_convert inspect`: what a file is, from its header, and every other kind by name."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import NETWORKS, SMALL, diffusers_tensors
from originals import OFFICIAL_SHAPES, averaged, bookkeeping, original_tensors, write_original
from safetensors.torch import save_file

from minisd.weights import official
from minisd.weights.checkpoint import read_any
from minisd.weights.save import write_minisd
from weights_convert.__main__ import main

ROOT = Path(__file__).parents[1]
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture
def inspect(capsys):
    """What the command says of a file: line by line, by the word that begins it."""

    def inspected(path: Path, *options: str) -> dict[str, str]:
        assert main(["inspect", str(path), *options]) == 0
        return {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}

    return inspected


def hollow(path: Path, kind: str, size: int = 0, **changed: list[int]) -> Path:
    """An official file with a hole where its tensors should be: it takes no room on the disk, and all its numbers are 0."""
    shapes = {name: (shape, "F32") for name, shape in (OFFICIAL_SHAPES["single file"][kind] | changed).items()}
    words = {torch.int64: "I64", torch.int32: "I32", torch.float32: "F32"}
    shapes |= {name: (list(tensor.shape), words[tensor.dtype]) for name, tensor in bookkeeping(kind).items()}
    header, end = {}, 0
    for name, (shape, word) in sorted(shapes.items()):
        begin, end = end, end + torch.Size(shape).numel() * (8 if word == "I64" else 4)
        header[name] = {"dtype": word, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text = text.ljust(size - 8 - end)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def test_a_file_of_four_gigabytes_is_told_by_its_header(inspect, tmp_path):
    said = inspect(hollow(tmp_path / "mine.safetensors", "v1", 4_265_146_304))
    assert said["file"] == "mine.safetensors: 4,265,146,304 bytes, 1,145 tensors, 1,066,247,386 numbers"
    assert said["dtypes"] == "F32 × 1,143, I64 × 1, I32 × 1"
    assert said["kind"] == "Stable Diffusion v1, a single file in the original layout"
    assert set(said["parts"].split(", ")) == {"text_encoder 196", "vae 248", "unet 686"}
    assert said["not needed"] == "alphas_cumprod, alphas_cumprod_prev, betas and 12 more"
    assert (said["predicts"], said["EMA"]) == ("epsilon (every official v1 predicts ε)", "no second UNet")
    assert said["official"] == "same size as v1-5-pruned-emaonly.safetensors; --full compares the sha256"
    assert {said[head] for head in ("missing", "unexpected", "misshaped", "mistyped")} == {"none"}


def test_a_v2_file(inspect, tmp_path):
    said = inspect(hollow(tmp_path / "mine.safetensors", "v2", 5_214_604_494))
    assert said["file"].startswith("mine.safetensors: 5,214,604,494 bytes, 1,242 tensors")
    assert said["kind"].startswith("Stable Diffusion v2, a single file")
    assert set(said["parts"].split(", ")) == {"text_encoder 372", "vae 248", "unet 686"}
    assert re.fullmatch(
        r"epsilon \(guessed from the weights: unet\..*norm1.bias has a standard deviation of 0.000, v-models more.*\)",
        said["predicts"],
    )
    sizes = "v2-1_768-ema-pruned.safetensors and v2-1_512-ema-pruned.safetensors"
    assert said["official"] == f"same size as {sizes}; --full compares the sha256"


def test_an_instruct_pix2pix_file(inspect, tmp_path):
    said = inspect(hollow(tmp_path / "mine.safetensors", "v1", **{FIRST: [320, 8, 3, 3]}))
    assert said["kind"] == "Stable Diffusion v1, editing by instruction, a single file in the original layout"


def test_an_inpainting_file(inspect, tmp_path):
    said = inspect(hollow(tmp_path / "mine.safetensors", "v1", **{FIRST: [320, 9, 3, 3]}))
    assert said["kind"] == "Stable Diffusion v1, inpainting, a single file in the original layout"
    assert said["misshaped"] == "none"


def test_a_moving_average_beside_the_weights(inspect, tmp_path, small_presets):
    save_file(averaged(original_tensors("v1")), tmp_path / "both.safetensors")
    assert inspect(tmp_path / "both.safetensors")["EMA"] == "also has a moving average of the UNet; --averaged selects it"


def test_what_is_wrong_is_named_in_the_files_own_words(inspect, tmp_path, small_presets):
    tensors = original_tensors("v2")
    del tensors["cond_stage_model.model.transformer.resblocks.3.attn.in_proj_bias"], tensors["first_stage_model.quant_conv.bias"]
    tensors["model.diffusion_model.out.2.bias"] = torch.zeros(5)
    tensors["model.diffusion_model.out.2.weight"] = tensors["model.diffusion_model.out.2.weight"].int()
    tensors |= {"model.diffusion_model.more": torch.zeros(1), "somewhere.else": torch.zeros(1)}
    save_file(tensors, tmp_path / "bad.safetensors")
    said = inspect(tmp_path / "bad.safetensors")
    missing = {"first_stage_model.quant_conv.bias", "cond_stage_model.model.transformer.resblocks.3.attn.in_proj_bias"}
    assert set(said["missing"].split(", ")) == missing
    assert set(said["unexpected"].split(", ")) == {"model.diffusion_model.more", "somewhere.else"}
    assert said["misshaped"] == "model.diffusion_model.out.2.bias has (5,) instead of (4,)"
    assert said["mistyped"] == "model.diffusion_model.out.2.weight is stored as I32"


def test_a_minisd_file(inspect, folders, tmp_path, kind):
    assert main([str(folders[kind]), str(tmp_path / "mine.safetensors")]) == 0
    inspected = inspect(tmp_path / "mine.safetensors")
    assert inspected["kind"] == "a minisd checkpoint" and inspected["missing"] == inspected["not needed"] == "none"
    expected = {"v1": "epsilon", "v2": "v_prediction"}[kind]
    assert inspected["predicts"] == f"{expected} (according to scheduler/scheduler_config.json)"


@pytest.mark.parametrize("settings", ["[]", "{", None])
def test_a_minisd_file_whose_sampler_has_no_settings(folders, tmp_path, capsys, settings):
    checkpoint = read_any(folders["v1"])
    del checkpoint.files["scheduler/scheduler_config.json"]
    if settings:
        checkpoint.files["scheduler/scheduler_config.json"] = settings
    write_minisd(checkpoint, tmp_path / "mine.safetensors")
    assert main(["inspect", str(tmp_path / "mine.safetensors")]) == 1
    assert "error: the checkpoint's scheduler/scheduler_config.json" in capsys.readouterr().err


def test_a_pickle(inspect, tmp_path, small_presets):
    torch.save({"state_dict": original_tensors("v1")}, tmp_path / "model.ckpt")
    assert inspect(tmp_path / "model.ckpt")["kind"].startswith("Stable Diffusion v1, a single file")


OTHERS = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": "a LoRA, which changes a checkpoint",
    "unet.down_blocks.0.attentions.0.processor.to_q_lora.down.weight": "a LoRA, which changes a checkpoint",
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": "Stable Diffusion XL; minisd supports v1 and v2",
    "add_embedding.linear_1.weight": "the UNet of Stable Diffusion XL",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
    "double_blocks.0.img_attn.qkv.weight": "a Flux model",
    "control_model.input_hint_block.0.weight": "a ControlNet",
    "model.diffusion_model.label_emb.0.0.weight": "a class-conditional UNet",
    "emb_params": "a textual inversion",
    "anything": f"not a Stable Diffusion checkpoint: it lacks {FIRST} and contains anything",
}


@pytest.mark.parametrize(("name", "sentence"), OTHERS.items())
def test_other_kinds_are_recognised(inspect, tmp_path, name, sentence):
    save_file({name: torch.zeros(4, 4)}, tmp_path / "other.safetensors")
    assert inspect(tmp_path / "other.safetensors")["kind"].startswith(sentence)


LORA, WORD = "a LoRA, which changes a checkpoint: ", "a textual inversion, a word for a checkpoint: "
V1, V2 = "for Stable Diffusion v1 (768 text channels)", "for Stable Diffusion v2 (1024 text channels)"
TO_K = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
FIGURES = {
    "kohya": (
        {f"lora_unet_{TO_K}.lora_down.weight": (8, 768), f"lora_unet_{TO_K}.alpha": (),
         "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768)},
        f"{LORA}rank 4 to 8, 1 layer of the UNet and 1 layer of the text encoder, {V1}",
    ),
    "diffusers": (
        {f"up_blocks.1.attn2.processor.to_k_lora.{name}.weight": (4, 1024)[::way] for name, way in (("down", 1), ("up", -1))},
        f"{LORA}rank 4, 1 layer of the UNet, {V2}",
    ),
    "PEFT": ({"unet.down.to_k.lora_A.weight": (4, 2048)}, f"{LORA}rank 4, 1 layer of the UNet, for Stable Diffusion XL (2048 text"),
    "by number": ({"unet:0:down": (1, 320), "text_encoder:0:down": (1, 768), "<s1>": (768,)}, f"{LORA}rank 1, 1 layer of the U"),
    "LoHa": ({f"lora_unet_{TO_K}.hada_w1_b": (4, 768)}, f"{LORA}rank 4, 1 layer of the UNet, {V1}"),
    "a convolution": ({"lora_unet_conv_in.lora_down.weight": (4, 4, 3, 3)}, f"{LORA}rank 4, 1 layer of the UNet, for an unknown"),
    "a word": ({"<toy>": (768,)}, f"{WORD}1 vector of 768 numbers, {V1}"),
    "vectors": ({"emb_params": (8, 1024)}, f"{WORD}8 vectors of 1024 numbers, {V2}"),
    "XL's words": ({"clip_l": (2, 768), "clip_g": (2, 1280)}, f"{WORD}4 vectors of 768 and 1280 numbers"),
    "ControlNet": (
        {"control_model.input_hint_block.0.weight": (16, 3, 3, 3), "control_model.input_blocks.1.1.attn2.to_k.weight": (320, 768)},
        f"a ControlNet, which steers a checkpoint with images of 3 channels, {V1}",
    ),
    "diffusers' ControlNet": (
        {"controlnet_cond_embedding.conv_in.weight": (16, 1, 3, 3), "down_blocks.0.attn2.to_k.weight": (320, 1024)},
        f"a ControlNet, which steers a checkpoint with images of 1 channel, {V2}",
    ),
    "VAE": (
        {"decoder.mid.block_1.conv1.weight": (4, 4, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)},
        "only a VAE, without a UNet and a text encoder: 4 latent channels, 512 channels at its widest",
    ),
    "diffusers' VAE": (
        {"decoder.mid_block.resnets.0.conv1.weight": (4, 4, 3, 3), "decoder.conv_in.weight": (512, 16, 3, 3)},
        "the VAE of a diffusers folder: 16 latent channels, 512 channels at its widest",
    ),
    "previews": ({"conv1.weight": (8, 4, 7, 7), "conv8.weight": (3, 8, 3, 3)}, "a small decoder of latents (VAE approx)"),
}  # fmt: skip


@pytest.mark.parametrize(("shapes", "sentence"), FIGURES.values(), ids=FIGURES)
def test_files_beside_checkpoints_are_told_with_their_figures(inspect, tmp_path, shapes, sentence):
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "other.safetensors")
    torch.save(tensors, tmp_path / "other.pt")
    assert inspect(tmp_path / "other.safetensors")["kind"].startswith(sentence)
    assert inspect(tmp_path / "other.pt")["kind"].startswith(sentence)


def test_a_textual_inversion_of_a1111(inspect, tmp_path):
    vectors = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.zeros(2, 768))})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": vectors, "name": "toy"}, tmp_path / "toy.pt")
    assert inspect(tmp_path / "toy.pt")["kind"] == f"{WORD}2 vectors of 768 numbers, {V1}"


@pytest.mark.parametrize(("channels", "sentence"), [(5, "a depth-to-image model"), (7, "an upscaler"), (6, "no")])
def test_other_tasks_are_recognised(inspect, tmp_path, channels, sentence):
    said = inspect(hollow(tmp_path / "mine.safetensors", "v1", **{FIRST: [320, channels, 3, 3]}))
    assert said["kind"].startswith(sentence) and f"{channels} input channels" in said["kind"]


@pytest.mark.parametrize(
    ("part", "sentence"), [("unet", "the UNet of"), ("vae", "the VAE of"), ("text_encoder", "only a CLIP text encoder")]
)
def test_the_parts_of_a_folder_are_recognised(inspect, tmp_path, part, sentence):
    save_file(diffusers_tensors(part, SMALL["v1"][part]), tmp_path / "part.safetensors")
    assert inspect(tmp_path / "part.safetensors")["kind"].startswith(sentence)
    assert part in NETWORKS


def test_every_byte_is_read_if_asked(inspect, tmp_path, monkeypatch, small_presets):
    path = write_original(tmp_path / "model.safetensors", "v1")
    said = inspect(path, "--full")
    assert said["weights"] == "all finite" and said["official"].endswith("none of the official files")
    digest = official.sha256(path)
    monkeypatch.setattr(official, "OFFICIAL", [official.OfficialFile("the one", path.stat().st_size, digest[:16])])
    assert inspect(path, "--full")["official"] == f"sha256 {digest}: the one"


def test_nan_is_found_if_asked(inspect, tmp_path, small_presets):
    tensors = original_tensors("v1")
    tensors["first_stage_model.quant_conv.bias"].fill_(float("nan"))
    save_file(tensors, tmp_path / "bad.safetensors")
    assert "weights" not in inspect(tmp_path / "bad.safetensors")
    assert inspect(tmp_path / "bad.safetensors", "--full")["weights"] == "NaN or infinity in first_stage_model.quant_conv.bias"


def test_the_hubs_cache_names_files_by_their_sha256(inspect, tmp_path, small_presets):
    blob = write_original(tmp_path / ("6ce0161689b3853a" + 48 * "0"), "v1")
    (tmp_path / "model.safetensors").symlink_to(blob)
    said = inspect(tmp_path / "model.safetensors")["official"]
    assert said == f"sha256 {blob.name}: v1-5-pruned-emaonly.safetensors"


@pytest.mark.parametrize(
    "arguments", [[], ["one"], ["inspect"], ["a", "b", "--to", "onnx"], ["a", "b", "--dtype", "int8"], ["a", "b", "c"]]
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith("usage: python -m weights_convert")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "out"], "error: nowhere does not exist; pass an existing file or folder"),
        (["inspect", "nowhere"], "error: cannot read nowhere: No such file or directory"),
        (["inspect", "."], "error: . is a folder; pass a file in it"),
    ],
)
def test_sources_that_are_not_there(arguments, sentence, capsys):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == sentence + "\n"


def test_the_command_runs_as_a_program(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello, this is a text")
    run = subprocess.run(
        [sys.executable, "-m", "weights_convert", "inspect", tmp_path / "text.safetensors"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr == f"error: {tmp_path / 'text.safetensors'} is damaged or not a safetensors file: it is a text\n"

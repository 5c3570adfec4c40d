"""Bad single files: each is refused in one sentence that says what it is and what to do, and nothing is loaded."""

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from helpers import small_tokenizer
from originals import bookkeeping, original_tensors, write_original
from safetensors.torch import load_file, save_file

from minisd import CheckpointError, CLIPTextModel, StableDiffusionPipeline, UNet2DConditionModel
from minisd.config import SD1_TEXT, SD1_VAE
from minisd.generate import main as generate
from minisd.weights.generations import GENERATIONS, Generation
from weights_convert.__main__ import main as convert

UNET = "model.diffusion_model."
TO_K = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.k_proj.weight"


@pytest.fixture
def file(tmp_path, small_presets) -> Path:
    """A v1 file to do harm to."""
    return write_original(tmp_path / "v1.safetensors", "v1")


def refused(path: Path, sentence: str):
    """Every way in says the same, in one line."""
    words = small_tokenizer("v1")
    for load in (StableDiffusionPipeline.from_single_file, StableDiffusionPipeline.from_pretrained):
        with pytest.raises(CheckpointError, match=re.escape(sentence)) as caught:
            load(path, tokenizer=words)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# Damage


def test_a_truncated_file(file):
    whole = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(whole - 1000)
    refused(file, f"is damaged or not a safetensors file: it has {whole - 1000:,} bytes instead of {whole:,}; get it again")


def test_a_file_that_goes_on_after_its_end(file):
    whole = file.stat().st_size
    with file.open("ab") as opened:
        opened.write(b"more")
    refused(file, f"it has {whole + 4:,} bytes instead of {whole:,}; get it again")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"\1", "its header would extend beyond its end"),
        (struct.pack("<Q", 10**6) + b'{"a": 1}', "its header would extend beyond its end"),
        (struct.pack("<Q", 2**63) + b"{}", "its header would extend beyond its end"),
        (b"The quick brown fox jumps over the lazy dog.\n", "it is a text"),
        (b"<!DOCTYPE html><html>404</html>", "it is a text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "it is a Git LFS pointer"),
        (b"PK\3\4 a zip archive", "it is a pickle, which can run code; convert it safely with `python -m weights_convert"),
        (b"\x80\2}q\0. a pickle", "it is a pickle, which can run code"),
        (struct.pack("<Q", 8) + b"not JSON", "its header cannot be read; get it again"),
        (struct.pack("<Q", 2) + b"[]", "its header cannot be read; get it again"),
        (struct.pack("<Q", 2) + b"\xff\xff", "its header cannot be read; get it again"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "its header cannot be read; get it again"),
    ],
)
def test_what_is_no_safetensors_file(tmp_path, content, sentence):
    (tmp_path / "bad.safetensors").write_bytes(content)
    refused(tmp_path / "bad.safetensors", f"is damaged or not a safetensors file: {sentence}")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": [3]}, "its header is inconsistent"),
        ({"dtype": "F16"}, "its header is inconsistent"),
        ({"shape": [-2]}, "its header is inconsistent"),
        ({"data_offsets": [-8, 8], "shape": [4]}, "its header is inconsistent"),
        ({"data_offsets": [8, 16]}, "it has "),
        ({"shape": [-1, -2]}, "its header is inconsistent"),
        ({"shape": [2.0]}, "its header is inconsistent"),
        ({"data_offsets": [0.0, 8.0]}, "its header is inconsistent"),
        ({"dtype": "F99"}, "its header cannot be read; get it again"),
        ({"data_offsets": [0]}, "its header cannot be read; get it again"),
        ({"data_offsets": "no"}, "its header cannot be read; get it again"),
    ],
)
def test_headers_that_contradict_themselves(tmp_path, changes, sentence):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()
    (tmp_path / "bad.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused(tmp_path / "bad.safetensors", sentence)


@pytest.mark.parametrize(
    "entries",
    [
        {"__metadata__": 5},
        {"__metadata__": None},
        {"__metadata__": {"format": 5}},
        {"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    ],
    ids=["a number", "null", "no text", "the same bytes twice", "some bytes twice"],
)
def test_notes_that_are_none_and_tensors_that_overlap(tmp_path, entries):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, **entries}).encode()
    (tmp_path / "bad.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused(tmp_path / "bad.safetensors", "its header is inconsistent")


def test_a_pickle_that_is_damaged(tmp_path, capsys):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt").write_bytes((tmp_path / "model.ckpt").read_bytes()[:500])
    (tmp_path / "other.ckpt").write_bytes(b"\x80\2nothing")
    (tmp_path / "type.ckpt").write_bytes(b"\x80\2ccollections\nOrderedDict\nK\1\x85R.")  # OrderedDict(1)
    (tmp_path / "cut.ckpt").write_bytes(b"\x80\2J")
    torch.save([1, 2, 3], tmp_path / "list.ckpt")
    torch.save({"state_dict": [1, 2, 3]}, tmp_path / "nested.ckpt")
    torch.save({1: torch.zeros(1)}, tmp_path / "nameless.ckpt")
    for name, sentence in (
        ("model", "is damaged or not a pickle of"),
        ("other", "is damaged or not a pickle of"),
        ("type", "is damaged or not a pickle of"),
        ("cut", "is damaged or not a pickle of"),
        ("list", "contains no named"),
        ("nested", "contains no named"),
        ("nameless", "contains no named"),
    ):
        assert convert([str(tmp_path / f"{name}.ckpt"), str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path / name}.ckpt {sentence} tensors") and error.count("\n") == 1


# Whole files, of the wrong kind


OTHERS = {
    "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": "is a LoRA, which changes a checkpoint but is not one itself",
    "conditioner.embedders.0.model.ln_final.weight": "is Stable Diffusion XL; minisd supports v1 and v2",
    "control_model.input_blocks.0.0.weight": "is a ControlNet, which steers a checkpoint but is not one itself",
    "time_embedding.linear_1.weight": "is the UNet of a diffusers folder; pass the folder that contains all components",
    "first_stage_model.decoder.mid.block_1.conv1.weight": "is only a VAE, without a UNet and a text encoder",
    "anything.else": "is not a Stable Diffusion checkpoint: it lacks model.diffusion_model.input_blocks.0.0.weight and contains",
}


@pytest.mark.parametrize(("name", "sentence"), OTHERS.items())
def test_other_kinds_of_files(tmp_path, name, sentence):
    save_file({name: torch.zeros(4, 4)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", sentence)


def test_stable_diffusion_xl_in_the_original_layout(file):
    """It has the names of v1 and v2, too."""
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file({**tensors, "conditioner.embedders.1.model.ln_final.weight": torch.zeros(4)}, file)
    refused(file, "is Stable Diffusion XL; minisd supports v1 and v2")


def test_text_states_of_an_unknown_width(file, monkeypatch):
    official = Generation({}, SD1_VAE, SD1_TEXT, "!")
    monkeypatch.setitem(GENERATIONS, "v1", official)
    refused(file, "is not Stable Diffusion v1 or v2: it has 4 input channels and 48 text channels")


def test_a_depth_to_image_file(tmp_path, small_presets):
    path = write_original(tmp_path / "depth.safetensors", "v2", in_channels=5)
    refused(path, "is a depth-to-image model, since it has 5 input channels; minisd has no pipeline for it")


# Right kind, wrong tensors


HARM = {
    "missing": (lambda t: t.pop(UNET + "out.2.bias"), f"does not fit Stable Diffusion v1: it lacks {UNET}out.2.bias"),
    "many missing": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith("first_stage_model.decoder")],
        "it lacks first_stage_model.decoder.conv_in.bias, first_stage_model.decoder.conv_in.weight, "
        "first_stage_model.decoder.conv_out.bias and 135 more",
    ),
    "off by one": (
        lambda t: t.update({UNET + "time_embed.0.weight": torch.zeros(33, 8)}),
        "shapes differ: model.diffusion_model.time_embed.0.weight has (33, 8) instead of (32, 8)",
    ),
    "transposed": (lambda t: t.update({TO_K: torch.zeros(48, 49)}), "k_proj.weight has (48, 49) instead of (48, 48)"),
    "whole numbers": (
        lambda t: t.update({TO_K: torch.zeros(48, 48, dtype=torch.int64)}),
        f"not stored as weights: {TO_K} is stored as I64",
    ),
    "another schedule": (
        lambda t: t.update(alphas_cumprod=torch.linspace(1, 0, 1000)),
        "was trained with a noise schedule (alphas_cumprod) other than Stable Diffusion's",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "sentence"), HARM.values(), ids=HARM)
def test_tensors_that_do_not_fit(file, harm, sentence):
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    harm(tensors)
    save_file(tensors, file)
    refused(file, sentence)


def test_a_fused_tensor_is_named_once(tmp_path, small_presets):
    tensors = original_tensors("v2")
    name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    tensors[name] = torch.zeros(3 * 64 + 1, 64)
    save_file(tensors, tmp_path / "v2.safetensors")
    refused(
        tmp_path / "v2.safetensors", f"does not fit Stable Diffusion v2: shapes differ: {name} has (193, 64) instead of (192, 64)"
    )


def test_a_file_without_its_bookkeeping_is_whole(tmp_path, small_presets):
    tensors = {name: tensor for name, tensor in original_tensors("v1").items() if name not in bookkeeping("v1")}
    save_file(tensors, tmp_path / "pruned.safetensors")
    assert StableDiffusionPipeline.from_single_file(tmp_path / "pruned.safetensors", tokenizer=small_tokenizer("v1"))


# minisd's own files


def changed(path: Path, change) -> Path:
    """The file with other notes in its header."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return path


def altered(path: str, text: object):
    """One of its small files says something else, or, for None, is not there."""

    def change(metadata: dict[str, str]):
        about = json.loads(metadata["minisd"])
        about["files"][path] = text
        if text is None:
            del about["files"][path]
        metadata["minisd"] = json.dumps(about)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(minisd="{"), "is damaged: its description of itself is not valid JSON"),
        (lambda m: m.update(minisd="{}"), "is damaged: its description of itself: files is missing"),
        (altered("../config.json", "{}"), "is damaged or malicious: it claims to contain '../config.json'"),
        (altered("/tmp/config.json", "{}"), "is damaged or malicious: it claims to contain '/tmp/config.json'"),
        (altered("unet/config.py", "{}"), "is damaged or malicious: it claims to contain 'unet/config.py'"),
        (altered("unet/config.json", None), "is incomplete: it has no unet/config.json"),
        (altered("vae/config.json", None), "is incomplete: it has no vae/config.json"),
        (altered("vae/config.json", 5), "is damaged: its description of itself: files = "),
        (lambda m: m.pop("minisd"), "is not a Stable Diffusion"),
        (
            lambda m: m.update(minisd='{"files": []}'),
            "is damaged: its description of itself: files = [] is not an object, each value a string",
        ),
        (altered("defaults.json", '{"foo": 1}'), "defaults.json has 'foo', which is not a default of a pipeline"),
        (altered("unet/config.json", "[]"), "is damaged: its unet/config.json must contain a JSON object, not []"),
    ],
)
def test_minisd_files_with_a_damaged_description(folders, tmp_path, change, sentence):
    convert([str(folders["v1"]), str(tmp_path / "mine.safetensors")])
    refused(changed(tmp_path / "mine.safetensors", change), sentence)


@pytest.mark.parametrize("path", ["model_index.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "is missing"),
        ("{", "is not valid JSON"),
        ("[1]", "must contain a JSON object, not [1]"),
    ],
)
def test_minisd_files_without_a_needed_description(folders, tmp_path, path, text, sentence):
    convert([str(folders["v1"]), str(tmp_path / "mine.safetensors")])
    changed(tmp_path / "mine.safetensors", altered(path, text))
    with pytest.raises(CheckpointError, match=re.escape(f"the checkpoint's {path} {sentence}")):
        StableDiffusionPipeline.from_single_file(tmp_path / "mine.safetensors")


# Folders


def test_weights_of_whole_numbers_in_a_folder(folders, tmp_path):
    tensors = {name: tensor.clone() for name, tensor in load_file(folders["v1"] / "text_encoder" / "model.safetensors").items()}
    name = "text_model.final_layer_norm.bias"
    tensors[name] = tensors[name].to(torch.int32)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.json").write_text((folders["v1"] / "text_encoder" / "config.json").read_text())
    save_file(tensors, tmp_path / "part" / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"does not fit the network: not stored as weights: text_model.final_layer_norm.bias is stored as I32"
    ):
        CLIPTextModel.from_pretrained(tmp_path / "part")


def test_a_file_where_a_part_should_be(file):
    with pytest.raises(CheckpointError, match="is neither a checkpoint folder"):
        UNet2DConditionModel.from_pretrained(file)


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    (tmp_path / "text.safetensors").write_text("hello")
    assert generate(["a cat", "--model", str(tmp_path / "text.safetensors"), "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines()[-1] == (
        f"error: {tmp_path / 'text.safetensors'} is damaged or not a safetensors file: it is a text"
    )
    assert "Traceback" not in captured.err

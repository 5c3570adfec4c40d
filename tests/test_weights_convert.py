"""Names of every layout, both ways, and the converter, which writes all or nothing."""

import json
import os
import re
import resource
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import NETWORKS, OFFICIAL, small_tokenizer, small_vocabulary
from originals import OFFICIAL_SHAPES, averaged, original_tensors, write_original
from safetensors.torch import load_file, save_file

from minisd import StableDiffusionPipeline
from minisd.safety_checker import SafetyCheckerConfig
from minisd.weights import fill
from minisd.weights.checkpoint import read_any
from minisd.weights.errors import CheckpointError
from minisd.weights.fill import described, shapes_of
from minisd.weights.names import diffusers_name, diffusers_places
from minisd.weights.original_names import averaged_places, original_name, original_places
from minisd.weights.pickles import Inert, read_pickle
from minisd.weights.settings import config_json
from weights_convert.__main__ import main

UNET = "unet/diffusion_pytorch_model.safetensors"
PARTS = [(kind, part) for kind, parts in OFFICIAL_SHAPES["diffusers"].items() for part in parts]


def settings(kind: str, part: str) -> dict:
    if part == "safety_checker":
        return config_json(SafetyCheckerConfig())
    channels = {"in_channels": 9} if kind.endswith("inpainting") else {}
    return OFFICIAL[kind.split()[0]][part] | channels


def expected_shapes(kind: str, part: str) -> dict[str, tuple[int, ...]]:
    return shapes_of(described(fill.NETWORKS[part].network, settings(kind, part), part))


# Names


def test_every_name_of_a_single_file_goes_there_and_back(kind):
    names = OFFICIAL_SHAPES["single file"][kind]
    places, unexpected = original_places(names, kind)
    expected = {f"{part}.{name}": shape for part in NETWORKS for name, shape in expected_shapes(kind, part).items()}
    assert unexpected == [] and places.keys() == expected.keys()
    assert len(places) == {"v1": 1130, "v2": 1306}[kind]
    assert len(set(places.values())) == len(places)
    for native, (name, third) in places.items():
        assert original_name(native, kind) == name
        rows, *rest = names[name]
        shape = (rows if third is None else rows // 3, *rest)
        assert shape in (expected[native], (*expected[native], 1, 1)), name


def test_what_a_v2_file_holds_and_nobody_needs():
    names = OFFICIAL_SHAPES["single file"]["v2"]
    used = {place.name for place in original_places(names, "v2")[0].values()}
    ignored = names.keys() - used
    assert len(ignored) == 13 and all("resblocks.23." in name or name.endswith("text_projection") for name in ignored)


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_every_name_of_a_diffusers_folder_goes_there_and_back(kind, part):
    shapes = {name: tuple(shape) for name, shape in OFFICIAL_SHAPES["diffusers"][kind][part].items()}
    places, repeated = diffusers_places(part, shapes)
    assert repeated == [] and len(places) == len(shapes) == {"unet": 686, "vae": 248, "safety_checker": 396}.get(part, len(shapes))
    expected = expected_shapes(kind, part)
    assert places.keys() == expected.keys()
    prefix = {"text_encoder": "text_model."}.get(part, "")  # the list was made without it; it is written with it
    for native, (name, _) in places.items():
        doubled = name.replace("vision_model.", "vision_model.vision_model.") if part == "safety_checker" else prefix + name
        assert diffusers_name(part, native) == doubled
        assert shapes[name] in (expected[native], (*expected[native], 1, 1))


@pytest.mark.parametrize(("old", "new"), [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")])
def test_the_official_float32_vaes_have_older_names(old, new):
    name = "encoder.mid_block.attentions.0.{}.weight"
    assert diffusers_places("vae", [name.format(old)])[0].keys() == diffusers_places("vae", [name.format(new)])[0].keys()
    assert diffusers_places("vae", [name.format(old), name.format(new)])[1] == [name.format(new)]


def test_names_of_the_moving_average_are_distinct(kind):
    names = OFFICIAL_SHAPES["single file"][kind]
    places = averaged_places(original_places(names, kind)[0])
    copies = {place.name for place in places.values() if place.name.startswith("model_ema.")}
    assert len(copies) == 686 and "model_ema.diffusion_modelinput_blocks00weight" in copies


# Converting


def converted(source: Path, out: Path, *options: str) -> Path:
    assert main([str(source), str(out), *options]) == 0
    return out


@pytest.fixture
def original(kind, tmp_path, small_presets):
    return write_original(tmp_path / f"{kind}.safetensors", kind)


@pytest.fixture
def vocabulary(tmp_path):
    small_tokenizer("v1").save_pretrained(tmp_path / "vocabulary")
    return str(tmp_path / "vocabulary")


def test_an_original_file_becomes_a_minisd_file(original, kind, tmp_path, vocabulary, capsys):
    out = converted(original, tmp_path / "out.safetensors", "--tokenizer", vocabulary)
    assert {"v1": "predicts epsilon (every", "v2": "predicts v_prediction (guessed"}[kind] in capsys.readouterr().out
    before, after = read_any(original), read_any(out)
    assert list(after.tensors) == list(before.tensors) == list(load_file(out))
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    new = {"tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"}
    assert after.files.keys() - before.files.keys() == new
    assert after.json("tokenizer/special_tokens_map.json")["pad_token"] == {"v1": "<|endoftext|>", "v2": "!"}[kind]
    assert after.decided == before.decided


def test_every_form_leads_to_every_other(original, kind, tmp_path, vocabulary):
    """Original → minisd → diffusers → minisd: the last is the first, to the byte."""
    first = converted(original, tmp_path / "1.safetensors", "--tokenizer", vocabulary)
    folder = converted(first, tmp_path / "folder", "--to", "diffusers")
    again = converted(folder, tmp_path / "2.safetensors")
    tensors, expected = load_file(again), load_file(first)
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert read_any(again).files == read_any(first).files
    proj_in = load_file(folder / UNET)["down_blocks.0.attentions.0.proj_in.weight"]
    assert proj_in.ndim == {"v1": 4, "v2": 2}[kind]


def test_a_folder_that_minisd_saved_is_converted(folders, kind, tmp_path):
    out = converted(folders[kind], tmp_path / "out.safetensors")
    pipes = [StableDiffusionPipeline.from_pretrained(source) for source in (folders[kind], out)]
    pictures = []
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
        pictures.append(pipe("a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images)
    assert torch.equal(*pictures)
    assert pipes[1].tokenizer.pad == small_tokenizer(kind).pad


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_are_cast(original, tmp_path, dtype):
    tensors = load_file(converted(original, tmp_path / "out.safetensors", "--dtype", dtype))
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    whole = read_any(original).tensors
    assert all(torch.equal(tensor, whole[name].to(tensor.dtype)) for name, tensor in tensors.items())


def test_the_moving_average_is_taken_if_asked(tmp_path, small_presets):
    tensors = averaged(original_tensors("v1"))
    save_file(tensors, tmp_path / "both.safetensors")
    name, native = "diffusion_model.out.2.weight", "unet.conv_out.weight"
    plain = load_file(converted(tmp_path / "both.safetensors", tmp_path / "1.safetensors"))[native]
    mean = load_file(converted(tmp_path / "both.safetensors", tmp_path / "2.safetensors", "--averaged"))[native]
    assert torch.equal(plain, tensors["model." + name])
    assert torch.equal(mean, tensors["model_ema." + name.replace(".", "")]) and not torch.equal(mean, plain)


def test_a_moving_average_that_is_not_there(original, tmp_path, capsys):
    assert main([str(original), str(tmp_path / "out"), "--averaged"]) == 1
    assert "has no moving average of the UNet: it lacks model_ema.diffusion_model" in capsys.readouterr().err


def test_the_moving_average_is_refused_where_there_cannot_be_one(folders, tmp_path, capsys):
    mine = converted(folders["v1"], tmp_path / "mine.safetensors")
    for source in (mine, folders["v1"]):
        assert main([str(source), str(tmp_path / "out"), "--averaged"]) == 1
        sentence = f"error: {source} has no moving average; --averaged is for original single files\n"
        assert capsys.readouterr().err == sentence and not (tmp_path / "out").exists()


def beginning_with(start: bytes, path: Path) -> Path:
    """The same file with as many more spaces in its header that the number for its length begins with these bytes."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    longer = length + (int.from_bytes(start, "little") - length) % 256 ** len(start)
    odd = path.with_name("odd.safetensors")
    odd.write_bytes(struct.pack("<Q", longer) + content[8 : 8 + length].ljust(longer) + content[8 + length :])
    assert odd.read_bytes().startswith(start)
    return odd


@pytest.mark.parametrize("start", [b"\x80", b"PK"], ids=["pickle", "zip"])
def test_a_safetensors_file_may_begin_as_pickles_do(folders, tmp_path, capsys, start):
    mine = converted(folders["v1"], tmp_path / "mine.safetensors")
    expected = read_any(mine)
    odd = beginning_with(start, mine)
    assert main(["inspect", str(odd)]) == 0 and "a minisd checkpoint" in capsys.readouterr().out
    again = read_any(converted(odd, tmp_path / "again.safetensors"))
    assert again.files == expected.files and again.decided == expected.decided
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in expected.tensors.items())
    capsys.readouterr()
    odd.write_bytes(odd.read_bytes()[:-100])
    for command in (["inspect", str(odd)], [str(odd), str(tmp_path / "out")]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {odd} is damaged or not a safetensors file: it has ") and error.count("\n") == 1


def test_a_pickle_of_tensors_is_converted(original, kind, tmp_path):
    tensors = load_file(original)
    torch.save({"state_dict": tensors, "global_step": 875000, "epoch": 3}, tmp_path / "model.ckpt")
    out = load_file(converted(tmp_path / "model.ckpt", tmp_path / "out.safetensors"))
    expected = read_any(original).tensors
    assert out.keys() == expected.keys() and all(torch.equal(out[name], expected[name]) for name in expected)


def test_a_pickle_of_the_older_kind_is_converted(tmp_path, small_presets):
    torch.save(original_tensors("v1"), tmp_path / "model.ckpt", _use_new_zipfile_serialization=False)
    assert read_any(tmp_path / "model.ckpt").parts == ["unet", "vae", "text_encoder"]


def test_a_folder_of_pickles_is_converted(folders, tmp_path):
    folder = shutil.copytree(folders["v1"], tmp_path / "pickled")
    for part in NETWORKS:
        (file,) = (folder / part).glob("*.safetensors")
        torch.save(load_file(file), file.with_name(file.name.replace("model.safetensors", "model.bin")))
        file.unlink()
    (folder / "text_encoder" / "model.bin").rename(folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickles.*python -m weights_convert .*pickled NEW_FOLDER --to diffusers"):
        StableDiffusionPipeline.from_pretrained(folder)
    out = converted(folder, tmp_path / "safe", "--to", "diffusers")
    expected = load_file(folders["v1"] / UNET)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(out / UNET).items())


LIGHTNING = "pytorch_lightning.callbacks.model_checkpoint"


class Older:
    """A number as NumPy 1 pickled it."""

    def __reduce__(self):
        return sys.modules["numpy.core.multiarray"].scalar, (np.dtype("f8"), bytes(8))


@pytest.fixture
def training(monkeypatch) -> Iterator[dict]:
    """What an official .ckpt file holds besides its weights; what its pickle asks for is there for as long as it is written."""
    with monkeypatch.context() as patch:
        for module, name in ((LIGHTNING, "ModelCheckpoint"), ("numpy.core.multiarray", "scalar")):
            pretended = ModuleType(module)
            setattr(pretended, name, type(name, (), {"__module__": module}))
            patch.setitem(sys.modules, module, pretended)
        for package in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, package, ModuleType(package))
        saver = sys.modules[LIGHTNING].ModelCheckpoint
        state = {"monitor": "val/loss", "best_model_score": np.float64(0.1), "current_score": Older(), "itself": saver()}
        yield {"epoch": 3, "global_step": 470000, "callbacks": {saver: state}, "lr_schedulers": [{"last_lr": [np.float64(1e-4)]}]}


@pytest.mark.parametrize("zipped", [True, False])
def test_what_official_pickles_carry_of_their_training_is_left_out(original, kind, tmp_path, training, zipped, monkeypatch):
    tensors = load_file(original)
    torch.save({**training, "state_dict": tensors}, ckpt := tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    allowed = set(torch.serialization.get_safe_globals())
    for module in ("pytorch_lightning", LIGHTNING, "numpy.core.multiarray"):
        monkeypatch.setitem(sys.modules, module, None)  # whoever imports it fails
    out = load_file(converted(ckpt, tmp_path / "out.safetensors"))
    expected = read_any(original).tensors
    assert out.keys() == expected.keys() and all(torch.equal(out[name], expected[name]) for name in expected)
    assert main(["inspect", str(ckpt)]) == 0 and set(torch.serialization.get_safe_globals()) == allowed


class Ill:
    """Its pickle calls what is allowed, with whatever arguments, and gives the result a state, and one of slots."""

    def __reduce__(self):
        return np.dtype, ("O", [1]), ({"a": 1, "__class__": 2}, {"__dict__": {"b": 3}})


def test_what_stands_in_for_the_training_does_nothing(tmp_path, monkeypatch):
    torch.save({"weight": torch.ones(2), "ill": Ill()}, tmp_path / "ill.ckpt")
    load, content = torch.load, {}
    monkeypatch.setattr(torch, "load", lambda *args, **options: content.update(load(*args, **options)) or content)
    assert read_pickle(tmp_path / "ill.ckpt").keys() == {"weight"}
    assert isinstance(content["ill"], Inert) and vars(content["ill"]) == {}


class Evil:
    """A pickle of it makes a folder as soon as somebody who trusts pickles reads it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("command", [["{}", "{}.out"], ["inspect", "{}"]])
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path, capsys, command, zipped):
    harm = tmp_path / "harm"
    torch.save(
        {"state_dict": original_tensors("v1"), "x": Evil(harm)}, bad := tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped
    )
    assert main([word.format(bad) for word in command]) == 1
    assert re.search(r"refused, and no code in it was run: .* its pickle references (posix|nt)\.mkdir", capsys.readouterr().err)
    assert not harm.exists() and {path.name for path in tmp_path.iterdir()} == {"m.ckpt"}
    torch.load(bad, weights_only=False)
    assert harm.exists()  # the pickle was malicious indeed


def test_only_the_converter_reads_pickles(tmp_path, small_presets):
    torch.save(original_tensors("v1"), tmp_path / "model.ckpt")
    with pytest.raises(
        CheckpointError, match=r"it is a pickle, which can run code; convert it safely with `python -m weights_convert"
    ):
        StableDiffusionPipeline.from_single_file(tmp_path / "model.ckpt")


# All or nothing


def test_nothing_is_overwritten(original, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert main([str(original), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'out'} exists; choose a new file\n"
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "has neither vocab.json and merges.txt nor tokenizer.json"),
        ({"vocab.json": "{}"}, "has neither vocab.json and merges.txt nor tokenizer.json"),
        ({"vocab.json": b"\xff\xfe", "merges.txt": ""}, "vocab.json is not a text file"),
        ({"vocab.json": "[]", "merges.txt": ""}, "vocab.json must contain a JSON object"),
        ({"vocab.json": '{"a": 1}', "merges.txt": ""}, "the vocabulary lacks"),
        ({"merges.txt": "hi"}, "merges.txt is damaged: 'hi' is not a pair of tokens of the vocabulary"),
        ({"merges.txt": "version https://git-lfs.github.com/spec/v1"}, "merges.txt is damaged"),
        ({"tokenizer.json": "{}"}, "tokenizer.json has no byte-pair encoding"),
    ],
)
def test_vocabularies_that_do_not_fit(original, tmp_path, capsys, files, sentence):
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    if files.keys() == {"merges.txt"}:
        files = {"vocab.json": json.dumps(small_vocabulary()[0]), **files}
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main([str(original), str(tmp_path / "out"), "--tokenizer", str(folder)]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_in_one_file(original, tmp_path):
    vocabulary, merges = small_vocabulary()
    model = {"type": "BPE", "vocab": vocabulary, "merges": [" ".join(pair) for pair in merges]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    out = converted(original, tmp_path / "out.safetensors", "--tokenizer", str(tmp_path))
    assert StableDiffusionPipeline.from_pretrained(out).tokenizer.vocab == vocabulary


def test_a_folder_whose_index_is_no_object(folders, tmp_path, capsys):
    shutil.copytree(folders["v1"], tmp_path / "folder")
    for name in ("scheduler/scheduler_config.json", "model_index.json"):
        (tmp_path / "folder" / name).write_text("[1]")
        assert main([str(tmp_path / "folder"), str(tmp_path / "out")]) == 1
        assert f"{tmp_path / 'folder' / name} must contain a JSON object, not [1]" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_diffusers_folder_needs_a_vocabulary(original, tmp_path, capsys):
    assert main([str(original), str(tmp_path / "out"), "--to", "diffusers"]) == 1
    assert "a diffusers folder needs a vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def spoil(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


@pytest.mark.parametrize(
    ("value", "dtype", "sentence"),
    [
        (float("nan"), "float32", "unet.conv_out.weight contains NaN or infinity: the weights are damaged; nothing was written"),
        (float("-inf"), "float16", "unet.conv_out.weight contains NaN or infinity"),
        (1e6, "float16", "unet.conv_out.weight has values too large for float16; use bfloat16 or float32"),
    ],
)
@pytest.mark.parametrize("to", ["minisd", "diffusers"])
def test_damaged_numbers_are_named_and_nothing_is_written(tmp_path, vocabulary, capsys, small_presets, value, dtype, sentence, to):
    tensors = original_tensors("v1")
    tensors["model.diffusion_model.out.2.weight"] = spoil(tensors["model.diffusion_model.out.2.weight"], value)
    save_file(tensors, tmp_path / "bad.safetensors")
    before = sorted(tmp_path.iterdir())
    options = ["--dtype", dtype, "--to", to, "--tokenizer", vocabulary]
    assert main([str(tmp_path / "bad.safetensors"), str(tmp_path / "out"), *options]) == 1
    expected = sentence if to == "minisd" else sentence.replace("unet.", "")
    assert expected in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("to", ["minisd", "diffusers"])
def test_a_full_disk_leaves_nothing(folders, tmp_path, capsys, to):
    """The system itself stops the write, in the middle: for a while no file may have more than 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        status = main([str(folders["v1"]), str(tmp_path / "new" / "out"), "--to", to])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    captured = capsys.readouterr()
    assert status == 1 and captured.out == "" and captured.err == "error: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_conversion_leaves_nothing(folders, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.Tensor, "contiguous", stop)
    assert main([str(folders["v1"]), str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []

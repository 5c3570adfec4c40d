"""How commands begin and end, whatever they do: streams that are missing or closed, places that cannot be written, damage."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import minisd.evaluate.__main__
import minisd.evaluate.curves
import minisd.second.__main__
import minisd.train.__main__
import weights_convert.__main__
from minisd import StableDiffusionPipeline, generate
from minisd.disk import check_writable, replacing
from minisd.exit_status import exit_status, stop
from minisd.generate import main
from minisd.train.__main__ import main as train
from minisd.train.state import finished, write_state

ROOT = Path(__file__).parents[1]
DRAW = ["a cat", "--seed", "1", "--steps", "1", "--num-images", "3"]


@pytest.fixture
def draw(folders, tmp_path, monkeypatch):
    """Runs the command line with a small model in an empty folder; gives the status and what is in the folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return main([*(arguments or DRAW), "--model", str(folders["v1"])]), sorted(path.name for path in tmp_path.iterdir())

    return run


THREE = ["a-cat-1.png", "a-cat-2.png", "a-cat-3.png"]


# Streams


@pytest.mark.parametrize("missing", [("stdout",), ("stderr",), ("stdin", "stdout", "stderr")], ids=str)
def test_pictures_are_written_without_streams(draw, monkeypatch, missing):
    for stream in missing:
        monkeypatch.setattr(sys, stream, None)
    assert draw() == (0, THREE)


def test_a_program_without_a_terminal_can_draw(folders, monkeypatch):
    pipe = StableDiffusionPipeline.from_pretrained(folders["v1"])
    monkeypatch.setattr(sys, "stderr", None)
    assert len(pipe("a cat", num_inference_steps=1).images) == 1


def test_a_batch_is_kept_when_nobody_reads_its_paths(draw, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w"))
    assert draw() == (141, THREE)
    assert "error" not in capsys.readouterr().err


NINE = ["a cat", "--seed", "1", "--steps", "1", "--num-images", "9"]  # a batch of eight and one of one
EIGHT = [f"a-cat-{seed}.png" for seed in range(1, 9)]


def test_a_batch_is_written_while_the_next_one_is_drawn(draw, monkeypatch, capsys):
    batches, second = [], threading.Event()

    def drawing(*arguments, draw=generate.draw):
        batches.append(arguments)
        if len(batches) == 2:
            second.set()
        return draw(*arguments)

    def saving(*arguments, save=generate.save_png):
        assert second.wait(60)
        return save(*arguments)

    monkeypatch.setattr(generate, "draw", drawing)
    monkeypatch.setattr(generate, "save_png", saving)
    assert draw(*NINE)[0] == 0
    assert capsys.readouterr().out.split() == [*EIGHT, "a-cat-9.png"]


def test_ctrl_c_keeps_the_batch_that_is_being_written(draw, monkeypatch, capsys):
    batches = []

    def drawing(*arguments, draw=generate.draw):
        batches.append(arguments)
        return draw(*arguments) if len(batches) == 1 else signal.raise_signal(signal.SIGINT)

    def saving(*arguments, save=generate.save_png):
        time.sleep(0.05)
        return save(*arguments)

    monkeypatch.setattr(generate, "draw", drawing)
    monkeypatch.setattr(generate, "save_png", saving)
    assert draw(*NINE) == (130, EIGHT)
    captured = capsys.readouterr()
    assert captured.out.split() == EIGHT and captured.err.endswith("stopped\n")


def test_a_full_disk_ends_the_command(draw, monkeypatch, capsys):
    saved = []

    def saving(*arguments, save=generate.save_png):
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        saved.append(save(*arguments))
        return saved[-1]

    monkeypatch.setattr(generate, "save_png", saving)
    assert draw(*NINE) == (1, EIGHT[:2])
    captured = capsys.readouterr()
    assert captured.out.split() == EIGHT[:2] and captured.err.endswith("error: No space left on device\n")


@pytest.mark.parametrize("redirection", [">&- 2>&-", "| head -c 1 > /dev/null; exit ${PIPESTATUS[0]}"])
@pytest.mark.parametrize("command", ["minisd.train --help", "weights_convert inspect {weights}"])
def test_closed_and_broken_outputs_end_quietly(folders, redirection, command):
    weights = folders["v1"] / "unet" / "diffusion_pytorch_model.safetensors"
    line = f"{sys.executable} -m {command.format(weights=weights)} {redirection}"
    result = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode in (0, 141) and result.stderr == ""


def test_every_command_ends_in_one_way():
    for command in (
        minisd.generate,
        minisd.train.__main__,
        minisd.evaluate.__main__,
        minisd.evaluate.curves,
        weights_convert.__main__,
    ):
        assert command.exit_status is exit_status
    assert minisd.second.__main__.main is train


COMMANDS = ["generate", "train", "evaluate", "evaluate.curves", "second"]


@pytest.mark.parametrize(
    "command",
    [
        *(["-m", f"minisd.{name}"] for name in COMMANDS),
        ["-mminisd.generate"],
        ["-Bm", "minisd.generate"],
        ["-m", "weights_convert"],
        ["minisd"],
    ],
    ids=str,
)
def test_ctrl_c_while_pytorch_is_imported_ends_quietly(tmp_path, command):
    (tmp_path / "torch.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)")
    (tmp_path / "minisd").write_text("from minisd.generate import main")  # as pip installs it
    where = [str(tmp_path / "minisd")] if command == ["minisd"] else command
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    pipe = subprocess.PIPE
    settings = {"cwd": ROOT, "env": environment, "stdout": pipe, "stderr": pipe, "text": True}
    obeys = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell ignore Ctrl-C
    with subprocess.Popen([sys.executable, *where], **settings, preexec_fn=obeys) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "") and process.returncode == 130


def test_ctrl_c_in_other_programs_is_theirs():
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)  # the second in a background job


def test_ctrl_c_is_explained_once_the_work_has_begun(capsys):
    signal.signal(signal.SIGINT, stop)
    assert exit_status(lambda: signal.raise_signal(signal.SIGINT)) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ValueError("no"), 1, "error: no\n"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 1, "error: a.txt: No such file or directory\n"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (MemoryError(), 1, "error: not enough memory\n"),
        (KeyboardInterrupt(), 130, "stopped here\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_sentence(capsys, error, status, sentence):
    def work():
        raise error

    assert exit_status(work, stopped="stopped here") == status
    assert capsys.readouterr().err == sentence


# Names and places


@pytest.mark.parametrize("prompt", ["𝒜" * 60, "猫" * 300, "a" * 300, "é" * 99])
def test_long_names_are_cut_by_their_bytes(draw, prompt):
    status, names = draw(prompt, "--seed", str(2**63 - 9), "--steps", "1", "--num-images", "2", "--grid", "--gif")
    assert status == 0 and len(names) == 5
    assert all(len(os.fsencode(name)) < 143 for name in names)  # what the smallest of today's file systems take


def test_a_folder_may_be_called_like_a_picture(draw, tmp_path):
    (tmp_path / "cats.png").mkdir()
    assert draw(*DRAW, "--out", "cats.png") == (0, ["cats.png"])
    assert sorted(path.name for path in (tmp_path / "cats.png").iterdir()) == THREE


def test_a_model_whose_name_is_no_text(draw, folders, tmp_path):
    name = tmp_path / os.fsdecode(b"model-\xff")
    name.symlink_to(folders["v1"])
    assert main([*DRAW, "--model", str(name), "--out", "pictures"]) == 0
    assert "model-" in Image.open(tmp_path / "pictures" / THREE[0]).text["parameters"]


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        (main, [*DRAW, "--out", "{file}/new"], "Not a directory; choose another folder with --out"),
        (main, [*DRAW, "--out", "x" * 250 + ".png"], "File name too long; choose another folder with --out"),
        (main, [*DRAW, "--out", "x" * 300], "File name too long"),
        (minisd.evaluate.__main__.main, ["--out", "{file}"], "Not a directory; choose another folder with --out"),
        (minisd.evaluate.curves.main, ["--out", "{file}/curves.json"], "Not a directory; choose another file with --out"),
        (minisd.evaluate.curves.main, ["--out", "{file}"], "is not a valid file of curves"),
        (train, ["vae", "--folder", "{file}"], "Not a directory; choose another folder with --folder"),
        (train, ["pack", "--to", "{file}"], "exists and is not empty; choose a new folder with --to"),
        (minisd.second.__main__.command, ["vae", "--folder", "{file}"], "Not a directory; choose another folder with --folder"),
        (minisd.second.__main__.command, ["pack", "--to", "{file}"], "exists and is not empty; choose a new folder with --to"),
        (weights_convert.__main__.main, ["{file}", "{file}/out.safetensors"], "Not a directory; choose another OUT"),
        (weights_convert.__main__.main, ["{file}", "{file}"], "exists; choose a new file"),
        (weights_convert.__main__.main, ["{file}", "{folder}", "--to", "diffusers"], "exists; choose a new folder"),
    ],
)  # fmt: skip
def test_places_are_checked_before_the_work(tmp_path, monkeypatch, capsys, command, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    for work in ("minisd.weights.load.load_pipeline", "minisd.train.loop.train", "weights_convert.__main__.read_any"):
        monkeypatch.setattr(work, lambda *_, **__: pytest.fail("the work has begun"))
    places = {"file": tmp_path / "file", "folder": tmp_path}
    assert command([argument.format(**places) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]


# Flags of generate


def test_minus_one_is_a_random_seed(draw, capsys):
    seeds = []
    for _ in range(2):
        _, names = draw("a cat", "--seed", "-1", "--steps", "1")
        seeds.append(capsys.readouterr().err.split("seed ")[1].split(",")[0])
        assert f"a-cat-{seeds[-1]}.png" in names
    assert seeds[0] != seeds[1]


def test_prompts_from_standard_input(draw, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffa cat\r\n\r\nein Käfer".encode())))
    assert draw("--from-file", "-", "--seed", "1", "--steps", "1") == (0, ["a-cat-1.png", "ein-käfer-2.png"])
    monkeypatch.setattr(sys, "stdin", None)
    assert draw("--from-file", "-", "--seed", "1")[0] == 1


def test_what_several_processes_cannot_share(draw, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for arguments in (["a cat", "--seed", "-1"], ["--from-file", "-", "--seed", "1"]):
        assert draw(*arguments) == (1, [])
    assert draw("a cat", "a dog", "a bird", "--seed", "1", "--steps", "1", "--grid")[1] == [
        "a-bird-3.png", "a-cat-1-grid.png", "a-cat-1.png",
    ]  # fmt: skip
    assert "note: --grid: every process writes its own grid" in capsys.readouterr().err


# Files that are replaced


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    file = tmp_path / "state.pt"
    with replacing(file) as partial:
        partial.write_text("old")
    with pytest.raises(KeyError), replacing(file) as partial:
        partial.write_text("half of the n")
        raise KeyError
    assert file.read_text() == "old" and len(synced) == 1 and list(tmp_path.iterdir()) == [file]


def test_every_written_file_reaches_the_disk(folders, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}").rsplit("/", 1)[-1]))
    StableDiffusionPipeline.from_pretrained(folders["v1"]).save_pretrained(tmp_path / "new")
    assert sorted(synced) == sorted(path.name for path in (tmp_path / "new").rglob("*") if path.is_file())


def test_a_place_that_is_not_there_yet_can_be_written(tmp_path):
    check_writable(tmp_path / "not" / "yet", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["empty", "text", "half", "another's", "no state"])
@pytest.mark.parametrize("use", ["resume", "finish"])
def test_a_damaged_state_is_named(tmp_path, damage, use):
    from test_train import RECIPE, toy, toy_loss

    from minisd.train.loop import train

    file = tmp_path / "toy" / "state.pt"
    train(file.parent, toy(), RECIPE, toy_loss(RECIPE))
    whole = file.read_bytes()
    if damage == "another's":
        other = torch.nn.Linear(5, 5).state_dict()
        write_state(file, {"step": 1, "model": other, "average": other, "optimizer": {}})
    elif damage == "no state":
        write_state(file, {"latents": torch.zeros(1)})
    else:
        file.write_bytes({"empty": b"", "text": b"a state", "half": whole[: len(whole) // 2]}[damage])
    log = (file.parent / "log.jsonl").read_text()
    with pytest.raises(ValueError, match=r"toy/state.pt (is damaged; move it away|belongs to another model; move it away)"):
        finished(file.parent, toy()) if use == "finish" else train(file.parent, toy(), RECIPE, toy_loss(RECIPE))
    assert (file.parent / "log.jsonl").read_text() == log


# Pictures of others


def damaged(kind: str) -> bytes:
    file = io.BytesIO()
    text = PngInfo()
    text.add_text("workflow", "x" * 2_000_000 * (kind == "a text that is too long"), zip=True)
    Image.new("RGB", (64, 64), "red").save(file, "PNG", pnginfo=text)
    return file.getvalue()[: len(file.getvalue()) // (2 if kind == "half a file" else 1)]


@pytest.mark.parametrize("kind", ["half a file", "a text that is too long", "too many pixels"])
@pytest.mark.parametrize("flag", ["--image", "--again"])
def test_pictures_that_cannot_be_read_are_named(draw, tmp_path, monkeypatch, capsys, kind, flag):
    (tmp_path / "theirs.png").write_bytes(damaged(kind))
    if kind == "too many pixels":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert draw("a cat", flag, "theirs.png", "--out", "new") == (1, ["theirs.png"])
    assert "error: cannot read the image theirs.png: " in capsys.readouterr().err


# The home folder


def test_the_home_folder_is_known(draw, folders, tmp_path, monkeypatch):
    """The shell replaces ~ in `--out ~/x`, and not in `--out=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "model").symlink_to(folders["v1"])
    assert main([*DRAW, "--model=~/model", "--out=~/pictures"]) == 0
    StableDiffusionPipeline.from_pretrained("~/model").save_pretrained("~/copy")
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["copy", "model", "pictures"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_compiled_network_is_saved_as_itself(folders, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(folders["v1"])
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    pipe.save_pretrained(tmp_path / "saved")
    saved = StableDiffusionPipeline.from_pretrained(tmp_path / "saved").unet.state_dict()
    weights = StableDiffusionPipeline.from_pretrained(folders["v1"]).unet.state_dict()
    assert saved.keys() == weights.keys() and all(torch.equal(saved[name], weights[name]) for name in weights)


def test_a_picture_of_seed_minus_one_is_drawn_from_a_random_seed(draw, tmp_path):
    text = PngInfo()
    text.add_text("parameters", "a cat\nSteps: 1, Sampler: Euler a, CFG scale: 2, Seed: -1, Size: 64x64")
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs.png", pnginfo=text)
    assert draw("--again", "theirs.png", "--out", "new")[0] == 0
    (picture,) = (tmp_path / "new").iterdir()
    assert "-1.png" not in picture.name

"""The built-in model: the weights that were published, the picture that the README shows, and how much of its prompts it draws."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_references import CUDA

from minisd import StableDiffusionPipeline
from minisd.evaluate.__main__ import main as evaluate
from minisd.evaluate.__main__ import quick
from minisd.evaluate.model import fingerprint
from minisd.evaluate.prompts import prompts_of
from minisd.evaluate.protocol import painter, render, through
from minisd.weights.find import TINY

CARD = TINY.parent / "README.md"
DOCS = Path(__file__).parents[1] / "docs"
PICTURE = DOCS / "images" / "astronaut.png"
PROMPTS = ["an astronaut riding a horse", "a blue house to the left of a yellow tree at night"]


@pytest.fixture(scope="module")
def pipe():
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_weights_are_those_of_the_card():
    listed = dict(re.findall(r"^([0-9a-f]{64})  (\S+\.safetensors)$", CARD.read_text(encoding="utf-8"), re.MULTILINE))
    files = {str(path.relative_to(TINY.parent)): path for path in sorted(TINY.parent.rglob("*.safetensors"))}
    assert {name: digest for digest, name in listed.items()} == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_readmes_picture(pipe, device, monkeypatch):
    """The noise is the CPU's, so every machine draws it; roundings that differ move a few values by a little."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it would round convolutions to ten bits
    (image,) = pipe.to(device)(PROMPTS[0], generator=torch.Generator().manual_seed(0)).images
    pipe.to("cpu")
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(Image.open(PICTURE).convert("RGB"), dtype=int))
    assert difference.mean() < 0.25 and (difference > 8).mean() < 0.002


def test_diffusers_draws_the_same(pipe):
    """What was trained here runs there, without a word of conversion: at most one step of 8 bits apart."""
    reference = pytest.importorskip("diffusers").StableDiffusionPipeline
    theirs = reference.from_pretrained(TINY, dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    pictures = [
        p(PROMPTS, guidance_scale=3.0, generator=[torch.Generator().manual_seed(i) for i in (0, 1)]).images for p in (pipe, theirs)
    ]
    ours, others = (np.stack([np.asarray(image, dtype=int) for image in images]) for images in pictures)
    assert np.abs(ours - others).max() <= 1


def test_the_log_of_its_training_is_there():
    lines = [json.loads(line) for line in (TINY.parent / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 20 and {"step", "loss", "mse_0", "mse_750"} <= lines[0].keys()
    assert lines[-1]["mse_500"] < lines[0]["mse_500"]


def test_the_evaluation_in_the_docs_is_of_these_weights(pipe):
    text = (DOCS / "tiny_model" / "evaluation.md").read_text(encoding="utf-8")
    assert f"weights {fingerprint(pipe.unet)}," in text


def test_the_vae_gives_back_what_it_was_given(pipe):
    prompts = prompts_of("one thing", 16, 0)
    error = (render(prompts) - through(pipe.vae)(prompts)) / 2
    assert -10 * error.square().mean(dim=(1, 2, 3)).log10().mean() >= 30  # dB


def test_it_draws_what_it_is_told(pipe):
    """A floor for a broken model, not a figure: 6 prompts of each kind, 20 steps."""
    rates = quick(painter(pipe, 20, None))
    assert rates["one thing"].right >= 5 and rates["riding"].right >= 4
    assert sum(rate.right for rate in rates.values()) >= 19  # of 24


def test_the_quick_evaluation_is_a_command(capsys, monkeypatch):
    monkeypatch.setattr("minisd.evaluate.__main__.quick", lambda paint, seed: quick(paint, count=1, seed=seed))
    assert evaluate(["--quick", "--steps", "5"]) == 0
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "one thing", "one thing, new colour", "two things", "riding",
    ]  # fmt: skip

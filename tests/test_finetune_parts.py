"""Fine-tuning, part by part: data, formulas, memory, and errors in a sentence before any work."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import randn, small_network, small_pipeline
from PIL import Image
from torch import nn

from minisd.finetune import session
from minisd.finetune.__main__ import main, parser, settings_of
from minisd.finetune.examples import Example, fingerprint_of, read_examples
from minisd.finetune.forecast import duration, forecast
from minisd.finetune.latents import cached_latents, fitted, survey
from minisd.finetune.learner import lent
from minisd.finetune.objective import Data, loss_with, target, with_offset
from minisd.finetune.recomputed import recompute_activations
from minisd.finetune.settings import Settings
from minisd.schedulers import PNDMScheduler
from minisd.train import loop
from minisd.train.loop import Recipe, batch_noise, fast_arithmetic, train
from minisd.train.unet import min_snr_weights

RECIPE = Recipe(steps=4, batch_size=4, learning_rate=1e-2, warmup=1, bfloat16=False)


def picture(path: Path, width: int = 64, height: int = 64, color: str = "red") -> Path:
    Image.new("RGB", (width, height), color).save(path)
    return path


# Data


def test_captions_stand_beside_pictures_or_are_one_for_all(tmp_path):
    for name in ("b.png", "a.JPG", "a.condition.png", ".hidden.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text(" a cat \n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no picture")
    assert read_examples(tmp_path, ["a ball", "a box"]) == [
        Example(tmp_path / "a.JPG", ("a cat",), tmp_path / "a.condition.png"),
        Example(tmp_path / "b.png", ("a ball", "a box")),
    ]
    with pytest.raises(ValueError, match=r"1 \(b.png\) of 2 images in .* have no caption"):
        read_examples(tmp_path)
    with pytest.raises(ValueError, match=r"1 \(b.png\) of 2 images in .* have no conditioning image"):
        read_examples(tmp_path, ["a ball"], steered=True)


def test_metadata_as_imagefolders_have_it(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "edges").mkdir()
    picture(tmp_path / "edges" / "a.png")
    line = {"file_name": "a.png", "text": "a cat", "conditioning_image": "edges/a.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line) + "\n\n")
    assert read_examples(tmp_path, steered=True) == [Example(tmp_path / "a.png", ("a cat",), tmp_path / "edges" / "a.png")]
    for wrong, says in {
        '{"file_name": "none.png", "text": "x"}': r"1 \(none.png\) of 1 images in .* are in metadata.jsonl but not in the folder",
        '{"text": "x"}': r"metadata.jsonl, line 1: write \{",
        '{"file_name": 3}': "line 1: file_name, text and conditioning_image must be strings",
        "x": r"metadata.jsonl, line 1: write \{",
        '["a.png"]': r"metadata.jsonl, line 1: write \{",
        "": "contains no images",
    }.items():
        (tmp_path / "metadata.jsonl").write_text(wrong)
        with pytest.raises(ValueError, match=says):
            read_examples(tmp_path)


def test_pictures_of_any_size_are_fitted_and_counted(tmp_path):
    wide = Image.new("RGB", (100, 50), "blue")
    wide.paste("red", (25, 0, 75, 50))
    wide.save(tmp_path / "wide.png")
    middle = np.array(fitted(tmp_path / "wide.png", 32))
    assert middle.shape == (32, 32, 3) and (middle[:, 4:-4, 0] > 250).all()
    examples = [Example(tmp_path / "wide.png", ("x",)), Example(picture(tmp_path / "small.png", 20, 20), ("x",))]
    assert survey(examples, 32) == "2 images of 32×32 pixels: 1 cropped to the centre, 1 enlarged"
    assert survey(examples[1:], 16) == "1 image of 16×16 pixels"


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    examples = [Example(picture(tmp_path / f"{i}.png"), ("x",)) for i in range(3)]
    examples[0].picture.write_text("no picture")
    examples[2].picture.write_bytes(examples[1].picture.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"2 \(0.png, 2.png\) of 3 images cannot be read; repair or remove them \(.*0.png is not"):
        survey(examples, 32)
    steered = [replace(examples[1], condition=picture(tmp_path / "c.png", 64, 32))]
    with pytest.raises(ValueError, match=r"1 \(1.png\) of 1 images have a different aspect ratio from"):
        survey(steered, 32)


def test_latents_are_computed_once(tmp_path):
    vae = small_network("vae", "v1")
    pictures = [picture(tmp_path / f"{i}.png", color=color) for i, color in enumerate(("red", "blue", "white"))]
    latents = cached_latents(tmp_path / "latents.pt", vae, pictures, 64)
    assert latents.shape == (3, 4, 8, 8) and latents.dtype == torch.float16
    assert torch.equal(cached_latents(tmp_path / "latents.pt", None, pictures, 64), latents)
    with torch.autocast("cpu", torch.bfloat16):  # as trainings do where the CPU multiplies bfloat16
        assert torch.allclose(cached_latents(tmp_path / "half.pt", vae, pictures, 64), latents, atol=0.1)


def test_the_fingerprint_changes_with_pictures_and_captions(tmp_path):
    one = Example(picture(tmp_path / "a.png"), ("x",))
    others = [[one, one], [replace(one, captions=("y",))], [replace(one, condition=one.picture)]]
    assert len({fingerprint_of(examples) for examples in [[one], *others]}) == 4
    assert fingerprint_of([one]) == fingerprint_of([one])


# The loss


def test_every_example_is_drawn_once_in_each_epoch_and_classes_take_turns():
    data = Data([Example(Path(f"{i}"), ("x",)) for i in range(7)], torch.zeros(7, 4, 8, 8), own=5)
    samples = [data.number(n, seed=0) for n in range(20)]
    assert sorted(samples[0:10:2]) == sorted(samples[10:20:2]) == [0, 1, 2, 3, 4] and samples[0:10:2] != samples[10:20:2]
    assert set(samples[1::2]) == {5, 6}
    alone = Data(data.examples[:5], data.latents[:5], own=5)
    assert sorted(alone.number(n, seed=0) for n in range(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_weights_and_targets_as_in_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    from diffusers.training_utils import compute_snr

    ours, theirs = (
        PNDMScheduler(prediction_type=kind),
        diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind),
    )
    t = torch.tensor([0, 100, 500, 999])
    snr = compute_snr(theirs, t)
    expected = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1 if kind == "v_prediction" else snr)
    assert torch.allclose(min_snr_weights(ours.alphas_cumprod, 5.0, kind)[t], expected, rtol=1e-4)
    x0, noise = randn(4, 4, 8, 8), randn(4, 4, 8, 8, seed=1)
    wanted = noise if kind == "epsilon" else theirs.get_velocity(x0, noise, t)
    assert torch.allclose(target(x0, noise, ours.alphas_cumprod[t].view(-1, 1, 1, 1), kind), wanted, atol=1e-5)


def test_a_perfect_model_has_no_loss_and_the_prior_counts_as_asked():
    examples = [Example(Path("a"), ("a",)), Example(Path("b"), ("b",))]
    data, scheduler = Data(examples, randn(2, 4, 8, 8).half(), own=1), PNDMScheduler()
    settings = Settings(Path("x"), Path("y"), prior_weight=0.25)
    noise = batch_noise(RECIPE, 3, 4, 65)[..., :-1].view(4, 4, 8, 8)

    def wrong_by(errors):
        def predict(x, t, captions, examples):
            assert captions == ["a", "b"] * 2
            return noise + torch.tensor(errors).view(-1, 1, 1, 1)

        return float(loss_with(predict, data, scheduler, RECIPE, settings)(nn.Identity(), 3)[0])

    assert wrong_by([0.0, 0.0, 0.0, 0.0]) == pytest.approx(0, abs=1e-10)
    assert wrong_by([1.0, 0.0, 2.0, 0.0]) == pytest.approx(5 / 4)
    assert wrong_by([0.0, 1.0, 0.0, 2.0]) == pytest.approx(0.25 * 5 / 4)


def test_offset_noise_has_a_mean_of_its_own_in_every_channel():
    drawn = randn(200, 4, 65)
    assert torch.equal(with_offset(drawn, 0.0), drawn[..., :-1])
    means = (with_offset(drawn, 0.5) - drawn[..., :-1]).view(800, 64)
    assert (means - means[:, :1]).abs().max() < 1e-5 and means[:, 0].std() == pytest.approx(0.5, rel=0.1)


# Memory and arithmetic


def test_recomputed_activations_give_the_same_gradient_bit_for_bit():
    unet = small_network("unet", "v1").requires_grad_(True)
    gradients, kept = [], []
    for run in range(2):
        kept.append(0)

        def count(t, run=run):
            kept[run] += t.nbytes
            return t

        with fast_arithmetic(RECIPE), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            loss = unet(randn(2, 4, 8, 8), 500, randn(2, 77, 48)).sample.square().mean()
        gradients.append(torch.autograd.grad(loss, list(unet.parameters())))
        recompute_activations(unet, RECIPE)
    assert all(map(torch.equal, *gradients)) and kept[1] < kept[0] / 3


def test_gradients_of_several_batches_make_one_step(tmp_path):
    numbers = []

    def loss_of(model, number):
        numbers.append(number)
        return model.weight.sum() * (number + 1) / 100, {}

    def sgd(model, recipe):
        return torch.optim.SGD(model.parameters(), lr=1.0)

    recipe = replace(RECIPE, steps=2, accumulate=3, decay=1e-9)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    train(tmp_path, model, recipe, loss_of, optimizer_of=sgd)
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert model.weight.item() == pytest.approx(-recipe.learning_rate * (2 + 5) / 100, rel=1e-4)


def test_float16_scales_the_loss_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    """As on a GPU without bfloat16; the CPU computes the same products."""
    monkeypatch.setattr(loop, "half_precision", lambda recipe: torch.float16)

    def loss_of(model, number):
        if number == stop:
            raise KeyboardInterrupt
        return model(batch_noise(RECIPE, number, 8)).float().square().mean() * 1e-7, {}  # its gradient would round to zero

    def model():
        torch.manual_seed(0)
        return nn.Linear(8, 8)

    stop = None
    unbroken = train(tmp_path / "a", model(), RECIPE, loss_of)
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", model(), RECIPE, loss_of, save_every=0)
    stop = None
    resumed = train(tmp_path / "b", model(), RECIPE, loss_of)
    assert torch.equal(unbroken.weight, resumed.weight) and not torch.equal(unbroken.weight, model().weight)
    assert torch.load(tmp_path / "a" / "state.pt", weights_only=True)["scaler"]["scale"] > 1


def test_the_forecast_counts_weights_and_what_the_gradient_needs():
    model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100))
    frozen = nn.Linear(100, 100).requires_grad_(False)

    def loss_of(trained, number):
        return trained(frozen(torch.zeros(50, 100))).square().mean(), {}

    expected = forecast([frozen, model], model, loss_of, RECIPE)
    numbers = sum(p.numel() for p in model.parameters())
    weights = 4 * (5 * numbers + sum(p.numel() for p in frozen.parameters()))
    assert weights < expected.bytes < weights + 4 * 50 * 100 * 6 and expected.seconds > 0
    assert all(p.grad is None for p in model.parameters())
    assert "4 steps of 2 images take about 2 seconds and 0 MB" in expected.sentence(4, 2)
    assert [duration(s) for s in (0.1, 100, 1000, 7200, 3e5)] == ["2 seconds", "100 seconds", "17 minutes", "2 hours", "3 days"]


def test_weights_are_lent_and_given_back():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    before = one.weight.clone(), two.weight.clone()
    with lent(one, two):
        assert torch.equal(one.weight, before[1])
    assert torch.equal(one.weight, before[0]) and torch.equal(two.weight, before[1])


# Errors


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    picture(tmp_path / "data" / "a.png")
    return tmp_path / "data"


ERRORS = {
    "no captions": ([], r"1 \(a.png\) of 1 images in .* have no caption"),
    "no folder": (["--data", "nowhere"], "nowhere is not a folder; choose a folder of images with --data"),
    "steps": (["--steps", "0"], "--steps must be 1 or more, not 0"),
    "rate": (["--learning-rate", "nan"], "--learning-rate must be"),
    "gamma": (["--min-snr", "0"], "--min-snr must be 0.001 or more"),
    "dreambooth": (["--method", "dreambooth"], "dreambooth needs the class of the new thing"),
    "inversion": (["--method", "inversion"], "inversion needs a similar word to start from"),
    "silent": (
        ["--method", "inversion", "--init-word", "cat", "--caption", "a cat"],
        r"the captions of 1 \(a.png\) images lack the new word 'out'; set another word with --token",
    ),
    "no text": (["--data", "binary"], r"binary/a.txt is not a text file"),
    "no condition": (["--method", "controlnet", "--caption", "x"], "have no conditioning image"),
    "needless": (["--init-word", "cat", "--caption", "x"], "--init-word does not apply to the method lora; leave it out"),
    "no model": (["--model", "none.safetensors", "--caption", "x"], "none.safetensors"),
    "size": (["--size", "30", "--caption", "x"], "--size must be a multiple of 8, not 30"),
    "known word": (
        ["--method", "inversion", "--init-word", "cat", "--token", "cat"],
        "--token: the tokenizer already has the word 'cat'; choose another",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_sentences_before_any_work(case, data, tmp_path, capsys, monkeypatch):
    given, says = ERRORS[case]
    monkeypatch.chdir(tmp_path)
    Path("binary").mkdir()
    picture(Path("binary/a.png"))
    Path("binary/a.txt").write_bytes(b"\xff")
    small = small_pipeline("v1")
    monkeypatch.setattr(session.StableDiffusionPipeline, "from_pretrained", loaded_or(small))
    assert main(["--data", str(data), "--out", "out", *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert re.search(says, error), error
    assert not (tmp_path / "out").exists()


def loaded_or(pipe):
    """`from_pretrained` that gives this pipeline for the built-in model."""
    real = session.StableDiffusionPipeline.from_pretrained.__func__

    def load(source, **options):
        return pipe if source == "tiny" else real(session.StableDiffusionPipeline, source, **options)

    return load


def test_a_folder_belongs_to_one_training(data, tmp_path):
    settings = Settings(data, tmp_path / "out", caption=("x",))
    examples = read_examples(data, ["x"])
    session.keep_to(settings, examples)
    session.keep_to(replace(settings, steps=7, prompt=("y",)), examples)  # more steps may be asked for
    with pytest.raises(
        ValueError, match=r"out holds another training: rank was 4 before and is 8 now; choose a new folder with --out"
    ):
        session.keep_to(replace(settings, rank=8), examples)
    with pytest.raises(ValueError, match="another training: pictures was"):
        session.keep_to(settings, [*examples, *examples])
    (tmp_path / "taken").mkdir()
    picture(tmp_path / "taken" / "a.png")
    with pytest.raises(ValueError, match="taken exists and is not empty; choose a new folder with --out"):
        session.check(replace(settings, out=tmp_path / "taken"), RECIPE)


def test_flags_are_the_settings():
    args = parser().parse_args(["--data", "a", "--out", "b", "--caption", "x", "--caption", "y", "--gradient-checkpointing"])
    assert settings_of(args) == Settings(Path("a"), Path("b"), caption=("x", "y"), gradient_checkpointing=True)
    recipe = session.recipe_of(settings_of(args))
    assert (recipe.steps, recipe.batch_size, recipe.learning_rate) == (500, 8, 2e-3)

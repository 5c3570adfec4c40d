"""Four steps: the loss of consistency distillation, the LoRA that it writes, and the built-in model's own."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from minisd import LCMScheduler, StableDiffusionPipeline
from minisd.evaluate.__main__ import quick
from minisd.evaluate.protocol import painter
from minisd.generate import main as generate
from minisd.schedulers.lcm import end_of_curve
from minisd.tiny.picture_book import training_scene
from minisd.train import distill
from minisd.train.__main__ import main
from minisd.train.loop import Recipe, train
from minisd.weights.find import TINY

RECIPE = Recipe(steps=3, batch_size=4, learning_rate=1e-3, warmup=1)
FILE = TINY / "pytorch_lora_weights.safetensors"


@pytest.fixture()
def pipe():
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def latents():
    return torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0)).half()


def test_the_end_of_a_curve_is_the_start_at_0_and_the_prediction_later():
    x, x0 = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), -1.0)
    assert torch.equal(end_of_curve(x, x0, 0.0), x)
    assert torch.allclose(end_of_curve(x, x0, 9990.0), x0, atol=1e-3)
    # Luo et al. 2023, §4.1, at σ_data = 0.5: c_skip = 0.25 / (1 + 0.25), c_out = 1 / √1.25
    assert torch.allclose(end_of_curve(x, x0, 1.0), torch.full_like(x, 3 * 0.2 - 1 / 1.25**0.5))


def test_jumps_that_are_exact_agree(pipe, latents):
    """Where all data is one point, the exact denoiser is a formula, its curves are straight, and every jump lands on the point."""
    point = latents[:1].float()
    alphas_cumprod = LCMScheduler().alphas_cumprod

    def exact(x, t, context):
        alpha = alphas_cumprod[t].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(x - alpha**0.5 * point) / (1 - alpha) ** 0.5)

    def biased(x, t, context):
        return SimpleNamespace(sample=exact(x, t, context).sample + 0.1 * (t / 1000).view(-1, 1, 1, 1))

    pipe.unet = exact
    loss_of = distill.loss_with(pipe, latents[:1], recipe=RECIPE)
    assert max(loss_of(exact, step)[1]["distance"] for step in range(8)) < 0.03 < loss_of(biased, 0)[1]["distance"]


def test_only_loras_learn(pipe, latents, tmp_path):
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    trained = train(tmp_path, distill.student_of(pipe.unet, rank=2), RECIPE, distill.loss_with(pipe, latents, recipe=RECIPE))
    after = trained.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert all(weight.abs().max() > 0 for name, weight in after.items() if name.endswith("up.weight"))


@pytest.mark.slow
def test_a_student_that_agrees_more_comes_of_it(pipe, latents, tmp_path):
    recipe = Recipe(steps=30, batch_size=4, learning_rate=2e-3, warmup=1, decay=0.01, ema=0.5)
    student, loss_of = distill.student_of(pipe.unet, rank=4), distill.loss_with(pipe, latents, recipe=recipe)
    first = sum(float(loss_of(student, step)[0].detach()) for step in range(100, 104))
    trained = train(tmp_path, student, recipe, loss_of)
    assert sum(float(loss_of(trained, step)[0].detach()) for step in range(100, 104)) < 0.97 * first


def test_the_command_writes_a_lora_that_loads(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "SCENES", 4)
    assert main(["distill", "--folder", str(tmp_path), "--steps", "2"]) == 0
    drawn = [pipe("a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images]
    pipe.load_lora_weights(tmp_path / "distill")
    drawn += [pipe("a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images]
    assert not torch.equal(*drawn)


def test_the_built_in_lora_is_small():
    assert FILE.stat().st_size <= 3_000_000
    with safe_open(FILE, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys() if "lora" in name} == {torch.float16}  # noqa: SIM118


def test_four_steps_draw_what_they_are_told(pipe):
    """A floor, as that of the model with 20 steps."""
    pipe.load_lora_weights("tiny")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    rates = quick(painter(pipe, 4, 1.0))
    assert sum(rate.right for rate in rates.values()) >= 19  # of 24


def test_diffusers_draws_the_same_in_four_steps(pipe):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        TINY, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    pictures = []
    for p, sampler in ((pipe, LCMScheduler), (theirs, diffusers.LCMScheduler)):
        p.load_lora_weights(TINY, weight_name=FILE.name)
        p.scheduler = sampler.from_config(p.scheduler.config)
        noise = torch.Generator().manual_seed(0)
        image = p("a red ball on the beach", num_inference_steps=4, guidance_scale=1.0, generator=noise).images[0]
        pictures.append(np.asarray(image, dtype=int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_fast_is_the_lora_with_lcm_in_four_steps(pipe, tmp_path):
    pipe.load_lora_weights("tiny")
    pipe.fuse_lora()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    noise = torch.Generator().manual_seed(3)
    expected = pipe("a red ball", num_inference_steps=4, guidance_scale=1.0, generator=noise).images[0]
    for i, flags in enumerate((["--fast"], ["--fast", "--lora", "tiny"])):
        path = tmp_path / f"{i}.png"
        assert generate(["a red ball", *flags, "--seed", "3", "--out", str(path), "--quiet"]) == 0
        assert Image.open(path).tobytes() == expected.tobytes()
    again = tmp_path / "again.png"
    assert generate(["--again", str(tmp_path / "0.png"), "--out", str(again), "--quiet"]) == 0
    assert again.read_bytes() == (tmp_path / "0.png").read_bytes()


def test_fast_is_for_the_built_in_model(tmp_path, capsys):
    assert generate(["a red ball", "--fast", "--model", "other", "--out", str(tmp_path)]) == 1
    assert "--fast draws with the built-in model" in capsys.readouterr().err


def test_a_negative_prompt_without_guidance_is_named(tmp_path, capsys):
    assert generate(["a red ball", "--fast", "--negative-prompt", "night", "--seed", "0", "--out", str(tmp_path)]) == 0
    assert "note: the negative prompt has no effect at a guidance scale of 1" in capsys.readouterr().err


def test_training_scenes_are_what_it_learns_from(pipe, latents):
    """The captions belong to the latents' own scenes."""
    seen = []
    distill.loss_with(pipe, latents, scene=lambda i: seen.append(i) or training_scene(i), recipe=RECIPE)(
        distill.student_of(pipe.unet, rank=1), 0
    )
    rngs = [random.Random(f"0/0/{i}") for i in range(4)]
    assert seen == [rng.randrange(len(latents)) for rng in rngs]

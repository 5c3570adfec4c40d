"""The trainings: resumed equals unbroken, shared equals alone, and the formulas are the papers'."""

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from minisd.config import TINY_TEXT, TINY_VAE, TINY_VISION, CLIPTextConfig, CLIPVisionConfig, UNetConfig, VAEConfig
from minisd.schedulers import PNDMScheduler
from minisd.tiny.picture_book import compose, is_held_out
from minisd.train import clip, unet, vae
from minisd.train.loop import Average, Recipe, batch_noise, finished, sample_seeds, train
from minisd.train.words import learn_tokenizer
from minisd.unet import UNet2DConditionModel, UNet2DConditionOutput
from minisd.vae import AutoencoderKL

RECIPE = Recipe(steps=6, batch_size=4, learning_rate=1e-3, warmup=2, bfloat16=False)
SMALL_VAE = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, sample_size=64)
SMALL_UNET = UNetConfig(
    block_out_channels=(16, 16), layers_per_block=1, cross_attention=(True, True), cross_attention_dim=8,
    num_attention_heads=(2, 2), norm_num_groups=4, sample_size=16,
)  # fmt: skip


def toy_loss(recipe):
    def loss_of(model, step):
        x = torch.tensor([[rng.random() for _ in range(3)] for rng in sample_seeds(recipe, step)])
        noise = batch_noise(recipe, step, 1)
        loss = (model(x) - x.sum(dim=1, keepdim=True) - 0.1 * noise).square().mean()
        return loss, {}

    return loss_of


def toy(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))


def weights(model):
    return torch.cat([p.flatten() for p in model.state_dict().values()])


def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    unbroken = train(tmp_path / "a", toy(), RECIPE, toy_loss(RECIPE))

    def killed_at_4(model, step):
        if step == 4:
            raise KeyboardInterrupt
        return toy_loss(RECIPE)(model, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", toy(), RECIPE, killed_at_4, save_every=0)
    resumed = train(tmp_path / "b", toy(seed=1), RECIPE, toy_loss(RECIPE))
    assert torch.equal(weights(unbroken), weights(resumed))
    states = [torch.load(tmp_path / run / "state.pt", weights_only=True) for run in "ab"]
    assert all(torch.equal(states[0]["model"][name], states[1]["model"][name]) for name in states[0]["model"])


def test_steps_that_a_kill_undid_are_not_logged_twice(tmp_path):
    def killed_at(last):
        def loss_of(model, step):
            if step == last:
                raise KeyboardInterrupt
            return toy_loss(RECIPE)(model, step)

        return loss_of

    recipe = replace(RECIPE, steps=160)
    for last, save_every in ((60, 0), (120, 1e9)):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, toy(), recipe, killed_at(last), save_every=save_every)
    train(tmp_path, toy(), recipe, toy_loss(recipe))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()]
    assert steps == [50, 100, 150, 160]


def test_a_clip_with_another_vocabulary_is_found_again(tmp_path):
    """The vocabulary is learnt from captions: whoever changes the world gets another one."""
    tokenizer = learn_tokenizer(captions=300)
    tokenizer.save_pretrained(tmp_path / "clip" / "tokenizer")
    models = {"clip": clip.CLIP(replace(TINY_TEXT, vocab_size=len(tokenizer.vocab)), TINY_VISION), "vae": AutoencoderKL(TINY_VAE)}
    for name, model in models.items():
        (tmp_path / name).mkdir(exist_ok=True)
        torch.save({"average": model.state_dict()}, tmp_path / name / "state.pt")
    _, text_encoder, found = unet.parts(tmp_path)
    assert text_encoder.config.vocab_size == len(found.vocab) == len(tokenizer.vocab) != TINY_TEXT.vocab_size


def test_a_training_that_lacks_another_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"begin with: python -m minisd\.train clip"):
        unet.parts(tmp_path)


def test_finished_gives_the_average(tmp_path):
    average = train(tmp_path, toy(), RECIPE, toy_loss(RECIPE))
    assert torch.equal(weights(finished(tmp_path, toy(seed=5))), weights(average))


SHARED = """
import sys, torch, torch.distributed as dist
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_train import RECIPE, toy, toy_loss, train, weights
dist.init_process_group("gloo")
average = train(Path({folder!r}), toy(), RECIPE, toy_loss(RECIPE))
if dist.get_rank() == 0:
    torch.save(weights(average), {out!r})
dist.destroy_process_group()
"""


def test_two_processes_train_what_one_does_with_the_whole_batch(tmp_path):
    alone = train(tmp_path / "alone", toy(), RECIPE, toy_loss(RECIPE))
    script, out = tmp_path / "shared.py", tmp_path / "out.pt"
    script.write_text(SHARED.format(tests=os.path.dirname(__file__), folder=str(tmp_path / "shared"), out=str(out)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert torch.allclose(torch.load(out), weights(alone), atol=1e-6)
    curves = [[json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").open()] for run in ("alone", "shared")]
    assert len(curves[0]) == len(curves[1]) > 0


def test_the_learning_rate_rises_stays_and_falls():
    recipe = Recipe(steps=1000, batch_size=1, learning_rate=2.0, warmup=10, decay=0.5)
    assert recipe.learning_rate_at(0) == pytest.approx(0.2)
    assert recipe.learning_rate_at(9) == recipe.learning_rate_at(500) == 2.0
    assert recipe.learning_rate_at(750) == pytest.approx(1.0)
    assert recipe.learning_rate_at(999) < 1e-4


def test_the_average_follows_the_weights():
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, keep=0.9)
    start = float(model.weight.detach())
    with torch.no_grad():
        model.weight.fill_(start + 1)
    average.update(model, step=10**6)
    assert float(average.model.weight) == pytest.approx(start + 0.1, abs=1e-6)


def test_every_sample_of_every_step_has_a_seed_of_its_own():
    seeds = {rng.random() for step in range(3) for rng in sample_seeds(RECIPE, step)}
    assert len(seeds) == 12
    assert not torch.equal(batch_noise(RECIPE, 0, 5), batch_noise(RECIPE, 1, 5))
    assert batch_noise(RECIPE, 0, uniform=True).shape == (4,)


def test_min_snr_weights_are_the_papers():
    alphas_cumprod = PNDMScheduler().alphas_cumprod
    for t in (0, 100, 500, 999):
        snr = float(alphas_cumprod[t] / (1 - alphas_cumprod[t]))
        assert float(unet.min_snr_weights(alphas_cumprod)[t]) == pytest.approx(min(snr, 5) / snr, rel=1e-5)


def test_times_are_drawn_so_that_the_loss_keeps_its_mean():
    """Σ p(t) √w(t) e(t) is Σ w(t) e(t) up to a constant, when p is √w made to sum to 1."""
    recipe = Recipe(steps=1, batch_size=4000, learning_rate=1e-3)
    latents, seen = torch.zeros(1, 4, 2, 2), []

    def no_idea(x, t, context):
        seen.append(t)
        return UNet2DConditionOutput(torch.zeros_like(x))

    loss, _ = unet.loss_with(latents, lambda captions, step: None, recipe)(no_idea, 0)
    weights = unet.min_snr_weights(PNDMScheduler().alphas_cumprod)
    expected = weights.sum() / weights.sqrt().sum()  # the noise has a mean square of 1
    assert float(loss) == pytest.approx(float(expected), rel=0.03)
    assert seen[0].min() >= 0 and seen[0].max() <= 999


def test_contrastive_loss_is_cross_entropy_both_ways():
    similarity = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    rows = [-2 + math.log(math.exp(2) + 1), -3 + math.log(math.exp(1) + math.exp(3))]
    columns = [-2 + math.log(math.exp(2) + math.exp(1)), -3 + math.log(1 + math.exp(3))]
    assert float(clip.contrastive_loss(similarity)) == pytest.approx((sum(rows) + sum(columns)) / 4)


def test_a_twin_differs_and_is_not_held_out():
    """Two scenes that say the same would teach the towers to tell apart what cannot be told apart."""
    for i in range(300):
        scene, twin = clip.scene_and_twin(random.Random(i))
        assert clip.meaning(scene) != clip.meaning(twin) and not is_held_out(twin)


def test_next_to_means_the_same_both_ways():
    scene = compose(random.Random(0), "next", ("cat", "box"), ("red", "blue"), "")
    other = compose(random.Random(1), "next", ("box", "cat"), ("blue", "red"), "")
    assert clip.meaning(scene) == clip.meaning(other)
    scene, other = (compose(random.Random(0), "left", kinds) for kinds in (("cat", "box"), ("box", "cat")))
    assert clip.meaning(scene) != clip.meaning(other)


def test_centring_changes_the_latents_and_not_the_picture():
    torch.manual_seed(0)
    model = AutoencoderKL(SMALL_VAE).eval()
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(x).latent_dist.mode()).sample
        model = vae.centred(model, pictures=16)
        after = model.decode(model.encode(x).latent_dist.mode()).sample
    assert torch.allclose(before, after, atol=1e-5)
    assert model.config.scaling_factor != SMALL_VAE.scaling_factor


def test_tokens_have_clips_form_and_words_are_whole():
    tokenizer = learn_tokenizer(captions=3000)
    assert len(tokenizer.vocab) == 256 + 256 + len(tokenizer.merges) + 2 <= 1000
    assert tokenizer.end_id == len(tokenizer.vocab) - 1 == tokenizer.start_id + 1
    sentence = "a photograph of an astronaut riding a purple dragon at sunset"
    assert tokenizer.bpe.encode(sentence).tokens == [word + "</w>" for word in sentence.split(" ")]


@pytest.mark.parametrize("part", ["clip", "vae", "unet"])
def test_a_few_steps_of_each_training_lower_its_loss(part, tmp_path):
    torch.manual_seed(0)
    recipe = Recipe(steps=40, batch_size=8, learning_rate=2e-3, warmup=1, bfloat16=False, decay=0.01)
    tokenizer = learn_tokenizer(captions=500)
    if part == "clip":
        text = CLIPTextConfig(len(tokenizer.vocab), 32, 64, 2, 2)
        model = clip.CLIP(text, CLIPVisionConfig(32, 64, 2, 2, image_size=64, patch_size=16))
        recipe = replace(recipe, batch_size=32)
        loss_of = clip.loss_with(tokenizer, recipe)
    elif part == "vae":
        model, loss_of = AutoencoderKL(SMALL_VAE), vae.loss_with(recipe)
    else:
        model = UNet2DConditionModel(SMALL_UNET)
        latents, context = torch.randn(4, 4, 16, 16).half(), torch.randn(1, 5, 8)
        loss_of = unet.loss_with(latents, lambda captions, step: context.expand(len(captions), -1, -1), recipe)
    first = [float(loss_of(model, step)[0].detach()) for step in range(100, 104)]
    trained = train(tmp_path, model, replace(recipe, ema=0.5), loss_of)
    last = [float(loss_of(trained, step)[0].detach()) for step in range(100, 104)]
    assert sum(last) < 0.97 * sum(first)

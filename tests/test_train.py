"""The trainings: resumed equals unbroken, shared equals alone, and the formulas are the papers'."""

import copy
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

from minisd import StableDiffusionPipeline
from minisd.config import TINY_TEXT, TINY_UNET, TINY_VAE, TINY_VISION, CLIPTextConfig, CLIPVisionConfig, UNetConfig, VAEConfig
from minisd.evaluate.detector import GRID, KINDS, Prediction
from minisd.evaluate.findings import PLACES
from minisd.evaluate.wear import worn
from minisd.schedulers import PNDMScheduler
from minisd.tiny.picture_book import COLORS, compose, is_held_out
from minisd.tiny.twins import meaning, scene_and_twin
from minisd.train import ablations, clip, decoder, judge, loop, unet, vae
from minisd.train.__main__ import main
from minisd.train.loop import Average, Recipe, batch_noise, sample_seeds, train
from minisd.train.state import finished
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


def small_clip(seed=0, recipe=RECIPE):
    torch.manual_seed(seed)
    tokenizer = learn_tokenizer(captions=200)
    text = CLIPTextConfig(len(tokenizer.vocab), 32, 64, 2, 2)
    model = clip.CLIP(text, CLIPVisionConfig(32, 64, 2, 2, image_size=64, patch_size=16))
    return model, clip.loss_with(tokenizer, recipe)


def small_unet(seed=0, recipe=RECIPE):
    torch.manual_seed(seed)
    latents, context = torch.randn(4, 4, 16, 16).half(), torch.randn(1, 5, 8)
    loss = unet.loss_with(latents, lambda captions, step: context.expand(len(captions), -1, -1), recipe)
    return UNet2DConditionModel(SMALL_UNET), loss


WHOLE = {"toy": lambda seed=0: (toy(seed), toy_loss(RECIPE)), "clip": small_clip, "unet": small_unet}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(kind, tmp_path):
    (model, loss), (other, _) = WHOLE[kind](), WHOLE[kind](seed=1)
    recipe = replace(RECIPE, bfloat16=kind == "unet")
    unbroken = train(tmp_path / "a", copy.deepcopy(model), recipe, loss)

    def killed_at_4(model, step):
        if step == 4:
            raise KeyboardInterrupt
        return loss(model, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", model, recipe, killed_at_4, save_every=0)
    resumed = train(tmp_path / "b", other, recipe, loss)
    assert torch.equal(weights(unbroken), weights(resumed))
    states = [torch.load(tmp_path / run / "state.pt", weights_only=True) for run in "ab"]
    assert all(torch.equal(states[0]["model"][name], states[1]["model"][name]) for name in states[0]["model"])
    moments = [state["optimizer"]["state"] for state in states]
    assert all(torch.equal(moments[0][i][name], moments[1][i][name]) for i in moments[0] for name in moments[0][i])


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
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 12')  # and a line that it cut short
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

    (tmp_path / "unet").mkdir()
    torch.save({"average": UNet2DConditionModel(TINY_UNET).state_dict()}, tmp_path / "unet" / "state.pt")
    assert main(["pack", "--folder", str(tmp_path), "--to", str(tmp_path / "packed")]) == 0
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "packed")
    assert pipe.guidance_scale == unet.GUIDANCE_SCALE and len(pipe.tokenizer.vocab) == len(tokenizer.vocab)
    assert pipe("a cat", num_inference_steps=2).images[0].size == (128, 128)


def test_several_processes_share_a_batch_evenly_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "rank_and_world", lambda: (0, 3))
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4 evenly"):
        train(tmp_path, toy(), RECIPE, toy_loss(RECIPE))


def test_the_second_judges_loss_is_least_where_it_finds_the_truth():
    scenes = [judge.any_scene(random.Random(i)) for i in range(40)]
    scenes = [scene for scene in scenes if scene.things]
    right = judge_that_sees(scenes)
    wrong = judge_that_sees([*scenes[1:], scenes[0]])
    assert judge.detection_loss(right, scenes) < 0.1 < 1 < judge.detection_loss(wrong, scenes)


def judge_that_sees(scenes) -> Prediction:
    """What a network without fault would predict."""
    heat, color, box = (torch.zeros(len(scenes), channels, GRID, GRID) for channels in (len(KINDS), len(COLORS), 3))
    heat -= 12
    place = 20 * torch.nn.functional.one_hot(torch.tensor([PLACES.index(scene.place) for scene in scenes]), len(PLACES)).float()
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            x, y = thing.x * GRID, thing.y * GRID
            row, column = min(max(int(y), 0), GRID - 1), min(max(int(x), 0), GRID - 1)
            heat[i, list(KINDS).index(thing.kind), row, column] = 12
            color[i, list(COLORS).index(thing.color), row, column] = 20
            box[i, :, row, column] = torch.tensor([x - column, y - row, math.log(thing.scale)])
    return Prediction(heat, color, box, place)


def test_pictures_can_be_worn_and_are_not_if_the_strength_is_zero():
    pictures, noise = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 3, 32, 32)
    assert torch.allclose(worn(pictures, noise, torch.zeros(2, 3)), pictures, atol=1e-5)
    assert (worn(pictures, noise, torch.ones(2, 3)) - pictures).abs().mean() > 0.1


def test_logs_are_plotted(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    train(tmp_path / "toy", toy(), RECIPE, toy_loss(RECIPE))
    assert main(["plot", "--folder", str(tmp_path)]) == 0
    assert (tmp_path / "toy" / "log.png").exists()


def test_a_training_that_lacks_another_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"start one with: python -m minisd\.train clip"):
        unet.parts(tmp_path)


def test_finished_gives_the_average(tmp_path):
    average = train(tmp_path, toy(), RECIPE, toy_loss(RECIPE))
    assert torch.equal(weights(finished(tmp_path, toy(seed=5))), weights(average))


SHARED = """
import sys, torch, torch.distributed as dist
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_train import RECIPE, WHOLE, train, weights
dist.init_process_group("gloo")
model, loss = WHOLE[{kind!r}]()
average = train(Path({folder!r}), model, RECIPE, loss)
if dist.get_rank() == 0:
    torch.save(weights(average), {out!r})
dist.destroy_process_group()
"""


@pytest.mark.parametrize("kind", WHOLE)
def test_two_processes_train_what_one_does_with_the_whole_batch(kind, tmp_path):
    model, loss = WHOLE[kind]()
    alone = train(tmp_path / "alone", model, RECIPE, loss)
    script, out = tmp_path / "shared.py", tmp_path / "out.pt"
    script.write_text(SHARED.format(tests=os.path.dirname(__file__), kind=kind, folder=str(tmp_path / "shared"), out=str(out)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    apart = (torch.load(out) - weights(alone)).abs()
    # Adam turns a gradient that is only rounding into a whole step. CLIP has many (words that no caption of the batch has), so only
    # the mean is compared; the UNet has single ones, and which depends on the CPU's instructions
    mean, largest = {"toy": (1e-6, 1e-6), "clip": (1e-6, math.inf), "unet": (1e-7, 5e-5)}[kind]
    assert apart.mean() < mean and apart.max() < largest
    curves = [[json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").open()] for run in ("alone", "shared")]
    assert curves[0] and curves[1] == pytest.approx(curves[0], rel=1e-4)  # logged with five digits


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
    assert average.model.weight.grad_fn is None  # a history of all updates would fill the memory


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
        scene, twin = scene_and_twin(random.Random(i))
        assert meaning(scene) != meaning(twin) and not is_held_out(twin)


def test_next_to_means_the_same_both_ways():
    scene = compose(random.Random(0), "next", ("cat", "box"), ("red", "blue"), "")
    other = compose(random.Random(1), "next", ("box", "cat"), ("blue", "red"), "")
    assert meaning(scene) == meaning(other)
    scene, other = (compose(random.Random(0), "left", kinds) for kinds in (("cat", "box"), ("box", "cat")))
    assert meaning(scene) != meaning(other)


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


@pytest.mark.parametrize("part", ["clip", "vae", "decoder", "unet"])
def test_a_few_steps_of_each_training_lower_its_loss(part, tmp_path):
    torch.manual_seed(0)
    recipe = Recipe(steps=40, batch_size=8, learning_rate=2e-3, warmup=1, bfloat16=False, decay=0.01)
    if part == "clip":
        recipe = replace(recipe, batch_size=32)
        model, loss_of = small_clip(recipe=recipe)
    elif part == "unet":
        model, loss_of = small_unet(recipe=recipe)
    else:
        model, loss_of = AutoencoderKL(SMALL_VAE), {"vae": vae, "decoder": decoder}[part].loss_with(recipe)
    first = [float(loss_of(model, step)[0].detach()) for step in range(100, 104)]
    trained = train(tmp_path, model, replace(recipe, ema=0.5), loss_of)
    last = [float(loss_of(trained, step)[0].detach()) for step in range(100, 104)]
    assert sum(last) < 0.97 * sum(first)


def test_ablations_train_each_variant_once_and_count_what_it_draws(tmp_path, monkeypatch):
    for name, few in {"SCENES": 8, "PROMPTS": 2, "STEPS": 2}.items():
        monkeypatch.setattr(ablations, name, few)
    ablations.run(tmp_path, replace(RECIPE, steps=2, batch_size=2))
    counts = json.loads((tmp_path / "ablations" / "ablations.json").read_text(encoding="utf-8"))
    assert list(counts) == list(ablations.VARIANTS)
    assert all(variant[f"guidance {scale}"]["all"][1] == 2 for variant in counts.values() for scale in (1, 2))

    states = {file.parent.name: torch.load(file, weights_only=True)["model"] for file in tmp_path.rglob("state.pt")}
    assert len(states) == len(ablations.VARIANTS) - 1  # weights not averaged are the other weights of the same training
    given = StableDiffusionPipeline.from_pretrained("tiny").text_encoder.state_dict()
    learnt = {name for name, state in states.items() if any((state[f"text_encoder.{k}"] != given[k]).any() for k in given)}
    assert learnt == {"text-encoder-trained-jointly"}

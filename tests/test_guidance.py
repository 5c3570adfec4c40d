"""Classifier-free guidance: the formula, and the batch it is computed from."""

import pytest
import torch
from helpers import PROMPTS, Watched, distance, draw, randn, small_pipeline

from minisd import DDIMScheduler, StableDiffusionPipeline
from minisd.pipeline import guide


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    return small_pipeline("v1")


@pytest.mark.parametrize(("scale", "expected"), [(0, 2.0), (1, 5.0), (2, 8.0), (7.5, 24.5)])
def test_guidance_goes_away_from_the_unconditional(scale, expected):
    assert guide(torch.tensor(2.0), torch.tensor(5.0), scale).item() == expected


def test_the_unconditional_half_comes_first(pipe):
    watched = Watched(pipe)
    draw(pipe, PROMPTS)
    assert torch.equal(watched.context, torch.cat([pipe.encode_prompt(["", ""]), pipe.encode_prompt(PROMPTS)]))
    x = watched.calls[0][0]
    assert x.shape[0] == 4 and torch.equal(x[:2], x[2:])


def test_the_negative_prompt_stands_in_its_place(pipe):
    watched = Watched(pipe)
    draw(pipe, PROMPTS, negative_prompt=["a horse", "a red ball"])
    assert torch.equal(watched.context[:2], pipe.encode_prompt(["a horse", "a red ball"]))


def test_images_of_a_prompt_stand_together(pipe):
    """p0, p0, p1, p1."""
    watched = Watched(pipe)
    draw(pipe, PROMPTS, num_images_per_prompt=2, guidance_scale=1.0)
    one, two = pipe.encode_prompt(PROMPTS)
    assert torch.equal(watched.context, torch.stack([one, one, two, two]))


@pytest.mark.parametrize(("scale", "batch"), [(7.5, 2), (1.01, 2), (1.0, 1), (0.0, 1), (-3.0, 1)])
def test_guidance_of_one_or_less_asks_once(pipe, scale, batch):
    watched = Watched(pipe)
    draw(pipe, guidance_scale=scale)
    assert {len(call[0]) for call in watched.calls} == {batch}


def test_what_the_unet_predicts_is_guided_and_stepped(pipe):
    """The loop by hand: two separate calls of the UNet a step, the formula, the sampler."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    got = draw(pipe, PROMPTS[:1], guidance_scale=3.0)
    x, scheduler = randn(1, 4, 8, 8), pipe.scheduler
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        eps_uncond, eps_cond = (pipe.unet(x, t, pipe.encode_prompt([prompt])).sample for prompt in ("", PROMPTS[0]))
        x = scheduler.step(eps_uncond + 3 * (eps_cond - eps_uncond), t, x).prev_sample
    assert distance(got, x) <= 1e-5

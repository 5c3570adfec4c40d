"""What the samplers share: their timesteps, the order of steps, settings, precision."""

import json
import math

import pytest
import torch
from helpers import OFFICIAL, begun, randn, toy_model, trajectory

from minisd import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler, UnsupportedConfig
from minisd.schedulers import SCHEDULERS

ALL = pytest.mark.parametrize("sampler", SCHEDULERS.values(), ids=SCHEDULERS)
DRAW_NOISE = ("EulerAncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler")
STEADY = pytest.mark.parametrize("sampler", [sampler for name, sampler in SCHEDULERS.items() if name not in DRAW_NOISE])


def test_the_last_step_goes_to_the_first_alpha_not_to_one():
    """Many ports go to ᾱ = 1, or walk 980 … 0 instead of 981 … 1."""
    x, eps = randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2)
    for sampler in (DDIMScheduler, PNDMScheduler):
        scheduler = begun(sampler, 1)
        assert scheduler.timesteps.tolist() == [1]
        x0 = (x - math.sqrt(1 - 0.99829602) * eps) / math.sqrt(0.99829602)
        expected = math.sqrt(0.99914998) * x0 + math.sqrt(1 - 0.99914998) * eps
        torch.testing.assert_close(scheduler.step(eps, 1, x).prev_sample, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", [DDIMScheduler, PNDMScheduler])
def test_alpha_to_one_ends_at_the_guess(sampler):
    out = begun(sampler, 1, set_alpha_to_one=True).step(randn(1, 4, 8, 8, seed=2), 1, randn(1, 4, 8, 8, seed=1))
    torch.testing.assert_close(out.prev_sample, out.pred_original_sample)


TIMESTEPS = {
    (DDIMScheduler, 50): [*range(981, 0, -20)],
    (DDIMScheduler, 3): [667, 334, 1],
    (DDIMScheduler, 15): [*range(925, 0, -66)],  # 15 does not divide 1000: it begins lower
    (DDIMScheduler, 1): [1],
    (PNDMScheduler, 50): [981, 961, *range(961, 0, -20)],
    (PNDMScheduler, 15): [925, 859, *range(859, 0, -66)],
    (PNDMScheduler, 2): [501, 1, 1],
    (PNDMScheduler, 1): [1],
    (LMSDiscreteScheduler, 4): [999, 666, 333, 0],
    (LMSDiscreteScheduler, 3): [999, 499.5, 0],
    (LMSDiscreteScheduler, 1): [0],
}


@pytest.mark.parametrize(("sampler", "n"), TIMESTEPS, ids=lambda value: getattr(value, "__name__", value))
def test_timesteps(sampler, n):
    assert begun(sampler, n).timesteps.tolist() == pytest.approx(TIMESTEPS[sampler, n])


@pytest.mark.parametrize("sampler", [DDIMScheduler, PNDMScheduler])
@pytest.mark.parametrize("n", [1000, 1001, 0, -1])
def test_impossible_numbers_of_steps_are_refused(sampler, n):
    """1000 steps would begin at t = 1000, and the last timestep is 999."""
    with pytest.raises(ValueError, match=rf"the number of steps must be from 1 to 999, not {n}"):
        sampler().set_timesteps(n)


def test_lms_takes_a_thousand_steps_but_not_none():
    assert len(begun(LMSDiscreteScheduler, 1000).timesteps) == 1000
    with pytest.raises(ValueError, match="the number of steps must be from 1 to "):
        LMSDiscreteScheduler().set_timesteps(0)


# The order of steps


@ALL
def test_steps_must_come_in_order(sampler):
    scheduler, x = begun(sampler, 10), randn(1, 4, 8, 8)
    first, second, third, fourth = scheduler.timesteps[:4]
    scheduler.step(x, first, x)
    with pytest.raises(ValueError, match=rf"t = {float(fourth):g} is out of order; the next timestep is {float(second):g}"):
        scheduler.step(x, fourth, x)
    scheduler.step(x, second, x)  # a refused step has changed nothing
    scheduler.step(x, third, x)


@ALL
def test_a_time_that_is_no_timestep_is_refused(sampler):
    scheduler, x = begun(sampler, 10), randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match="t = 17 is not one of the timesteps"):
        scheduler.step(x, 17, x)


@ALL
def test_nothing_goes_before_set_timesteps(sampler):
    x = randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match="call set_timesteps"):
        sampler().step(x, 1, x)


def test_lms_scales_and_adds_nothing_before_set_timesteps():
    x, t = randn(1, 4, 8, 8), torch.tensor([1])
    with pytest.raises(ValueError, match="call set_timesteps"):
        LMSDiscreteScheduler().scale_model_input(x, t[0])
    with pytest.raises(ValueError, match="call set_timesteps"):
        LMSDiscreteScheduler().add_noise(x, x, t)


@ALL
def test_nothing_comes_after_the_end(sampler):
    scheduler, x = begun(sampler, 2), randn(1, 4, 8, 8)
    *_, x = trajectory(scheduler, x)
    with pytest.raises(ValueError, match="the trajectory has ended; call set_timesteps to start another"):
        scheduler.step(x, scheduler.timesteps[-1], x)


@STEADY
def test_set_timesteps_begins_again(sampler):
    scheduler, x = begun(sampler, 10), randn(1, 4, 8, 8)
    first = list(trajectory(scheduler, x))
    scheduler.set_timesteps(7)
    scheduler.step(x, scheduler.timesteps[0], x)  # begun and left
    scheduler.set_timesteps(10)
    for a, b in zip(first, trajectory(scheduler, x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sampler", [PNDMScheduler, DDIMScheduler])
def test_a_trajectory_may_begin_in_the_middle(sampler):
    """img2img does so. With no slopes of the past, the first step is the plain one, and the rest is walked as ever."""
    scheduler, x = begun(sampler, 10), randn(1, 4, 8, 8)
    t, *rest = scheduler.timesteps[4:]
    eps = toy_model(x, t)
    moved = scheduler.step(eps, t, x).prev_sample
    a, b = (scheduler.alphas_cumprod[int(t) - back] for back in (0, 100))
    plain = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    torch.testing.assert_close(moved, plain, rtol=1e-5, atol=1e-5)
    for t in rest:
        moved = scheduler.step(toy_model(moved, t), t, moved).prev_sample
    assert moved.isfinite().all()


@ALL
@pytest.mark.parametrize("index", [0, 1, 2, 9])
def test_a_trajectory_may_begin_anywhere(sampler, index):
    scheduler, x = begun(sampler, 10), randn(1, 4, 8, 8)
    assert scheduler.step(x, scheduler.timesteps[index], x).prev_sample.isfinite().all()


# Settings and precision


def test_a_sampler_is_swapped_with_its_settings():
    ours = LMSDiscreteScheduler.from_config(PNDMScheduler(prediction_type="v_prediction", beta_end=0.02).config)
    assert (ours.config.prediction_type, ours.config.beta_end) == ("v_prediction", 0.02)
    assert begun(LMSDiscreteScheduler, 3, **vars(ours.config)).timesteps.tolist() == [999, 499.5, 0]  # its own spacing


@pytest.mark.parametrize("kind", ["v1", "v2"])
@ALL
def test_official_settings_are_read(sampler, kind):
    scheduler = sampler.from_config(OFFICIAL[kind]["scheduler"])
    assert scheduler.config.prediction_type == {"v1": "epsilon", "v2": "v_prediction"}[kind]
    assert scheduler.alphas_cumprod[981].item() == pytest.approx(0.00577550, abs=5e-9)


@ALL
def test_settings_are_saved_and_loaded(sampler, tmp_path):
    scheduler = sampler(prediction_type="v_prediction", beta_end=0.02)
    scheduler.save_pretrained(tmp_path / "scheduler")
    assert sampler.from_pretrained(tmp_path, subfolder="scheduler").config == scheduler.config
    written = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert written["_class_name"] == sampler.__name__ and written["clip_sample"] is False


@ALL
def test_unknown_predictions_are_refused(sampler):
    with pytest.raises(UnsupportedConfig, match=f"{sampler.__name__}: prediction_type 'x0' is not one of"):
        sampler(prediction_type="x0")


@ALL
def test_unknown_spacings_are_refused(sampler):
    with pytest.raises(UnsupportedConfig, match=f"{sampler.__name__}: timestep_spacing 'even'"):
        sampler(timestep_spacing="even")


@STEADY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_are_stepped_in_float32(sampler, dtype):
    x, eps = randn(1, 4, 8, 8, seed=1).to(dtype), randn(1, 4, 8, 8, seed=2).to(dtype)
    half, full = begun(sampler, 10), begun(sampler, 10)
    t = half.timesteps[0]
    out = half.step(eps, t, x)
    assert out.prev_sample.dtype == out.pred_original_sample.dtype == dtype
    assert torch.equal(out.prev_sample, full.step(eps.float(), t, x.float()).prev_sample.to(dtype))


@ALL
def test_drowned_latents_keep_their_dtype(sampler):
    x, noise = randn(1, 4, 8, 8, seed=1).half(), randn(1, 4, 8, 8, seed=2).half()
    scheduler = begun(sampler, 4)
    assert scheduler.add_noise(x, noise, scheduler.timesteps[1:2]).dtype == torch.float16


def test_settings_of_programs_for_diffusers_are_taken_or_refused_by_name():
    assert DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)
    assert PNDMScheduler(skip_prk_steps=True)
    with pytest.raises(UnsupportedConfig, match="skip_prk_steps"):
        PNDMScheduler(skip_prk_steps=False)
    with pytest.raises(UnsupportedConfig, match="use_karras_sigmas"):
        DDIMScheduler.from_config(LMSDiscreteScheduler().config, use_karras_sigmas=True)


@ALL
def test_a_step_leaves_what_it_is_given_alone(sampler):
    scheduler, x, eps = begun(sampler, 4), randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2)
    given = x.clone(), eps.clone()
    for t in scheduler.timesteps:
        scheduler.step(eps, t, x)
    assert torch.equal(x, given[0]) and torch.equal(eps, given[1])

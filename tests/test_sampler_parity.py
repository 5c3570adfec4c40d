"""The samplers beside diffusers': stored traces, and every step of whole runs."""

import json
import math

import pytest
import torch
from helpers import DATA, OFFICIAL, begun, distance, randn, toy_model, trajectory

from minisd import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler
from minisd.schedulers import SCHEDULERS, Scheduler

FIRST = ("PNDMScheduler", "DDIMScheduler", "LMSDiscreteScheduler")  # the others: test_samplers_of_today.py
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' LMS and numpy 2

# PNDM with a v-model is a case of its own: diffusers blends v's, and the mathematics wants the ε's blended (test_samplers.py).
SAMPLERS_AND_MODELS = [
    (name, prediction)
    for name in FIRST
    for prediction in ("epsilon", "v_prediction")
    if (name, prediction) != ("PNDMScheduler", "v_prediction")
]


@pytest.mark.parametrize(
    "trace",
    json.loads((DATA / "sampler_traces.json").read_text()),
    ids=lambda trace: f"{trace['sampler']}-{trace['prediction_type']}-{trace['steps']}",
)
def test_trace_of_diffusers(trace):
    """Mean |x| after every step for the model x·t/(t+1), recorded with diffusers 0.42.1."""
    names = {"PNDM": PNDMScheduler, "DDIM": DDIMScheduler, "LMS": LMSDiscreteScheduler}
    scheduler = begun(names[trace["sampler"]], trace["steps"], prediction_type=trace["prediction_type"])
    assert scheduler.timesteps.tolist() == pytest.approx(trace["timesteps"])
    x = (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
    means = [x.abs().mean().item() for x in trajectory(scheduler, x, lambda x, t: x * t / (t + 1))]
    assert means == pytest.approx(trace["per_step_abs_mean"], rel=1e-5)


SETTINGS = {
    "stable diffusion": {},
    "alpha to one": {"set_alpha_to_one": True},
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "cosine, 500 steps": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500, "steps_offset": 0},
}


def diffusers_scheduler(name: str, n: int, **settings) -> Scheduler:
    """diffusers' sampler, told everything that it would not know from a default of its own."""
    diffusers = pytest.importorskip("diffusers")
    settings = {**OFFICIAL["v1"]["scheduler"], **settings}
    scheduler = getattr(diffusers, name).from_config({name: v for name, v in settings.items() if not name.startswith("_")})
    scheduler.set_timesteps(n)
    return scheduler


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("name", "prediction"), SAMPLERS_AND_MODELS)
def test_parity_with_diffusers_at_every_step(name, prediction, settings, measure):
    if name == "LMSDiscreteScheduler" and settings.get("beta_schedule") == "squaredcos_cap_v2":
        pytest.skip("the cosine's σ begins at 10,000, where float32 has no 1e-5 left in either (docs/samplers.md)")
    settings = {**settings, "prediction_type": prediction}
    ours, theirs = begun(SCHEDULERS[name], 50, **settings), diffusers_scheduler(name, 50, **settings)
    assert torch.equal(ours.timesteps.double(), theirs.timesteps.double())
    x = randn(2, 4, 8, 8)
    for a, b in zip(trajectory(ours, x), trajectory(theirs, x), strict=True):
        assert measure(a, b) <= 1e-5


@pytest.mark.parametrize("n", [1, 2, 3, 7, 15, 120])
@pytest.mark.parametrize(("name", "prediction"), SAMPLERS_AND_MODELS)
def test_parity_at_any_number_of_steps(name, prediction, n):
    ours, theirs = begun(SCHEDULERS[name], n, prediction_type=prediction), diffusers_scheduler(name, n, prediction_type=prediction)
    assert torch.equal(ours.timesteps.double(), theirs.timesteps.double())
    x = randn(1, 4, 8, 8)
    *_, a = trajectory(ours, x)
    *_, b = trajectory(theirs, x)
    assert distance(a, b) <= 2e-5


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_parity_of_ddim_with_new_noise(eta, measure):
    ours, theirs = begun(DDIMScheduler, 20), diffusers_scheduler("DDIMScheduler", 20)
    seeds = [torch.Generator().manual_seed(7) for _ in range(2)]
    a = b = randn(2, 4, 8, 8)
    for t in ours.timesteps:
        a = ours.step(toy_model(a, t), t, a, eta=eta, generator=seeds[0]).prev_sample
        b = theirs.step(toy_model(b, t), t, b, eta=eta, generator=seeds[1]).prev_sample
        assert measure(a, b) <= 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_parity_of_lms_on_leading_timesteps(prediction, measure):
    settings = {"timestep_spacing": "leading", "prediction_type": prediction}
    ours, theirs = begun(LMSDiscreteScheduler, 20, **settings), diffusers_scheduler("LMSDiscreteScheduler", 20, **settings)
    assert ours.init_noise_sigma == pytest.approx(math.sqrt(ours.sigmas[0] ** 2 + 1))
    for a, b in zip(trajectory(ours, randn(1, 4, 8, 8)), trajectory(theirs, randn(1, 4, 8, 8)), strict=True):
        assert measure(a, b) <= 1e-5


@pytest.mark.parametrize(("name", "prediction"), SAMPLERS_AND_MODELS)
def test_guess_of_x0_is_diffusers(name, prediction):
    if name == "PNDMScheduler":
        pytest.skip("diffusers' PNDM gives no guess")
    ours, theirs = (
        begun(SCHEDULERS[name], 10, prediction_type=prediction),
        diffusers_scheduler(name, 10, prediction_type=prediction),
    )
    t, x = ours.timesteps[0], randn(1, 4, 8, 8) * ours.init_noise_sigma
    theirs.scale_model_input(x, t)
    guesses = [scheduler.step(toy_model(x, t), t, x).pred_original_sample for scheduler in (ours, theirs)]
    assert distance(*guesses) <= 1e-5


@pytest.mark.parametrize("name", FIRST)
def test_parity_of_add_noise(name):
    ours, theirs = begun(SCHEDULERS[name], 10), diffusers_scheduler(name, 10)
    x0, noise, t = randn(3, 4, 8, 8, seed=1), randn(3, 4, 8, 8, seed=2), ours.timesteps[[9, 4, 0]]
    assert distance(ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t)) <= 1e-6

"""The samplers in σ and λ, DDPM and LCM: beside diffusers at every step, beside the papers, and by their measured orders."""

import inspect
import math
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from helpers import OFFICIAL, begun, distance, randn, seeded, toy_model
from torch import Tensor

import minisd
from minisd import DDIMScheduler, PNDMScheduler, UnsupportedConfig
from minisd.flags import parser
from minisd.schedule import to_x0_and_epsilon
from minisd.schedulers import SCHEDULERS, Scheduler
from minisd.schedulers.names import SAMPLERS, known_as, name_of, with_sigmas
from minisd.schedulers.sigmas import SigmaScheduler

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import orders

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' LMS and numpy 2

NEW = [name for name in SCHEDULERS if name not in ("PNDMScheduler", "DDIMScheduler", "LMSDiscreteScheduler")]
SPACINGS = ("leading", "linspace", "trailing")
KARRAS, EXPONENTIAL = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
IN_SIGMA = [name for name, sampler in SCHEDULERS.items() if issubclass(sampler, SigmaScheduler)]
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
ITS_OWN = {  # what diffusers' class must be told where its default is another
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False},
    "PNDMScheduler": {"skip_prk_steps": True},
    "DDPMScheduler": {"clip_sample": False},
}


def pair(name: str, **settings) -> tuple[Scheduler, Scheduler]:
    """minisd's sampler and diffusers', with the same settings."""
    diffusers = pytest.importorskip("diffusers")
    settings = STABLE_DIFFUSION | settings
    return SCHEDULERS[name](**settings), getattr(diffusers, name)(**settings, **ITS_OWN.get(name, {}))


def walk(scheduler: Scheduler, x: Tensor, model=toy_model, seed: int = 0):
    """The latents after each step, with new noise from the seed."""
    draws = "generator" in inspect.signature(scheduler.step).parameters
    noise = {"generator": seeded(seed)} if draws else {}
    x = x * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, **noise).prev_sample
        yield x


def compare(name: str, steps: int, measure, most: float = 1e-5, **settings):
    ours, theirs = pair(name, **settings)
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    torch.testing.assert_close(ours.timesteps.double(), theirs.timesteps.double(), rtol=0, atol=1e-4)
    assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-6)
    for a, b in zip(walk(ours, randn(1, 4, 8, 8)), walk(theirs, randn(1, 4, 8, 8)), strict=True):
        assert measure(a, b) <= most, (steps, settings)


@pytest.mark.parametrize(("name", "prediction"), [(name, kind) for name in SCHEDULERS for kind in SCHEDULERS[name].predictions])
def test_parity_with_diffusers_at_every_step(name, prediction, measure):
    """Every spacing and curve of σ. PNDM of v is a case of its own: diffusers blends v's there (test_samplers.py)."""
    if (name, prediction) == ("PNDMScheduler", "v_prediction"):
        pytest.skip("diffusers blends v, minisd ε")
    curves = [{}, KARRAS, EXPONENTIAL] if hasattr(SCHEDULERS[name].config_class, "use_karras_sigmas") else [{}]
    for spacing, curve in product(SPACINGS, curves):
        for steps in (1, 2, 5) if curve and spacing != "linspace" else (1, 2, 5, 20):
            if prediction == "sample" and steps == 2 and name == "HeunDiscreteScheduler" and spacing == "linspace":
                continue  # corrects at σ = 0.03, straight from 14.6, where float32 has no 1e-5 left for (x − x0)/σ
            compare(name, steps, measure, timestep_spacing=spacing, prediction_type=prediction, **curve)
    compare(name, 50, measure, prediction_type=prediction)


VARIANTS = {
    "DPMSolverMultistepScheduler": [
        {"solver_type": "heun"}, {"algorithm_type": "sde-dpmsolver++"}, {"solver_order": 1}, {"lower_order_final": False},
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, {"final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False, **KARRAS},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False, "euler_at_final": True},
    ],
    "UniPCMultistepScheduler": [
        {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, {"solver_order": 1}, {"disable_corrector": (0, 2)},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False}, {"sigma_max": 5.0, "sigma_min": 0.1, **KARRAS},
    ],
    "EulerDiscreteScheduler": [
        {"final_sigmas_type": "sigma_min"}, {"sigma_max": 5.0, "sigma_min": 0.1, **EXPONENTIAL}, {"sigma_min": 0.1, **KARRAS},
    ],
    "DDPMScheduler": [{"variance_type": "fixed_large"}, {"variance_type": "fixed_small_log"}],
    "LCMScheduler": [{"original_inference_steps": 40}, {"timestep_scaling": 1.0}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), [(name, settings) for name in VARIANTS for settings in VARIANTS[name]], ids=str)
def test_parity_of_what_only_one_sampler_has(name, settings, measure):
    for steps in (2, 7, 20):
        compare(name, steps, measure, **settings)


@pytest.mark.parametrize(
    ("name", "spacing"),
    [("EulerDiscreteScheduler", "leading"), ("DPMSolverMultistepScheduler", "linspace"), ("DDPMScheduler", "leading")],
)
def test_parity_at_999_steps(name, spacing, measure):
    compare(name, 999, measure, timestep_spacing=spacing)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name.startswith(("D", "Euler", "UniPC", "LCM"))])
def test_parity_at_zero_terminal_snr(name, measure):
    """ "trailing" begins where nothing is left of the picture, so that only v says what it is."""
    settings = {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    compare(name, 10, measure, most=1e-4, **settings)  # from σ = 4096 float32 brings fewer digits


@pytest.mark.parametrize("name", SCHEDULERS)
def test_parity_of_trained_betas(name, measure):
    betas = torch.linspace(0.03, 0.11, 1000).square().tolist()
    ours, theirs = pair(name, trained_betas=betas)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_parity_of_add_noise(name):
    ours, theirs = pair(name)
    ours.set_timesteps(10)
    theirs.set_timesteps(10)
    x0, noise, t = randn(3, 4, 8, 8, seed=1), randn(3, 4, 8, 8, seed=2), ours.timesteps[[9, 4, 0]]
    assert distance(ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t)) <= 1e-6


# Sums and means that diffusers' own tests store

STORED = [
    ("EulerDiscreteScheduler", {}, 10.0807, 0.0131),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}, 0.0002, 2.2676e-06),
    ("EulerDiscreteScheduler", KARRAS, 124.522995, 0.162139),
    ("EulerDiscreteScheduler", {"from": 8}, 57062.9297, 74.3007),
    ("EulerAncestralDiscreteScheduler", {}, 152.3192, 0.1983),
    ("EulerAncestralDiscreteScheduler", {"prediction_type": "v_prediction"}, 108.4439, 0.1412),
    ("EulerAncestralDiscreteScheduler", {"from": 8}, 56163.0508, 73.1290),
    ("HeunDiscreteScheduler", {}, 0.1233, 0.0002),
    ("HeunDiscreteScheduler", {"from": 8}, 75074.8906, 97.7538),
    ("LMSDiscreteScheduler", KARRAS, 3812.9927, 4.9648),
    ("DPMSolverMultistepScheduler", {}, None, 0.3301),
    ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}, None, 0.2251),
    ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction", **KARRAS}, None, 0.2096),
    ("DPMSolverMultistepScheduler", {"from": 5}, 318.4111, 0.4146),
    ("UniPCMultistepScheduler", {}, None, 0.2464),
    ("UniPCMultistepScheduler", KARRAS, None, 0.2925),
    ("UniPCMultistepScheduler", {"prediction_type": "v_prediction"}, None, 0.1014),
    ("UniPCMultistepScheduler", {"prediction_type": "v_prediction", **KARRAS}, None, 0.1966),
    ("UniPCMultistepScheduler", {"from": 8}, 315.5757, 0.4109),
    ("DDPMScheduler", {}, 258.9606, 0.3372),
    ("DDPMScheduler", {"prediction_type": "v_prediction"}, 202.0296, 0.2631),
    ("DDPMScheduler", {"from": 998}, 387.9466, 0.5051),
]


@pytest.mark.parametrize(("name", "settings", "total", "mean"), STORED, ids=str)
def test_what_diffusers_tests_store(name, settings, total, mean):
    """For the model x·t/(t+1). With `from`, a picture is drowned in noise up to one of the last steps, as img2img does."""
    settings, enters = dict(settings), settings.get("from", 0)
    settings.pop("from", None)
    exploding = name in IN_SIGMA and "Multistep" not in name
    if "Multistep" in name:
        settings |= {"final_sigmas_type": "sigma_min", "lower_order_final": name.startswith("UniPC")}
    linear = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "steps_offset": 0}
    scheduler = SCHEDULERS[name](**linear, num_train_timesteps=1100 if exploding else 1000, **settings)
    scheduler.set_timesteps(1000 if name == "DDPMScheduler" else 10)

    ramp = torch.arange(768) / 768
    arranged = lambda values: values.reshape(3, 8, 8, 4).permute(3, 0, 1, 2)  # noqa: E731
    x, timesteps = arranged(ramp) * scheduler.init_noise_sigma, scheduler.timesteps[enters * scheduler.order :]
    if enters:
        x = scheduler.add_noise(x, arranged(ramp.flip(-1)), timesteps[:1])
    noise = seeded(0)
    for t in timesteps:
        x = scheduler.scale_model_input(x, t)
        out = x * t / (t + 1)
        if name == "DDPMScheduler":  # diffusers clips x0 there; minisd never does, so the model does
            alpha = scheduler.alphas_cumprod[int(t)]
            x0 = to_x0_and_epsilon(out, x, alpha, scheduler.config.prediction_type)[0].clamp(-1, 1)
            eps = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
            out = eps if scheduler.config.prediction_type == "epsilon" else alpha**0.5 * eps - (1 - alpha) ** 0.5 * x0
        x = scheduler.step(out, t, x, generator=noise).prev_sample
    assert x.abs().mean().item() == pytest.approx(mean, abs=1e-3)
    assert total is None or x.abs().sum().item() == pytest.approx(total, abs=1e-2)


# k-diffusion's samplers, as the papers have them, on the same list of σ

LEVELS = [14.6146, 9.5, 6.0, 3.1, 1.7, 0.8, 0.33, 0.11, 0.0292, 0.0]


def slope(x: Tensor, sigma: float, scheduler: Scheduler) -> Tensor:
    """ε of a model that, as k-diffusion does, is shown x/√(σ² + 1), and told t by the logarithm of σ."""
    log_sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().log().double()
    above = min(int((log_sigmas < math.log(sigma)).sum()), len(log_sigmas) - 1)
    low, high = log_sigmas[above - 1 : above + 1].tolist()
    t = above - 1 + min((math.log(sigma) - low) / (high - low), 1.0)
    return toy_model(x / math.sqrt(sigma**2 + 1), t)


def sample_euler(x, scheduler, noise):
    for sigma, following in pairwise(LEVELS):
        yield (x := x + (following - sigma) * slope(x, sigma, scheduler))


def sample_euler_ancestral(x, scheduler, noise):
    for sigma, following in pairwise(LEVELS):
        up = min(following, math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2))
        down = math.sqrt(following**2 - up**2)
        x = x + (down - sigma) * slope(x, sigma, scheduler)
        yield (x := x + up * torch.randn(x.shape, generator=noise))


def sample_heun(x, scheduler, noise):
    for sigma, following in pairwise(LEVELS):
        first = slope(x, sigma, scheduler)
        tried = x + (following - sigma) * first
        if following:
            yield tried
            tried = x + (following - sigma) * (first + slope(tried, following, scheduler)) / 2
        yield (x := tried)


def sample_dpmpp_2m(x, scheduler, noise):
    """Lu et al. 2022, algorithm 2, for α = 1."""
    old = before = None
    for sigma, following in pairwise(LEVELS):
        x0 = x - sigma * slope(x, sigma, scheduler)
        better = x0
        if old is not None and following:
            r = math.log(before / sigma) / math.log(sigma / following)
            better = (1 + 1 / (2 * r)) * x0 - old / (2 * r)
        old, before = x0, sigma
        yield (x := following / sigma * x - (following / sigma - 1) * better)


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("EulerDiscreteScheduler", sample_euler),
        ("EulerAncestralDiscreteScheduler", sample_euler_ancestral),
        ("HeunDiscreteScheduler", sample_heun),
        ("DPMSolverMultistepScheduler", sample_dpmpp_2m),
    ],
)
def test_k_diffusion_is_a_list_of_sigmas_away(name, literal, measure):
    scheduler, x = SCHEDULERS[name](), randn(1, 4, 8, 8) * LEVELS[0]
    scheduler.set_timesteps(sigmas=LEVELS)
    preserving = "Multistep" in name  # its latents are x / √(σ² + 1)
    scale = [(sigma**2 + 1) ** -0.5 if preserving else 1.0 for sigma in scheduler.sigmas]
    own, noise = x * scale[0], seeded(1)
    for i, (t, theirs) in enumerate(zip(scheduler.timesteps, literal(x, scheduler, seeded(1)), strict=True)):
        own = scheduler.step(toy_model(scheduler.scale_model_input(own, t), t), t, own, generator=noise).prev_sample
        assert measure(own / scale[i + 1], theirs) <= 1e-5


# Orders


@pytest.mark.parametrize(
    ("name", "order", "settings"),
    [
        ("EulerDiscreteScheduler", 1, {}),
        ("HeunDiscreteScheduler", 2, {}),
        ("LMSDiscreteScheduler", 2, {}),
        ("DPMSolverMultistepScheduler", 2, {}),
        ("DPMSolverMultistepScheduler", 2, {"solver_type": "heun"}),
        ("DPMSolverMultistepScheduler", 1, {"solver_order": 1}),
        ("UniPCMultistepScheduler", 2, {}),
        ("UniPCMultistepScheduler", 2, {"solver_type": "bh1"}),
    ],
    ids=str,
)
def test_orders(name, order, settings):
    """Twice the steps, half the error, or a quarter, or less."""
    few, many = orders.errors(SCHEDULERS[name](**settings), [32, 64])
    measured = math.log2(few / many)
    assert (0.9 < measured < 1.1) if order == 1 else measured >= 1.8


def test_one_step_of_all_that_draw_new_noise():
    """DDIM with η = 1, DDPM, Euler a and SDE-DPM++ are one update in different units."""
    x, eps = randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2)
    t, s = 901, 801
    expected = begun(DDIMScheduler, 10).step(eps, t, x, eta=1.0, generator=seeded()).prev_sample
    ddpm = SCHEDULERS["DDPMScheduler"]()
    ddpm.set_timesteps(timesteps=[t, s])
    assert distance(ddpm.step(eps, t, x, generator=seeded()).prev_sample, expected) <= 1e-6
    for name, settings in {
        "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
        "EulerAncestralDiscreteScheduler": {},
    }.items():
        scheduler = SCHEDULERS[name](**settings)
        scheduler.set_timesteps(timesteps=[t, s, 1])
        sigma, following = scheduler.sigmas[:2]
        exploding = "Euler" in name
        start = x * math.sqrt(sigma**2 + 1) if exploding else x
        end = scheduler.step(eps, t, start, generator=seeded()).prev_sample
        assert distance(end / math.sqrt(following**2 + 1) if exploding else end, expected) <= 1e-6


# Lists, entries, settings


@pytest.mark.parametrize("name", NEW)
def test_a_list_of_timesteps(name, measure):
    """Beside diffusers' where it takes one."""
    ours, theirs = pair(name)
    ours.set_timesteps(timesteps=[999, 600, 320, 100, 7])
    if "timesteps" in inspect.signature(theirs.set_timesteps).parameters:
        theirs.set_timesteps(timesteps=[999, 600, 320, 100, 7])
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()
        for a, b in zip(walk(ours, randn(1, 4, 8, 8)), walk(theirs, randn(1, 4, 8, 8)), strict=True):
            assert measure(a, b) <= 1e-5


def test_a_list_of_sigmas_is_diffusers(measure):
    ours, theirs = pair("EulerDiscreteScheduler")
    ours.set_timesteps(sigmas=LEVELS)
    theirs.set_timesteps(sigmas=LEVELS)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=0, atol=1e-3)
    for a, b in zip(walk(ours, randn(1, 4, 8, 8)), walk(theirs, randn(1, 4, 8, 8)), strict=True):
        assert measure(a, b) <= 1e-5


@pytest.mark.parametrize("bad", [[], [5, 5], [1, 2], [1000, 1], [5, -1], [math.nan, 1]], ids=str)
@pytest.mark.parametrize("name", NEW)
def test_bad_lists_of_timesteps_are_refused(name, bad):
    with pytest.raises(ValueError, match="timesteps must be a falling list of 1 or more numbers from 999 to 0, not "):
        SCHEDULERS[name]().set_timesteps(timesteps=bad)


@pytest.mark.parametrize("bad", [[], [1.0], [1, 2], [1, -1], [1, 1]], ids=str)
@pytest.mark.parametrize("name", IN_SIGMA)
def test_bad_lists_of_sigmas_are_refused(name, bad):
    with pytest.raises(ValueError, match="sigmas must be a falling list of 2 or more numbers from inf to 0, not "):
        SCHEDULERS[name]().set_timesteps(sigmas=bad)


@pytest.mark.parametrize("name", IN_SIGMA)
def test_one_of_number_timesteps_and_sigmas(name):
    for given in ({}, {"num_inference_steps": 3, "sigmas": [1, 0]}, {"timesteps": [3], "sigmas": [1, 0]}):
        with pytest.raises(ValueError, match="give exactly one of num_inference_steps, timesteps and sigmas"):
            SCHEDULERS[name]().set_timesteps(**given)


MOST = {("LCMScheduler", spacing): 50 for spacing in SPACINGS}
MOST |= {(name, "leading"): 998 for name in SCHEDULERS if "Multistep" in name}
MOST |= {(name, "linspace"): 999 for name in SCHEDULERS if "Multistep" in name}


@pytest.mark.parametrize(("name", "spacing"), list(product(SCHEDULERS, SPACINGS)))
def test_impossible_numbers_of_steps_are_refused(name, spacing):
    scheduler = SCHEDULERS[name](timestep_spacing=spacing)
    most = MOST.get((name, spacing), 999 if spacing == "leading" else 1000)
    scheduler.set_timesteps(most)
    assert len(scheduler.timesteps.unique()) == most and 0 <= scheduler.timesteps.min() <= scheduler.timesteps.max() <= 999
    for n in (0, -1, most + 1):
        with pytest.raises(ValueError, match=f"the number of steps must be from 1 to {most}, not {n}"):
            scheduler.set_timesteps(n)


@pytest.mark.parametrize("steps", [61, 103, 999])
def test_trailing_has_as_many_timesteps_as_steps(steps):
    """Rounding gives diffusers one more for some numbers, t = −1."""
    assert begun(DDIMScheduler, steps, timestep_spacing="trailing").timesteps.min() >= 0
    assert len(begun(DDIMScheduler, steps, timestep_spacing="trailing").timesteps) == steps


@pytest.mark.parametrize("curve", [{}, KARRAS, EXPONENTIAL], ids=str)
@pytest.mark.parametrize("name", IN_SIGMA)
def test_a_trajectory_may_begin_at_any_index(name, curve):
    """Also where a timestep occurs several times: then by its index. A model that knows the picture leads to it from everywhere."""
    if name == "LMSDiscreteScheduler" or (curve and name == "EulerAncestralDiscreteScheduler"):
        pytest.skip("K-LMS counts the slopes that it has not seen as 0, as diffusers does; Euler a has no curves")
    scheduler, x0 = SCHEDULERS[name](prediction_type="epsilon", **curve), randn(1, 4, 8, 8, seed=3)
    scheduler.set_timesteps(40)
    for index in (0, 1, 2, 7, 39, len(scheduler.timesteps) - 1):
        scheduler.set_timesteps(40)
        scheduler.set_begin_index(index)
        x = scheduler.add_noise(x0, randn(1, 4, 8, 8), scheduler.timesteps[index : index + 1])
        for i, t in enumerate(scheduler.timesteps[index:], index):
            sigma = scheduler.sigmas[i]
            eps = (x - x0) / sigma if "Multistep" not in name else (x * math.sqrt(sigma**2 + 1) - x0) / sigma
            x = scheduler.step(eps, t, x, generator=seeded(i)).prev_sample
        assert distance(x, x0) <= 1e-4, index


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_timestep_that_occurs_twice_is_entered_at_the_later(name):
    scheduler = begun(SCHEDULERS[name], 50, **KARRAS)
    times = scheduler.timesteps.tolist()
    twice = next(t for t in times if times.count(t) > 1)
    assert scheduler.upcoming(twice) == len(times) - 1 - times[::-1].index(twice)
    assert scheduler.step(randn(1, 4, 8, 8), twice, randn(1, 4, 8, 8)).prev_sample.isfinite().all()


def test_settings_go_from_sampler_to_sampler():
    euler = SCHEDULERS["EulerDiscreteScheduler"](prediction_type="v_prediction", beta_end=0.02, sigma_min=0.1, **KARRAS)
    dpm = SCHEDULERS["DPMSolverMultistepScheduler"].from_config(euler.config)
    assert (dpm.config.prediction_type, dpm.config.beta_end, dpm.config.use_karras_sigmas) == ("v_prediction", 0.02, True)
    assert PNDMScheduler.from_config(euler.config).config == PNDMScheduler(prediction_type="v_prediction", beta_end=0.02).config
    unipc = SCHEDULERS["UniPCMultistepScheduler"].from_config(SCHEDULERS["DPMSolverMultistepScheduler"](solver_type="heun").config)
    assert unipc.config.solver_type == "bh2"  # "heun" means nothing there
    assert begun(SCHEDULERS["EulerDiscreteScheduler"], 3, **vars(DDIMScheduler().config)).timesteps.tolist() == [999, 499.5, 0]


@pytest.mark.parametrize(("source", "target"), list(product(SCHEDULERS, SCHEDULERS)))
def test_settings_go_as_in_diffusers(source, target):
    """From an object, of which defaults stay behind, and from a JSON, which says everything."""
    diffusers = pytest.importorskip("diffusers")
    special = {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "beta_end": 0.013, **KARRAS}
    ours, theirs = pair(source, **{name: v for name, v in special.items() if hasattr(SCHEDULERS[source]().config, name)})
    expected = getattr(diffusers, target).from_config(theirs.config).config
    written = {**theirs.config, "_class_name": source}
    for given in (ours.config, written):
        config = SCHEDULERS[target].from_config(given).config
        shared = {name: value for name, value in vars(config).items() if name in expected and value is not None}
        shared.pop("set_alpha_to_one", None)  # of three classes there, with two defaults
        assert {name: list(v) if isinstance(v, tuple) else v for name, v in shared.items()} == {
            name: expected[name] for name in shared
        }


@pytest.mark.parametrize("name", NEW)
def test_settings_are_saved_and_loaded(name, tmp_path):
    sampler = SCHEDULERS[name]
    curve = KARRAS if hasattr(sampler.config_class, "use_karras_sigmas") else {}
    scheduler = sampler(prediction_type="v_prediction", timestep_spacing="trailing", **curve)
    scheduler.save_pretrained(tmp_path / "scheduler")
    assert sampler.from_pretrained(tmp_path, subfolder="scheduler").config == scheduler.config
    theirs = getattr(pytest.importorskip("diffusers"), name).from_pretrained(tmp_path, subfolder="scheduler")
    assert theirs.config["timestep_spacing"] == "trailing" and theirs.config.get("use_karras_sigmas", False) == bool(curve)


@pytest.mark.parametrize("name", NEW)
def test_what_diffusers_writes_is_read(name):
    """Every key that it writes, at its default for Stable Diffusion."""
    _, theirs = pair(name)
    assert SCHEDULERS[name].from_config(dict(theirs.config)).config.beta_end == 0.012


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "use_beta_sigmas = True is not implemented"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "none"}, "final_sigmas_type 'none' is not one of ('zero', 'sigma_min')"),
        ("EulerDiscreteScheduler", {**KARRAS, **EXPONENTIAL}, "exclude each other"),
        ("EulerAncestralDiscreteScheduler", KARRAS, "use_karras_sigmas = True is not implemented"),
        ("EulerAncestralDiscreteScheduler", {"prediction_type": "sample"}, "prediction_type 'sample' is not one of"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, "algorithm_type 'dpmsolver' is not one of"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order 3 is not one of (1, 2)"),
        ("DPMSolverMultistepScheduler", {"thresholding": True}, "thresholding = True is not implemented"),
        ("UniPCMultistepScheduler", {"predict_x0": False}, "predict_x0 = False is not implemented"),
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type 'learned' is not one of"),
        ("LCMScheduler", {"timestep_spacing": "even"}, "timestep_spacing 'even' is not one of"),
        ("DDIMScheduler", {"trained_betas": [0.1]}, "1 trained_betas for num_train_timesteps = 1000"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(name, settings, sentence):
    with pytest.raises(UnsupportedConfig) as refusal:
        SCHEDULERS[name](**settings)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_half_precision_latents_are_stepped_in_float32(name):
    x, eps = randn(1, 4, 8, 8, seed=1).half(), randn(1, 4, 8, 8, seed=2).half()
    half, full = begun(SCHEDULERS[name], 10), begun(SCHEDULERS[name], 10)
    t = half.timesteps[0]
    out = half.step(eps, t, x, generator=seeded())
    assert out.prev_sample.dtype == out.pred_original_sample.dtype == torch.float16
    assert torch.equal(out.prev_sample, full.step(eps.float(), t, x.float(), generator=seeded()).prev_sample.half())


# Names


@pytest.mark.parametrize(
    ("name", "known"),
    {
        "Euler a": ("euler-a", None), "euler": ("euler", None), "DPM++ 2M Karras": ("dpm++2m", "karras"), "PLMS": ("pndm", None),
        "DPM++ 2M SDE Karras": ("dpm++2m-sde", "karras"), "dpm++2m": ("dpm++2m", None), "LMS Karras": ("lms", "karras"),
        "UniPC": ("unipc", None), "k_euler": ("euler", None), "k_euler_a": ("euler-a", None), "LCM": ("lcm", None),
        "DPM++ 2M SDE Exponential": ("dpm++2m-sde", "exponential"), "Heun": ("heun", None), "DDIM": ("ddim", None),
    }.items(),
)  # fmt: skip
def test_names_that_people_know(name, known):
    assert known_as(name) == known_as(name.upper()) == known
    scheduler = with_sigmas(SAMPLERS[known[0]].from_config(OFFICIAL["v1"]["scheduler"]), known[1])
    assert name_of(scheduler) == known


def test_the_command_line_takes_them(capsys):
    asked = lambda *words: parser().parse_args(["a cat", *words])  # noqa: E731
    assert asked("--sampler", "Euler a").sampler == ("euler-a", None)
    assert asked("--sampler", "DPM++ 2M Karras").sampler == ("dpm++2m", "karras")
    assert asked("--karras").sigmas == asked("--sigmas", "karras").sigmas == "karras"
    with pytest.raises(SystemExit):
        asked("--sampler", "nonsense")
    assert "unknown sampler 'nonsense'; choose from pndm, ddim," in capsys.readouterr().err


def test_a_name_that_nobody_knows():
    with pytest.raises(ValueError, match="unknown sampler 'DPM fast'; choose from pndm, ddim, lms, euler, "):
        known_as("DPM fast")


def test_the_core_imports_none_of_them():
    program = "import sys, minisd.pipeline; print([name for name in sys.modules if name.startswith('minisd.schedulers.')])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    core = ("configured", "base", "spacing", "noise_levels", "given_list", "sigmas", "ddim", "pndm", "lms")
    assert set(eval(loaded)) == {f"minisd.schedulers.{name}" for name in core}
    assert all(getattr(minisd, name) is SCHEDULERS[name] for name in SCHEDULERS)


# The cosine schedule


def gaussian_epsilon(x: Tensor, sigma: float) -> Tensor:
    """The exact ε for data around 0.3, spread by 0.5."""
    return sigma * (x.double() - 0.3) / (0.25 + sigma**2)


def followed(scheduler: Scheduler, x: Tensor) -> Tensor:
    """Where a sampler ends, told the exact ε at each of its σ."""
    x = x * float(scheduler.init_noise_sigma)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas):
        x = scheduler.step(gaussian_epsilon(x, float(sigma)).float(), t, x).prev_sample
    return x


def in_float64(scheduler: Scheduler, x: Tensor, correct: bool) -> Tensor:
    """The same with Euler's steps, or Heun's, in float64."""
    levels = list(dict.fromkeys(scheduler.sigmas))
    x = x.double() * scheduler.init_noise_sigma
    for sigma, following in pairwise(levels):
        slope = gaussian_epsilon(x, sigma)
        tried = x + (following - sigma) * slope
        if correct and following:
            slope = (slope + gaussian_epsilon(tried, following)) / 2
        x = x + (following - sigma) * slope
    return x


@pytest.mark.parametrize(("name", "error"), [("EulerDiscreteScheduler", 5e-4), ("HeunDiscreteScheduler", 0.05)])
def test_the_first_noise_of_the_cosine_schedule_takes_float32s_digits_away(name, error):
    """As docs/samplers.md says: not more of them than in diffusers, and none where a trajectory begins at little noise."""
    x = randn(1, 4, 8, 8)
    for spacing in ("linspace", "leading"):
        schedulers = pair(name, beta_schedule="squaredcos_cap_v2", timestep_spacing=spacing)
        for scheduler in schedulers:
            scheduler.set_timesteps(30)
        expected = in_float64(schedulers[0], x, name.startswith("Heun"))
        ours, theirs = (distance(followed(scheduler, x), expected) for scheduler in schedulers)
        if spacing == "linspace":
            assert schedulers[0].sigmas[0] == pytest.approx(20291, abs=1) and 1e-5 < ours < min(error, theirs)
        else:
            assert max(ours, theirs) < 1e-6

"""Each sampler against its definition."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from helpers import begun, randn, toy_model, trajectory
from torch import Tensor

from minisd import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler, UnsupportedConfig
from minisd.schedulers.lms import blend


@pytest.mark.parametrize("sampler", [PNDMScheduler, DDIMScheduler, LMSDiscreteScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_model_that_knows_the_picture_leads_to_it(sampler, prediction):
    """For data that is one single x0 the true ε is known; every guess is then x0, and so is the end but for the last ᾱ's noise."""
    x0, scheduler = randn(1, 4, 8, 8, seed=3), begun(sampler, 20, prediction_type=prediction)
    training_alphas = scheduler.alphas_cumprod.double()

    def perfect(x, t):
        place, share = int(t), float(t) % 1
        sigmas = ((1 - training_alphas) / training_alphas).sqrt()
        sigma = sigmas[place] if not share else (1 - share) * sigmas[place] + share * sigmas[place + 1]
        alpha = 1 / (sigma**2 + 1)
        eps = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        return eps if prediction == "epsilon" else (eps - (1 - alpha).sqrt() * x) / alpha.sqrt()

    x = randn(1, 4, 8, 8) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x, guess = scheduler.step(perfect(scheduler.scale_model_input(x, t), t), t, x)
        torch.testing.assert_close(guess, x0, rtol=0, atol=2e-3)
    # PNDM blends the slopes of a straight line, so it too stays on it.
    left = 0 if sampler is LMSDiscreteScheduler else 1 - training_alphas[0]
    torch.testing.assert_close(x, math.sqrt(1 - left) * x0, rtol=0, atol=5 * math.sqrt(left) + 1e-3)


# PNDM


def literal_plms(eps_of: Callable, x: Tensor, n: int, alphas_cumprod: Tensor) -> Iterator[Tensor]:
    """PLMS as its authors wrote it, in float64: no transfer through x0, no list of blends, a counter of calls."""
    stride, past, start = 1000 // n, [], x
    times = [*range(1 + (n - 1) * stride, 0, -stride)]
    for call, t in enumerate([*times[:2], *times[1:]]):
        eps, here, there = eps_of(x, t), t, t - stride
        if call == 1:
            eps, x, here, there = (past[0] + eps) / 2, start, t + stride, t
        else:
            past = [*past[-3:], eps]
            if len(past) == 2:
                eps = (3 * past[-1] - past[-2]) / 2
            elif len(past) == 3:
                eps = (23 * past[-1] - 16 * past[-2] + 5 * past[-3]) / 12
            elif len(past) == 4:
                eps = (55 * past[-1] - 59 * past[-2] + 37 * past[-3] - 9 * past[-4]) / 24
        a, b = alphas_cumprod[here], alphas_cumprod[max(there, 0)]
        x = (b / a).sqrt() * x - (b - a) * eps / (a * (1 - b).sqrt() + (a * (1 - a) * b).sqrt())
        yield x


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("n", [2, 3, 15, 50])
def test_pndm_is_plms_of_the_noise(n, prediction, measure):
    """For a v-model the v is turned into ε first, at the x and t where it was asked for; then everything is as ever."""
    scheduler = begun(PNDMScheduler, n, prediction_type=prediction)
    alphas_cumprod = scheduler.alphas_cumprod.double()

    def eps_of(x, t):
        a, out = alphas_cumprod[t], toy_model(x, t)
        return out if prediction == "epsilon" else a.sqrt() * out + (1 - a).sqrt() * x

    x = randn(1, 4, 8, 8)
    for a, b in zip(trajectory(scheduler, x), literal_plms(eps_of, x.double(), n, alphas_cumprod), strict=True):
        assert measure(a, b) <= 1e-5


def test_pndm_walks_its_first_hop_twice_from_the_same_start():
    scheduler = begun(PNDMScheduler, 10)
    x = randn(1, 4, 8, 8)
    tried = scheduler.step(torch.zeros_like(x), 901, x).prev_sample
    again = scheduler.step(torch.zeros_like(x), 801, 99 * tried).prev_sample
    assert torch.equal(tried, again)


def test_the_warm_up_that_stable_diffusion_skips_is_refused():
    with pytest.raises(UnsupportedConfig, match="PNDMScheduler: skip_prk_steps = False is not implemented, only True"):
        PNDMScheduler.from_config({"skip_prk_steps": False})


# DDIM


def test_ddims_variance_at_eta_one_is_the_ddpms():
    """σ² = β (1−ᾱ_{t−1}) / (1−ᾱ_t), the posterior's variance (Ho et al. 2020, eq. 7), when no timestep is left out."""
    scheduler = begun(DDIMScheduler, 999)
    t, alphas_cumprod = 488, scheduler.alphas_cumprod.double()
    zero = torch.zeros(1, 4, 64, 64)
    noise = scheduler.step(zero, t, zero, eta=1.0, generator=torch.Generator().manual_seed(0)).prev_sample
    drawn = torch.randn(zero.shape, generator=torch.Generator().manual_seed(0))
    beta = 1 - alphas_cumprod[t] / alphas_cumprod[t - 1]
    variance = beta * (1 - alphas_cumprod[t - 1]) / (1 - alphas_cumprod[t])
    torch.testing.assert_close(noise, variance.sqrt().float() * drawn, rtol=1e-4, atol=1e-6)


def test_ddim_shares_the_next_level_between_old_noise_and_new():
    """With x0 = 0 and unit ε the old noise has the variance 1 − ᾱ' − σ²."""
    scheduler, eta = begun(DDIMScheduler, 50), 0.6
    t, eps = 981, torch.ones(1, 4, 8, 8)
    a, b = scheduler.alphas_cumprod[981].double(), scheduler.alphas_cumprod[961].double()
    sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    out = scheduler.step(eps, t, (1 - a).sqrt().float() * eps, eta=eta, generator=seeds[0]).prev_sample
    new = sigma.float() * torch.randn(eps.shape, generator=seeds[1])
    torch.testing.assert_close(out - new, (1 - b - sigma**2).sqrt().float() * eps, rtol=1e-5, atol=1e-6)


def test_ddim_draws_nothing_without_eta():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    begun(DDIMScheduler, 10).step(randn(1, 4, 8, 8), 901, randn(1, 4, 8, 8), generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_ddim_never_clips_latents():
    """DDIM's default in diffusers clips x0 to [-1, 1], which ruins latents."""
    scheduler = DDIMScheduler(clip_sample=True)
    scheduler.set_timesteps(10)
    x = 5 * torch.ones(1, 4, 8, 8)
    assert scheduler.step(torch.zeros_like(x), 901, x).pred_original_sample.min() > 5


# K-LMS


@pytest.mark.parametrize(
    ("order", "weights"),
    [(1, [1]), (2, [3 / 2, -1 / 2]), (3, [23 / 12, -16 / 12, 5 / 12]), (4, [55 / 24, -59 / 24, 37 / 24, -9 / 24])],
)
def test_equal_steps_give_adams_bashforth(order, weights):
    assert blend([float(i) for i in range(order)], -1.0) == pytest.approx([-weight for weight in weights], abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_integrates_a_polynomial_of_its_order_exactly(order):
    sigmas, sigma_next = [3.0, 4.5, 7.0, 11.0][:order], 2.0
    for power in range(order):
        integral = (sigma_next ** (power + 1) - sigmas[0] ** (power + 1)) / (power + 1)
        assert sum(w * sigma**power for w, sigma in zip(blend(sigmas, sigma_next), sigmas)) == pytest.approx(integral, rel=1e-9)


def test_lms_weights_of_a_hundred_steps():
    sigmas = begun(LMSDiscreteScheduler, 100).sigmas
    assert blend(sigmas[:1], sigmas[1]) == pytest.approx([-0.8621340], abs=1e-5)
    sixth = blend(sigmas[5:1:-1], sigmas[6])
    assert sixth == pytest.approx([-1.2774592, 1.2108874, -0.6790328, 0.1474649], abs=1e-4)
    assert sum(sixth) == pytest.approx(sigmas[6] - sigmas[5])


def test_lms_sigmas_of_stable_diffusion():
    scheduler = begun(LMSDiscreteScheduler, 50)
    assert scheduler.init_noise_sigma == scheduler.sigmas[0] == pytest.approx(14.614647)
    assert scheduler.sigmas[-2:] == [pytest.approx(0.0291675, abs=1e-6), 0]
    assert all(a > b for a, b in pairwise(scheduler.sigmas))


def test_lms_interpolates_sigma_itself_at_a_fractional_time():
    """As diffusers does; k-diffusion interpolates log σ, which differs by a little."""
    scheduler = begun(LMSDiscreteScheduler, 3)
    assert scheduler.timesteps[1] == 499.5
    alphas_cumprod = scheduler.alphas_cumprod[[499, 500]].double()
    low, high = ((1 - alphas_cumprod) / alphas_cumprod).sqrt().tolist()
    assert scheduler.sigmas[1] == pytest.approx((low + high) / 2, rel=1e-7)
    assert scheduler.sigmas[1] != pytest.approx(math.sqrt(low * high), rel=1e-7)


def test_lms_shows_the_model_latents_of_unit_variance():
    scheduler = begun(LMSDiscreteScheduler, 50)
    x = randn(1, 4, 64, 64) * scheduler.init_noise_sigma
    seen = scheduler.scale_model_input(x, scheduler.timesteps[0])
    torch.testing.assert_close(seen, x / math.sqrt(14.614647**2 + 1), rtol=1e-5, atol=1e-5)
    assert scheduler.scale_model_input(x, timestep=scheduler.timesteps[0]) is not x


def test_lms_knows_its_noise_before_its_timesteps():
    assert LMSDiscreteScheduler().init_noise_sigma == pytest.approx(14.614647)

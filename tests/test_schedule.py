"""The noise schedule and its formulas, against published numbers and against each other."""

import math

import pytest
import torch
from helpers import randn

from minisd import schedule

BETAS = schedule.betas("scaled_linear", 0.00085, 0.012, 1000)
ALPHAS_CUMPROD = torch.cumprod(1 - BETAS, dim=0)
# Noise levels from nearly clean to nearly drowned, as pairs (ᾱ, ᾱ').
HOPS = [(0.0058, 0.0073), (0.2763, 0.35), (0.98, 0.9991), (0.5, 0.5), (0.9, 0.1)]


def x_and_eps() -> tuple[torch.Tensor, torch.Tensor]:
    return randn(2, 4, 3, 5, seed=1).double(), randn(2, 4, 3, 5, seed=2).double()


def test_scaled_linear_is_linear_in_the_root():
    """CompVis' code calls this one "linear"."""
    steps = BETAS.double().sqrt().diff()
    assert BETAS.shape == (1000,) and BETAS.dtype == torch.float32
    assert (BETAS[0].item(), BETAS[-1].item()) == pytest.approx((0.00085, 0.012))
    assert steps.max().item() == pytest.approx(steps.min().item(), rel=2e-3)


@pytest.mark.parametrize(
    ("t", "alpha"), [(0, 0.99914998), (1, 0.99829602), (500, 0.27633247), (981, 0.00577550), (999, 0.00466010)]
)
def test_alphas_cumprod_of_stable_diffusion(t, alpha):
    assert ALPHAS_CUMPROD[t].item() == pytest.approx(alpha, abs=5e-9)


def test_linear_betas():
    betas = schedule.betas("linear", 0.0001, 0.02, 1000)
    assert (betas[0].item(), betas[499].item(), betas[-1].item()) == pytest.approx((0.0001, 0.0001 + 499 / 999 * 0.0199, 0.02))


def test_cosine_betas_give_back_the_cosine():
    left = torch.cumprod(1 - schedule.betas("squaredcos_cap_v2", 0, 0, 1000), dim=0)
    cosine = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in (0, 300, 700)]
    assert left[299].item() == pytest.approx(cosine[1] / cosine[0], rel=1e-4)
    assert left[699].item() == pytest.approx(cosine[2] / cosine[0], rel=1e-4)


def test_unknown_schedule_is_refused_by_name():
    with pytest.raises(ValueError, match=r"beta_schedule must be .*scaled_linear.*, not 'sigmoid'"):
        schedule.betas("sigmoid", 0.1, 0.2, 10)


def test_one_jump_is_as_many_small_steps():
    """q(x_t | x_0) has the mean √ᾱ x0 and the variance 1 − ᾱ that t steps of √(1−β) x + √β ε add up to."""
    mean, variance = 1.0, 0.0
    for beta in BETAS[:300].tolist():
        mean, variance = mean * math.sqrt(1 - beta), variance * (1 - beta) + beta
    one, zero = torch.ones(1), torch.zeros(1)
    assert schedule.add_noise(one, zero, ALPHAS_CUMPROD[299]).item() == pytest.approx(mean, rel=1e-4)
    assert schedule.add_noise(zero, one, ALPHAS_CUMPROD[299]).item() ** 2 == pytest.approx(variance, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0047, 0.2763, 0.9991])
def test_velocity_noise_and_clean_latent_say_the_same(alpha):
    x0, noise = x_and_eps()
    x = schedule.add_noise(x0, noise, alpha)
    v = schedule.velocity(x0, noise, alpha)
    torch.testing.assert_close(schedule.to_epsilon(v, x, alpha, "v_prediction"), noise, rtol=0, atol=1e-12)
    torch.testing.assert_close(schedule.to_x0(x, noise, alpha), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(math.sqrt(alpha) * x - math.sqrt(1 - alpha) * v, x0, rtol=0, atol=1e-12)
    assert schedule.to_epsilon(noise, x, alpha, "epsilon") is noise


@pytest.mark.parametrize(("alpha", "alpha_next"), HOPS)
def test_transfer_is_ddim_pndm_and_euler_at_once(alpha, alpha_next):
    x, eps = x_and_eps()
    moved = schedule.transfer(x, eps, alpha, alpha_next)

    x0 = (x - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
    ddim = math.sqrt(alpha_next) * x0 + math.sqrt(1 - alpha_next) * eps
    torch.testing.assert_close(moved, ddim, rtol=1e-12, atol=1e-12)

    denominator = alpha * math.sqrt(1 - alpha_next) + math.sqrt(alpha * (1 - alpha) * alpha_next)
    pndm = math.sqrt(alpha_next / alpha) * x - (alpha_next - alpha) * eps / denominator
    torch.testing.assert_close(moved, pndm, rtol=1e-12, atol=1e-12)

    sigma, sigma_next = math.sqrt((1 - alpha) / alpha), math.sqrt((1 - alpha_next) / alpha_next)
    euler = (x / math.sqrt(alpha) + (sigma_next - sigma) * eps) * math.sqrt(alpha_next)
    torch.testing.assert_close(moved, euler, rtol=1e-12, atol=1e-12)

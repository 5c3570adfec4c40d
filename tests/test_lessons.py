"""What the notebooks stand on: the exact denoiser, the exercises' verdicts, the figures."""

import functools
import importlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import randn
from matplotlib.colors import to_rgb
from PIL import Image
from torch.nn.functional import avg_pool2d

from minisd import StableDiffusionPipeline
from minisd.adapters.lora import layers_of
from minisd.image import to_pil
from minisd.lessons import (
    Exercise,
    exact,
    figures,
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_04,
    lesson_05,
    lesson_06,
    lesson_07,
    lesson_08,
    lesson_09,
    lesson_10,
    lesson_11,
    lesson_12,
    lesson_13,
    lesson_14,
    lesson_15,
    lesson_16,
    shapes,
    unless_fast,
    you_are_here,
)
from minisd.lessons.exercise import NOT_YET, NOTHING
from minisd.schedule import add_noise, transfer

POINTS = torch.tensor([[-1.0, 0.5], [0.2, -0.4], [1.3, 0.9]], dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.9, 0.5, 0.05])
def test_the_exact_noise_is_the_mean_of_the_noises_that_lead_there(alpha):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1_000_000, 2, generator=generator, dtype=torch.float64)
    noisy = add_noise(POINTS[torch.randint(3, (1_000_000,), generator=generator)], noise, alpha)
    x = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    near = (noisy - x).norm(dim=1) < 0.08
    assert (noise[near].mean(dim=0) - exact.epsilon(x, POINTS, alpha)[0]).abs().max() < 0.05


@pytest.mark.parametrize("alpha", [0.999, 0.5, 0.005])
def test_the_exact_noise_is_the_slope_of_the_log_density(alpha):
    x = randn(50, 2, seed=1).double().requires_grad_()
    (slope,) = torch.autograd.grad(exact.log_density(x, POINTS, alpha).sum(), x)
    torch.testing.assert_close(exact.epsilon(x, POINTS, alpha), -math.sqrt(1 - alpha) * slope)


def test_the_density_is_one():
    line = torch.linspace(-8, 8, 400, dtype=torch.float64)
    density = exact.log_density(torch.cartesian_prod(line, line), POINTS, 0.5).exp()
    assert density.sum().item() * (16 / 399) ** 2 == pytest.approx(1)


def test_without_noise_the_exact_denoiser_returns_a_point_and_in_noise_the_mean():
    x = add_noise(POINTS, randn(3, 2, seed=2).double(), 0.9999)
    torch.testing.assert_close(exact.denoise(x, POINTS, 0.9999), POINTS)
    torch.testing.assert_close(exact.denoise(x, POINTS, 1e-12), POINTS.mean(dim=0).expand(3, 2), atol=1e-5, rtol=0)


SQUARE = Exercise(
    answer=lambda x: x**2,
    mistakes={"a square, not a double": lambda x: 2 * x},
    run=lambda f: f(torch.tensor([1.0, 2.0, 3.0])),
)


def unfinished(x):
    y = ...
    return x + y


@pytest.mark.parametrize(
    ("attempt", "verdict"),
    [
        (lambda x: x * x, "✓"),
        (lambda x: ..., NOT_YET),
        (unfinished, NOT_YET),
        (lambda x: 2 * x, "✗ hint: a square, not a double"),
        (lambda x: x**2 + 0.25, "✗ the largest difference from the right answer is 0.25"),
        (lambda x: x[:2], "✗ the shape is (2,) and should be (3,)"),
        (lambda x: x / 0 * 0, "✗ not right yet"),
        (lambda x: None, NOTHING),
        (lambda x: [][0], "✗ it raises IndexError: list index out of range"),
    ],
)
def test_verdicts_of_a_function(attempt, verdict):
    assert SQUARE.verdict(attempt) == verdict


@pytest.mark.parametrize(("attempt", "verdict"), [(12.05, "✓"), (..., NOT_YET), (13, "✗ hint: a baker's"), (11, "1")])
def test_verdicts_of_a_number(attempt, verdict):
    assert Exercise(answer=12, mistakes={"a baker's": 13}, tolerance=0.1).verdict(attempt).endswith(verdict)


def test_verdicts_of_words():
    assert Exercise(answer="roots swapped").verdict(" Roots  swapped") == "✓"
    assert Exercise(answer="roots swapped").verdict("roots stay") == "✗ that is none of the names"
    exercise = Exercise(answer=["epsilon", "padding"])
    assert exercise.verdict(["epsilon", "padding"]) == "✓"
    assert exercise.verdict(["padding", "epsilon"]) == "✗ not right yet"


def test_the_nearest_mistake_gives_the_hint():
    exercise = Exercise(answer=100, mistakes={"two": 2, "three": 3}, tolerance=5)
    assert [exercise.verdict(attempt) for attempt in (2, 3, 4)] == ["✗ hint: two", "✗ hint: three", "✗ hint: three"]


def test_a_missing_return_is_named_wherever_the_result_goes():
    stacked = Exercise(answer=lambda x: torch.ones(1), run=lambda f: torch.stack([f(1), f(2)]))
    assert stacked.verdict(lambda x: None) == NOTHING and stacked.verdict(lambda x: ...) == NOT_YET


def midpoint(eps_of, x, t, t_next):
    """Of order 2, too, with two calls."""
    alpha, middle = lesson_04.alpha, (t + t_next) // 2
    there = transfer(x, eps_of(x, t), alpha[t], alpha[middle])
    return transfer(x, eps_of(there, middle), alpha[t], alpha[t_next])


def endless_merges(word, ranks):
    parts = lesson_06.letters(word)
    while len(parts) > 1:
        pair = min(zip(parts, parts[1:]), key=lambda pair: ranks[pair])
        at = list(zip(parts, parts[1:])).index(pair)
        parts[at : at + 2] = ["".join(pair)]
    return parts


def overlapping(scales, rates):
    least, _ = max(rates, key=lambda rate: rate.share).interval()
    return next(scale for scale, rate in zip(scales, rates) if rate.interval()[1] >= least)


def holding_the_best(scales, rates):
    best = max(rate.share for rate in rates)
    return next(scale for scale, rate in zip(scales, rates) if rate.interval()[0] <= best <= rate.interval()[1])


def above_every_lower_end(scales, rates):
    least = max(rate.interval()[0] for rate in rates)
    return next(scale for scale, rate in zip(scales, rates) if rate.share >= least)


def once_each(states, k):
    return torch.cat([states[:, :k], states[:, k + 1 :]], dim=1)


def written(embeddings, where, row):
    embeddings[where] = row
    return embeddings


# What readers may write: right in another way, or wrong in a way that looks right.
ATTEMPTS = {
    "02 sqrt": (lesson_02.add_noise, lambda x0, noise, alpha: torch.sqrt(alpha) * x0 + (1 - alpha).sqrt() * noise, "✓"),
    "02 math": (lesson_02.add_noise, lambda x0, noise, alpha: math.sqrt(alpha) * x0 + math.sqrt(1 - alpha) * noise, "✓"),
    "02 zero": (lesson_02.equal_shares, lambda alphas_cumprod: 0, "✗ hint: at t = 0 there is hardly any noise"),
    "02 share": (lesson_02.equal_shares, lambda alphas_cumprod: 0.5, "✗ hint: that is a value of ᾱ"),
    "02 index": (lesson_02.equal_shares, lambda alphas_cumprod: int((alphas_cumprod < 0.5).nonzero()[0]), "✓"),
    "03 sqrt": (
        lesson_03.denoiser,
        lambda x, points, alpha: torch.softmax(-(torch.cdist(x, alpha.sqrt() * points) ** 2) / 2 / (1 - alpha), dim=1) @ points,
        "✓",
    ),
    "03 dimension": (
        lesson_03.denoiser,
        lambda x, points, alpha: torch.softmax(-(torch.cdist(x, alpha**0.5 * points) ** 2) / x.shape[1] / (1 - alpha), 1) @ points,
        "✗ hint: the 2 in 2 (1 − ᾱ) is not the dimension",
    ),
    "03 v": (lesson_03.x0_from_v, lambda v, x, alpha: torch.sqrt(alpha) * x - torch.sqrt(1 - alpha) * v, "✓"),
    "04 sqrt": (
        lesson_04.ddim_step,
        lambda x, eps, alpha, other: (
            torch.sqrt(other) * (x - torch.sqrt(1 - alpha) * eps) / torch.sqrt(alpha) + torch.sqrt(1 - other) * eps
        ),
        "✓",
    ),
    "04 midpoint": (lesson_04.second_order, midpoint, "✓"),
    "04 four calls": (
        lesson_04.second_order,
        lesson_04.four_calls,
        "✗ hint: the order is right, but a step may ask for ε only twice",
    ),
    "05 constant": (lesson_05.scaling_factor, lambda latents: 0.18215, "✗ hint: that is Stable Diffusion's factor"),
    "05 pictures": (lesson_05.scaling_factor, lambda latents: 1 / latents.std(dim=(1, 2, 3)).mean(), "✗ hint: one factor for all"),
    "05 each": (lesson_05.scaling_factor, lambda latents: (1 / latents.std(dim=(1, 2, 3))).mean(), "✗ the largest difference"),
    "05 squares": (lesson_05.scaling_factor, lambda latents: 1 / latents.pow(2).mean().sqrt(), "✓"),
    "06 endless": (
        lesson_06.merge_loop,
        endless_merges,
        "stop when no pair of the word is in ranks",
    ),
    "07 words": (lesson_07.by_hand, lambda q, k, v: lesson_07.attend(q, k, v, k.shape[-2] ** -0.5), "✗ hint: you divide by √S"),
    "07 half": (lesson_07.by_hand, lambda q, k, v: (q @ k.mT / 2).softmax(-1) @ v, "✗ the largest difference"),
    "07 root of 6": (lesson_07.by_hand, lambda q, k, v: (q @ k.mT / 6**0.5).softmax(-1) @ v, "✗ hint: right for one d only"),
    "07 root": (lesson_07.by_hand, lambda q, k, v: torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.size(-1)), 3) @ v, "✓"),
    "07 twice": (
        lesson_07.mute,
        lambda states, k: once_each(states, k).repeat(1, 2, 1),
        "✗ hint: keep each of the other rows once",
    ),
    "07 other order": (lesson_07.mute, lambda states, k: once_each(states, k).flip(1), "✓"),
    "08 overlap": (lesson_08.best_scale, overlapping, "✗"),
    "08 inside": (lesson_08.best_scale, holding_the_best, "✗"),
    "08 lower ends": (lesson_08.best_scale, above_every_lower_end, "✗"),
    "09 capitals": (lesson_09.fault_a, " Every caption dropped", "✓"),
    "10 horizontal": (
        lesson_10.left,
        lambda first, second: second.x - first.x > 0.75 * (first.scale + second.scale),
        "✗ hint: a thing can be far to the left and still further above",
    ),
    "10 sides": (
        lesson_10.left,
        lambda a, b: a.x + a.scale < b.x - b.scale and b.x - a.x > abs(a.y - b.y),
        "✗ hint: use `close`: the frames",
    ),
    "10 right": (lesson_10.left, lambda a, b: b.x - a.x > abs(a.y - b.y) and not lesson_10.close(a, b), "✓"),
    "10 doubled": (
        lesson_10.enough,
        lambda p, q: 2 * math.ceil(lesson_10.pictures_for(p, q)),
        "✗ hint: that is the number for both",
    ),
    "10 rounded": (lesson_10.enough, lambda p, q: math.ceil(lesson_10.pictures_for(p, q)), "✓"),
    "01 list": (lesson_01.latents_shape, lambda height, width: [4, height / 8, width / 8], "✓"),
    "01 array": (lesson_01.latents_shape, lambda height, width: np.array([4, height // 8, width // 8]), "✓"),
    "01 channels last": (lesson_01.latents_shape, lambda height, width: (height // 8, width // 8, 4), "✗ the largest difference"),
    "02 in place": (
        lesson_02.add_noise,
        lambda x0, noise, alpha: x0.mul_(alpha**0.5).add_(noise.mul_((1 - alpha) ** 0.5)),
        "✓",
    ),
    "02 array": (lesson_02.add_noise, lambda x0, noise, alpha: (alpha**0.5 * x0 + (1 - alpha) ** 0.5 * noise).numpy(), "✓"),
    "02 sign": (
        lesson_02.add_noise,
        lambda x0, noise, alpha: alpha**0.5 * x0 - (1 - alpha) ** 0.5 * noise,
        "✗ hint: add the noise",
    ),
    "02 argmin": (lesson_02.equal_shares, lambda alphas_cumprod: np.argmin(np.abs(alphas_cumprod.numpy() - 0.5)), "✓"),
    "02 count": (lesson_02.equal_shares, lambda alphas_cumprod: (alphas_cumprod > 0.5).sum(), "✓"),
    "03 double": (
        lesson_03.denoiser,
        lambda x, points, alpha: exact.denoise(x.double(), points.double(), alpha.double()),
        "✓",
    ),
    "03 nearest": (
        lesson_03.denoiser,
        lambda x, points, alpha: points[torch.cdist(x, alpha**0.5 * points).argmin(dim=1)],
        "✗ the largest difference",
    ),
    "03 weights": (lesson_03.denoiser, exact.weights, "✗ hint: those are the weights"),
    "03 transposed": (
        lesson_03.denoiser,
        lambda x, points, alpha: exact.denoise(x, points, alpha).T,
        "✗ the shape is (3, 7) and should be (7, 3)",
    ),
    "04 ratio": (
        lesson_04.ddim_step,
        lambda x, eps, alpha, other: (other / alpha) ** 0.5 * x + ((1 - other) ** 0.5 - (other * (1 - alpha) / alpha) ** 0.5) * eps,
        "✓",
    ),
    "05 pinv": (
        lesson_05.preview,
        lambda latents, pictures: (
            torch.linalg.pinv(lesson_05.rows(lesson_05.with_one(latents))) @ lesson_05.rows(avg_pool2d(pictures, 8))
        ),
        "✓",
    ),
    "05 lstsq": (
        lesson_05.preview,
        lambda latents, pictures: torch.linalg.lstsq(
            lesson_05.rows(lesson_05.with_one(latents)), lesson_05.rows(avg_pool2d(pictures, 8))
        ),
        "✗ not right yet",
    ),
    "05 array": (lesson_05.scaling_factor, lambda latents: 1 / latents.numpy().std(), "✓"),
    "05 scaled": (lesson_05.scaling_factor, lambda latents: latents / latents.std(), "✗ hint: return the factor"),
    "05 first": (lesson_05.scaling_factor, lambda latents: 1 / latents[0].std(), "✗ the largest difference"),
    "05 two numbers": (lesson_05.scaling_factor, lambda latents: latents[:2].std(dim=(1, 2, 3)), "✗ it should be one number"),
    "06 all merges": (
        lesson_06.merge_loop,
        lambda word, ranks: functools.reduce(lesson_06.join, sorted(ranks, key=ranks.get), lesson_06.letters(word)),
        "✓",
    ),
    "06 float": (lesson_06.contrastive, lambda p, c, s: lesson_06.loss(p, c, s).item(), "✓"),
    "06 over pictures": (
        lesson_06.contrastive,
        lambda p, c, s: lesson_06.loss(p, c, s, normalize=lambda x, dim: x / x.norm(dim=0)),
        "✗ the largest difference",
    ),
    "07 einsum": (
        lesson_07.by_hand,
        lambda q, k, v: torch.einsum(
            "bnts,bnsd->bntd", (torch.einsum("bntd,bnsd->bnts", q, k) / k.shape[-1] ** 0.5).softmax(-1), v
        ),
        "✓",
    ),
    "07 scores": (lesson_07.by_hand, lambda q, k, v: q @ k.mT, "✗ the shape is (2, 3, 5, 3) and should be (2, 3, 5, 6)"),
    "07 mask": (lesson_07.mute, lambda states, k: states[:, torch.arange(states.shape[1]) != k], "✓"),
    "07 delete": (lesson_07.mute, lambda states, k: torch.from_numpy(np.delete(states.numpy(), k, axis=1)), "✓"),
    "07 row 2": (lesson_07.mute, lambda states, k: once_each(states, 2), "✗ the largest difference"),
    "07 batch lost": (lesson_07.mute, lambda states, k: once_each(states, k)[0], "should be (B, T − 1, D)"),
    "08 cond first": (
        lesson_08.guided,
        lambda unet, x, t, uncond, cond, scale: lesson_08.in_one_call(
            unet, x, t, cond, uncond, scale, blend=lambda eps_cond, eps_uncond, w: eps_uncond + w * (eps_cond - eps_uncond)
        ),
        "✓",
    ),
    "08 scale fixed": (
        lesson_08.guided,
        lambda unet, x, t, uncond, cond, scale: lesson_08.in_one_call(unet, x, t, uncond, cond, 7.5),
        "✗ the largest difference",
    ),
    "08 t fixed": (
        lesson_08.guided,
        lambda unet, x, t, uncond, cond, scale: lesson_08.in_one_call(unet, x, 500, uncond, cond, scale),
        "✗ the largest difference",
    ),
    "09 marks": (lesson_09.fault_c, "**roots swapped**.", "✓"),
    "09 unknown": (lesson_09.fault_c, "roots", "✗ that is none of the names"),
    "10 half": (
        lesson_10.left,
        lambda a, b: b.x - a.x > abs(a.y - b.y) / 2 and not lesson_10.close(a, b),
        "✗ the largest difference",
    ),
    "10 one size": (lesson_10.left, lambda a, b: b.x - a.x > max(b.scale, abs(a.y - b.y)), "✗ the largest difference"),
    "10 numpy": (lesson_10.left, lambda a, b: np.bool_(b.x - a.x > abs(a.y - b.y)) & (not lesson_10.close(a, b)), "✓"),
    "10 ceil": (lesson_10.enough, lambda p, q: np.ceil(lesson_10.pictures_for(p, q)), "✓"),
    "10 fixed": (lesson_10.enough, lambda p, q: 290, "✗ the largest difference"),
    "11 quotes": (lesson_11.mystery_3, "“Timesteps 980 to 0”", "✓"),
    "12 bytes": (
        lesson_12.scores_bytes,
        lambda height, width, heads, size: np.prod([2, heads, size]) * np.float64(height * width / 64) ** 2,
        "✓",
    ),
    "12 gigabytes": (
        lesson_12.scores_bytes,
        lambda height, width, heads, size: 2 * heads * (height * width / 64) ** 2 * size / 1e9,
        "✗ hint: in bytes",
    ),
    "12 unfilled": (lesson_12.rules, lambda name: name.replace(".nin_shortcut.", ...), NOT_YET),
    "13 with ε": (
        lesson_13.ancestral,
        lambda x, x0, z, alpha, alpha_next: (
            alpha_next.sqrt() * x0
            + (1 - alpha_next).clamp(min=0).sqrt()
            * (
                ((1 - alpha_next) * alpha / ((1 - alpha) * alpha_next)).sqrt() * (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
                + (1 - (1 - alpha_next) * alpha / ((1 - alpha) * alpha_next)).sqrt() * z
            )
        ),
        "✓",
    ),
    "13 turned β": (
        lesson_13.ancestral,
        lambda x, x0, z, alpha, alpha_next: lesson_13.posterior(x, x0, z, alpha, alpha_next, 1 - alpha_next / alpha),
        "✗ hint: β is 1 − ᾱ/ᾱ'",
    ),
    "14 one length": (
        lesson_14.slerp,
        lambda a, b, s: lesson_14.along_the_sphere(a, b, s, ((a * b).sum() / (a * a).sum()).acos()),
        "✗ hint: a and b may differ in length",
    ),
    "14 rescaled": (
        lesson_14.slerp,
        lambda a, b, s: (x := lesson_14.along_the_sphere(a, b, s)) / x.norm() * a.norm(),
        "✗ hint: leave the length as the formula gives it",
    ),
    "13 array": (lesson_13.ancestral, lambda *given: lesson_13.posterior(*given).numpy(), "✓"),
    "13 DDIM": (
        lesson_13.ancestral,
        lambda x, x0, z, alpha, alpha_next: transfer(x, (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5, alpha, alpha_next),
        "✗ the largest difference",
    ),
    "13 root": (
        lesson_13.sde_step,
        lambda x, score, z, beta, strength: (
            x * (1 + beta / 2) + beta * score / 2 + strength**2 * beta * score / 2 + strength * math.sqrt(beta) * z
        ),
        "✓",
    ),
    "13 exact shrinking": (
        lesson_13.sde_step,
        lambda x, score, z, beta, strength: (
            lesson_13.family_step(x, score, z, beta, strength) - x - beta / 2 * x + x / (1 - beta) ** 0.5
        ),
        "✓",
    ),
    "13 no return": (lesson_13.sde_step, lambda *given: None, NOTHING),
    "13 number": (
        lesson_13.flow_loss,
        lambda v, x0, noise, t: torch.nn.functional.mse_loss(v(torch.lerp(x0, noise, t), t), noise - x0).item(),
        "✗ hint: the value is right, but no gradient reaches the network",
    ),
    "13 papers": (
        lesson_13.flow_loss,
        lambda v, x0, noise, t: (v(t * x0 + (1 - t) * noise, t) - (x0 - noise)).square().mean(),
        "✗ hint: that is the papers' direction",
    ),
    "13 mse": (
        lesson_13.flow_loss,
        lambda v, x0, noise, t: torch.nn.functional.mse_loss(v(torch.lerp(x0, noise, t), t), noise - x0),
        "✓",
    ),
    "13 one by one": (
        lesson_13.flow_loss,
        lambda v, x0, noise, t: (v(x0 + t * (noise - x0), t) + x0 - noise).pow(2).mean(),
        "✓",
    ),
    "13 not a number": (
        lesson_13.flow_loss,
        lambda v, x0, noise, t: (v(torch.lerp(x0, noise, t), t) - (noise - x0)).square(),
        "✗ it should be one number",
    ),
    "14 negative index": (
        lesson_14.start,
        lambda z0, noise, times, strength, alphas_cumprod: (
            z0 * alphas_cumprod[times[-int(strength * len(times))]].sqrt()
            + noise * (1 - alphas_cumprod[times[-int(strength * len(times))]]).sqrt(),
            torch.tensor(times[-int(strength * len(times)) :]),
        ),
        "✓",
    ),
    "14 only x": (
        lesson_14.start,
        lambda z0, noise, times, strength, alphas_cumprod: lesson_14.begin(z0, noise, times, strength, alphas_cumprod)[0],
        "return two things",
    ),
    "14 swapped": (
        lesson_14.start,
        lambda z0, noise, times, strength, alphas_cumprod: lesson_14.begin(z0, noise, times, strength, alphas_cumprod)[::-1],
        "return two things",
    ),
    "14 unfilled": (lesson_14.start, lambda *given: (..., ...), NOT_YET),
    "14 half filled": (lesson_14.start, lambda *given: (..., given[2]), NOT_YET),
    "14 where": (
        lesson_14.put_back,
        lambda x, z0, noise, mask, alpha: torch.where(mask > 0.5, x, alpha.sqrt() * z0 + (1 - alpha).sqrt() * noise),
        "✓",
    ),
    "14 in place": (
        lesson_14.put_back,
        lambda x, z0, noise, mask, alpha: x.mul_(mask).add_((1 - mask) * add_noise(z0, noise, alpha)),
        "✓",
    ),
    "14 lerp of the mask": (
        lesson_14.put_back,
        lambda x, z0, noise, mask, alpha: torch.lerp(add_noise(z0, noise, alpha), x, mask.expand_as(x)),
        "✓",
    ),
    "14 fresh noise": (
        lesson_14.put_back,
        lambda x, z0, noise, mask, alpha: lesson_14.rest_back(x, z0, torch.randn_like(x), mask, alpha),
        "✗ the largest difference",
    ),
    "14 units": (
        lesson_14.slerp,
        lambda a, b, s: lesson_14.along_the_sphere(a / a.norm(), b / b.norm(), s) * ((1 - s) * a.norm() + s * b.norm()),
        "✗ hint: the arc is right, but its length is mixed",
    ),
    "14 Gram and Schmidt": (
        lesson_14.slerp,
        lambda a, b, s: (
            torch.cos(s * lesson_14.theta_of(a, b)) * a
            + torch.sin(s * lesson_14.theta_of(a, b))
            * (b - a * (a * b).sum() / (a * a).sum())
            / (b - a * (a * b).sum() / (a * a).sum()).norm()
            * a.norm()
        ),
        "✗ hint: the arc is right, but of one length",
    ),
    "14 flat": (lesson_14.slerp, lambda a, b, s: lesson_14.along_the_sphere(a, b, s).flatten(), "the shape is"),
    "14 root": (lesson_14.slerp, lambda a, b, s: (1 - s) ** 0.5 * a + s**0.5 * b, "✗ the largest difference"),
    "15 where": (
        lesson_15.embed,
        lambda table, row, ids: torch.where((ids == len(table))[..., None], row, table[ids.clamp(max=len(table) - 1)]),
        "✓",
    ),
    "15 function": (
        lesson_15.embed,
        lambda table, row, ids: torch.nn.functional.embedding(ids, torch.vstack([table, row])),
        "✓",
    ),
    "15 in place": (
        lesson_15.embed,
        lambda table, row, ids: written(table[ids.clamp(max=len(table) - 1)], ids == len(table), row),
        "✓",
    ),
    "15 one-hot": (
        lesson_15.embed,
        lambda table, row, ids: torch.nn.functional.one_hot(ids, 10).float() @ torch.cat([table, row.view(1, -1)]),
        "✓",
    ),
    "15 no row": (lesson_15.embed, lambda table, row, ids: table[ids], "✗ it raises IndexError"),
    "15 data": (
        lesson_15.embed,
        lambda table, row, ids: written(table[ids.clamp(max=len(table) - 1)], ids == len(table), row.data),
        "✗ hint: the values are right, but no gradient",
    ),
    "15 new parameter": (
        lesson_15.embed,
        lambda table, row, ids: torch.nn.Embedding.from_pretrained(torch.cat([table, row[None]]), freeze=False)(ids),
        "✗ hint: the values are right, but no gradient",
    ),
    "15 flat": (lesson_15.embed, lambda table, row, ids: lesson_15.with_row(table, row, ids.flatten()), "✗ the shape is"),
    "15 unfilled": (lesson_15.embed, lambda table, row, ids: ..., NOT_YET),
    "15 no return": (lesson_15.embed, lambda table, row, ids: None, NOTHING),
    "15 matmul": (
        lesson_15.merged,
        lambda weight, down, up, alpha, scale: weight + torch.matmul(up, down) * (scale * alpha / down.shape[0]),
        "✓",
    ),
    "15 addmm": (
        lesson_15.merged,
        lambda weight, down, up, alpha, scale: torch.addmm(weight, up, down, alpha=scale * alpha / up.size(1)),
        "✓",
    ),
    "15 added in place": (
        lesson_15.merged,
        lambda weight, down, up, alpha, scale: weight.add_(scale * (alpha / len(down)) * torch.einsum("or,ri->oi", up, down)),
        "✓",
    ),
    "15 swapped": (lesson_15.merged, lambda weight, down, up, alpha, scale: weight + down @ up, "✗ it raises RuntimeError"),
    "15 rank of 4": (
        lesson_15.merged,
        lambda weight, down, up, alpha, scale: weight + scale * alpha / 4 * up @ down,
        "✗ the largest difference",
    ),
    "15 einsum": (
        lesson_15.controlled,
        lambda skip, control, weight, bias, scale: (
            skip + scale * (torch.einsum("oi,bihw->bohw", weight, control) + bias[:, None, None])
        ),
        "✓",
    ),
    "15 bias on the wrong axis": (
        lesson_15.controlled,
        lambda skip, control, weight, bias, scale: skip + scale * (torch.einsum("oi,bihw->bohw", weight, control) + bias),
        "✗ it raises RuntimeError",
    ),
    "15 replaced": (
        lesson_15.controlled,
        lambda skip, control, weight, bias, scale: torch.nn.functional.conv2d(control, weight[:, :, None, None], bias) * scale,
        "✗ hint: that is the ControlNet's part alone",
    ),
    "15 lerp": (
        lesson_15.controlled,
        lambda skip, control, weight, bias, scale: torch.lerp(
            skip, lesson_15.with_control(skip, control, weight, bias, 1.0), scale
        ),
        "✓",
    ),
    "15 merged, no return": (lesson_15.merged, lambda *given: None, NOTHING),
    "16 detached": (
        lesson_16.target,
        lambda jump, x, eps, t_next, alpha, alpha_next: jump(
            alpha_next.sqrt() * (x - (1 - alpha).sqrt() * eps) / alpha.sqrt() + (1 - alpha_next).sqrt() * eps, t_next
        ).detach(),
        "✓",
    ),
    "16 copied": (
        lesson_16.target,
        lambda jump, x, eps, t_next, alpha, alpha_next: jump(transfer(x, eps, alpha, alpha_next), t_next).clone().data,
        "✓",
    ),
    "16 fresh noise": (
        lesson_16.target,
        lambda jump, x, eps, t_next, alpha, alpha_next: jump(add_noise(x, eps, alpha_next), t_next).detach(),
        "✗ the largest difference",
    ),
    "16 no return": (lesson_16.target, lambda *given: None, NOTHING),
    "16 last first": (
        lesson_16.draw,
        lambda jump, x, times, noises, alphas_cumprod: functools.reduce(
            lambda x0, pair: jump(add_noise(x0, pair[1], alphas_cumprod[pair[0]]), pair[0]),
            zip(times[1:], noises),
            jump(x, times[0]),
        ),
        "✓",
    ),
    "16 same noise": (
        lesson_16.draw,
        lambda jump, x, times, noises, alphas_cumprod: lesson_16.draws(jump, x, times, [noises[0]] * 3, alphas_cumprod),
        "✗ the largest difference",
    ),
    "16 two jumps": (
        lesson_16.draw,
        lambda jump, x, times, noises, alphas_cumprod: lesson_16.draws(jump, x, times[:2], noises, alphas_cumprod),
        "✗ the largest difference",
    ),
    "11 capitals": (lesson_11.mystery_2, "Heads read as width ", "✓"),
}


@pytest.mark.parametrize(("exercise", "attempt", "verdict"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_right_answers_pass_and_wrong_ones_get_their_hint(exercise, attempt, verdict):
    assert verdict in exercise.verdict(attempt)


def exercises() -> dict[str, Exercise]:
    """All but those of notebook 01, which run a whole pipeline: its own test checks them."""
    names = sorted(path.stem for path in Path(figures.__file__).parent.glob("lesson_[0-9][0-9].py"))[1:]
    modules = [importlib.import_module(f"minisd.lessons.{name}") for name in names]
    return {f"{m.__name__[-2:]} {name}": e for m in modules for name, e in vars(m).items() if isinstance(e, Exercise)}


@pytest.mark.parametrize("name", exercises())
def test_every_mistake_earns_its_own_hint(name):
    exercise = exercises()[name]
    assert exercise.verdict(exercise.answer) == "✓"
    for hint, mistake in exercise.mistakes.items():
        assert exercise.verdict(mistake) == f"✗ hint: {hint}"


def test_the_umbrella_fits_the_built_in_model():
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    pipe.load_lora_weights(lesson_15.UMBRELLA)
    assert [lora.rank for layer in layers_of(pipe.unet).values() for lora in layer.loras] == [4] * 169
    assert lesson_15.UMBRELLA.stat().st_size <= 700_000


def test_twelve_drawings_are_the_same_every_time():
    drawings, captions = lesson_15.twelve()
    assert drawings.shape == (12, 3, 128, 128) and captions[1] == "a small orange umbrella"
    assert torch.equal(drawings, lesson_15.twelve()[0])


def test_figures_carry_their_words(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", lambda data, metadata, raw: shown.append((data, metadata["image/png"])))
    figures.show(figures.pictures([torch.zeros(3, 8, 8)] * 3, ["a", "b", "c"], columns=2), "Three grey squares.")
    you_are_here("UNet", "VAE")
    (squares, squares_metadata), (_, diagram_metadata) = shown
    assert squares["image/png"].startswith(b"\x89PNG")
    assert squares_metadata == {"alt": "Three grey squares.", "width": 768}
    assert diagram_metadata["alt"].endswith("You are here: UNet, VAE.")


def test_pixels_of_pictures_become_whole_squares():
    checks = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1).expand(3, 8, 8)
    file = io.BytesIO()
    figures.pictures([checks], ["checks"], columns=5).savefig(file, dpi=2 * figures.PIXELS)
    page = Image.open(file).convert("RGB")
    picture = page.crop((0, page.height - 288, 288, page.height))
    assert picture.tobytes() == to_pil(checks[None])[0].resize((288, 288), Image.Resampling.NEAREST).tobytes()


def test_there_is_no_such_place():
    with pytest.raises(ValueError, match=r"'GPU'.*text encoder"):
        you_are_here("GPU")


def test_lines_can_be_told_apart_in_grey():
    def lightness(color):
        linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in to_rgb(color)]
        return 116 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) ** (1 / 3) - 16

    steps = sorted(lightness(color) for color in figures.COLORS)
    assert min(b - a for a, b in zip(steps, steps[1:])) > 9


def test_shapes_stand_side_by_side(capsys):
    shapes(x0=(torch.zeros(3, 128, 128), (4, 64, 64)))
    assert capsys.readouterr().out.split("\n")[1].split("  ") == ["x0", " (3, 128, 128)", " (4, 64, 64)"]


def test_the_faster_mode(monkeypatch):
    monkeypatch.delenv("MINISD_FAST", raising=False)
    assert unless_fast(2000, 50) == 2000
    monkeypatch.setenv("MINISD_FAST", "1")
    assert unless_fast(2000, 50) == 50

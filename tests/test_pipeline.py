"""Prompt to picture: what every argument of a call does, and what is refused."""

import math

import numpy as np
import pytest
import torch
from helpers import PROMPTS, Watched, distance, draw, randn, seeded, small_pipeline

from minisd import CudaNoise, DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from minisd.schedulers import SCHEDULERS
from minisd.schedulers.sigmas import VarianceExplodingScheduler


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    return small_pipeline("v1")


# Noise, seeds, batches


def test_a_seed_is_a_picture(pipe):
    assert torch.equal(draw(pipe), draw(pipe))
    assert not torch.equal(draw(pipe), draw(pipe, generator=seeded(1)))


def test_without_a_generator_every_picture_is_another(pipe):
    assert not torch.equal(draw(pipe, generator=None), draw(pipe, generator=None))


def test_an_image_does_not_depend_on_its_batch(pipe):
    together = draw(pipe, PROMPTS, generator=[seeded(5), seeded(6)])
    for latents, prompt, seed in zip(together, PROMPTS, (5, 6)):
        assert distance(latents[None], draw(pipe, prompt, generator=seeded(seed))) <= 1e-4


def test_as_many_generators_as_pictures(pipe):
    with pytest.raises(ValueError, match="2 generators for a batch of 4"):
        draw(pipe, PROMPTS, num_images_per_prompt=2, generator=[seeded(), seeded()])


@pytest.mark.parametrize("sampler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_given_latents_replace_the_noise(pipe, sampler):
    pipe.scheduler = sampler.from_config(pipe.scheduler.config)
    noise, rest = randn(1, 4, 8, 8), seeded()
    torch.randn(1, 4, 8, 8, generator=rest)  # what is left of the generator is for the noise of the steps
    assert torch.equal(draw(pipe, latents=noise, generator=rest), draw(pipe))
    assert torch.equal(noise, randn(1, 4, 8, 8))


def test_given_latents_must_have_the_right_shape(pipe):
    with pytest.raises(ValueError, match=r"latents must be a tensor of shape \(1, 4, 8, 8\), not \(1, 4, 8, 9\)"):
        draw(pipe, latents=randn(1, 4, 8, 9))
    with pytest.raises(ValueError, match=r"latents must be a tensor of shape \(1, 4, 8, 8\), not list"):
        draw(pipe, latents=[])
    with pytest.raises(ValueError, match=r"latents must be a tensor of shape \(1, 4, 8, 8\), not \(1, 4, 8, 8\) on meta"):
        draw(pipe, latents=randn(1, 4, 8, 8).to("meta"))


@pytest.mark.parametrize("sampler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_loop_begins_with_noise_of_the_samplers_size(pipe, sampler):
    pipe.scheduler = sampler.from_config(pipe.scheduler.config)
    watched = Watched(pipe)
    draw(pipe)
    expected = randn(1, 4, 8, 8)
    if issubclass(sampler, VarianceExplodingScheduler):
        sigma = 14.614647
        expected = expected * sigma / math.sqrt(sigma**2 + 1)
    torch.testing.assert_close(watched.calls[0][0][:1], expected, rtol=1e-5, atol=1e-5)


def test_ddim_draws_its_noise_from_the_same_generator(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    generator = seeded()
    draw(pipe, generator=generator, eta=1.0)
    expected = seeded()
    for _ in range(1 + 4):  # the latents, then once a step
        torch.randn(1, 4, 8, 8, generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())


def test_eta_is_ddims_alone(pipe):
    with pytest.raises(ValueError, match="PNDMScheduler has no eta; use DDIMScheduler"):
        draw(pipe, eta=0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_cpu_draws_the_noise_for_a_gpu(pipe):
    on_cpu = draw(pipe)
    assert distance(draw(pipe.to("cuda")), on_cpu) <= 1e-2


# Sizes, defaults, what comes out


def test_defaults_are_the_models(pipe):
    pipe.num_inference_steps, pipe.guidance_scale = 3, 1.0
    watched = Watched(pipe)
    (image,) = pipe(PROMPTS[0]).images
    assert image.size == (64, 64)
    assert len(watched.calls) == 3 + 1 and len(watched.calls[0][0]) == 1


def test_stable_diffusions_defaults(pipe):
    assert (pipe.num_inference_steps, pipe.guidance_scale) == (50, 7.5)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 96), (72, 104), (8, 200)])
def test_every_multiple_of_eight(pipe, height, width):
    (image,) = pipe(PROMPTS[0], height=height, width=width, num_inference_steps=2).images
    assert image.size == (width, height)


def test_what_comes_out(pipe):
    given = {"num_inference_steps": 3, "height": 64, "width": 48}
    kinds = {kind: pipe(PROMPTS, generator=seeded(), output_type=kind, **given).images for kind in ("pil", "np", "pt", "latent")}
    assert kinds["latent"].shape == (2, 4, 8, 6)
    assert kinds["pt"].shape == (2, 3, 64, 48) and kinds["np"].shape == (2, 64, 48, 3)
    assert (kinds["np"] >= 0).all() and (kinds["np"] <= 1).all()
    assert np.array_equal(kinds["pt"].permute(0, 2, 3, 1).numpy(), kinds["np"])
    assert np.array_equal(kinds["pil"], (255 * kinds["np"]).round())


def test_a_result_has_images_and_flags(pipe):
    result = pipe(PROMPTS[0], num_inference_steps=1)
    assert result.images == result[0] and result.nsfw_content_detected is None


def test_the_scaling_factor_is_divided_out_before_the_vae(pipe):
    latents = draw(pipe)
    expected = pipe.vae.decode(latents / 0.18215).sample
    torch.testing.assert_close(pipe.decode(latents), expected)


# The loop as a generator


def test_the_loop_can_be_watched(pipe):
    steps = list(pipe.denoise(PROMPTS[0], num_inference_steps=4, generator=seeded()))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert [int(step.timestep) for step in steps] == [751, 501, 501, 251, 1]
    assert torch.equal(steps[-1].latents, draw(pipe))
    assert all(step.pred_original_sample.shape == (1, 4, 8, 8) for step in steps)


def test_two_loops_may_be_watched_side_by_side(pipe):
    """They share a pipeline, and neither disturbs the other."""
    pairs = list(zip(*(pipe.denoise(prompt, num_inference_steps=4, generator=seeded()) for prompt in PROMPTS[:2])))
    assert torch.equal(pairs[-1][0].latents, draw(pipe, PROMPTS[0]))
    assert torch.equal(pairs[-1][1].latents, draw(pipe, PROMPTS[1]))


def test_networks_move_as_modules_do(pipe):
    assert pipe.to(dtype=torch.bfloat16).dtype == torch.bfloat16
    assert pipe.to(device="cpu", dtype=torch.float32).dtype == torch.float32


def test_sizes_may_be_any_whole_numbers(pipe):
    assert torch.equal(draw(pipe, height=np.int64(64)), draw(pipe, height=64))


def test_the_guesses_come_near_the_end(pipe):
    *_, last = pipe.denoise(PROMPTS[0], num_inference_steps=10, generator=seeded())
    assert distance(last.pred_original_sample, last.latents) < 0.1


def test_the_loop_can_be_left(pipe):
    watched = Watched(pipe)
    loop = pipe.denoise(PROMPTS[0], num_inference_steps=10)
    next(loop), next(loop)
    loop.close()
    assert len(watched.calls) == 2
    assert torch.equal(draw(pipe), draw(small_pipeline("v1")))


def test_the_progress_bar_can_be_switched_off(pipe, capsys):
    draw(pipe)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(desc="denoising")
    draw(pipe)
    assert "denoising" in capsys.readouterr().err and capsys.readouterr().out == ""


# Samplers, precision


def test_a_sampler_is_swapped(pipe):
    before = draw(pipe)
    pipe.scheduler = LMSDiscreteScheduler.from_config(pipe.scheduler.config)
    assert not torch.equal(draw(pipe), before)
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    assert torch.equal(draw(pipe), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_and_whole_latents(pipe, dtype):
    whole = draw(pipe)
    assert pipe.to(dtype) is pipe and pipe.dtype == dtype
    latents = draw(pipe)
    assert latents.dtype == torch.float32  # the sampler adds up in float32
    assert distance(latents, whole) < 0.2
    assert pipe(PROMPTS[0], num_inference_steps=2).images[0].size == (64, 64)


# Types


@pytest.mark.parametrize("number", [np.int64, np.int8, torch.tensor, np.array])
def test_whole_numbers_of_any_library(pipe, number):
    ours = draw(pipe, height=number(64), width=number(64), steps=number(2), num_images_per_prompt=number(1))
    assert torch.equal(ours, draw(pipe, steps=2))
    assert torch.equal(CudaNoise(number(3)).randn((2,)), CudaNoise(3).randn((2,)))


@pytest.mark.parametrize("number", [np.float64, np.float16, torch.tensor, np.array, int])
def test_numbers_of_any_library(pipe, number):
    assert torch.equal(draw(pipe, guidance_scale=number(3.0), eta=number(0.0), steps=2), draw(pipe, guidance_scale=3, steps=2))


def test_texts_of_any_library(pipe):
    ours = draw(pipe, np.array(PROMPTS)[0], negative_prompt=np.str_("red"), steps=2)
    assert torch.equal(ours, draw(pipe, PROMPTS[0], negative_prompt="red", steps=2))
    ours = draw(pipe, tuple(PROMPTS), negative_prompt=["red", "blue"], generator=(seeded(), seeded(1)), steps=2)
    assert torch.equal(ours, draw(pipe, PROMPTS, negative_prompt=("red", "blue"), generator=[seeded(), seeded(1)], steps=2))


# Gradients


def test_what_comes_out_are_ordinary_tensors(pipe):
    """PyTorch's inference mode would make tensors that nobody may change or differentiate."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    results = [draw(pipe, steps=2), pipe(PROMPTS[0], num_inference_steps=2, output_type="pt").images]
    for step in pipe.denoise(PROMPTS[0], num_inference_steps=2):
        results += [step.latents, step.pred_original_sample]
    results += [pipe.decode(step.latents), pipe.run_safety_checker(randn(1, 3, 64, 64))[0]]
    for result in results:
        assert not result.is_inference() and not result.requires_grad
        result.div_(2).requires_grad_().square().sum().backward()
        assert result.grad.isfinite().all()


@pytest.mark.parametrize("sampler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_loss_of_the_image_guides_the_loop(pipe, sampler):
    """The gradient of a loss of the predicted image, through VAE, sampler and UNet, to the latents before a step."""
    scheduler = sampler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(2)
    latents = randn(1, 4, 4, 4) * scheduler.init_noise_sigma
    context = pipe.encode_prompt([PROMPTS[0]])
    for t in scheduler.timesteps:
        latents = latents.detach().requires_grad_()
        eps = pipe.unet(scheduler.scale_model_input(latents, t), t, encoder_hidden_states=context).sample
        step = scheduler.step(eps, t, latents, generator=seeded())
        redness = pipe.vae.decode(step.pred_original_sample).sample[:, 0].mean()
        (gradient,) = torch.autograd.grad(redness, latents)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        latents = step.prev_sample + gradient


# What cannot be drawn

REFUSED = {
    "a height": ({"height": 70}, ValueError, "height and width must be multiples of 8; use 72×64 instead of 70×64"),
    "a width": ({"width": 3}, ValueError, "multiples of 8; use 64×8 instead of 64×3"),
    "no height": ({"height": 0}, ValueError, "multiples of 8"),
    "a negative height": ({"height": -64}, ValueError, "multiples of 8"),
    "no steps": ({"num_inference_steps": 0}, ValueError, "the number of steps must be from 1 to 999, not 0"),
    "too many steps": ({"num_inference_steps": 1000}, ValueError, "the number of steps must be from 1 to 999, not 1000"),
    "no images": ({"num_images_per_prompt": 0}, ValueError, "num_images_per_prompt must be at least 1, not 0"),
    "guidance that is no number": ({"guidance_scale": math.nan}, ValueError, "guidance_scale must be a number, not nan"),
    "endless guidance": ({"guidance_scale": math.inf}, ValueError, "guidance_scale must be a number, not inf"),
    "an output": ({"output_type": "jpeg"}, ValueError, 'output_type must be "pil", "np", "pt" or "latent", not '),
    "no prompt": ({"prompt": None}, TypeError, "prompt must be a string or a list of strings, not None"),
    "no prompts": ({"prompt": []}, TypeError, "prompt must be a string or a list of strings"),
    "a wrong prompt": ({"prompt": ["a cat", 3]}, TypeError, "prompt must be a string or a list of strings"),
    "another type of negative": ({"negative_prompt": ["a cat"]}, TypeError, "negative_prompt must match prompt"),
    "a float of a size": ({"height": 64.0}, TypeError, "height must be a whole number, not 64.0"),
    "steps in words": ({"num_inference_steps": "3"}, TypeError, "num_inference_steps must be a whole number, not '3'"),
    "guidance in words": ({"guidance_scale": "3"}, ValueError, "guidance_scale must be a number, not '3'"),
    "latents of NumPy": ({"latents": np.zeros((1, 4, 8, 8))}, ValueError, "a tensor of shape (1, 4, 8, 8), not ndarray"),
    "too few negatives": ({"prompt": PROMPTS, "negative_prompt": ["a cat"]}, ValueError, "1 negative prompts for 2 prompts"),
}


@pytest.mark.parametrize(("arguments", "error", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_drawn_is_refused_before_anything_is_computed(pipe, arguments, error, sentence):
    watched, generator = Watched(pipe), seeded()
    with pytest.raises(error) as caught:
        pipe(**{"prompt": PROMPTS[0], "generator": generator, **arguments})
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert not watched.calls and torch.equal(generator.get_state(), seeded().get_state())


def test_the_empty_prompt_can_be_drawn(pipe):
    assert draw(pipe, "").isfinite().all()


RUBBISH = [5, [1], {"latents": None}, {"latents": "none"}, {"latents": np.zeros(4)}, {"latents": randn(2, 4, 8, 8)}]


@pytest.mark.parametrize("wrong", RUBBISH, ids=range(len(RUBBISH)))
def test_what_a_callback_must_not_return(wrong):
    with pytest.raises(ValueError, match=r"latents must be a tensor of shape \(1, 4, 8, 8\), not "):
        draw(small_pipeline("v1"), callback_on_step_end=lambda pipe, i, t, tensors: wrong)


def test_a_callbacks_latents_keep_the_loops_dtype():
    pipe = small_pipeline("v1")
    kept = draw(pipe, callback_on_step_end=lambda pipe, i, t, tensors: {"latents": tensors["latents"].double()})
    assert kept.dtype == torch.float32 and torch.equal(kept, draw(pipe))

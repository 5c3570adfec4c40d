"""What programs for diffusers put into a pipeline and call on it: samplers, safety checkers, switches, configurations."""

import copy
import pickle
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch
from helpers import PROMPTS, SMALL, distance, draw, randn, seeded, small_pipeline

from minisd import (
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from minisd.schedulers import SCHEDULERS


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    return small_pipeline("v1")


def theirs(name: str):
    return getattr(pytest.importorskip("diffusers"), name).from_config(SMALL["v1"]["scheduler"])


PHOTO = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


# Samplers


@pytest.mark.parametrize("name", SCHEDULERS)
def test_samplers_of_diffusers_draw_what_ours_draw(pipe, name):
    ours = SCHEDULERS[name].from_config(pipe.scheduler.config)
    given = theirs(name)
    timesteps = copy.deepcopy(given.timesteps)
    results = []
    for scheduler in (ours, given):
        pipe.scheduler = scheduler
        edit = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
        settings = {"num_inference_steps": 4, "output_type": "latent"}
        results.append(draw(pipe))
        results.append(edit(PROMPTS[0], image=PHOTO, strength=0.5, generator=seeded(), **settings).images)
    assert distance(results[0], results[2]) < 1e-4
    if name not in ("PNDMScheduler", "LMSDiscreteScheduler"):  # the first steps of these differ where they are entered late
        assert distance(results[1], results[3]) < 1e-4
    assert given.timesteps is timesteps is None or torch.equal(given.timesteps, timesteps)  # a loop has a sampler of its own


@pytest.mark.parametrize(
    "name", ["DPMSolverSinglestepScheduler", "KDPM2DiscreteScheduler", "DEISMultistepScheduler", "TCDScheduler"]
)
def test_samplers_that_only_diffusers_has(pipe, name):
    pipe.scheduler = theirs(name)
    first = draw(pipe)
    assert first.isfinite().all() and torch.equal(draw(pipe), first)


def test_a_sampler_of_diffusers_keeps_its_own_arguments(pipe):
    results = []
    for scheduler in (DDIMScheduler.from_config(pipe.scheduler.config), theirs("DDIMScheduler")):
        pipe.scheduler = scheduler
        results.append(draw(pipe, eta=0.7))
        inpaint = StableDiffusionInpaintPipeline.from_pipe(pipe)
        given = {"image": PHOTO, "mask_image": PHOTO[..., 0], "num_inference_steps": 4, "output_type": "latent"}
        results.append(inpaint(PROMPTS[0], generator=seeded(), **given).images)
    assert distance(results[0], results[2]) < 1e-4 and distance(results[1], results[3]) < 1e-4
    pipe.scheduler = theirs("EulerDiscreteScheduler")
    with pytest.raises(ValueError, match="has no eta; use DDIMScheduler"):
        draw(pipe, eta=0.7)


def test_a_sampler_of_diffusers_can_be_copied_and_looked_into(pipe):
    pipe.scheduler = theirs("DDIMScheduler")
    assert pipe.scheduler.config["beta_start"] == 0.00085 and len(pipe.scheduler.alphas_cumprod) == 1000
    for other in (copy.deepcopy(pipe.scheduler), pickle.loads(pickle.dumps(pipe.scheduler))):
        expected, pipe.scheduler = draw(pipe), other
        assert torch.equal(draw(pipe), expected)
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    assert type(pipe.scheduler) is PNDMScheduler


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (len, "builtin_function_or_method cannot be used as a scheduler: it has no set_timesteps"),
        (None, "NoneType cannot be used as a scheduler"),
        ("ddim", "str cannot be used as a scheduler"),
        (
            DDIMScheduler,
            "DDIMScheduler is a class; give an instance, such as DDIMScheduler.from_config(pipe.scheduler.config)",
        ),
    ],
    ids=str,
)
def test_what_is_no_sampler_is_refused_by_name(pipe, wrong, sentence):
    before = pipe.scheduler
    with pytest.raises(TypeError) as error:
        pipe.scheduler = wrong
    assert sentence in str(error.value) and pipe.scheduler is before


def test_a_samplers_own_settings_are_kept_when_it_is_given(folders, tmp_path):
    given = pytest.importorskip("diffusers").DDIMScheduler(num_train_timesteps=500)
    pipe = StableDiffusionPipeline.from_pretrained(folders["v1"], scheduler=given)
    assert pipe.scheduler.config.num_train_timesteps == 500
    with pytest.raises(TypeError, match="the scheduler is not one of minisd's classes and cannot be saved"):
        pipe.save_pretrained(tmp_path / "new")
    assert not list(tmp_path.iterdir())


# Safety checkers


@pytest.mark.parametrize(
    ("checker", "flags"),
    [
        (lambda images, clip_input: (images, [True, False]), [True, False]),
        (lambda images, **_: (images, False), [False, False]),
        (lambda images: [False, True], [False, True]),
        (None, None),
    ],
)
def test_others_safety_checkers(pipe, checker, flags):
    pipe.safety_checker = checker
    result = pipe([PROMPTS[0]] * 2, num_inference_steps=1, output_type="np")
    assert result.nsfw_content_detected == flags
    assert [not image.any() for image in result.images] == (flags or [False, False])


def test_the_safety_checker_of_diffusers(pipe):
    """With random weights it hides all images, or none; those that go in are not changed."""
    transformers = pytest.importorskip("transformers")
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    pipe.safety_checker = StableDiffusionSafetyChecker(transformers.CLIPConfig(vision_config=vision, projection_dim=16)).eval()
    images = randn(2, 3, 64, 64).clamp(-1, 1)
    checked, flags = pipe.run_safety_checker(images)
    assert len(flags) == 2 and all(isinstance(flag, bool) for flag in flags)
    assert all(torch.equal(ours, image) != flag for ours, image, flag in zip(checked, images, flags))


@pytest.mark.parametrize("wrong", ["no", 3, StableDiffusionPipeline])
def test_what_is_no_safety_checker_is_refused(pipe, wrong):
    with pytest.raises(TypeError, match="is not a safety checker; give minisd's, diffusers'"):
        pipe.safety_checker = wrong


# Switches


def test_slicing_gives_the_same_images_one_by_one(pipe):
    latents, sizes = randn(3, 4, 8, 8), []
    pipe.vae.decoder.register_forward_hook(lambda module, given, result: sizes.append(len(result)))
    whole = pipe.decode(latents)
    pipe.enable_vae_slicing()
    assert distance(pipe.decode(latents), whole) < 1e-5
    copied = copy.deepcopy(pipe.vae)
    copied.decoder.conv_out.weight.zero_()
    assert not torch.equal(copied.decode(latents).sample, pipe.vae.decode(latents).sample)  # its own weights
    pipe.disable_vae_slicing()
    assert torch.equal(pipe.decode(latents), whole)
    assert sizes == [3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3]


def test_pipelines_that_share_a_vae_share_its_switches(pipe):
    other = StableDiffusionPipeline.from_pipe(pipe)
    pipe.enable_vae_tiling()
    other.enable_vae_slicing()
    assert pipe.vae.decode.keywords == {"one_by_one": True, "tiled": True}
    other.disable_vae_tiling()
    pipe.vae = torch.compile(pipe.vae, backend="eager")
    pipe.disable_vae_slicing()
    assert not {"encode", "decode"} & vars(other.vae).keys()


def test_switches_without_effect(pipe):
    before = draw(pipe)
    for name in ("attention_slicing", "xformers_memory_efficient_attention"):
        getattr(pipe, f"enable_{name}")()
        assert torch.equal(draw(pipe), before)
        getattr(pipe, f"disable_{name}")()


# Configurations


def test_configurations_are_mappings(pipe):
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.scheduler):
        config = part.config
        assert dict(config) == {field.name: getattr(config, field.name) for field in fields(config)}
        assert hash(config) == hash(copy.deepcopy(config)) and config == copy.deepcopy(config)
    assert pipe.unet.config["in_channels"] == 4 and "nothing" not in pipe.unet.config
    assert pipe.unet.config.get("nothing", 3) == 3
    with pytest.raises(KeyError):
        pipe.unet.config["nothing"]
    with pytest.raises(FrozenInstanceError):
        pipe.unet.config.in_channels = 9
    assert DDIMScheduler(**pipe.scheduler.config).config == pipe.scheduler.config
    assert DDIMScheduler.from_config(dict(pipe.scheduler.config)).config == pipe.scheduler.config

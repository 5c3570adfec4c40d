"""Latent consistency models and sd-turbo: few steps, drawn as diffusers draws them."""

import numpy as np
import pytest
import torch
from helpers import NETWORKS, PROMPTS, SMALL, Watched, distance, pair, randn, seeded, small_network, small_pipeline, small_tokenizer
from safetensors.torch import save_file

from minisd import (
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UnsupportedConfig,
)
from minisd.guided_unet import GuidedUNet
from minisd.weights.errors import CheckpointError

GUIDED = {**SMALL["v1"]["unet"], "time_cond_proj_dim": 32}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A latent consistency model as diffusers writes one, by diffusers' pipeline."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("lcm")
    networks = {name: pair(name, GUIDED if name == "unet" else SMALL["v1"][name])[0] for name in NETWORKS}
    small_tokenizer("v1").save_pretrained(folder / "tokenizer")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    pipe = diffusers.LatentConsistencyModelPipeline(
        **networks, tokenizer=tokenizer, scheduler=diffusers.LCMScheduler(**settings), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return folder, pipe


@pytest.mark.parametrize("scale", [1.0, 2.5, 8.5])
def test_the_scale_goes_into_the_network_as_in_diffusers(scale):
    theirs, ours = pair("unet", GUIDED)
    lcm = pytest.importorskip("diffusers").LatentConsistencyModelPipeline
    told = lcm.get_guidance_scale_embedding(None, torch.tensor([scale - 1, scale - 1]), 32)
    x, t, context = randn(2, 4, 8, 8), torch.tensor([999, 259]), randn(2, 77, 48, seed=1)
    expected = theirs(x, t, encoder_hidden_states=context, timestep_cond=told).sample
    assert isinstance(ours, GuidedUNet)
    assert distance(ours(x, t, context, scale).sample, expected) <= 1e-5


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0]},
        {"prompt": PROMPTS, "num_inference_steps": 3, "guidance_scale": 4.0, "height": 72, "width": 40},
        {"prompt": PROMPTS[1], "num_inference_steps": 1, "num_images_per_prompt": 2},
    ],
)
def test_pictures_are_diffusers(published, arguments):
    folder, theirs = published
    ours = StableDiffusionPipeline.from_pretrained(folder)
    assert isinstance(ours, LatentConsistencyModelPipeline) and isinstance(ours.scheduler, LCMScheduler)
    assert (ours.num_inference_steps, ours.guidance_scale) == (4, 8.5)
    ours.set_progress_bar_config(disable=True)
    one, two = (
        np.stack([np.asarray(image, int) for image in pipe(**arguments, generator=seeded()).images]) for pipe in (ours, theirs)
    )
    assert two.std() > 20 and abs(one - two).max() <= 1 and (one != two).mean() < 0.01


def test_one_prediction_a_step(published):
    pipe = LatentConsistencyModelPipeline.from_pretrained(published[0])
    watched = Watched(pipe)
    pipe(PROMPTS, num_inference_steps=3, generator=seeded())
    assert [len(call[0]) for call in watched.calls] == [2, 2, 2]


def test_saved_it_loads_here_and_in_diffusers(published, tmp_path):
    ours = LatentConsistencyModelPipeline.from_pretrained(published[0])
    ours.save_pretrained(tmp_path / "again")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "again")
    pipes = [ours, again, pytest.importorskip("diffusers").StableDiffusionPipeline.from_pretrained(tmp_path / "again")]
    images = [
        np.asarray(pipe(PROMPTS[0], num_inference_steps=4, guidance_scale=8.5, generator=seeded()).images[0], int) for pipe in pipes
    ]
    assert (images[0] == images[1]).all() and abs(images[0] - images[2]).max() <= 1


def test_what_it_cannot_do_is_said(published, tmp_path):
    folder = published[0]
    with pytest.raises(ValueError, match="a negative prompt has no effect"):
        LatentConsistencyModelPipeline.from_pretrained(folder)("a cat", negative_prompt="a dog")
    with pytest.raises(UnsupportedConfig, match="only text to image"):
        StableDiffusionImg2ImgPipeline.from_pretrained(folder)
    with pytest.raises(TypeError, match="does not take the guidance scale"):
        LatentConsistencyModelPipeline.from_pipe(small_pipeline("v1"))
    names = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}
    save_file(names | {"model.diffusion_model.time_embed.cond_proj.weight": torch.zeros(320, 256)}, tmp_path / "lcm.safetensors")
    with pytest.raises(CheckpointError, match="a latent consistency model in a single file"):
        StableDiffusionPipeline.from_single_file(tmp_path / "lcm.safetensors")


def test_turbo_draws_in_one_step(tmp_path):
    """sd-turbo is 2-1-base's network with Euler's steps at the end of each stretch, and without guidance."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    networks = {name: pair(name, SMALL["v2"][name])[0] for name in NETWORKS}
    small_tokenizer("v2").save_pretrained(tmp_path / "tokenizer")
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
    theirs = diffusers.StableDiffusionPipeline(
        **networks, tokenizer=transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"),
        scheduler=diffusers.EulerDiscreteScheduler(**settings), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    theirs.save_pretrained(tmp_path / "turbo")
    ours = StableDiffusionPipeline.from_pretrained(tmp_path / "turbo")
    assert isinstance(ours.scheduler, EulerDiscreteScheduler)
    for steps in (1, 4):
        one, two = (
            np.asarray(pipe(PROMPTS[0], num_inference_steps=steps, guidance_scale=0.0, generator=seeded()).images[0], int)
            for pipe in (ours, theirs)
        )
        assert ours.scheduler.config.timestep_spacing == "trailing"
        assert two.std() > 20 and abs(one - two).max() <= 1


def test_a_usual_unet_has_no_such_weight():
    assert not any("cond_proj" in name for name in small_network("unet", "v1").state_dict())

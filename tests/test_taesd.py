"""TAESD: the network, its files and its place in a pipeline, against diffusers."""

import json

import pytest
import torch
from helpers import PROMPTS, distance, draw, randn, random_tensors, seeded, small_network, small_pipeline

from minisd import AutoencoderKL, AutoencoderTiny, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, UnsupportedConfig
from minisd.taesd import TAESDConfig
from minisd.weights.fill import load_strictly, shapes_of, unfilled

SMALL = {"num_encoder_blocks": (1, 1, 2, 1), "num_decoder_blocks": (2, 1, 1, 1)}


@pytest.fixture(scope="module")
def vae() -> AutoencoderTiny:
    config = TAESDConfig(block_out_channels=(16,) * 4, **SMALL)
    empty = unfilled(AutoencoderTiny, config)
    return load_strictly(empty, random_tensors(empty.state_dict(), 0), "")


@pytest.fixture(scope="module")
def folder(vae, tmp_path_factory):
    vae.save_pretrained(path := tmp_path_factory.mktemp("taesd") / "taesd")
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderTiny.from_pretrained(folder).requires_grad_(False)


def test_as_in_diffusers(vae, theirs, measure):
    images, latents = randn(2, 3, 64, 48), 3 * randn(2, 4, 8, 6)  # of which tanh bends many
    assert measure(vae.encode(images).latents, theirs.encode(images).latents) < 1e-5
    assert measure(vae.decode(latents).sample, theirs.decode(latents).sample) < 1e-5
    assert torch.equal(vae(images).sample, vae.decode(vae.encode(images).latent_dist.sample(seeded(0))).sample)


def test_it_is_the_published_one():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        theirs = diffusers.AutoencoderTiny()
    assert shapes_of(unfilled(AutoencoderTiny, TAESDConfig())) == shapes_of(theirs)


def test_folders_go_both_ways(vae, theirs, folder, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    for source in (folder, tmp_path / "theirs"):
        ours = AutoencoderTiny.from_pretrained(source)
        assert ours.config == vae.config
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), vae.state_dict().values(), strict=True))


def test_it_takes_the_place_of_the_vae(vae, theirs, kind):
    pipe = small_pipeline(kind)
    latents = draw(pipe)
    pipe.vae = vae
    assert torch.equal(draw(pipe), latents)  # it has no part in the loop
    assert distance(pipe.decode(latents), theirs.decode(latents).sample) < 1e-5
    picture = pipe(PROMPTS[0], num_inference_steps=2).images[0]
    pipe.enable_vae_slicing()
    pipe.enable_vae_tiling()  # neither has an effect
    assert distance(pipe.decode(latents), theirs.decode(latents).sample) < 1e-5
    again = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert again(PROMPTS[0], image=picture, num_inference_steps=4).images[0].size == picture.size


def test_a_pipeline_with_it_is_saved_and_loaded(vae, tmp_path):
    pipe = small_pipeline("v1")
    pipe.vae = vae
    pipe.save_pretrained(tmp_path, variant="fp16")
    again = StableDiffusionPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    assert again.vae.config == vae.config and torch.equal(again.vae.decoder.layers[0].weight, vae.decoder.layers[0].weight.half())
    given = StableDiffusionPipeline.from_pretrained(tmp_path, variant="fp16", vae=small_network("vae", "v1"))
    assert isinstance(given.vae, AutoencoderKL)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"act_fn": "silu"}, "act_fn"),
        ({"encoder_block_out_channels": [16, 16, 16, 8]}, "all with the same width"),
        ({"num_decoder_blocks": [1, 1]}, "all with the same width"),
        ({"sample_size": 3}, "sample_size"),
    ],
    ids=str,
)
def test_others_are_refused_by_name(folder, tmp_path, change, sentence):
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    (tmp_path / "diffusion_pytorch_model.safetensors").hardlink_to(folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UnsupportedConfig, match=sentence):
        AutoencoderTiny.from_pretrained(tmp_path)

"""The autoencoder: diffusers beside it, its Gaussian, and the traps that shift or tint a picture."""

import pytest
import torch
from helpers import OFFICIAL, VAE, build, diffusers_tensors, distance, pair, randn, small_network
from safetensors.torch import load_file, save_file
from torch import nn

from minisd import AutoencoderKL
from minisd.config import VAEConfig
from minisd.layers import attention
from minisd.vae import DiagonalGaussian

RELATIVES = {
    "small": {},
    "one layer": {"layers_per_block": 1},
    "three layers": {"layers_per_block": 3},
    "two levels": {
        "block_out_channels": [16, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
    "groups": {"norm_num_groups": 4},
    "eight latent channels": {"latent_channels": 8},
    "grey": {"in_channels": 1, "out_channels": 1},
}


def moments(gaussian) -> torch.Tensor:
    return torch.cat([gaussian.mean, gaussian.logvar], dim=1)


@pytest.mark.parametrize("change", RELATIVES.values(), ids=RELATIVES)
@pytest.mark.parametrize(("h", "w"), [(32, 32), (24, 40)])
def test_parity_with_diffusers(change, h, w, measure):
    settings = {**VAE, **change}
    theirs, ours = pair("vae", settings)
    picture, latents = randn(2, settings.get("in_channels", 3), h, w), randn(2, settings.get("latent_channels", 4), h // 8, w // 8)
    assert measure(moments(ours.encode(picture).latent_dist), moments(theirs.encode(picture).latent_dist)) <= 1e-5
    assert measure(ours.decode(latents).sample, theirs.decode(latents).sample) <= 1e-5


def test_parity_where_eps_counts(measure):
    """With weights so small that all features are quiet, 1e-5 and 1e-6 under a GroupNorm's root are far apart."""
    theirs, ours = pair("vae", VAE, gain=0.03)
    picture, latents = 0.1 * randn(1, 3, 32, 32), 0.1 * randn(1, 4, 4, 4)
    assert measure(ours.encode(picture).latent_dist.mean, theirs.encode(picture).latent_dist.mean) <= 1e-5
    assert measure(ours.decode(latents).sample, theirs.decode(latents).sample) <= 1e-5


@pytest.mark.parametrize(("h", "w"), [(64, 64), (40, 72)])
def test_parity_at_the_official_configuration(official_pair, h, w, measure):
    theirs, ours = official_pair
    picture, latents = randn(1, 3, h, w), randn(1, 4, h // 8, w // 8)
    assert measure(moments(ours.encode(picture).latent_dist), moments(theirs.encode(picture).latent_dist)) <= 1e-4
    assert measure(ours.decode(latents).sample, theirs.decode(latents).sample) <= 1e-4


@pytest.mark.slow
def test_parity_at_the_official_configuration_and_size(official_pair, measure):
    theirs, ours = official_pair
    assert measure(ours.decode(latents := randn(1, 4, 64, 64)).sample, theirs.decode(latents).sample) <= 1e-4


@pytest.fixture(scope="module", params=["v1", "v2"])
def official_pair(request):
    return pair("vae", OFFICIAL[request.param]["vae"])


def test_parity_of_a_sample():
    theirs, ours = pair("vae", VAE)
    picture = randn(2, 3, 32, 32)
    a, b = (model.encode(picture).latent_dist.sample(torch.Generator().manual_seed(1)) for model in (ours, theirs))
    assert distance(a, b) <= 1e-5


def test_there_and_back():
    theirs, ours = pair("vae", VAE)
    picture = randn(1, 3, 32, 32)
    assert distance(ours(picture).sample, theirs(picture).sample) <= 1e-5


# Traps


def test_eps_of_every_group_norm_is_1e_6():
    norms = [module for module in small_network("vae", "v1").modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 2 * (4 * 2 + 2) + 1 + 1 + 2 * (4 * 3 + 2) + 1 + 1
    assert {norm.eps for norm in norms} == {1e-6}


def test_downsampling_pads_right_and_bottom_only():
    """Padded on every side, shapes are the same and the picture moves by a pixel at every level."""
    vae = small_network("vae", "v1")
    assert [block.downsample.pad for block in vae.encoder.down_blocks[:-1]] == [(0, 1, 0, 1)] * 3
    picture = randn(1, 3, 32, 32)
    right = vae.encode(picture).latent_dist.mean
    for block in vae.encoder.down_blocks[:-1]:
        block.downsample.pad = (1, 1, 1, 1)
    assert distance(vae.encode(picture).latent_dist.mean, right) > 0.1


def test_the_mid_attention_has_one_head():
    vae = small_network("vae", "v1")
    layer, x = vae.decoder.mid_block.attention, randn(1, 64, 3, 5)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (to(tokens)[:, None] for to in (layer.attn.to_q, layer.attn.to_k, layer.attn.to_v))
    out = layer.attn.to_out(attention(q, k, v)[:, 0])
    torch.testing.assert_close(layer(x), x + out.transpose(1, 2).view(x.shape), rtol=1e-5, atol=1e-5)


def test_the_scaling_factor_stays_outside():
    """Twice the factor, same latents and same picture: the pipeline applies it, the VAE does not."""
    tensors = diffusers_tensors("vae", VAE)
    one, two = (build("vae", {**VAE, "scaling_factor": factor}, tensors) for factor in (0.18215, 0.5))
    picture, latents = randn(1, 3, 32, 32), randn(1, 4, 4, 4)
    assert torch.equal(one.encode(picture).latent_dist.mean, two.encode(picture).latent_dist.mean)
    assert torch.equal(one.decode(latents).sample, two.decode(latents).sample)
    assert VAEConfig().scaling_factor == 0.18215


@pytest.mark.parametrize("names", [("query", "key", "value", "proj_attn"), ("to_q", "to_k", "to_v", "to_out.0")], ids="-".join)
@pytest.mark.parametrize("convolutions", [False, True], ids=["linear", "1x1"])
def test_every_spelling_of_the_attention_is_read(names, convolutions, tmp_path):
    """The official float32 files have the old names, others the new ones; some store 1×1 convolutions."""
    model = small_network("vae", "v1")
    model.save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        for new, old in zip(("to_q", "to_k", "to_v", "to_out.0"), names):
            if f".{new}." in name:
                tensor = tensor[:, :, None, None].contiguous() if convolutions and name.endswith("weight") else tensor
                name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor.clone()
    save_file(renamed, file)
    latents = randn(1, 4, 4, 4)
    assert torch.equal(AutoencoderKL.from_pretrained(tmp_path, "vae").decode(latents).sample, model.decode(latents).sample)


# The Gaussian


def test_log_variance_is_clamped():
    gaussian = DiagonalGaussian(torch.tensor([1.0, -100.0, 1.0, 100.0]).view(2, 2, 1, 1))
    assert gaussian.logvar.flatten().tolist() == [-30, 20]
    assert gaussian.std.flatten().tolist() == pytest.approx([torch.tensor(-15.0).exp().item(), torch.tensor(10.0).exp().item()])


def test_the_first_half_is_the_mean():
    gaussian = DiagonalGaussian(torch.arange(8.0).view(1, 8, 1, 1))
    assert gaussian.mean.flatten().tolist() == [0, 1, 2, 3] and gaussian.logvar.flatten().tolist() == [4, 5, 6, 7]
    assert torch.equal(gaussian.mode(), gaussian.mean)


def test_a_sample_is_the_mean_plus_noise():
    gaussian = DiagonalGaussian(randn(2, 8, 4, 4))
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(9))
    sample = gaussian.sample(torch.Generator().manual_seed(9))
    torch.testing.assert_close(sample, gaussian.mean + (gaussian.logvar / 2).exp() * noise)


def test_kl_to_the_standard_normal():
    gaussian = DiagonalGaussian(randn(2, 8, 4, 4))
    ours = torch.distributions.Normal(gaussian.mean, gaussian.std)
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian.kl(), expected)
    assert DiagonalGaussian(torch.zeros(1, 8, 4, 4)).kl().item() == 0


def test_latents_are_an_eighth_as_large():
    vae = small_network("vae", "v1")
    assert vae.encode(randn(1, 3, 64, 40)).latent_dist.mean.shape == (1, 4, 8, 5)
    assert vae.decode(randn(1, 4, 8, 5)).sample.shape == (1, 3, 64, 40)

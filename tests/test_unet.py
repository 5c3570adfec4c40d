"""The UNet: diffusers beside it at many shapes and configurations, and the traps that load without complaint."""

import pytest
import torch
import torch.nn.functional as F
from helpers import OFFICIAL, SMALL, V1_UNET, build, diffusers_tensors, distance, pair, randn, small_network
from torch import nn

from minisd.config import SD1_UNET
from minisd.unet import FeedForward, SpatialTransformer, UNet2DConditionModel


def run(model: nn.Module, h: int = 8, w: int = 8, context_dim: int = 48, channels: int = 4, scale: float = 1.0) -> torch.Tensor:
    context = randn(2, 77, context_dim, seed=2)
    return model(scale * randn(2, channels, h, w, seed=1), torch.tensor([981, 21]), encoder_hidden_states=context).sample


# Parity

CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def levels(*kinds: tuple[str, str]) -> dict:
    return {"down_block_types": [down for down, _ in kinds], "up_block_types": [up for _, up in reversed(kinds)]}


RELATIVES = {
    "small": {},
    "one layer": {"layers_per_block": 1},
    "three layers": {"layers_per_block": 3},
    "attention everywhere": levels(CROSS, CROSS, CROSS),
    "attention at the bottom only": levels(PLAIN, PLAIN, PLAIN),
    "attention in the middle only": levels(PLAIN, CROSS, PLAIN),
    "attention below": levels(PLAIN, CROSS, CROSS),
    "two levels": {"block_out_channels": [32, 64], **levels(CROSS, PLAIN), "attention_head_dim": 4},
    "four levels": {"block_out_channels": [16, 32, 48, 48], **levels(CROSS, CROSS, CROSS, PLAIN), "attention_head_dim": 4},
    "heads": {"attention_head_dim": [8, 2, 3]},
    "one head": {"attention_head_dim": 1},
    "inpainting": {"in_channels": 9},
    "groups": {"norm_num_groups": 16},
    "context": {"cross_attention_dim": 20},
    "eight channels out": {"out_channels": 8},
}


@pytest.mark.parametrize("change", RELATIVES.values(), ids=RELATIVES)
def test_parity_with_diffusers(kind, change, measure):
    settings = {**SMALL[kind]["unet"], "attention_head_dim": 4, **change}
    theirs, ours = pair("unet", settings)
    given = {"context_dim": settings["cross_attention_dim"], "channels": settings.get("in_channels", 4)}
    assert measure(run(ours, **given), run(theirs, **given)) <= 1e-5


@pytest.mark.parametrize(("h", "w"), [(8, 8), (16, 8), (9, 13), (65, 64), (5, 7), (1, 1), (4, 30)])
def test_parity_at_every_size(kind, h, w, measure):
    """Where a side is odd, what goes up must grow to the skip's size and not to twice its own."""
    theirs, ours = pair("unet", SMALL[kind]["unet"])
    assert measure(run(ours, h, w), run(theirs, h, w)) <= 1e-5


def test_parity_where_eps_counts(kind, measure):
    """With weights so small that all features are quiet, 1e-5 and 1e-6 under a GroupNorm's root are far apart."""
    theirs, ours = pair("unet", SMALL[kind]["unet"], gain=0.03)
    assert measure(run(ours, scale=0.1), run(theirs, scale=0.1)) <= 1e-5


@pytest.mark.parametrize("t", [0, 1, 981, 999, 499.5, torch.tensor(961), torch.tensor([20.25])], ids=str)
def test_parity_at_every_kind_of_time(t, measure):
    theirs, ours = pair("unet", V1_UNET)
    x, context = randn(2, 4, 8, 8), randn(2, 77, 48, seed=1)
    assert measure(ours(x, t, context).sample, theirs(x, t, context).sample) <= 1e-5


@pytest.mark.parametrize(("h", "w"), [(16, 16), (9, 13)])
def test_parity_at_the_official_configuration(official_pair, h, w, measure):
    theirs, ours = official_pair
    width = ours.config.cross_attention_dim
    assert measure(run(ours, h, w, width), run(theirs, h, w, width)) <= 1e-4


@pytest.mark.slow
def test_parity_at_the_official_configuration_and_size(official_pair, measure):
    theirs, ours = official_pair
    width = ours.config.cross_attention_dim
    assert measure(run(ours, 64, 64, width), run(theirs, 64, 64, width)) <= 1e-4


@pytest.fixture(scope="module", params=["v1", "v2"])
def official_pair(request):
    return pair("unet", OFFICIAL[request.param]["unet"])


# Traps


def test_eps_of_every_group_norm():
    """1e-6 where a transformer begins, 1e-5 everywhere else."""
    model = small_network("unet", "v1")
    transformers = {id(module.norm) for module in model.modules() if isinstance(module, SpatialTransformer)}
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert len(transformers) == 11 and len(norms) == 11 + 2 * 17 + 1
    assert all(norm.eps == (1e-6 if id(norm) in transformers else 1e-5) for norm in norms)


def test_geglu_takes_the_value_first_and_the_exact_gelu_of_the_gate():
    layer = FeedForward(6)
    x = randn(2, 3, 6)
    wide = layer.proj_in(x)
    value, gate = wide[..., :24], wide[..., 24:]
    expected = layer.proj_out(value * gate * (1 + torch.erf(gate / 2**0.5)) / 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(layer(x), layer.proj_out(gate * F.gelu(value)), atol=1e-3)


def test_heads_are_a_number_not_a_width():
    """The JSON calls the number of heads `attention_head_dim`. Read as a width, the same weights load and compute nonsense."""
    tensors = diffusers_tensors("unet", V1_UNET)
    eight, four = (build("unet", {**V1_UNET, "attention_head_dim": heads}, tensors) for heads in (8, 4))
    assert eight.config.num_attention_heads == (8, 8, 8)
    assert {block.block.attn1.heads for block in eight.modules() if isinstance(block, SpatialTransformer)} == {8}
    assert distance(run(eight), run(four)) > 1e-3


def test_v2_names_its_heads_level_by_level():
    model = small_network("unet", "v2")
    assert [block.attentions[0].block.attn1.heads for block in model.down_blocks[:2]] == [2, 4]
    assert model.mid_block.attention.block.attn2.heads == 6
    assert [block.attentions[0].block.attn1.heads for block in model.up_blocks[1:]] == [4, 2]


def test_a_convolution_of_one_pixel_is_a_linear_layer():
    """proj_in and proj_out are stored as 1×1 convolutions in v1 and as linear layers in v2: the same numbers."""
    v1, v2 = {**V1_UNET}, {**V1_UNET, "use_linear_projection": True}
    a, b = diffusers_tensors("unet", v1), diffusers_tensors("unet", v2)
    assert a["mid_block.attentions.0.proj_in.weight"].shape == (96, 96, 1, 1)
    assert b["mid_block.attentions.0.proj_in.weight"].shape == (96, 96)
    assert torch.equal(run(build("unet", v1, a)), run(build("unet", v2, b)))


def test_the_unets_downsampling_pads_on_every_side():
    assert [block.downsample.pad for block in small_network("unet", "v1").down_blocks[:-1]] == [(1, 1, 1, 1)] * 2


def test_the_first_skip_is_what_conv_in_made():
    """And the way up puts what comes from below before the skip: with the skip's weights gone, only that is left."""
    model = small_network("unet", "v1")
    last = model.up_blocks[-1].resnets[-1]
    assert last.conv1.in_channels == 32 + 32
    x, context = randn(1, 4, 8, 8), randn(1, 77, 48)
    seen = []
    last.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    model(x, 10, context)
    torch.testing.assert_close(seen[0][:, 32:], model.conv_in(x))


def test_skips_go_up_in_the_order_of_the_official_widths():
    with torch.device("meta"):
        model = UNet2DConditionModel(SD1_UNET)
    widths = [[resnet.conv1.in_channels for resnet in block.resnets] for block in model.up_blocks]
    assert widths == [[2560, 2560, 2560], [2560, 2560, 1920], [1920, 1280, 960], [960, 640, 640]]


# What it computes from


def test_images_of_a_batch_do_not_see_each_other(kind):
    model = small_network("unet", kind)
    x, context, t = randn(3, 4, 8, 8), randn(3, 77, 48, seed=1), torch.tensor([1, 500, 981])
    together = model(x, t, context).sample
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], model(x[i : i + 1], t[i], context[i : i + 1]).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["sample", "timestep", "encoder_hidden_states"])
def test_everything_given_counts(which, kind):
    model = small_network("unet", kind)
    given = {"sample": randn(1, 4, 8, 8), "timestep": 500, "encoder_hidden_states": randn(1, 77, 48, seed=1)}
    before = model(**given).sample
    given[which] = given[which] + 1
    assert distance(model(**given).sample, before) > 1e-3


def test_what_is_given_stays_as_it_is():
    model, x, context = small_network("unet", "v1"), randn(1, 4, 9, 13), randn(1, 77, 48, seed=1)
    given = x.clone(), context.clone()
    model(x, 3, context)
    assert torch.equal(x, given[0]) and torch.equal(context, given[1])


def test_the_names_that_programs_ask_for():
    model = small_network("unet", "v1")
    assert model.in_channels == model.config.in_channels == 4

"""The bricks of every network, each against its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import randn, random_tensors

from minisd.layers import Attention, Downsample, ResnetBlock, Upsample, attention, timestep_embedding


def with_random_weights(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    module.load_state_dict(random_tensors(module.state_dict(), seed))
    return module.requires_grad_(False)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_explicit_attention_is_the_fused_one(tokens, causal):
    q, k, v = (randn(2, 3, tokens, 8, seed=i).double() for i in range(3))
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(attention(q, k, v, causal), fused, rtol=0, atol=1e-12)


def test_causal_attention_never_sees_a_later_token():
    q, k, v = (randn(1, 2, 6, 4, seed=i) for i in range(3))
    before = attention(q, k, v, causal=True)
    k[:, :, 4:], v[:, :, 4:] = 9, 9
    after = attention(q, k, v, causal=True)
    assert torch.equal(before[:, :, :4], after[:, :, :4]) and not torch.equal(before[:, :, 4:], after[:, :, 4:])


def test_attention_is_scaled_by_the_width_of_a_head():
    """q·k is 16 for one key and 0 for the other, in a head 16 wide: one weighs e^(16/√16) times the other."""
    q, k = torch.ones(1, 1, 1, 16), torch.stack([torch.ones(16), torch.zeros(16)]).view(1, 1, 2, 16)
    weights = attention(q, k, torch.eye(2).view(1, 1, 2, 2))
    assert (weights[..., 0] / weights[..., 1]).item() == pytest.approx(math.exp(16 / math.sqrt(16)))


@pytest.mark.parametrize("context_dim", [None, 10])
def test_attention_by_hand_head_by_head(context_dim):
    layer = with_random_weights(Attention(12, heads=3, context_dim=context_dim, qkv_bias=True))
    x = randn(2, 5, 12, seed=1)
    context = randn(2, 7, context_dim, seed=2) if context_dim else None
    source = x if context is None else context
    q, k, v = layer.to_q(x), layer.to_k(source), layer.to_v(source)
    heads = [attention(*(t[None, :, :, 4 * i : 4 * i + 4] for t in (q, k, v)))[0] for i in range(3)]
    torch.testing.assert_close(layer(x, context), layer.to_out(torch.cat(heads, dim=-1)), rtol=1e-5, atol=1e-5)


def test_the_unets_attention_has_no_bias_before_and_one_after():
    layer = Attention(8, heads=2, context_dim=6)
    assert sorted(layer.state_dict()) == ["to_k.weight", "to_out.bias", "to_out.weight", "to_q.weight", "to_v.weight"]


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 16)])
def test_resnet_block_by_hand(before, after, eps):
    """On features this quiet, 1e-5 and 1e-6 under the root are far apart."""
    block = with_random_weights(ResnetBlock(before, after, groups=4, eps=eps, temb_channels=6))
    x, temb = 1e-3 * randn(2, before, 5, 7, seed=1), randn(2, 6, seed=2)

    def normalised(x, norm):
        grouped = x.reshape(2, 4, -1)
        variance, mean = torch.var_mean(grouped, dim=-1, keepdim=True, correction=0)
        x = ((grouped - mean) / (variance + eps).sqrt()).reshape(x.shape)
        return F.silu(x * norm.weight[:, None, None] + norm.bias[:, None, None])

    h = block.conv1(normalised(x, block.norm1)) + block.time_emb_proj(F.silu(temb))[:, :, None, None]
    expected = block.conv_shortcut(x) + block.conv2(normalised(h, block.norm2))
    torch.testing.assert_close(block(x, temb), expected, rtol=1e-4, atol=1e-5)


def test_resnet_block_of_the_vae_knows_no_time():
    block = with_random_weights(ResnetBlock(8, 8, groups=4, eps=1e-6))
    assert not any("time" in name for name in block.state_dict())
    assert block(randn(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def impulses(pad: tuple[int, int, int, int], size: int = 6) -> torch.Tensor:
    """Which of a 3×3 convolution's nine weights the pixels of a picture meet, at the output's corners: their sums."""
    layer = Downsample(1, pad)
    layer.load_state_dict({"conv.weight": torch.arange(1.0, 10).view(1, 1, 3, 3), "conv.bias": torch.zeros(1)})
    return layer(torch.ones(1, 1, size, size)).detach()[0, 0]


def test_the_unet_pads_on_every_side():
    out = impulses((1, 1, 1, 1))
    assert out.shape == (3, 3)
    assert out[0, 0] == 5 + 6 + 8 + 9 and out[-1, -1] == 45  # the kernel's first row and column hang over at the top left


def test_the_vae_pads_right_and_bottom_only():
    out = impulses((0, 1, 0, 1))
    assert out.shape == (3, 3)
    assert out[0, 0] == 45 and out[-1, -1] == 1 + 2 + 4 + 5  # the last row and column hang over at the bottom right


@pytest.mark.parametrize("size", [None, (5, 8), (6, 7)])
def test_upsampling_repeats_pixels(size):
    layer = with_random_weights(Upsample(2))
    x = randn(1, 2, 3, 4)
    h, w = size or (6, 8)
    rows, columns = torch.arange(h) * 3 // h, torch.arange(w) * 4 // w
    torch.testing.assert_close(layer(x, size), layer.conv(x[:, :, rows][:, :, :, columns]))


@pytest.mark.parametrize(
    ("i", "value"), [(0, 0.67995721), (1, -0.79842919), (159, 0.99460590), (160, 0.73325181), (161, 0.60208869), (319, 0.10372588)]
)
def test_timestep_embedding_of_stable_diffusion(i, value):
    """Cosines first: entry 0 is cos 981 and entry 160 sin 981."""
    embedding = timestep_embedding(torch.tensor([981]), 320)
    assert embedding.shape == (1, 320) and embedding.dtype == torch.float32
    assert embedding[0, i].item() == pytest.approx(value, abs=1e-6)


def test_timestep_embedding_is_cosines_then_sines_of_falling_frequency():
    t = torch.tensor([1.0, 20.5])
    frequencies = [10000 ** (-i / 8) for i in range(8)]
    expected = [[math.cos(f * s) for f in frequencies] + [math.sin(f * s) for f in frequencies] for s in (1, 20.5)]
    torch.testing.assert_close(timestep_embedding(t, 16), torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [Attention(8, 2), ResnetBlock(8, 8, 4, 1e-5), Downsample(8, (1, 1, 1, 1)), Upsample(8)],
    ids=lambda layer: type(layer).__name__,
)
def test_no_layer_changes_what_it_is_given(layer):
    x = randn(1, 8, 8) if isinstance(layer, Attention) else randn(1, 8, 8, 8)
    given = x.clone()
    layer(x)
    assert torch.equal(x, given)

"""The fast layer computes what the plain formulas do: against convolutions in float64, and inside the networks."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers import VAE, distance, draw, pair, randn
from torch import nn

from minisd import StableDiffusionPipeline, UNet2DConditionModel
from minisd.adapters.lora import LoRA, attach
from minisd.config import UNetConfig
from minisd.fast import half
from minisd.fast import speed_up as speed_up_module
from minisd.fast.batches import images_at_once
from minisd.fast.blocks import compile_blocks
from minisd.fast.convolution import CHANNELS, FastConv2d, physical_memory
from minisd.fast.int8 import quantize
from minisd.fast.linear import FastFeedForward, FastLinear
from minisd.fast.packed import can_pack
from minisd.fast.preview import preview, preview_matrix
from minisd.fast.speed_up import slow_down, speed_up
from minisd.fast.tiles import in_tiles
from minisd.fast.winograd import transform_weight, winograd
from minisd.switches import Switches
from minisd.unet import FeedForward
from minisd.weights.errors import CheckpointError

needs_bfloat16 = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16 instructions")


def convolution(channels=(CHANNELS, CHANNELS), **settings):
    torch.manual_seed(0)
    return nn.Conv2d(*channels, 3, **{"padding": 1, **settings}).requires_grad_(False)


def fast(conv):
    network = nn.Sequential(copy.deepcopy(conv))
    speed_up(network)
    return network[0]


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (1, 1), (70, 3), (2, 600)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_winograd_is_a_convolution_and_nearer_to_the_truth_than_the_plain_one(batch, size):
    x, conv = randn(batch, 5, *size), convolution((5, 7))
    truth = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert distance(winograd(x, transform_weight(conv.weight), conv.bias), truth) < 1e-6


def test_winograds_products_are_those_of_the_paper():
    """g by the matrices of Lavin & Gray 2016, §4.1: G g Gᵀ."""
    G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    weight = randn(2, 3, 3, 3)
    expected = (G @ weight @ G.T).permute(3, 2, 1, 0).reshape(16, 3, 2)  # columns, rows, C, O
    assert torch.allclose(transform_weight(weight), expected, atol=1e-6)


def test_only_convolutions_that_gain_use_winograds_algorithm():
    few = convolution((CHANNELS - 1, CHANNELS))
    others = [convolution(stride=2), convolution(padding=0), nn.Conv2d(256, 256, 1), few]
    others += [convolution(bias=False), convolution(groups=2), convolution(dilation=2), convolution(padding_mode="circular")]
    assert not any(fast(layer).large for layer in others)
    assert fast(convolution()).large


@needs_bfloat16
def test_feature_maps_in_half_precision_have_channels_last_in_memory():
    layers = nn.Sequential(convolution((4, 8)), nn.GroupNorm(2, 8), nn.SiLU(), convolution((8, 8), stride=2))
    layers.bfloat16().requires_grad_(False)
    ours, x = copy.deepcopy(layers), randn(2, 4, 6, 6).bfloat16()
    speed_up(ours)
    y = ours(x)
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    assert distance(y, layers(x)) < 0.02  # two roundings


@needs_bfloat16
@pytest.mark.parametrize("shape", [(2, 77, 32), (2, 32), (1, 1, 5, 32), (32,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_packed_weights_give_the_linear_layer(shape, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 48, bias=bias).requires_grad_(False), randn(*shape)
    ours = fast(layer.bfloat16())
    assert type(ours) is FastLinear and distance(ours(x.bfloat16()), layer.float()(x)) < 0.01
    assert ours.copied is not None


@needs_bfloat16
def test_packed_weights_take_inputs_of_any_layout_and_none_at_all():
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 48).requires_grad_(False).bfloat16(), randn(2, 32, 7).bfloat16().transpose(1, 2)
    assert distance(fast(layer)(x), layer(x)) < 0.01
    assert fast(layer)(x[:, :0]).shape == (2, 0, 48)


@needs_bfloat16
def test_geglu_in_two_products_is_nearer_to_the_truth():
    """The gate and the product are not rounded on their way."""
    torch.manual_seed(0)
    plain, x = FeedForward(32).requires_grad_(False).bfloat16(), randn(2, 77, 32).bfloat16()
    ours = fast(plain)
    truth = copy.deepcopy(plain).double()(x.double())
    assert type(ours) is FastFeedForward
    assert distance(ours(x), truth) < 0.01 and distance(ours(x), truth) < 1.2 * distance(plain(x), truth)
    assert distance(ours.proj_in(x), plain.proj_in(x)) < 0.02  # which has packed weights of its own
    before = ours(x)
    ours.proj_in.weight.data *= 2
    assert distance(ours(x), before) > 0.5


@needs_bfloat16
def test_a_hook_sees_the_linear_layer_of_geglu():
    ours, seen = fast(FeedForward(32).requires_grad_(False).bfloat16()), []
    ours.proj_in.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape))
    ours(randn(2, 7, 32).bfloat16())
    assert seen == [(2, 7, 256)]


@needs_bfloat16
def test_a_lora_works_with_packed_weights():
    torch.manual_seed(0)
    plain, x = FeedForward(32).requires_grad_(False).bfloat16(), randn(2, 7, 32).bfloat16()
    ours = fast(plain)
    for network in (plain, ours):
        lora = LoRA(network.proj_in, 4)
        lora.up.weight.data.copy_(randn(256, 4))
        lora.down.weight.data.copy_(randn(4, 32))
        attach(network.proj_in, lora)
    assert distance(ours(x), plain(x)) < 0.02


def test_networks_can_be_slowed_down_again():
    network = nn.Sequential(convolution(), nn.Linear(4, 4), FeedForward(8)).requires_grad_(False)
    kinds = [type(module) for module in network.modules()]
    speed_up(network)
    network[0](randn(1, CHANNELS, 4, 4))
    assert [type(module) for module in network.modules()] != kinds
    slow_down(network)
    assert [type(module) for module in network.modules()] == kinds and "copied" not in vars(network[0])


def test_padding_that_is_changed_later_is_respected():
    """As programs do that want textures without seams."""
    conv, x = convolution(), randn(1, CHANNELS, 6, 6)
    ours = fast(conv)
    for layer in (conv, ours):
        layer.padding_mode = "circular"
    assert torch.equal(ours(x), conv(x))


def test_a_machine_without_memory_for_the_transformed_weights_keeps_plain_convolutions(monkeypatch):
    bytes_needed = 4 * 16 * CHANNELS**2
    for memory, large in ((3 * bytes_needed - 1, False), (3 * bytes_needed, True)):
        monkeypatch.setattr(speed_up_module, "physical_memory", lambda memory=memory: memory)
        assert fast(convolution()).large == large
    assert physical_memory() > 2**28


def test_it_keeps_names_numbers_and_results():
    conv, x = convolution(), randn(2, CHANNELS, 8, 8)
    ours = fast(conv)
    assert list(ours.state_dict()) == ["weight", "bias"] and torch.equal(ours.weight, conv.weight)
    assert distance(ours(x), conv(x)) < 2e-6
    assert ours.copied is not None


def test_changed_weights_are_transformed_again():
    conv, x = convolution(), randn(1, CHANNELS, 4, 4)
    ours = fast(conv)
    ours(x)
    ours.weight.mul_(2)
    assert distance(ours(x) - ours.bias[:, None, None], 2 * (conv(x) - conv.bias[:, None, None])) < 2e-6
    ours.weight = nn.Parameter(conv.weight.clone(), requires_grad=False)
    assert distance(ours(x), conv(x)) < 2e-6
    for layer in (ours, conv):
        layer.weight.data += randn(CHANNELS, 1, 1, 1)  # PyTorch does not count this change
    assert distance(ours(x), conv(x)) < 2e-6


def test_moved_weights_leave_nothing_behind():
    ours = fast(convolution())
    ours(randn(1, CHANNELS, 4, 4))
    assert ours.half().copied is None


@pytest.mark.parametrize("shape", [(0, CHANNELS, 4, 4), (CHANNELS, 4, 4)], ids=str)
def test_odd_batches_take_the_plain_way(shape):
    conv, x = convolution(), randn(*shape)
    assert torch.equal(fast(conv)(x), conv(x))


def test_double_precision_takes_the_plain_way():
    conv, x = convolution().double(), randn(1, CHANNELS, 4, 4).double()
    assert torch.equal(fast(conv)(x), conv(x))


def test_gradients_take_the_plain_way():
    conv, x = convolution(), randn(1, CHANNELS, 4, 4).requires_grad_()
    fast(conv)(x).sum().backward()
    ours = x.grad.clone()
    x.grad = None
    conv(x).sum().backward()
    assert torch.equal(ours, x.grad)


def test_weights_made_in_inference_mode_take_the_plain_way():
    with torch.inference_mode():
        conv = convolution()
        assert torch.equal(fast(conv)(randn(1, CHANNELS, 4, 4)), conv(randn(1, CHANNELS, 4, 4)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda conv: pickle.loads(pickle.dumps(conv))], ids=["copied", "pickled"])
def test_a_copy_leaves_the_transformed_weights_behind(again):
    ours = fast(convolution())
    x = randn(1, CHANNELS, 4, 4)
    expected = ours(x)
    copied = again(ours)
    assert copied.copied is None and torch.equal(copied(x), expected)


def test_exporting_records_the_plain_convolution():
    ours, x = fast(convolution()), randn(1, CHANNELS, 4, 4)
    program = torch.export.export(nn.Sequential(ours), (x,))
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)


def test_a_network_computes_the_same():
    torch.manual_seed(0)
    levels = {"block_out_channels": (CHANNELS, CHANNELS), "cross_attention": (True, False), "num_attention_heads": (8, 8)}
    plain = UNet2DConditionModel(UNetConfig(**levels, layers_per_block=1, cross_attention_dim=32)).requires_grad_(False)
    ours = copy.deepcopy(plain)
    speed_up(ours)
    inputs = randn(2, 4, 9, 8), 500, randn(2, 77, 32)
    assert sum(isinstance(module, FastConv2d) for module in ours.modules()) > 10
    assert distance(ours(*inputs).sample, plain(*inputs).sample) < 1e-5


def test_compiled_blocks_compute_the_same_with_winograds_algorithm_inside():
    torch.manual_seed(0)
    levels = {"block_out_channels": (CHANNELS,), "cross_attention": (True,), "num_attention_heads": (8,)}
    plain = UNet2DConditionModel(UNetConfig(**levels, layers_per_block=1, cross_attention_dim=32)).requires_grad_(False)
    ours = copy.deepcopy(plain)
    speed_up(ours)
    compile_blocks(ours, backend="aot_eager")
    inputs = randn(1, 4, 8, 8), 500, randn(1, 7, 32)
    with torch.no_grad():
        assert distance(ours(*inputs).sample, plain(*inputs).sample) < 1e-5
    assert ours.mid_block.resnet_1.conv1.copied is not None
    assert list(ours.state_dict()) == list(plain.state_dict())


def test_a_preview_has_the_colours_of_the_image():
    tiny = StableDiffusionPipeline.from_pretrained("tiny")
    steps = tiny.denoise("a red house at night", num_inference_steps=8, generator=torch.Generator().manual_seed(0))
    latents = list(steps)[-1].latents
    image, quick = tiny.decode(latents), preview(latents, preview_matrix(tiny.vae))
    assert quick.shape == image.shape and quick.abs().max() <= 1
    assert torch.corrcoef(torch.stack([image.flatten(), quick.flatten()]))[0, 1] > 0.7


# 8 bits


def test_weights_in_8_bits_are_at_most_half_a_step_off():
    layer = nn.Linear(64, 8)
    before = layer.weight.detach().clone()
    quantize(layer)
    steps = before.abs().amax(dim=1, keepdim=True) / 127
    assert ((layer.weight - before).abs() <= steps * 0.501).all()
    assert layer.parametrizations.weight.original0.dtype == torch.int8


def test_a_quantized_pipeline_draws_nearly_the_same_with_a_quarter_of_the_weights():
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    plain, unet = draw(pipe, steps=4), pipe.unet
    before = sum(p.nbytes for p in unet.parameters())
    for network in (unet, pipe.vae, pipe.text_encoder):
        quantize(network)
        quantize(network)  # nothing is left to quantize
    assert sum(p.nbytes for p in unet.parameters()) < 0.27 * before
    assert pipe.dtype == torch.float32
    assert (draw(pipe, steps=4) - plain).abs().mean() < 0.02 * plain.std()


def test_quantized_networks_are_not_saved_and_take_no_lora(tmp_path):
    unet = UNet2DConditionModel.from_pretrained("tiny", subfolder="unet")
    quantize(unet)
    with pytest.raises(CheckpointError, match="8 bits"):
        unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="8 bits"):
        attach(unet.time_embedding.linear_1, LoRA(unet.time_embedding.linear_1, rank=2))
    assert not list(tmp_path.iterdir())


# Half precision on CPUs without it


@pytest.mark.parametrize("dtype", half.HALF, ids=str)
def test_half_precision_in_memory_and_float32_in_arithmetic(dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(2), nn.Linear(36, 5), nn.SiLU()).to(dtype)
    x = randn(1, 3, 8, 8).to(dtype)
    with half.InFloat32(), torch.no_grad():
        ours = network(x)
        attended = F.scaled_dot_product_attention(*[x] * 3)
        joined = torch.cat([x, x])
    assert ours.dtype == attended.dtype == joined.dtype == torch.float32
    assert torch.equal(ours, copy.deepcopy(network).float()(x.float()))
    assert all(weight.dtype == dtype for weight in network.parameters())


@pytest.mark.parametrize("emulated", [True, False])
def test_only_an_emulated_dtype_on_a_cpu_is_widened(monkeypatch, emulated):
    monkeypatch.setattr(half, "emulates", lambda dtype: emulated)
    cpu = torch.device("cpu")
    assert isinstance(half.arithmetic(cpu, torch.bfloat16), half.InFloat32) == emulated
    for device, dtype in [(cpu, torch.float32), (torch.device("cuda"), torch.float16)]:
        assert not isinstance(half.arithmetic(device, dtype), half.InFloat32)


def test_float32_is_not_emulated():
    assert not half.emulates(torch.float32)


# Tiles


@pytest.fixture(scope="module")
def vaes():
    """diffusers' VAE and ours, of images 32 pixels wide, with tiling on."""
    theirs, ours = pair("vae", {**VAE, "sample_size": 32})
    theirs.enable_tiling()
    switches = Switches()
    switches.vae = ours
    switches.enable_vae_tiling()
    return theirs, ours


@pytest.mark.parametrize("size", [(4, 4), (4, 9), (11, 5), (8, 8), (13, 16)], ids=str)
def test_tiles_are_those_of_diffusers(vaes, size):
    theirs, ours = vaes
    latents, images = randn(2, 4, *size), randn(2, 3, 8 * size[0], 8 * size[1])
    with torch.no_grad():
        assert distance(ours.decode(latents).sample, theirs.decode(latents).sample) < 1e-5
        assert distance(ours.encode(images).latent_dist.mean, theirs.encode(images).latent_dist.mean) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 20), (31, 7)], ids=str)
def test_what_acts_on_every_position_alone_is_the_same_in_tiles(size):
    x = randn(2, 3, *size)
    assert distance(in_tiles(lambda part: 2 * part, x, 8, 8), 2 * x) < 1e-6


# Batches


@pytest.mark.parametrize(("gigabytes", "side", "images"), [(80, 512, 16), (10, 512, 13), (3, 512, 4), (3, 1024, 1), (0, 512, 1)])
def test_a_gpus_free_memory_decides_how_many_images_are_drawn_at_once(monkeypatch, gigabytes, side, images):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (gigabytes * 2**30, 80 * 2**30))
    assert images_at_once(torch.device("cuda"), 256, side**2, torch.float16) == images


def test_elsewhere_eight_small_images_are_drawn_at_once_and_four_large_ones():
    assert [images_at_once(torch.device("cpu"), 256, side**2, torch.float32) for side in (64, 256, 264, 512)] == [8, 8, 4, 4]

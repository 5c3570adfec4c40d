"""Half precision: how near float32 each network stays, what is float32 regardless, and what is said when numbers end."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import SMALL, build, diffusers_tensors, randn, seeded, small_network, small_pipeline
from test_references import CUDA
from test_safety_checker import small_checker
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minisd import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler, StableDiffusionImg2ImgPipeline
from minisd.layers import Attention, attention
from minisd.numerics import warn_if_flat

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])

# A rounding errs by up to half an ε of the dtype (float16 2⁻¹⁰, bfloat16 2⁻⁷), by 0.3 ε on average; some fifty of them in a row
# add up, as independent errors do, to about 2 ε. Measured: 0.5 to 2.0 in networks. Whatever is computed wrongly is far above.
ROUNDINGS = 4


def error(half: Tensor, full: Tensor, dtype: torch.dtype) -> float:
    """The root mean square of the difference, as a share of float32's, in ε of the dtype."""
    assert half.dtype == dtype and full.dtype == torch.float32
    return float((half.float() - full).square().mean().sqrt() / full.square().mean().sqrt() / torch.finfo(dtype).eps)


def both(component: str, kind: str, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A network in half precision, and one in float32 with the very same, already rounded weights."""
    return small_network(component, kind).to(dtype), small_network(component, kind).to(dtype).float()


@HALVES
def test_the_text_encoder(kind, dtype):
    half, full = both("text_encoder", kind, dtype)
    ids = torch.randint(0, 500, (2, 77), generator=torch.Generator().manual_seed(0))
    assert error(half(ids).last_hidden_state, full(ids).last_hidden_state, dtype) < ROUNDINGS


@HALVES
@pytest.mark.parametrize("t", [1, 981])
def test_the_unet(kind, dtype, t):
    half, full = both("unet", kind, dtype)
    x, context = randn(2, 4, 9, 13).to(dtype), randn(2, 77, 48, seed=1).to(dtype)
    assert error(half(x, t, context).sample, full(x.float(), t, context.float()).sample, dtype) < ROUNDINGS


@HALVES
def test_the_vae(dtype):
    half, full = both("vae", "v1", dtype)
    x, z = randn(1, 3, 64, 48).to(dtype), randn(1, 4, 8, 6).to(dtype)
    assert error(half.encode(x).latent_dist.mean, full.encode(x.float()).latent_dist.mean, dtype) < ROUNDINGS
    assert error(half.decode(z).sample, full.decode(z.float()).sample, dtype) < ROUNDINGS


@HALVES
def test_the_safety_checkers_tower(dtype):
    half, full = small_checker().to(dtype), small_checker().to(dtype).float()
    x = randn(2, 3, 28, 28).to(dtype)
    assert error(half.vision(x), full.vision(x.float()), dtype) < ROUNDINGS


@HALVES
def test_the_whole_pipeline(kind, dtype):
    """Ten steps: latents within a few more roundings, and pixels, on average, within one step of 8 bits (float16) or two."""
    settings = {"num_inference_steps": 10, "guidance_scale": 3.0}
    latents, pictures = {}, {}
    for precision in (dtype, torch.float32):
        pipe = small_pipeline(kind).to(precision)
        generator = torch.Generator().manual_seed(0)
        latents[precision] = pipe("a cat", generator=generator, output_type="latent", **settings).images
        pictures[precision] = (pipe.decode(latents[precision]).float() / 2 + 0.5).clamp(0, 1)
    rounded = latents[dtype] - latents[torch.float32]
    assert rounded.square().mean().sqrt() / latents[torch.float32].std() < 2 * ROUNDINGS * torch.finfo(dtype).eps
    steps = 255 * (pictures[dtype] - pictures[torch.float32]).abs().mean()
    assert steps < {torch.float16: 1, torch.bfloat16: 2}[dtype]


@pytest.mark.parametrize("heads", [1, 2, 8], ids=["512 channels a head, as in the VAE", "256", "64, as in v2"])
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], ids=["math", "flash"])
@HALVES
def test_attention_adds_up_in_float32(heads, backend, dtype):
    """Queries times keys are in the millions here. float16 overflows above 65,504, where the plain sum would."""
    q, k, v = (randn(1, heads, 40, 512 // heads, seed=i).mul(scale).to(dtype) for i, scale in enumerate((300, 300, 1)))
    exact = attention(q.double(), k.double(), v.double())
    with sdpa_kernel(backend):
        fused = F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(fused.double(), exact, atol=torch.finfo(dtype).eps)
    assert (q.double() @ k.double().mT).abs().max() > 500_000
    assert attention(q, k, v).isfinite().all() == (dtype != torch.float16)


@DEVICES
@pytest.mark.parametrize("causal", [False, True])
def test_the_layer_survives_what_it_must(causal, device):
    layer = Attention(64, heads=1)
    for projection in (layer.to_q, layer.to_k):
        projection.weight.data = 300 * torch.eye(64)
    assert layer.to(device).half()(randn(1, 40, 64).to(device).half(), causal=causal).isfinite().all()


def loud_unet() -> torch.nn.Module:
    """A relative of v2's UNet, 64 channels a head, whose queries and keys are a hundred times as large as others'."""
    settings = {**SMALL["v2"]["unet"], "block_out_channels": [64, 128, 128], "attention_head_dim": [1, 2, 2]}
    unet = build("unet", settings, diffusers_tensors("unet", settings))
    for name, parameter in unet.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            parameter.mul_(100)
    return unet


@DEVICES
def test_a_v2_unet_in_float16_does_not_overflow(monkeypatch, device):
    unet, x, context = (what.to(device).half() for what in (loud_unet(), randn(1, 4, 9, 13), randn(1, 77, 48, seed=1)))
    assert unet(x, 981, context).sample.isfinite().all()
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, is_causal: attention(q, k, v, is_causal))
    assert not unet(x, 981, context).sample.isfinite().all()  # so loud it really is


@HALVES
@pytest.mark.parametrize("sampler", [PNDMScheduler, DDIMScheduler, LMSDiscreteScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_samplers_compute_in_float32(dtype, sampler, prediction_type):
    """What the network says in half precision is taken as it is; nothing after it is rounded."""
    outputs = [randn(1, 4, 8, 8, seed=i).to(dtype) for i in range(11)]
    trajectories = []
    for given in (outputs, [output.float() for output in outputs]):
        scheduler = sampler(prediction_type=prediction_type)
        scheduler.set_timesteps(10)
        x = randn(1, 4, 8, 8, seed=99) * scheduler.init_noise_sigma
        for t, output in zip(scheduler.timesteps, given):
            x = scheduler.step(output, t, x).prev_sample
            assert x.dtype == torch.float32
        trajectories.append(x)
    assert torch.equal(*trajectories)


@HALVES
def test_the_loops_latents_are_float32_and_its_network_is_not(dtype):
    pipe, seen = small_pipeline("v2").to(dtype), set()
    pipe.unet.register_forward_pre_hook(lambda unet, args: seen.add(args[0].dtype))
    steps = list(pipe.denoise("a cat", num_inference_steps=3, generator=torch.Generator().manual_seed(0)))
    assert {step.latents.dtype for step in steps} == {torch.float32} and seen == {dtype}


# Faults


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("words", [{}, {"prompt_weighting": True}], ids=["plain", "weighted"])
def test_parts_may_differ_in_their_dtype(part, words):
    """The UNet is given the words in its own."""
    pipe = small_pipeline("v1")
    settings = {"num_inference_steps": 4, "output_type": "pt", **words}
    expected = pipe("a cat", generator=seeded(), **settings).images
    getattr(pipe, part).to(torch.bfloat16)
    images = pipe("a cat", generator=seeded(), **settings).images
    assert not torch.equal(images, expected) and (images - expected).abs().mean() < 0.05
    edit = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert edit("a cat", image=expected, strength=0.5, **settings).images.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "way_out"),
    [
        (torch.float16, "float16 overflows above 65,504; use bfloat16 or float32"),
        (torch.float32, "the weights are damaged, or guidance_scale or the given latents are too large"),
    ],
)
def test_a_fault_in_the_loop_ends_it_at_once(dtype, way_out):
    pipe, steps = small_pipeline("v1").to(dtype), []
    pipe.unet.conv_out.bias[0] = math.inf
    with pytest.raises(FloatingPointError, match=f"NaN or infinity in the latents after timestep [0-9]+: {way_out}"):
        for step in pipe.denoise("a cat", num_inference_steps=5):
            steps.append(step)
    assert steps == []


def test_a_vae_that_overflows_in_float16_is_said_and_has_a_way_out():
    pipe = small_pipeline("v1").to(torch.float16)
    pipe.vae.decoder.conv_in.weight.mul_(20_000)
    latents = randn(1, 4, 8, 8)
    with pytest.raises(FloatingPointError, match="in what the VAE decoded: float16 overflows"):
        pipe.decode(latents)
    pipe.vae.to(torch.float32)
    assert pipe.decode(latents).isfinite().all()
    result = pipe("a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0))  # a float16 UNet, a float32 VAE
    assert len(result.images) == 1


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_no_output_is_handed_out_with_nan(output_type):
    pipe = small_pipeline("v1")
    latents = randn(1, 4, 8, 8).index_fill(1, torch.tensor([2]), math.nan)
    with pytest.raises(FloatingPointError, match="the given latents"):
        pipe("a cat", latents=latents, num_inference_steps=2, output_type=output_type)


@pytest.mark.parametrize("colour", [(-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (0.2, -0.5, 0.7), (-3.0, -5.0, -2.0)])
def test_a_picture_of_one_colour_is_said(colour):
    pictures = randn(2, 3, 16, 16)
    pictures[1] = torch.tensor(colour)[:, None, None] + 1e-4 * randn(3, 16, 16)
    with pytest.warns(UserWarning, match="image 1 is a single colour; try another dtype"):
        warn_if_flat(pictures)


def test_a_decoder_that_says_nothing_is_said():
    pipe = small_pipeline("v1")
    pipe.vae.decoder.conv_out.weight.zero_()
    with pytest.warns(UserWarning, match="image 0 is a single colour"):
        pipe.decode(randn(1, 4, 8, 8))


def test_pictures_are_not_suspected_without_reason():
    nearly_black = torch.full((1, 3, 16, 16), -1.0)
    nearly_black[0, 0, 3, 3] = -0.98
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_flat(nearly_black)
        warn_if_flat(randn(3, 3, 16, 16))

"""CUDA's noise on any machine: Philox itself, PyTorch's use of it, and the pipeline that starts from it."""

import json

import numpy as np
import pytest
import torch
from helpers import DATA, small_pipeline

from minisd import CudaNoise, DDIMScheduler
from minisd.cuda_noise import philox
from minisd.noise import randn

# Sequences of torch.randn(n, device="cuda"), computed on a CPU by another implementation than the one tested here.
GOLDEN = json.loads((DATA / "cuda_noise.json").read_text())
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFF_FFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, key, words):
    """The vectors for philox4x32 with ten rounds that the paper's library, Random123, is tested with."""
    assert [int(word[0]) for word in philox([np.array([c], dtype=np.uint64) for c in counter], key)] == list(words)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"seed {golden['seed']}")
def test_cudas_noise_of_a_seed(golden):
    noise = CudaNoise(golden["seed"]).randn((1, 4, 64, 64))
    assert noise.numel() == golden["n"] and noise.dtype == torch.float32
    assert noise.flatten()[:8].tolist() == pytest.approx(golden["first8"], abs=1e-6)
    assert noise.sum(dtype=torch.float64).item() == pytest.approx(golden["sum"], abs=1e-3)


def test_it_is_standard_normal():
    noise = CudaNoise(5).randn((40_000,))
    assert noise.mean().abs() < 0.02 and (noise.std() - 1).abs() < 0.02 and noise.isfinite().all()


def test_every_draw_differs_and_a_seed_begins_again():
    noise, again = CudaNoise(3), CudaNoise(3)
    first, second = noise.randn((64,)), noise.randn((64,))
    assert not torch.equal(first, second)
    assert torch.equal(first, again.randn((64,))) and torch.equal(second, again.randn((64,)))


def test_a_longer_draw_begins_with_the_shorter():
    assert torch.equal(CudaNoise(3).randn((64,))[:16], CudaNoise(3).randn((4, 4)).flatten())


def test_seeds_are_64_bits_as_in_pytorch():
    assert torch.equal(CudaNoise(-1).randn((8,)), CudaNoise(2**64 - 1).randn((8,)))
    assert not torch.equal(CudaNoise(1).randn((8,)), CudaNoise(1 + 2**32).randn((8,)))


def test_it_stands_wherever_a_generator_does():
    expected = torch.cat([CudaNoise(seed).randn((1, 4, 8, 8)) for seed in (1, 2)])
    assert torch.equal(randn((2, 4, 8, 8), [CudaNoise(1), CudaNoise(2)]), expected)
    assert torch.equal(randn((1, 4, 8, 8), CudaNoise(1), dtype=torch.float16), expected[:1].half())


def test_a_picture_starts_from_it():
    pipe = small_pipeline("v1")
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    drawn = pipe("a cat", generator=CudaNoise(7), **settings).images
    assert torch.equal(drawn, pipe("a cat", latents=CudaNoise(7).randn(drawn.shape), **settings).images)
    assert not torch.equal(drawn, pipe("a cat", generator=CudaNoise(8), **settings).images)


def test_ddims_new_noise_is_its_next_draw():
    scheduler, noise = DDIMScheduler(), CudaNoise(7)
    x, eps = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    noise.randn(x.shape)
    scheduler.set_timesteps(10)
    step = scheduler.step(eps, scheduler.timesteps[0], x, eta=1.0, generator=noise).prev_sample
    again = CudaNoise(7)
    again.randn(x.shape)
    ratio = step / again.randn(x.shape)
    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-5)


@on_cuda
@pytest.mark.parametrize("seed", [0, 1024, 2**40 + 3])
def test_it_is_what_a_gpu_draws(seed):
    gpu, ours = torch.Generator("cuda").manual_seed(seed), CudaNoise(seed)
    for shape in [(1, 4, 64, 64), (1, 4, 32, 32), (7,)]:
        theirs = torch.randn(shape, generator=gpu, device="cuda").cpu()
        assert torch.allclose(ours.randn(shape), theirs, atol=1e-5)


@on_cuda
def test_a_gpus_generator_draws_on_the_gpu():
    noise = randn((1, 4, 64, 64), torch.Generator("cuda").manual_seed(1024), device="cpu")
    assert noise.device.type == "cpu"
    assert torch.allclose(noise, CudaNoise(1024).randn(noise.shape), atol=1e-5)

"""The same seed is the same noise: on every device, in every batch, in every precision."""

import pytest
import torch

from minisd.noise import randn


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize(
    ("seed", "first", "total"),
    [
        (0, [-1.1258398, -1.1523602, -0.25057858, -0.43387881], -124.112717),
        (42, [1.9269153, 1.4872841, 0.9007172, -2.1055210], 149.764816),
        (1024, [-1.1619741, 1.3112772, 0.15072646, 2.2698405], -30.524895),
    ],
)
def test_stable_diffusions_noise_of_a_seed(seed, first, total):
    noise = randn((1, 4, 64, 64), *seeded(seed))
    assert noise.flatten()[:4].tolist() == pytest.approx(first, abs=1e-6)
    assert noise.sum().item() == pytest.approx(total, abs=1e-2)


def test_a_list_of_generators_gives_each_image_its_own_noise():
    batch = randn((3, 4, 8, 8), seeded(5, 6, 7))
    for image, generator in zip(batch, seeded(5, 6, 7)):
        assert torch.equal(image, randn((1, 4, 8, 8), generator)[0])


def test_one_generator_draws_one_image_after_the_other():
    (generator,) = seeded(5)
    alone = [randn((1, 4, 8, 8), generator) for _ in range(3)]
    assert torch.equal(randn((3, 4, 8, 8), *seeded(5)), torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_noise_is_drawn_in_float32_whatever_is_asked_for(dtype):
    noise = randn((1, 4, 8, 8), *seeded(0), dtype=dtype)
    assert noise.dtype == dtype
    assert torch.equal(noise, randn((1, 4, 8, 8), *seeded(0)).to(dtype))


def test_without_a_generator_the_global_seed_counts():
    torch.manual_seed(3)
    first = randn((1, 4, 8, 8))
    assert not torch.equal(first, randn((1, 4, 8, 8)))
    torch.manual_seed(3)
    assert torch.equal(first, randn((1, 4, 8, 8)))


def test_as_many_generators_as_images():
    with pytest.raises(ValueError, match="2 generators for a batch of 3 images: give one per image"):
        randn((3, 4, 8, 8), seeded(1, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_cpu_generator_means_the_same_noise_on_a_gpu():
    on_gpu = randn((1, 4, 8, 8), *seeded(0), device="cuda")
    assert on_gpu.is_cuda and torch.equal(on_gpu.cpu(), randn((1, 4, 8, 8), *seeded(0)))

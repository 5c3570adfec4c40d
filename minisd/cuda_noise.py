"""The noise of a CUDA generator, computed on the CPU, so that a seed from a GPU gives the same image here."""

import math
from collections.abc import Sequence
from operator import index

import numpy as np
import torch
from torch import Tensor


def philox(counter: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Philox 4×32-10: maps a counter, four 32-bit words in uint64 arrays, to four random words (Salmon et al. 2011, §3.3).

    Each of the ten rounds does two multiplications and swaps their high and low halves; the initial key is the seed.
    """
    a, b, c, d = counter
    low, high = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = right >> 32 ^ b ^ low, right & 0xFFFFFFFF, left >> 32 ^ d ^ high, left & 0xFFFFFFFF
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


class CudaNoise:
    """The noise of `torch.Generator("cuda").manual_seed(seed)` on any machine; accepted wherever a generator is.

    A GPU keeps no state between numbers: number i of draw n is a hash of i, n and the seed, made normal by the transform of Box &
    Muller 1958. This equals the GPU's number to 1e-6 if the draw has no more numbers than the GPU has threads, that is,
    multiprocessors × threads per multiprocessor: 40,960 on a T4, 221,184 on an A100. A 512 × 512 image needs 16,384. Larger draws
    differ between GPUs; a list with one generator per image keeps each draw small.
    """

    def __init__(self, seed: int):
        self.seed, self.draws = index(seed) % 2**64, 0

    def randn(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers in float32, on the CPU; each call is a new draw."""
        i = np.arange(math.prod(shape), dtype=np.uint64)
        words = philox([np.full_like(i, self.draws), np.zeros_like(i), i, np.zeros_like(i)], self.seed)
        self.draws += 1
        u, v = (word.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33) for word in words[:2])  # in (0, 1]
        return torch.from_numpy(np.sqrt(-2 * np.log(u)) * np.sin(np.float32(2 * math.pi) * v)).reshape(tuple(shape))

"""Winograd's form beside PyTorch's convolution, at the sizes of Stable Diffusion: `python tests/benchmarks/convolutions.py`.

The two take turns. The table has the median time of PyTorch's, the median and the least of the ratios, and the error of each
against float64, as a share of the output's norm.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minisd.fast.winograd import transform_weight, winograd

TURNS = 7
SIZES = [  # batch, channels in and out, side
    (2, 320, 320, 64), (2, 640, 320, 64), (2, 640, 640, 32), (2, 1280, 1280, 16), (2, 1280, 1280, 8),
    (1, 512, 512, 64), (1, 512, 512, 128), (1, 256, 256, 256),
]  # fmt: skip


def seconds(compute: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    compute()
    return time.perf_counter() - started


def error(ours: Tensor, truth: Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


@torch.inference_mode()
def main():
    print(f"threads: {torch.get_num_threads()}, torch {torch.__version__}\n")
    print("| channels | side | PyTorch | ratio | lowest ratio | PyTorch's error | Winograd's error |\n|" + 7 * "---|")
    for batch, channels, out_channels, side in SIZES:
        torch.manual_seed(0)
        x, bias = torch.randn(batch, channels, side, side), torch.randn(out_channels)
        weight = torch.randn(out_channels, channels, 3, 3) / (9 * channels) ** 0.5
        transformed = transform_weight(weight)

        def plain() -> Tensor:
            return F.conv2d(x, weight, bias, padding=1)  # noqa: B023  # called in this turn of the loop only

        def fast() -> Tensor:
            return winograd(x, transformed, bias)  # noqa: B023

        truth = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
        errors = f"{error(plain(), truth):.1e} | {error(fast(), truth):.1e}"
        times = [(seconds(plain), seconds(fast)) for _ in range(TURNS)]
        ratios = [one / other for other, one in times]
        median = statistics.median(other for other, _ in times)
        ratio = f"{statistics.median(ratios):.2f} | {min(ratios):.2f}"
        print(f"| {channels} → {out_channels} | {side} | {1000 * median:,.0f} ms | {ratio} | {errors} |", flush=True)


if __name__ == "__main__":
    main()

"""minisd and other programs, in one run: `python tests/benchmarks/peers.py --folder /tmp/benchmark > docs/peers.md`.

All compute the networks of Stable Diffusion v1 on the same random weights. Every measurement is a fresh process, which loads a
network, calls it once to warm up, and times further calls. The programs take turns, and each turn begins with another one, so that
a machine that slows down slows all of them. All use as many threads as PyTorch does by default.

The table has the median time, the median and the least of the ratios to diffusers in float32, and the peak memory of the process,
weights included. *of a product* is the number of operations per second as a share of what a large matrix product reaches on the
same machine. Operations are those of the plain formulas; Winograd's algorithm needs fewer. *difference* is the largest deviation
from diffusers' output, as a share of the largest value of this output.

A program that is not installed is skipped, with the reason, and so are the rows in bfloat16 where the processor emulates it.
stable-diffusion.cpp cannot run a network alone: it draws an image, and the table has its second step or its decoding. Its memory
holds all networks, its convolutions have float16 weights, and its difference is that of the image from minisd's.

`--grow` measures minisd and diffusers on more latents, images and steps instead. `--only VAE` measures the rows whose names begin
so. The folder gets the checkpoint of compare.py (6.5 GB), a copy in OpenVINO's format (3.6 GB), and a single file (4.3 GB).
"""

import argparse
import json
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compare import PREPARE, conditions
from programs import CPP, DIFFUSERS, MINISD, OPENVINO, PEERS, Peer, Work

HERE = str(Path(__file__).parent)
WORKS = [
    Work("guided UNet step, 64×64 latents", "unet", 64, batch=2),
    Work("guided UNet step, 32×32 latents", "unet", 32, batch=2),
    Work("VAE decode, 512×512 pixels", "vae", 64),
]
GROWING = [
    *(Work(f"guided UNet step, {side}×{side} latents", "unet", side, batch=2) for side in (32, 64, 96)),
    *(Work(f"guided UNet step, 64×64 latents, {images} images", "unet", 64, batch=2 * images) for images in (2, 4)),
    *(Work(f"{steps} guided steps, 32×32 latents", "loop", 32, steps=steps) for steps in (2, 4, 8)),
]


class Failed(Exception):
    """A measurement ended with an error."""


def child(call: str) -> Any:
    """The result of a call in programs.py, computed by a fresh process. Raises Failed with the last line of its error."""
    code = f"import json, sys\nsys.path.insert(0, {HERE!r})\nfrom programs import *\nprint()\nprint(json.dumps({call}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        raise Failed(lines[-1] if lines else f"the process ended with {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])


@dataclass
class Found:
    """What was measured of one program: a reason why it was not, or the figures of all turns."""

    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    difference: float = 0.0


def missing(peer: Peer) -> str:
    """Why a program cannot be measured here, or nothing."""
    if find_spec(peer.module) is None:
        return f"skipped: not installed (`pip install {peer.package}`)"
    if peer.dtype == "bfloat16" and child("emulates_bfloat16()"):
        return "skipped: this processor has no instructions for bfloat16"
    return ""


def in_turns(work: Work, peers: Sequence[Peer], folder: Path, turns: int) -> tuple[dict[Peer, Found], dict[str, float]]:
    """The figures of every program, and the operations per second of a matrix product in every dtype."""
    found, count = {peer: Found(missing(peer)) for peer in peers}, child("threads()")
    products: dict[str, list[float]] = {peer.dtype: [] for peer in peers if not found[peer].reason}
    for turn in range(turns):
        for dtype, reached in products.items():
            reached.append(child(f"product({dtype!r})"))
        first = turn % len(peers)
        for peer in (*peers[first:], *peers[:first]):
            if not found[peer].reason:
                measure_once_more(found[peer], peer, work, folder, count)
    if found[DIFFUSERS].reason:
        sys.exit(f"diffusers, with which the other programs are compared: {found[DIFFUSERS].reason}")
    for peer, figures in found.items():
        if not figures.reason:
            figures.difference = deviation(peer, work, folder)
    return found, {dtype: statistics.median(reached) for dtype, reached in products.items()}


def measure_once_more(figures: Found, peer: Peer, work: Work, folder: Path, count: int):
    try:
        measured = child(f"measure({peer.name!r}, {str(folder)!r}, {work!r}, {count}, {output_of(peer, folder)!r})")
        figures.seconds.append(measured["seconds"])
        figures.megabytes.append(measured["megabytes"])
    except Failed as failure:
        figures.reason = f"failed: {failure}"


def output_of(peer: Peer, folder: Path) -> str:
    return str(folder / f"{peer.name}.npy")


def deviation(peer: Peer, work: Work, folder: Path) -> float:
    """How far a program's last output is from diffusers', or, if it is an image, from minisd's."""
    reference = output_of(DIFFUSERS, folder)
    if peer is CPP:
        reference = str(folder / "image.npy")
        child(f"draw({str(folder)!r}, {work!r}, {reference!r})")
    return child(f"difference({output_of(peer, folder)!r}, {reference!r})")


def line(work: Work, peer: Peer, figures: Found, theirs: Found, count: int, products: dict[str, float]) -> str:
    """The table's line of one program. `count` is the number of operations of the work."""
    if figures.reason:
        return f"| {work.name} | {peer.name} | {figures.reason} |" + 6 * " |"
    seconds, megabytes = statistics.median(figures.seconds), statistics.median(figures.megabytes)
    ratios = [one / other for one, other in zip(figures.seconds, theirs.seconds)]
    ratio, reached = f"{statistics.median(ratios):.2f} | {min(ratios):.2f}", count / seconds
    speed = f"{reached / 1e9:,.0f} | {100 * reached / products[peer.dtype]:.0f}%"
    return f"| {work.name} | {peer.name} | {seconds:.2f} s | {ratio} | {megabytes:,.0f} MB | {speed} | {figures.difference:.0e} |"


def prepare(folder: Path) -> str:
    """Write the files that the installed programs read, unless they are there; the versions of these programs."""
    if not (folder / "float32").exists():
        subprocess.run([sys.executable, "-c", f"FOLDER = {str(folder)!r}\n{PREPARE}"], check=True, stdout=sys.stderr)
    versions = ""
    for peer, write in ((OPENVINO, "convert"), (CPP, "write_original")):
        if find_spec(peer.module):
            child(f"{write}({str(folder)!r})")
            versions += f", {peer.package} {version(peer.package)}"
    return versions


def main():
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    works, peers = (GROWING, [MINISD, DIFFUSERS]) if arguments.grow else (WORKS, PEERS)
    print(conditions() + prepare(arguments.folder) + "\n")
    print("| | | time | ratio | least | peak memory | GFLOP/s | of a product | difference |\n|" + 9 * "---|")
    for work in works:
        if work.name.startswith(arguments.only):
            found, products = in_turns(work, peers, arguments.folder, arguments.turns)
            count = child(f"operations({work!r})")
            for peer, figures in found.items():
                print(line(work, peer, figures, found[DIFFUSERS], count, products), flush=True)


if __name__ == "__main__":
    main()

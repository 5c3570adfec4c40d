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
import contextlib
import gzip
import io
import json
import re
import resource
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from compare import PREPARE, conditions

HERE = str(Path(__file__).parent)
PRODUCT = 4096  # rows and columns of the matrices whose product shows what the machine can do
PATIENCE = 3.0  # seconds of timed calls, at least one
NETWORKS = ("unet", "vae", "text_encoder")
SAMPLING = {"unet": (2, 7.5), "vae": (1, 1.0)}  # steps and guidance scale with which stable-diffusion.cpp is measured


@dataclass(frozen=True)
class Work:
    """What is computed: one call of a network, or the loop of a guided image, without its decoding."""

    name: str
    network: str  # "unet", "vae" or "loop"
    side: int  # of the latents, whose pixels are 8 times as many
    batch: int = 1
    steps: int = 0  # of the loop

    def inputs(self) -> tuple[Any, Any]:
        """Latents (batch, 4, side, side) and text states (batch, 77, 768), as NumPy arrays of random numbers."""
        import numpy as np

        shapes = (self.batch, 4, self.side, self.side), (self.batch, 77, 768)
        return tuple(np.random.default_rng(0).standard_normal(shape, dtype=np.float32) for shape in shapes)


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


# Measuring, in a process of its own: each program prepares a work and returns the seconds it takes, and the output


def timed(once: Callable) -> tuple[float, Any]:
    """The median seconds of a call after the first, and the output."""
    output, times = once(), []
    while sum(times) < PATIENCE:
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    return statistics.median(times), output


def in_pytorch(
    library: ModuleType,
    folder: Path,
    work: Work,
    dtype: str,
    change: Callable = lambda part: part,
    wrap: Callable = lambda call: call,
) -> tuple[float, Any]:
    """Minisd or diffusers, whose classes have the same names. `change` is applied to the network, `wrap` to the call of it."""
    import torch

    @torch.inference_mode()
    def once() -> Any:
        return call().float().numpy()

    call = wrap(call_of(library, folder / "float32", work, getattr(torch, dtype), change))
    return timed(once)


def call_of(library: ModuleType, weights: Path, work: Work, dtype: Any, change: Callable) -> Callable:
    """A function without arguments that computes a work."""
    import torch

    x, context = (torch.from_numpy(array).to(dtype) for array in work.inputs())
    if work.network == "unet":
        unet = change(library.UNet2DConditionModel.from_pretrained(weights, subfolder="unet", torch_dtype=dtype))
        return lambda: unet(x, 500, encoder_hidden_states=context).sample
    if work.network == "vae":
        vae = change(library.AutoencoderKL.from_pretrained(weights, subfolder="vae", torch_dtype=dtype))
        return lambda: vae.decode(x).sample
    pipe = library.StableDiffusionPipeline.from_pretrained(weights, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    settings = {"height": 8 * work.side, "width": 8 * work.side, "num_inference_steps": work.steps, "output_type": "latent"}
    return lambda: pipe("a cat", latents=x, **settings).images


def in_minisd(folder: Path, work: Work, dtype: str, threads: int) -> tuple[float, Any]:
    import minisd

    return in_pytorch(minisd, folder, work, dtype)


def in_diffusers(folder: Path, work: Work, dtype: str, threads: int) -> tuple[float, Any]:
    import diffusers

    return in_pytorch(diffusers, folder, work, dtype)


def in_channels_last(folder: Path, work: Work, dtype: str, threads: int) -> tuple[float, Any]:
    import diffusers
    import torch

    return in_pytorch(diffusers, folder, work, dtype, change=lambda part: part.to(memory_format=torch.channels_last))


def in_torch_compile(folder: Path, work: Work, dtype: str, threads: int) -> tuple[float, Any]:
    import diffusers
    import torch

    return in_pytorch(diffusers, folder, work, dtype, wrap=torch.compile)


def in_openvino(folder: Path, work: Work, dtype: str, threads: int) -> tuple[float, Any]:
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / "openvino" / f"{work.network}.xml")
    inputs = work.inputs()[: len(model.inputs)]  # the decoder has no text states
    model.reshape({port: list(array.shape) for port, array in zip(model.inputs, inputs)})
    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    network = core.compile_model(model, "CPU", settings)
    return timed(lambda: network(inputs)[0])


def in_stable_diffusion_cpp(folder: Path, work: Work, dtype: str, threads: int) -> tuple[float, Any]:
    """The seconds of the second step, or of the decoding after one step; and the image (H, W, 3), from 0 to 1."""
    import numpy as np
    from stable_diffusion_cpp import StableDiffusion

    log, finished = io.StringIO(), []
    model = StableDiffusion(model_path=str(folder / "original.safetensors"), n_threads=threads, vae_decode_only=True)
    steps, guidance_scale = SAMPLING[work.network]
    with contextlib.redirect_stderr(log):
        (image,) = model.generate_image(
            "", width=8 * work.side, height=8 * work.side, cfg_scale=guidance_scale, sample_method="euler", scheduler="discrete",
            sample_steps=steps, seed=0, progress_callback=lambda step, steps, seconds: finished.append(time.perf_counter()),
        )  # fmt: skip
    decoded = re.search(r"decode_first_stage completed, taking ([\d.]+)s", log.getvalue())
    assert decoded is not None
    seconds = float(decoded[1]) if work.network == "vae" else finished[-1] - finished[-2]
    return seconds, np.asarray(image.convert("RGB"), dtype=np.float32) / 255


@dataclass(frozen=True)
class Peer:
    name: str
    measure: Callable[[Path, Work, str, int], tuple[float, Any]]
    module: str  # that it needs
    package: str  # that has the module
    dtype: str = "float32"


MINISD = Peer("minisd", in_minisd, "minisd", "minisd")
DIFFUSERS = Peer("diffusers", in_diffusers, "diffusers", "diffusers")  # the ratios are to this one
OPENVINO = Peer("OpenVINO", in_openvino, "openvino", "openvino")
CPP = Peer("stable-diffusion.cpp", in_stable_diffusion_cpp, "stable_diffusion_cpp", "stable-diffusion-cpp-python")
PEERS = [
    MINISD,
    DIFFUSERS,
    Peer("diffusers, channels last", in_channels_last, "diffusers", "diffusers"),
    Peer("diffusers, torch.compile", in_torch_compile, "diffusers", "diffusers"),
    OPENVINO,
    CPP,
    Peer("minisd, bfloat16", in_minisd, "minisd", "minisd", "bfloat16"),
    Peer("diffusers, bfloat16", in_diffusers, "diffusers", "diffusers", "bfloat16"),
    Peer("OpenVINO, bfloat16", in_openvino, "openvino", "openvino", "bfloat16"),
]


def measure(peer: str, folder: str, work: Work, threads: int, out: str) -> dict[str, float]:
    """Seconds, and the peak of the process in megabytes; the output goes into a file."""
    import numpy as np

    one = next(one for one in PEERS if one.name == peer)
    seconds, output = one.measure(Path(folder), work, one.dtype, threads)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes
    np.save(out, output)
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


# What the measurements need or are compared with, each in a process of its own too


def threads() -> int:
    import torch

    return torch.get_num_threads()


def emulates_bfloat16() -> bool:
    import torch

    from minisd.fast.half import emulates

    return emulates(torch.bfloat16)


def convert(folder: str):
    """Write diffusers' networks in OpenVINO's format, unless they are there."""
    import diffusers
    import openvino
    import torch

    weights = Path(folder) / "float32"

    class UNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = diffusers.UNet2DConditionModel.from_pretrained(weights, subfolder="unet")

        def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return self.network(x, 500, context).sample

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = diffusers.AutoencoderKL.from_pretrained(weights, subfolder="vae")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.decode(x).sample

    x, context = torch.zeros(2, 4, 16, 16), torch.zeros(2, 77, 768)
    for name, kind, example in (("unet", UNet, (x, context)), ("vae", Decoder, (x,))):
        file = Path(folder) / "openvino" / f"{name}.xml"
        if not file.exists():
            with torch.no_grad():
                openvino.save_model(openvino.convert_model(kind(), example_input=example), file, compress_to_fp16=False)


def write_original(folder: str):
    """Write the checkpoint as a single file with the original names and shapes, unless it is there."""
    from safetensors.torch import save_file

    from minisd import StableDiffusionPipeline
    from minisd.weights.original_names import original_name

    file, pipe = Path(folder) / "original.safetensors", StableDiffusionPipeline.from_pretrained(Path(folder) / "float32")
    if not file.exists():
        shapes = json.loads(gzip.decompress((Path(HERE).parent / "data" / "official_shapes.json.gz").read_bytes()))["single file"][
            "v1"
        ]
        weights = {f"{part}.{name}": x for part in NETWORKS for name, x in getattr(pipe, part).state_dict().items()}
        originals = {original_name(name, "v1"): x for name, x in weights.items()}
        save_file({name: x.reshape(shapes[name]) for name, x in originals.items()}, file)


def draw(folder: str, work: Work, out: str):
    """Minisd's image for the settings of `in_stable_diffusion_cpp`, into a file."""
    import numpy as np
    import torch

    from minisd import EulerDiscreteScheduler, StableDiffusionPipeline
    from minisd.cuda_noise import CudaNoise

    pipe = StableDiffusionPipeline.from_pretrained(Path(folder) / "float32")
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    pipe.set_progress_bar_config(disable=True)
    steps, guidance_scale = SAMPLING[work.network]
    ids = torch.tensor([[49406] + 76 * [49407]])  # start, then ends: an empty prompt in CLIP's vocabulary
    with torch.no_grad():
        words = pipe.text_encoder(ids)[0]
    image = pipe(
        prompt_embeds=words, negative_prompt_embeds=words, height=8 * work.side, width=8 * work.side, num_inference_steps=steps,
        guidance_scale=guidance_scale, generator=CudaNoise(0), output_type="np",
    ).images[0]  # fmt: skip
    np.save(out, image)


def difference(one: str, other: str) -> float:
    """The largest deviation between the outputs in two files, as a share of the largest value of the other."""
    import numpy as np

    a, b = np.load(one), np.load(other)
    return float(np.abs(a - b).max() / np.abs(b).max())


def operations(work: Work) -> int:
    """The number of additions and multiplications, counted on networks without weights."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from minisd import AutoencoderKL, UNet2DConditionModel
    from minisd.config import SD1_UNET, SD1_VAE

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        x = torch.empty(2 if work.network == "loop" else work.batch, 4, work.side, work.side)
        if work.network == "vae":
            AutoencoderKL(SD1_VAE).decode(x)
        else:
            UNet2DConditionModel(SD1_UNET)(x, 500, encoder_hidden_states=torch.empty(len(x), 77, 768))
    calls = work.steps + 1 if work.network == "loop" else 1  # PNDM visits its second timestep twice
    return calls * counter.get_total_flops()


def product(dtype: str) -> float:
    """Operations per second of a large matrix product."""
    import torch

    matrix = torch.ones(PRODUCT, PRODUCT, dtype=getattr(torch, dtype))
    return 2 * PRODUCT**3 / timed(lambda: matrix @ matrix)[0]


# The run


class Failed(Exception):
    """A measurement ended with an error."""


def child(call: str) -> Any:
    """The result of a call in this module, computed by a fresh process. Raises Failed with the last line of its error."""
    code = f"import json, sys\nsys.path.insert(0, {HERE!r})\nfrom peers import *\nprint()\nprint(json.dumps({call}))"
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
            versions += f", {peer.name} {version(peer.package)}"
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

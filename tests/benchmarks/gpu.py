"""minisd on a GPU, with random weights: `python tests/benchmarks/gpu.py > docs/gpu.md`. Needs no network and at most 8 minutes.

The networks have the size of Stable Diffusion v1 and draw 512×512 pixels. A guided step is one call of the UNet on a batch of two.
Times are medians of synchronised calls after two that do not count; *memory* is the most that PyTorch had allocated, weights
included. A difference is the largest deviation from float32, as a share of the largest value; float32 is computed without TF32. The
first image is timed from the start of a process, which imports, loads a float16 checkpoint from disk, and draws. If diffusers is
installed, it is measured too, on the same weights. The rows for which no time is left say so.
"""

import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from minisd import AutoencoderKL, CLIPTextModel, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from minisd.config import SD1_TEXT, SD1_UNET, SD1_VAE, CLIPTextConfig, UNetConfig, VAEConfig

BUDGET = 360  # seconds after which no further row is begun
STEPS = 20  # of an image
PATIENCE = 1.0  # seconds of timed calls, at least
DTYPES = (torch.float16, torch.bfloat16)
BATCHES = (1, 4, 8)

FIRST_IMAGE = """
import torch
from {library} import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({folder!r}, torch_dtype={dtype}).to({device!r})
pipe("a cat", num_inference_steps={steps}).images[0].save({folder!r} + "/cat.png")
"""


@dataclass(frozen=True)
class Model:
    """The configurations of the networks, and where they are. Images have the size that these are made for."""

    device: torch.device
    text: CLIPTextConfig = SD1_TEXT
    unet: UNetConfig = SD1_UNET
    vae: VAEConfig = SD1_VAE

    def pipeline(self, dtype: torch.dtype) -> StableDiffusionPipeline:
        """A pipeline with random weights, which differ between dtypes only by rounding."""
        torch.manual_seed(0)
        with self.device:
            networks = AutoencoderKL(self.vae), CLIPTextModel(self.text), UNet2DConditionModel(self.unet)
        vae, text_encoder, unet = (network.to(dtype) for network in networks)
        tokenizer = StableDiffusionPipeline.from_pretrained("tiny").tokenizer
        pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, PNDMScheduler())
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)

    def step(self, unet: nn.Module, dtype: torch.dtype) -> Callable[[], Tensor]:
        """A guided step; the UNet may be diffusers'."""
        x = self.random(2, 4, self.unet.sample_size, self.unet.sample_size).to(dtype)
        t, context = torch.tensor(500, device=self.device), self.random(2, 77, self.unet.cross_attention_dim).to(dtype)
        return lambda: unet(x, t, encoder_hidden_states=context).sample

    def decoding(self, vae: AutoencoderKL, dtype: torch.dtype) -> Callable[[], Tensor]:
        x = self.random(1, 4, self.unet.sample_size, self.unet.sample_size).to(dtype)
        return lambda: vae.decode(x).sample

    def timed(self, once: Callable) -> tuple[float, float]:
        """The median seconds of a call, and the peak of the memory in megabytes, which PyTorch counts on a GPU only."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            gc.collect()  # earlier networks
            torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(2):  # to compile, and to warm up
            self.seconds(once)
        times: list[float] = []
        while sum(times) < PATIENCE:
            times.append(self.seconds(once))
        return statistics.median(times), torch.cuda.max_memory_allocated(self.device) / 2**20 if on_gpu else 0.0

    def seconds(self, once: Callable) -> float:
        started = time.perf_counter()
        once()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


# The rows: each function measures one, and returns its two cells


Cells = tuple[str, str]


def megabytes(peak: float) -> str:
    return f"{peak:,.0f} MB" if peak else ""


def speed(model: Model, dtype: torch.dtype, channels_last: bool = False, compiled: bool = False) -> Cells:
    torch.compiler.reset()  # each network is compiled for itself
    unet = model.pipeline(dtype).unet
    if channels_last:
        unet.to(memory_format=torch.channels_last)
    if compiled:
        unet.compile()
    seconds, peak = model.timed(model.step(unet, dtype))
    return f"{1 / seconds:.1f} it/s", megabytes(peak)


def speed_of_diffusers(model: Model, dtype: torch.dtype, folder: str) -> Cells:
    from diffusers import UNet2DConditionModel as Theirs

    unet = Theirs.from_pretrained(folder, subfolder="unet", torch_dtype=dtype).to(model.device)
    seconds, peak = model.timed(model.step(unet, dtype))
    return f"{1 / seconds:.1f} it/s", megabytes(peak)


def decoding(model: Model, dtype: torch.dtype) -> Cells:
    seconds, peak = model.timed(model.decoding(model.pipeline(dtype).vae, dtype))
    return f"{1000 * seconds:.1f} ms", megabytes(peak)


def images(model: Model, dtype: torch.dtype, batch: int) -> Cells:
    pipe = model.pipeline(dtype)
    seconds, peak = model.timed(lambda: pipe(batch * ["a cat"], num_inference_steps=STEPS, output_type="pt"))
    return f"{60 * batch / seconds:.1f} a minute", megabytes(peak)


def difference(model: Model, dtype: torch.dtype, network: str) -> Cells:
    """The largest deviation of one network's output from float32's."""

    def output(kind: torch.dtype) -> Tensor:
        pipe = model.pipeline(kind)
        return (model.step(pipe.unet, kind) if network == "unet" else model.decoding(pipe.vae, kind))().float()

    with torch.backends.cudnn.flags(allow_tf32=False):
        exact = output(torch.float32)
    return f"{float((output(dtype) - exact).abs().max() / exact.abs().max()):.1e}", ""


def first_image(model: Model, dtype: torch.dtype, folder: str, library: str) -> Cells:
    code = FIRST_IMAGE.format(library=library, folder=folder, dtype=dtype, device=str(model.device), steps=STEPS)
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        return f"failed: {result.stderr.strip().splitlines()[-1]}", ""
    return f"{time.perf_counter() - started:.1f} s", ""


Row = tuple[str, torch.dtype, Callable[[], Cells]]


def rows(model: Model, folder: str, dtypes: Sequence[torch.dtype] = DTYPES, batches: Sequence[int] = BATCHES) -> Iterator[Row]:
    """Name, dtype and measurement of each row. Compilation comes last, because it takes longest."""
    theirs = find_spec("diffusers") is not None
    model.pipeline(dtypes[0]).save_pretrained(folder)
    for library in ("minisd", "diffusers") if theirs else ("minisd",):
        name = f"first image in {STEPS} steps, {library}, the whole process"
        yield name, dtypes[0], partial(first_image, model, dtypes[0], folder, library)
    for dtype in dtypes:
        yield "guided step", dtype, partial(speed, model, dtype)
        yield "guided step, channels last", dtype, partial(speed, model, dtype, channels_last=True)
        if theirs:
            yield "guided step, diffusers", dtype, partial(speed_of_diffusers, model, dtype, folder)
        yield "VAE decode", dtype, partial(decoding, model, dtype)
        yield "guided step, difference from float32", dtype, partial(difference, model, dtype, "unet")
        yield "VAE decode, difference from float32", dtype, partial(difference, model, dtype, "vae")
        for batch in batches:
            yield f"images in {STEPS} steps, batch of {batch}", dtype, partial(images, model, dtype, batch)
    for dtype in dtypes:
        yield "guided step, torch.compile", dtype, partial(speed, model, dtype, compiled=True)
    for dtype in dtypes:
        yield "guided step, torch.compile, channels last", dtype, partial(speed, model, dtype, channels_last=True, compiled=True)


@torch.no_grad()
def lines(measurements: Iterable[Row], budget: float) -> Iterator[str]:
    """The lines of the table, each as soon as it is measured. None is begun after `budget` seconds."""
    started = time.perf_counter()
    for name, dtype, measure in measurements:
        if time.perf_counter() - started > budget:
            cells = "not measured: no time left", ""
        else:
            try:
                cells = measure()
            except (RuntimeError, FloatingPointError) as error:  # too little memory, no compiler, or NaN
                cells = f"failed: {str(error).strip().splitlines()[0]}", ""
        yield f"| {name} | {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |"


def main():
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a GPU that PyTorch can use (CUDA or ROCm); tests/benchmarks/compare.py measures a CPU.")
    device = torch.device("cuda")
    theirs = f"diffusers {version('diffusers')}" if find_spec("diffusers") else "diffusers is not installed"
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    print(f"{torch.cuda.get_device_name(device)}, {memory:.0f} GB; torch {torch.__version__}, {theirs}\n")
    print("| | dtype | | memory |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(rows(Model(device), folder), BUDGET):
            print(line, flush=True)


if __name__ == "__main__":
    main()

"""The programs that peers.py compares. Every function here runs in a process of its own, and imports what it needs only then."""

import contextlib
import gzip
import io
import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PRODUCT = 4096  # rows and columns of the matrices whose product shows what the machine can do
PATIENCE = 3.0  # seconds of timed calls, at least one
SAMPLING = {"unet": (2, 7.5), "vae": (1, 1.0)}  # steps and guidance scale with which stable-diffusion.cpp is measured
OFFICIAL_SHAPES = Path(__file__).parent.parent / "data" / "official_shapes.json.gz"


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


# The programs: each function prepares a work and returns the seconds that it takes, and the output


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
    size, settings = 8 * work.side, {"num_inference_steps": work.steps, "guidance_scale": 7.5, "output_type": "latent"}
    return lambda: pipe("a cat", size, size, latents=x, **settings).images


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


# What the measurements need, and what they are compared with


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

    file = Path(folder) / "original.safetensors"
    if not file.exists():
        pipe = StableDiffusionPipeline.from_pretrained(Path(folder) / "float32")
        shapes = json.loads(gzip.decompress(OFFICIAL_SHAPES.read_bytes()))["single file"]["v1"]
        weights = {}
        for part in ("unet", "vae", "text_encoder"):
            for name, tensor in getattr(pipe, part).state_dict().items():
                original = original_name(f"{part}.{name}", "v1")
                weights[original] = tensor.reshape(shapes[original])
        save_file(weights, file)


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

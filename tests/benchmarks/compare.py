"""minisd beside diffusers, in one run: `python tests/benchmarks/compare.py --folder /tmp/benchmark > docs/benchmark.md`.

Every measurement is a fresh process that does one thing with one of the two libraries and prints what it took. The two take turns,
and turns at going first, so that a machine that slows down slows both; the first turn, which may read from a cold disk, does not
count. Objects that the imports leave to the garbage collector are collected before loading is timed. The table has the medians of
both libraries, and the median and the least of the ratios of all turns. Memory is the process's peak above the size of the weights
that it has to hold: all of them, one network's, or, where they are only mapped, none. The row in bfloat16 is left out where the CPU
emulates it, which takes an hour a step.

diffusers fills its networks twice unless `pip install accelerate` has been run, as it recommends; so that is asked for here. A
random full-size v1 checkpoint is made first (6.5 GB in the folder, which stays for the next run). `--only load` measures the rows
whose names begin so.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PREPARE = """
import torch
from pathlib import Path
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from minisd import StableDiffusionPipeline as Minisd

folder = Path(FOLDER)
Minisd.from_pretrained("tiny").tokenizer.save_pretrained(folder / "tokenizer")
torch.manual_seed(0)
torch.set_default_dtype(torch.float16)
blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
vae = AutoencoderKL(3, 3, *blocks, (128, 256, 512, 512), 2, sample_size=512)
unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
scheduler = PNDMScheduler(1000, 0.00085, 0.012, "scaled_linear", skip_prk_steps=True, steps_offset=1)
tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
pipe = StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)
pipe.save_pretrained(folder / "float16")
pipe.to(torch.float32).save_pretrained(folder / "float32")
"""

# What every measurement begins and ends with. Peak memory is what the system counts. On Linux it starts from the parent's peak, so
# this script imports nothing large; macOS counts bytes.
BEGIN = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
started = time.perf_counter()
"""
END = """
seconds = time.perf_counter() - started
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps({"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}))
"""
IMPORT = {"minisd": "from minisd import StableDiffusionPipeline", "diffusers": "from diffusers import StableDiffusionPipeline"}
LOAD = "import gc, torch\n{import_}\n{start}pipe = StableDiffusionPipeline.from_pretrained({folder!r}, {dtype})"
START = "gc.collect()\nstarted = time.perf_counter()\n"
READ = "for part in (pipe.unet, pipe.vae, pipe.text_encoder):\n    for p in part.parameters():\n        p.sum()"
READY = """
pipe.set_progress_bar_config(disable=True)
def once():
    with torch.inference_mode():
        {once}
once()
times = []
while len(times) < 3 or sum(times) < 3:
    started = time.perf_counter()
    once()
    times.append(time.perf_counter() - started)
started = time.perf_counter() - sorted(times)[len(times) // 2]
"""
PICTURE = {  # the same picture by a whole process: imports, loading, four guided steps, the file
    "minisd": """
from minisd.generate import main
main(["a cat", "--model", {folder!r}, "--steps", "4", "--height", "256", "--width", "256", "--seed", "0", "--out", {out!r}])
""",
    "diffusers": """
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({folder!r}, dtype=torch.float32)
generator = torch.Generator().manual_seed(0)
pipe("a cat", num_inference_steps=4, height=256, width=256, generator=generator).images[0].save({out!r} + "/a-cat.png")
""",
}


@dataclass(frozen=True)
class Row:
    name: str
    code: Mapping[str, str]  # of each library
    weights: int = 0  # the bytes of those that it has to hold
    repeats: int = 5


def rows(folder: Path) -> Iterator[Row]:
    def size(kind: str, network: str = "*") -> int:
        return sum(file.stat().st_size for file in (folder / kind).glob(f"{network}/*.safetensors"))

    def loaded(kind: str, then: str = "", dtype: str | None = None, start: str = START) -> dict[str, str]:
        settings = {"folder": str(folder / kind), "dtype": f"dtype=torch.{dtype or kind}", "start": start}
        return {library: LOAD.format(import_=import_, **settings) + "\n" + then for library, import_ in IMPORT.items()}

    def timed(once: str, dtype: str = "float32") -> dict[str, str]:
        return loaded("float32", READY.format(once=once), dtype)

    step = "pipe.unet(torch.ones(2, 4, 64, 64).to(pipe.dtype), 500, encoder_hidden_states=torch.ones(2, 77, 768).to(pipe.dtype))"
    yield Row("import", IMPORT)
    yield Row("import and load, float32 file", loaded("float32", start=""))
    for kind in ("float32", "float16"):
        yield Row(f"load, {kind} file", loaded(kind))
        yield Row(f"load and read every weight, {kind} file", loaded(kind, READ), size(kind))
    text_encoder = timed("pipe.text_encoder(torch.ones(2, 77, dtype=torch.long))")
    yield Row("text encoder, a batch of 2", text_encoder, size("float32", "text_encoder"))
    yield Row("guided UNet step, 64×64 latents, float32", timed(step), size("float32", "unet"), repeats=3)
    if not run("import torch; from minisd.fast.half import emulates; print(int(emulates(torch.bfloat16)))"):
        weights = size("float16", "unet")  # loading casts all of them
        yield Row("guided UNet step, 64×64 latents, bfloat16", timed(step, "bfloat16"), weights, repeats=3)
    decode = timed("pipe.vae.decode(torch.ones(1, 4, 64, 64)).sample")
    yield Row("VAE decode, 512×512 pixels, float32", decode, size("float32", "vae"), repeats=3)
    picture = {library: code.format(folder=str(folder / "float32"), out=str(folder)) for library, code in PICTURE.items()}
    yield Row("an image of 256×256 in 4 steps, the whole process", picture, size("float32"), repeats=3)


def run(code: str) -> Any:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def measure(row: Row) -> dict[str, list[dict[str, float]]]:
    """The figures of each library in every turn but the first."""
    results: dict[str, list[dict[str, float]]] = {library: [] for library in row.code}
    for turn in range(1 + row.repeats):
        for library in sorted(row.code, reverse=turn % 2 == 0):
            results[library].append(run(BEGIN + row.code[library] + END))
    return {library: found[1:] for library, found in results.items()}


def conditions() -> str:
    """The machine, and the versions of what runs on it."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    name = named[1] if named else platform.processor() or platform.machine()
    threads = run("import torch; print(torch.get_num_threads())")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{library} {version(library)}" for library in ("torch", "diffusers", "transformers", "accelerate"))
    return f"{name}, {os.cpu_count()} cores, {threads} threads, {memory:.0f} GB of memory; {versions}"


def main():
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    print(conditions() + "\n")
    if not (arguments.folder / "float32").exists():
        subprocess.run([sys.executable, "-c", f"FOLDER = {str(arguments.folder)!r}\n{PREPARE}"], check=True, stdout=sys.stderr)
    print(
        "| | minisd | diffusers | ratio | least | minisd, memory | diffusers, memory | ratio |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows(arguments.folder):
        if row.name.startswith(arguments.only):
            ours, theirs = measure(row).values()
            seconds = [statistics.median(turn["seconds"] for turn in turns) for turns in (ours, theirs)]
            ratios = [one["seconds"] / other["seconds"] for one, other in zip(ours, theirs)]
            above = [statistics.median(turn["megabytes"] for turn in turns) - row.weights / 2**20 for turns in (ours, theirs)]
            time = f"{seconds[0]:.2f} s | {seconds[1]:.2f} s | {statistics.median(ratios):.2f} | {min(ratios):.2f}"
            print(f"| {row.name} | {time} | {above[0]:,.0f} MB | {above[1]:,.0f} MB | {above[0] / above[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

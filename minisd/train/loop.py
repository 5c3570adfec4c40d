"""The training loop: learning rate, moving average, log, and checkpoints that survive a kill.

All randomness in step s comes from seeds that depend only on s. So a resumed run equals an uninterrupted one bit for bit, and
processes that share a batch draw the same numbers as a single process.
"""

import copy
import json
import math
import os
import random
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..disk import replacing
from ..processes import from_all, rank_and_world, wait_for_all
from .state import read_state, taking, write_state

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run."""

    steps: int
    batch_size: int  # samples in one pass through the network, of all processes together
    learning_rate: float
    warmup: int = 200  # steps until the learning rate reaches its maximum
    decay: float = 0.3  # the last fraction of the steps, in which the learning rate decays to zero
    weight_decay: float = 0.01
    ema: float = 0.999  # decay of the moving average per step
    seed: int = 0
    bfloat16: bool = True  # matrix products in half precision if the hardware supports it; weights and sums stay float32
    accumulate: int = 1  # passes whose gradients make one step: a larger batch in the memory of a smaller one

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up for `warmup` steps, then constant, then cosine decay."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = max(0.0, 1 - (self.steps - step) / (self.decay * self.steps))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * fall))


@contextmanager
def fast_arithmetic(recipe: Recipe):
    """Use half precision for matrix products, and unfused attention, whose gradient is faster on a CPU than the fused one.

    (The CUDA backend's setting also applies to the CPU; without it, these products are in float32.)
    """
    on_cpu, before = device().type == "cpu", torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    dtype = half_precision(recipe)
    half = torch.autocast(device().type, dtype) if dtype else nullcontext()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(on_cpu)
    try:
        with half, sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def half_precision(recipe: Recipe) -> torch.dtype | None:
    """Choose bfloat16 if the hardware supports its products, float16 on older GPUs, and None (float32) on older CPUs."""
    if not recipe.bfloat16:
        return None
    if has_bfloat16():
        return torch.bfloat16
    return torch.float16 if device().type == "cuda" else None


def has_bfloat16() -> bool:
    """Whether the hardware supports bfloat16 products. A CPU without support emulates them, 15 times slower than float32."""
    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def device() -> torch.device:
    """The device of this process: its own GPU if there is one."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def sample_seeds(recipe: Recipe, step: int) -> list[random.Random]:
    """One random generator for each sample in this process's share of the batch."""
    rank, world = rank_and_world()
    return [random.Random(f"{recipe.seed}/{step}/{i}") for i in range(rank, recipe.batch_size, world)]


def batch_noise(recipe: Recipe, step: int, *shape: int, uniform: bool = False) -> Tensor:
    """This process's share of a batch of noise, (batch_size, …), normal or uniform in [0, 1), drawn on the CPU."""
    rank, world = rank_and_world()
    generator = torch.Generator().manual_seed(2 * (recipe.seed * 10**9 + step) + uniform)
    draw = torch.rand if uniform else torch.randn
    return draw((recipe.batch_size, *shape), generator=generator)[rank::world].contiguous().to(device())


class Average(Generic[Network]):
    """An exponential moving average of a model's weights, kept in a copy (after Polyak & Juditsky 1992)."""

    def __init__(self, model: Network, keep: float):
        self.model, self.keep = copy.deepcopy(model).requires_grad_(False).eval(), keep

    @torch.no_grad()  # else every update would be kept for a gradient that nobody asks for
    def update(self, model: Network, step: int):
        keep = min(self.keep, (step + 1) / (step + 10))  # a shorter average at first, while the weights change quickly
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""
    betas = (0.9, 0.99)
    return torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=betas, weight_decay=recipe.weight_decay, fused=True)


def train(
    folder: Path,
    model: Network,
    recipe: Recipe,
    loss_of: Callable[[Network, int], tuple[Tensor, dict[str, float]]],
    show: Callable[[Network, Path], dict[str, float]] | None = None,
    save_every: float = 180.0,
    show_every: float = 600.0,
    optimizer_of: Callable[[nn.Module, Recipe], torch.optim.Optimizer] = adamw,
) -> Network:
    """Train `model` according to the recipe and return the moving average of its weights.

    `loss_of(model, number)` returns the loss of this process's share of a batch, and values to log. `show(average, path)` draws a
    sample sheet and returns values to log, every `show_every` seconds. Every `save_every` seconds the whole state is saved to
    `folder/state.pt`, from which the next call resumes; `folder/log.jsonl` gets a line every 50 steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = model.to(device())
    state_file, log_file = folder / "state.pt", folder / "log.jsonl"
    optimizer = optimizer_of(model, recipe)
    average = Average(model, recipe.ema)
    # In float16, small gradients would round to zero: they are computed for a multiple of the loss (Micikevicius et al. 2018, §3.2)
    scaler = torch.amp.GradScaler(device().type, enabled=half_precision(recipe) == torch.float16)
    first = 0
    if state_file.exists():
        state = read_state(state_file, device())
        with taking(state_file):
            first = state["step"]
            model.load_state_dict(state["model"])
            average.model.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            if state.get("scaler"):
                scaler.load_state_dict(state["scaler"])
        forget_after(first, log_file)

    rank, world = rank_and_world()
    if recipe.batch_size % world:
        raise ValueError(f"{world} processes cannot share a batch of {recipe.batch_size} evenly")
    shown: dict[str, list[float]] = {}
    clock = saved = drawn = time.monotonic()
    bar = tqdm(range(first, recipe.steps), folder.name, initial=first, total=recipe.steps, disable=True if rank else None)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        losses, figures = list[Tensor](), dict[str, float]()
        for passed in range(recipe.accumulate):
            with fast_arithmetic(recipe):
                loss, figures = loss_of(model, step * recipe.accumulate + passed)
            scaler.scale(loss / recipe.accumulate).backward()
            losses.append(loss.detach())
        average_gradients(model, world)
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        average.update(model, step)

        loss_of_all = torch.stack(from_all(torch.stack(losses).mean())).mean()
        for name, value in {"loss": float(loss_of_all), "gradient": float(norm), **figures}.items():
            shown.setdefault(name, []).append(value)
        done, last = step + 1, step + 1 == recipe.steps
        if rank == 0 and (done % 50 == 0 or last):
            now = time.monotonic()
            line = {"step": done, "lr": recipe.learning_rate_at(step), "steps_per_second": len(shown["loss"]) / (now - clock)}
            line |= {name: sum(values) / len(values) for name, values in shown.items()}
            shown, clock = {}, now
            bar.set_postfix(loss=line["loss"])
            with log_file.open("a", encoding="utf-8") as log:
                log.write(json.dumps({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in line.items()}) + "\n")
        if rank == 0 and (last or time.monotonic() - saved > save_every):
            state = {"step": done, "model": model.state_dict(), "average": average.model.state_dict()}
            write_state(state_file, {**state, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()})
            saved = time.monotonic()
        if rank == 0 and show and (last or time.monotonic() - drawn > show_every):
            if figures := show(average.model, folder / "sheet.png"):
                with log_file.open("a", encoding="utf-8") as log:
                    log.write(json.dumps({"step": done, **figures}) + "\n")
            drawn = time.monotonic()
    wait_for_all()  # for the first process to write the final state
    return average.model


def forget_after(step: int, log_file: Path):
    """Remove log lines after a step, and incomplete lines; the resumed run logs these steps again."""
    if rank_and_world()[0] == 0 and log_file.exists():
        whole = [line for line in log_file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        with replacing(log_file) as partial:
            partial.write_text("".join(line for line in whole if json.loads(line)["step"] <= step), encoding="utf-8")


def average_gradients(model: nn.Module, world: int):
    """Average the gradients of all processes, so that their shares act as one batch."""
    if world > 1:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients])):
            gradient.copy_(part.view_as(gradient))

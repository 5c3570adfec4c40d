"""Notebook 11, the bug museum: the instrument, the figures, and the exercises."""

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from .. import pipeline
from ..image import to_tensor
from ..pipeline import StableDiffusionPipeline
from ..schedule import add_noise
from ..tiny.picture_book import draw, sample
from . import unless_fast
from .exercise import Exercise
from .figures import BLUE, GREY, INK, ORANGE, PALE, page, pictures, show

Bug = Callable[[], AbstractContextManager]  # called anew for each `with`

PART = {  # every bug of the museum, and the part of the pipeline that it affects
    "padded with id 0": "words",
    "GELU for QuickGELU": "words",
    "no causal mask": "words",
    "last block left out": "words",
    "sines first": "UNet",
    "gate first": "UNet",
    "heads read as width": "UNet",
    "padded like VAE": "UNet",
    "tanh GELU": "UNet",
    "all norms 1e-5": "UNet",
    "all norms 1e-6": "UNet",
    "halves swapped": "guidance",
    "linear betas": "sampler",
    "timesteps 980 to 0": "sampler",
    "last alpha 1": "sampler",
    "padded like UNet": "encoder",
    "factor of SD": "decoder",
    "VAE norms 1e-5": "decoder",
    "not rounded": "pixels",
}
COLUMNS = 5  # per sheet of pictures
TOLERANCE = 1e-4  # of the tests that compare networks of the official sizes with the reference implementation


class Finding(NamedTuple):
    """The effect of a bug: the error of every part on correct inputs, the picture, and its mean difference in grey levels."""

    errors: dict[str, float]
    picture: Tensor
    off: float


def distance(ours: Tensor, right: Tensor) -> float:
    """The largest difference, divided by the largest correct value, as in the tests."""
    return float((ours - right).abs().max() / right.abs().max())


class Case:
    """A prompt and a seed, with correct inputs for every part of the pipeline and the correct outputs."""

    def __init__(self, pipe: StableDiffusionPipeline, prompt: str, seed: int = 0):
        self.pipe, self.prompt, self.seed, self.steps = pipe, prompt, seed, unless_fast(20, 2)
        scene, times = sample(random.Random(seed)), torch.tensor([901, 501, 101])
        with torch.no_grad():
            self.context = pipe.encode_prompt([prompt])
            self.drawn = to_tensor(draw(scene))[None]
            self.latents = pipe.vae.encode(self.drawn).latent_dist.mean * pipe.vae.config.scaling_factor
            self.decoded = pipe.decode(self.latents)
        self.noise = torch.randn(3, *self.latents.shape[1:], generator=torch.Generator().manual_seed(seed))
        self.x, self.times = add_noise(self.latents, self.noise, pipe.scheduler.alphas_cumprod[times].view(3, 1, 1, 1)), times
        self.right = self.outputs()
        self.picture = self.draw()

    @torch.no_grad()
    def outputs(self) -> dict[str, Tensor]:
        """The outputs of the parts for the correct inputs, in the pipeline's present state."""
        return {
            "words": self.pipe.encode_prompt([self.prompt]),
            "UNet": self.pipe.unet(self.x, self.times, self.context.expand(3, -1, -1)).sample,
            "guidance": pipeline.guide(self.noise[0], self.noise[1], 3.0),
            "sampler": self.walk(),
            "encoder": self.pipe.vae.encode(self.drawn).latent_dist.mean,
            "decoder": self.pipe.decode(self.latents),
            "pixels": to_tensor(pipeline.to_pil(self.decoded)[0]),
        }

    def walk(self) -> Tensor:
        """The end of a walk that follows a formula instead of the UNet, so that every error is the sampler's own."""
        scheduler, x = self.pipe.scheduler, self.noise[:1]
        scheduler.set_timesteps(20)
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(0.9 * x + float(t) / 1000), t, x).prev_sample
        return x

    def draw(self) -> Tensor:
        """The picture of the prompt (3, 128, 128), rounded to 8 bits as when saved."""
        generator = torch.Generator().manual_seed(self.seed)
        return to_tensor(self.pipe(self.prompt, num_inference_steps=self.steps, generator=generator).images[0])

    def examine(self, bug: Bug) -> Finding:
        with bug():
            outputs, picture = self.outputs(), self.draw()
        errors = {part: distance(output, self.right[part]) for part, output in outputs.items()}
        return Finding(errors, picture, float((picture - self.picture).abs().mean()) * 127.5)


def show_room(case: Case, bugs: Mapping[str, Bug]) -> dict[str, Finding]:
    """Examine bugs: print a line for each, and show their pictures next to the right one."""
    findings = {name: case.examine(bug) for name, bug in bugs.items()}
    print(f"{'':<22} {'faulty part':<12} {'its error':>9}   the picture is off by")
    for name, finding in findings.items():
        print(f"{name:<22} {PART[name]:<12} {finding.errors[PART[name]]:9.1e}   {finding.off:.2f} grey levels")
    show_pictures(case, findings)
    return findings


def show_pictures(case: Case, findings: Mapping[str, Finding]):
    """The right picture of a case, and the pictures of some findings."""
    sheet = pictures([case.picture, *(finding.picture for finding in findings.values())], ["right", *findings], COLUMNS)
    seen = "; ".join(f"{name}, off by {finding.off:.1f} grey levels" for name, finding in findings.items())
    show(sheet, f"Pictures of {case.prompt}. The first is right; each of the others has one bug: {seen}.")


def show_round_trip(drawn: Tensor, trips: Mapping[str, Tensor]):
    """A picture (3, H, W), the same after several round trips through the VAE, and four times the difference of the last two."""
    *_, right, wrong = trips.values()
    sheet = pictures([drawn, *trips.values(), 4 * (wrong - right)], ["drawn", *trips, "difference × 4"], COLUMNS)
    show(
        sheet,
        "A drawn picture, the same after encoding and decoding, and the same with the wrong padding: there everything has moved "
        "down and to the right, and a grey band fills the top and the left. The difference shows every outline twice.",
    )


def show_museum(findings: Mapping[str, Finding], rounding: float):
    """All bugs, sorted by the error of the faulty part: left, that error and the effect of rounding; right, the picture's error."""
    order = sorted(findings, key=lambda name: findings[name].errors[PART[name]])
    figure, (left, right) = page(1, 2, height=0.23 * len(order) + 1.1, sharey=True, width_ratios=(1.3, 1))
    for row, name in enumerate(order):
        finding = findings[name]
        left.plot(finding.errors[PART[name]], row, "o", color=BLUE)
        left.text(0.99, row, PART[name], transform=left.get_yaxis_transform(), va="center", ha="right", size=8.5, color=GREY)
        right.plot(max(finding.off, 1e-3), row, "s", color=ORANGE, fillstyle="full" if finding.off > 1e-3 else "none")
    left.axvspan(1e-7, rounding, color=PALE)
    left.axvline(TOLERANCE, color=INK, linewidth=1, linestyle="--")
    right.axvline(1, color=INK, linewidth=1, linestyle="--")
    left.set(xscale="log", xlim=(1e-7, 2e3), xticks=[10.0**n for n in range(-6, 1, 2)], title="error of the faulty part")
    right.set(xscale="log", xlim=(5e-4, 300), title="the picture, in grey levels")
    left.set_xlabel("shaded: rounding, no bug\ndashed: tolerance of the tests at official sizes", size=8.5)
    right.set_xlabel("dashed: one level\nhollow: less than a thousandth", size=8.5)
    left.set_yticks(range(len(order)), order)
    small = sum(findings[name].off < 1 for name in order)
    most = max(findings[name].off for name in order)
    show(
        figure,
        f"A row for each of {len(order)} bugs, sorted by the error of the faulty part, from a millionth to more than 1. Next to "
        f"it, the picture's error in grey levels, from nothing to {most:.0f}: in {small} rows less than one.",
    )


# The exercises. Three bugs, by their names in the museum: read on when you have named them.

MYSTERIES = {1: "last block left out", 2: "heads read as width", 3: "timesteps 980 to 0"}


def show_mysteries(case: Case, museum: Mapping[str, Bug]):
    """The effects of the three bugs on a case: the errors of all parts, and the pictures."""
    findings = {f"mystery {number}": case.examine(museum[name]) for number, name in MYSTERIES.items()}
    print(" " * 10, *(f"{part:>9}" for part in case.right), "  picture off by")
    for name, finding in findings.items():
        print(f"{name:<10}", *(f"{error:9.1e}" if error else f"{0:9}" for error in finding.errors.values()), f"{finding.off:8.2f}")
    show_pictures(case, findings)


def mystery(number: int) -> Exercise:
    """A bug to name; for a wrong name, the hint is the reason why it cannot be that bug."""
    answer = MYSTERIES[number]
    hints = {
        f"“{name}” is in the right part; examine it on this case, and compare the error"
        if part == PART[answer]
        else f"“{name}” makes the {part} wrong; which part is wrong here?": name
        for name, part in PART.items()
        if name != answer
    }
    return Exercise(answer, hints)


mystery_1, mystery_2, mystery_3 = mystery(1), mystery(2), mystery(3)

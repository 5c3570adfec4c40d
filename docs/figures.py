"""The pictures of the documentation, drawn by the built-in model: `python docs/figures.py [NAME …]` writes them to docs/images.

The pictures depend on the model's weights: after a new training, draw them again.
"""

import io
import json
import math
import random
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from orders import errors as measure_orders
from PIL import Image
from rooms import ROOMS, arrows
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from build import encode

import minisd
from minisd import StableDiffusionPipeline
from minisd.evaluate.rates import Rate
from minisd.generate import main as generate
from minisd.image import to_pil, to_tensor
from minisd.image_files import save_gif
from minisd.lessons.figures import COLORS, PIXELS, page, pictures
from minisd.lessons.lesson_10 import bars
from minisd.schedulers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler
from minisd.sheet import image_grid
from minisd.tiny import picture_book as book

IMAGES, MEASURED = Path(__file__).parent / "images", Path(__file__).parent / "tiny_model"
SAMPLERS = {"DDIM": DDIMScheduler, "PNDM": PNDMScheduler, "K-LMS": LMSDiscreteScheduler}
PROMPT = "a white cat riding a green dragon at night"
HOUSE = book.draw(book.Scene((book.Thing("house", "orange", 0.5, 0.55, 0.32),), "", "meadow"))


def loaded() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(pipe: StableDiffusionPipeline, prompt: str, **settings) -> Tensor:
    """One picture (3, 128, 128) in [-1, 1]."""
    return 2 * pipe(prompt, generator=seeded(), output_type="pt", **settings).images[0] - 1


def save(images: list[Tensor], titles: list[str], columns: int, name: str):
    """A sheet of pictures, enlarged four times."""
    write(pictures([image.repeat_interleave(4, 1).repeat_interleave(4, 2) for image in images], titles, columns), name)


def write(figure: Figure, name: str):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=2 * PIXELS)
    (IMAGES / f"{name}.png").write_bytes(encode(Image.open(file).convert("RGBA"), colors=256))


def astronaut():
    """The README's picture, drawn by the README's command."""
    (IMAGES / "astronaut.png").unlink(missing_ok=True)
    generate(["an astronaut riding a horse", "--seed", "0", "--quiet", "--out", str(IMAGES / "astronaut.png")])


def film():
    """The astronaut's trajectory. Left: the decoded latents. Right: the decoded prediction of the clean latents."""
    pipe, frames = loaded(), []
    for step in pipe.denoise("an astronaut riding a horse", generator=seeded()):
        if step.index % 2 == 0:
            both = [to_pil(pipe.decode(latents))[0] for latents in (step.latents, step.pred_original_sample)]
            frames.append(image_grid(both, 1, 2).quantize(128, dither=Image.Dither.NONE))
    (IMAGES / "film.gif").unlink(missing_ok=True)
    save_gif(frames, IMAGES / "film.gif")


def way():
    """Top: the decoded latents along the trajectory. Bottom: the decoded predictions of the clean latents."""
    pipe, noisy, guesses, titles = loaded(), [], [], []
    for step in pipe.denoise(PROMPT, generator=seeded()):
        if step.index in (0, 10, 20, 30, 40, 50):
            noisy.append(pipe.decode(step.latents)[0])
            guesses.append(pipe.decode(step.pred_original_sample)[0])
            titles.append(f"t = {int(step.timestep)}")
    save(noisy + guesses, titles + [""] * len(titles), 6, "way")


def latents():
    """A picture of the book, its four latent channels in grey, and the decoded picture."""
    vae = loaded().vae
    scene = book.sample(random.Random(7))
    x = to_tensor(book.draw(scene))[None]
    z = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
    back = vae.decode(z / vae.config.scaling_factor).sample
    channels = [(channel / 3).clamp(-1, 1).expand(3, 16, 16).repeat_interleave(8, 1).repeat_interleave(8, 2) for channel in z[0]]
    titles = ["picture", *(f"latent channel {i}" for i in range(4)), "and back"]
    save([x[0], *channels, back[0]], titles, 6, "latents")


def samplers():
    """The same noise with three samplers and four numbers of steps."""
    pipe, images, titles = loaded(), [], []
    for name, sampler in SAMPLERS.items():
        pipe.scheduler = sampler.from_config(pipe.scheduler.config)
        for steps in (5, 10, 20, 50):
            images.append(draw(pipe, PROMPT, num_inference_steps=steps))
            titles.append(f"{name}, {steps} steps")
    save(images, titles, 4, "samplers")


def orders():
    """The error at the end of an exactly known curve, for each number of steps."""
    numbers, (figure, axes) = [8, 16, 32, 64, 128], page(1, 1, height=3.6)
    exactly = {"lower_order_final": False}
    for name, scheduler in {
        "Euler": minisd.EulerDiscreteScheduler(),
        "Heun": minisd.HeunDiscreteScheduler(),
        "K-LMS": LMSDiscreteScheduler(),
        "DPM++ 2M": minisd.DPMSolverMultistepScheduler(**exactly),
        "UniPC": minisd.UniPCMultistepScheduler(**exactly),
    }.items():
        errors = measure_orders(scheduler, numbers)
        order = math.log2(errors[2] / errors[3])
        axes.loglog(numbers, errors, "o-", markersize=4, label=f"{name}: order {order:.1f}")
    axes.set(xticks=numbers, xticklabels=numbers, xlabel="steps (Heun calls the network twice a step)", ylabel="largest error")
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    write(figure, "orders")


def guidance():
    """The same noise at six guidance scales."""
    pipe, scales = loaded(), (1, 2, 3, 5, 8, 15)
    images = [draw(pipe, PROMPT, guidance_scale=scale) for scale in scales]
    save(images, [f"w = {scale}" for scale in scales], 6, "guidance")


def edited(kind: type, images: list[tuple[str, dict]], name: str, *shown: Image.Image):
    """A house of the book, and a pipeline's result for each prompt and its settings."""
    pipe = kind.from_pretrained("tiny", scheduler=DDIMScheduler)
    pipe.set_progress_bar_config(disable=True)
    tensors = [to_tensor(image) for image in (HOUSE, *shown)]
    tensors += [draw(pipe, prompt, image=HOUSE, num_inference_steps=20, **settings) for prompt, settings in images]
    named = ("paste", "strength")
    titles = [", ".join(f"{key} {value}" for key, value in settings.items() if key in named) for _, settings in images]
    titles = ["picture", *["mask"] * len(shown), *titles]
    save(tensors, titles, len(tensors), name)


def strengths():
    """The same picture, prompt and noise at six strengths."""
    images = [("a blue house in the snow", {"strength": strength}) for strength in (0.3, 0.5, 0.6, 0.7, 0.85, 1.0)]
    edited(minisd.StableDiffusionImg2ImgPipeline, images, "strengths")


def night():
    """The same picture, with night in the prompt."""
    images = [("an orange house at night", {"strength": strength}) for strength in (0.5, 0.65, 0.75, 0.85)]
    edited(minisd.StableDiffusionImg2ImgPipeline, images, "night")


def snow():
    """The masked part, redrawn as a house in the snow."""
    mask = Image.new("L", HOUSE.size)
    mask.paste(255, (0, 0, 128, 52))
    images = [
        ("a white house in the snow", {"mask_image": mask}),
        ("a white house in the snow", {"mask_image": mask, "paste": True}),
    ]
    edited(minisd.StableDiffusionInpaintPipeline, images, "snow", mask)


FOUR_SAMPLERS = ("pndm", "ddim", "dpm++2m", "lcm")  # docs/samplers.md has a table of all


def curves():
    """The share of right pictures, by guidance scale (left), and by sampler and steps (right). Bars are 95 % intervals (Wilson)."""
    measured = json.loads((MEASURED / "curves.json").read_text(encoding="utf-8"))
    figure, (scales, steps) = page(1, 2, height=3.2, sharey=True)
    for axes, curve, group, x in ((scales, "guidance", "set", "scale"), (steps, "steps", "sampler", "steps")):
        points = [point for point in measured if point["curve"] == curve and point["sampler"] in FOUR_SAMPLERS]
        for i, name in enumerate(dict.fromkeys(point[group] for point in points)):
            mine = [(point[x] * 1.02**i, Rate(point["right"], point["of"])) for point in points if point[group] == name]
            rates = [rate for _, rate in mine]
            style = {"marker": "o", "markersize": 4, "capsize": 2, "elinewidth": 1, "label": name}
            axes.errorbar([at for at, _ in mine], [rate.share for rate in rates], list(zip(*map(bars, rates))), **style)
        ticks = sorted({point[x] for point in points})
        axes.set(xscale="log", xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks], ylim=(0, 1.03), xlabel=x)
        axes.minorticks_off()
        axes.legend(loc="lower left")
    scales.set(title="guidance scale, PNDM, 25 steps", xlabel="guidance scale", ylabel="pictures in which all is right")
    steps.set(title='samplers, "two things"')
    write(figure, "curves")


def ablations():
    """The share of right pictures after short trainings that differ in one respect, without guidance and with it."""
    measured = json.loads((MEASURED / "ablations.json").read_text(encoding="utf-8"))
    figure, axes = page(1, 2, height=3.6, sharey=True)
    for ax, scale in zip(axes, next(iter(measured.values()))):
        for i, (skill, color) in enumerate(zip(("things", "colours", "place", "all"), COLORS)):
            at = [row + 0.2 * (i - 1.5) for row in range(len(measured))]
            rates = [Rate(*variant[scale][skill]) for variant in measured.values()]
            style = {"height": 0.18, "color": color, "label": skill, "error_kw": {"elinewidth": 1}}
            ax.barh(at, [rate.share for rate in rates], xerr=list(zip(*map(bars, rates))), **style)
        ax.set(title=scale, xlim=(0, 1), xticks=(0, 0.5, 1), xlabel="share of pictures in which it is right")
        ax.set_yticks(range(len(measured)), list(measured))
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    write(figure, "ablations")


PLACES = {  # of each room in the figure: column, and row from the bottom
    "pretrained": (-1, 0), "config": (0.5, 0), "numerics": (1.9, 0),
    "tokenizer": (-0.5, 1.2), "networks": (0.95, 1.2), "samplers": (2.5, 1.2),
    "safety": (1.3, 2.2), "weights": (-1, 3), "pipeline": (1.75, 3.2), "tiny": (0.3, 3.4),
    "evaluate": (0, 4.4), "processes": (0.75, 4.4), "command": (1.75, 4.4),
    "words": (3, 2.6), "few steps": (3, 3.2), "editing": (2.9, 3.9), "explain": (2.9, 4.7), "foreign": (2.4, 2.2),
    "fast": (0.3, 2.6), "adapters": (-1, 4.2), "system": (1.6, 5.7),
    "train": (-0.4, 5.3), "lessons": (-0.4, 6.2), "finetune": (0.5, 5.7),
}  # fmt: skip


def closure(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs that are linked by a chain of pairs."""
    longer = pairs | {(a, d) for a, b in pairs for c, d in pairs if b == c}
    return pairs if longer == pairs else closure(longer)


def rooms():
    """The rooms and their imports; dashed arrows are imports inside functions.

    An import that others imply is left out: a room that imports the pipeline depends on the networks too.
    """
    figure, axes = page(1, 1, height=5.2)
    direct = arrows(late=False)
    late = arrows() - direct
    reach = {(one, other) for one, middle in direct for start, other in closure(direct) if start == middle}
    boxes = {}
    for room, (modules, _) in ROOMS.items():
        names = ", ".join(modules) if len(modules) < 4 else ", ".join(modules[:3]) + ",\n" + ", ".join(modules[3:])
        box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "0.4"}
        text = axes.annotate(names, PLACES[room], ha="center", va="center", fontsize=8, bbox=box)
        boxes[room] = text.get_bbox_patch()
    figure.canvas.draw()  # gives the boxes their sizes, so that arrows end at their borders
    for one, other in sorted((direct - reach) | late):
        style = {
            "arrowstyle": "-|>",
            "color": "0.6",
            "linestyle": "--" if (one, other) in late else "-",
            "shrinkA": 1,
            "shrinkB": 1,
        }
        axes.annotate("", PLACES[other], PLACES[one], arrowprops=style | {"patchA": boxes[one], "patchB": boxes[other]})
    axes.set(xlim=(-1.4, 3.5), ylim=(-0.4, 6.5))
    axes.axis("off")
    write(figure, "rooms")


FIGURES = {
    figure.__name__: figure
    for figure in (rooms, astronaut, film, way, latents, samplers, orders, guidance, strengths, night, snow, curves, ablations)
}

if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()
        print(f"docs/images/{name}")

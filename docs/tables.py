"""Tables whose numbers come from the code: `python docs/tables.py` writes them into the pages, and a test compares.

A table is in its page between <!-- table: name --> and <!-- end -->, where `name` is a function in this file.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from minisd import AutoencoderKL, CLIPTextModel, UNet2DConditionModel, config
from minisd.config import CLIPTextConfig, UNetConfig, VAEConfig
from minisd.schedulers import SCHEDULERS
from minisd.schedulers.lms import blend
from minisd.schedulers.names import AUTOMATIC1111, SAMPLERS
from minisd.schedulers.pndm import BLENDS
from minisd.tiny import picture_book as book
from minisd.train import clip, decoder, judge, unet, vae
from minisd.weights import find, names, official, original_names

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
import sizes  # noqa: E402

MARKED = re.compile(r"<!-- table: (?P<name>\w+) -->\n(?:.*?\n)??<!-- end -->", re.DOTALL)

MODELS = {
    "SD 1.5": (config.SD1_TEXT, config.SD1_UNET, config.SD1_VAE),
    "SD 2.1": (config.SD2_TEXT, config.SD2_UNET, config.SD2_VAE),
    "built in": (config.TINY_TEXT, config.TINY_UNET, config.TINY_VAE),
}


def table(head: Sequence[str], rows: Sequence[Sequence[object]], right: str = "") -> str:
    """A table in Markdown; `right` names the columns of numbers, which are right-aligned."""
    rules = ["--:" if name and name in right.split(", ") else "---" for name in head]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in [head, rules, *rows])


def unfilled(network: type[nn.Module], settings: object) -> nn.Module:
    with torch.device("meta"):
        return network(settings)


def numbers(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,}"


def shape(x: torch.Tensor) -> str:
    return "×".join(map(str, x.shape[1:]))


def watched(model: nn.Module, names: Sequence[str], run: Callable[[], object]) -> dict[str, tuple[str, str]]:
    """Run a model and record the input and output shapes of some modules, without the batch dimension."""
    seen: dict[str, tuple[str, str]] = {}

    def watch(name: str):
        def hook(module, given, result):
            seen[name] = shape(given[0]), shape(result[-1] if isinstance(result, list) else result)

        return hook

    for name in names:
        model.get_submodule(name).register_forward_hook(watch(name))
    run()
    return seen


def network_table(model: nn.Module, contents: dict[str, str], run: Callable[[], object]) -> str:
    shapes = watched(model, list(contents), run)
    rows = [[f"`{name}`", what, *shapes[name], numbers(model.get_submodule(name))] for name, what in contents.items()]
    return table(["module", "what it is", "in", "out", "parameters"], rows, "parameters")


def unet_shapes(settings: UNetConfig) -> str:
    """Every level, down and up, and its contents."""
    model = unfilled(UNet2DConditionModel, settings)
    names = {"time_embedding": "MLP on the sinusoidal embedding of the timestep", "conv_in": "3×3 convolution"}

    def block(kind: str, level: nn.Module, resample: str):
        transformer = "" if numbers(level.attentions) == "0" else " + transformer"
        names[kind] = f"{len(level.resnets)} × ResNet block{transformer}"
        if getattr(level, resample):
            names[f"{kind}.{resample}"] = {"downsample": "downsampling", "upsample": "upsampling"}[resample]

    for i, level in enumerate(model.down_blocks):
        block(f"down_blocks.{i}", level, "downsample")
    names["mid_block"] = "ResNet block + transformer + ResNet block"
    for i, level in enumerate(model.up_blocks):
        block(f"up_blocks.{i}", level, "upsample")
    names["conv_out"] = "3×3 convolution, after GroupNorm and SiLU"
    side, width = settings.sample_size, settings.cross_attention_dim
    latents, context = torch.empty(1, settings.in_channels, side, side, device="meta"), torch.empty(1, 77, width, device="meta")
    return network_table(model, names, lambda: model(latents, 981, context))


def unet_of_sd1() -> str:
    return unet_shapes(config.SD1_UNET)


def unet_of_tiny() -> str:
    return unet_shapes(config.TINY_UNET)


def vae_shapes(settings: VAEConfig) -> str:
    model = unfilled(AutoencoderKL, settings)
    layers = settings.layers_per_block
    names = {"encoder.conv_in": "3×3 convolution"}
    for i, _ in enumerate(model.encoder.down_blocks):
        last = i == len(model.encoder.down_blocks) - 1
        names[f"encoder.down_blocks.{i}"] = f"{layers} × ResNet block" + ("" if last else ", downsampling")
    names["encoder.mid_block"] = "ResNet block, self-attention, ResNet block"
    names["encoder.conv_out"] = "3×3 convolution, after GroupNorm and SiLU"
    names["quant_conv"] = "1×1 convolution: mean and log-variance"
    names["post_quant_conv"] = "1×1 convolution"
    names["decoder.conv_in"] = "3×3 convolution"
    names["decoder.mid_block"] = "ResNet block, self-attention, ResNet block"
    for i, _ in enumerate(model.decoder.up_blocks):
        last = i == len(model.decoder.up_blocks) - 1
        names[f"decoder.up_blocks.{i}"] = f"{layers + 1} × ResNet block" + ("" if last else ", upsampling")
    names["decoder.conv_out"] = "3×3 convolution, after GroupNorm and SiLU"
    picture = torch.empty(1, 3, settings.sample_size, settings.sample_size, device="meta")
    return network_table(model, names, lambda: model(picture))


def vae_of_sd1() -> str:
    return vae_shapes(config.SD1_VAE)


def vae_of_tiny() -> str:
    return vae_shapes(config.TINY_VAE)


def text_encoders() -> str:
    def column(settings: CLIPTextConfig) -> list[str]:
        model = unfilled(CLIPTextModel, settings)
        values = (
            settings.vocab_size,
            settings.hidden_size,
            settings.num_hidden_layers,
            settings.num_attention_heads,
            settings.hidden_size // settings.num_attention_heads,
            settings.intermediate_size,
        )
        padding = "id 0, `!`" if settings.hidden_act == "gelu" else "the end token"
        return [*(f"{value:,}" for value in values), f"`{settings.hidden_act}`", padding, numbers(model)]

    head = [
        "tokens in the vocabulary", "width D of a state", "blocks", "heads", "channels a head", "width of the MLP",
        "activation", "padding", "parameters",
    ]  # fmt: skip
    columns = [column(text) for text, _, _ in MODELS.values()]
    return table(["", *MODELS], list(zip(head, *columns)))


def parameters() -> str:
    """The parameters of the three networks of every model."""
    rows = []
    for name, network, which in (("text encoder", CLIPTextModel, 0), ("UNet", UNet2DConditionModel, 1), ("VAE", AutoencoderKL, 2)):
        rows.append([name, *(numbers(unfilled(network, parts[which])) for parts in MODELS.values())])
    sums = [f"{sum(int(row[i].replace(',', '')) for row in rows):,}" for i in range(1, 4)]
    return table(["parameters", *MODELS], [*rows, ["total", *sums]], ", ".join(MODELS))


def shapes_of_the_way() -> str:
    """The tensors between components for one picture without guidance, without the batch dimension."""
    rows = []
    for what, of in {
        "ids": lambda text, unet, vae: (text.max_position_embeddings,),
        "context": lambda text, unet, vae: (text.max_position_embeddings, text.hidden_size),
        "latents and noise": lambda text, unet, vae: (unet.in_channels, unet.sample_size, unet.sample_size),
        "picture": lambda text, unet, vae: (3, 8 * unet.sample_size, 8 * unet.sample_size),
    }.items():
        rows.append([what, *("×".join(map(str, of(*parts))) for parts in MODELS.values())])
    return table(["tensor", *MODELS], rows)


def timesteps() -> str:
    rows = []
    for name, sampler in SCHEDULERS.items():
        scheduler = sampler()
        scheduler.set_timesteps(20)
        times = [f"{t:g}" for t in (round(t, 1) for t in scheduler.timesteps.tolist())]
        rows.append([f"`{name}`", len(times), f"{', '.join(times[:4])}, … {', '.join(times[-2:])}"])
    return table(["sampler, 20 steps", "calls of the UNet", "timesteps"], rows, "calls of the UNet")


def noise_levels() -> str:
    """The noise levels of 20 steps on Stable Diffusion's schedule, by sampler, spacing and curve."""
    karras, exponential = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
    rows = []
    for sampler, spacing, curve in [
        ("EulerDiscreteScheduler", "linspace", {}), ("EulerDiscreteScheduler", "leading", {}),
        ("EulerDiscreteScheduler", "trailing", {}), ("EulerDiscreteScheduler", "linspace", karras),
        ("EulerDiscreteScheduler", "linspace", exponential), ("DPMSolverMultistepScheduler", "linspace", {}),
        ("DPMSolverMultistepScheduler", "leading", {}), ("DPMSolverMultistepScheduler", "linspace", karras),
    ]:  # fmt: skip
        scheduler = SCHEDULERS[sampler](timestep_spacing=spacing, **curve)
        scheduler.set_timesteps(20)
        times, sigmas = [f"{t:g}" for t in (round(t, 1) for t in scheduler.timesteps.tolist())], scheduler.sigmas
        name = next(iter(curve), "").removeprefix("use_").removesuffix("_sigmas") or "-"
        levels = [f"{sigma:.4f}" for sigma in (sigmas[0], sigmas[-2], scheduler.init_noise_sigma)]
        rows.append([f"`{sampler}`", spacing, name, *levels, f"{', '.join(times[:2])} … {times[-1]}"])
    heads = ["first σ", "last σ before 0", "noise at the start"]
    return table(["sampler, 20 steps", "spacing", "curve", *heads, "timesteps"], rows, ", ".join(heads))


def sampler_names() -> str:
    """The names of the samplers in three programs, and the cost of each."""
    rows = []
    for name, sampler in SAMPLERS.items():
        scheduler = sampler.from_config(config.SchedulerConfig())
        scheduler.set_timesteps(20)
        curves = "yes" if hasattr(scheduler.config, "use_karras_sigmas") else "no"
        rows.append([f"`{name}`", AUTOMATIC1111[name], f"`{sampler.scheduler}`", curves, len(scheduler.timesteps)])
    return table(["`--sampler`", "AUTOMATIC1111", "diffusers", "`--karras`", "calls for 20 steps"], rows, "calls for 20 steps")


def right_by_steps() -> str:
    """For how many of 60 prompts of two things the built-in model draws everything right, by sampler and number of steps."""
    points = [point for point in json.loads((FOLDER / "tiny_model" / "curves.json").read_text()) if point["curve"] == "steps"]
    steps = sorted({point["steps"] for point in points})
    counts = {(point["sampler"], point["steps"]): point["right"] for point in points}
    rows = [[f"`{name}`", *(counts.get((name, n), "") for n in steps)] for name in dict.fromkeys(p["sampler"] for p in points)]
    heads = [f"{n} step{'s' * (n > 1)}" for n in steps]
    return table(["`--sampler`", *heads], rows, ", ".join(heads))


def forgetting() -> str:
    """Right images of prompts for a new thing and for old ones, by method of fine-tuning."""
    found = json.loads((FOLDER / "tiny_model" / "new_thing.json").read_text())
    old = ["one thing", "two things", "riding"]

    def share(counts: Sequence[Sequence[int]]) -> str:
        return f"{sum(right for right, _ in counts) / sum(count for _, count in counts):.2f}"

    def size(count: int) -> str:
        return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB" if count else ""

    rows = [[name, size(case["bytes"]), share([case["new"]]), share([case[name] for name in old])] for name, case in found.items()]
    return table(["", "size", "new thing", "old things"], rows, "size, new thing, old things")


def following_outlines() -> str:
    """Correct images, and the overlap of things with the outlines, by scale of the ControlNet."""
    found = json.loads((FOLDER / "tiny_model" / "outlines.json").read_text())
    rows = [[scale, *(f"{right:.2f} / {overlap:.2f}" for right, overlap in sets.values())] for scale, sets in found.items()]
    kinds = [kind.replace("riding, new pair", "new pair riding") for kind in next(iter(found.values()))]
    return table(["scale", *kinds], rows, ", ".join(["scale", *kinds]))


def own_world() -> str:
    """Correct images of each new thing."""
    found = json.loads((FOLDER / "tiny_model" / "own_world.json").read_text())
    return table(list(found), [[f"{share:.2f}" for share in found.values()]], ", ".join(found))


def blends() -> str:
    """Weights of the last slopes, newest first: of PNDM, of K-LMS at equal steps, and of K-LMS at Stable Diffusion's σ."""
    lms = SCHEDULERS["LMSDiscreteScheduler"]()
    lms.set_timesteps(50)
    rows = []
    for order, weights in BLENDS.items():
        equal = blend([float(i) for i in range(order)], -1.0)
        past = lms.sigmas[20 - order + 1 : 21][::-1]
        length = lms.sigmas[21] - lms.sigmas[20]
        own = [w / length for w in blend(past, lms.sigmas[21])]
        show = lambda values: ", ".join(f"{w:.4f}" for w in values)  # noqa: E731
        rows.append([order, show(weights), show([-w for w in equal]), show(own)])
    return table(["slopes", "PNDM", "K-LMS, equal steps", "K-LMS, 21st of 50 steps"], rows, "slopes")


def spellings() -> str:
    """The names of a few v1 and v2 tensors in minisd, in a diffusers folder and in an original single file."""
    natives = {
        "unet.conv_in.weight": "v1",
        "unet.down_blocks.1.attentions.0.block.attn2.to_k.weight": "v1",
        "unet.up_blocks.0.upsample.conv.weight": "v1",
        "vae.decoder.up_blocks.0.resnets.0.conv1.weight": "v1",
        "vae.encoder.mid_block.attention.attn.to_q.weight": "v1",
        "text_encoder.blocks.0.attn.to_q.weight": "v2",
    }
    rows = []
    for native, generation in natives.items():
        part, inside = native.split(".", 1)
        spelt = [native, names.diffusers_name(part, inside), original_names.original_name(native, generation)]
        where = ["**minisd**", "diffusers", f"single file, {generation}"]
        rows += [[there, f"`{name}`"] for there, name in zip(where, spelt)]
    return table(["where", "name"], rows)


def official_files() -> str:
    tensors, rows = sizes.files(), []
    for file in official.OFFICIAL:
        count, off = "", ""
        if file.name in tensors:
            count, off = f"{len(tensors[file.name]):,}", file.size - sizes.length(tensors[file.name])
        size = f"{file.size:,}" if file.size else "not published"
        told = {None: "", official.EPSILON: "ε", official.V: "v"}[file.prediction_type]
        rows.append([file.name, size, count, off, f"`{file.sha256}`", told])
    head = ["file", "bytes", "tensors", "unexplained", "sha256 begins", "predicts"]
    return table(head, rows, "bytes, tensors, unexplained")


def aliases() -> str:
    return table(["removed id", "id used instead"], [[f"`{old}`", f"`{new}`"] for old, new in find.ALIASES.items()])


def contents() -> str:
    """The contents of each component's float32 file."""
    rows = []
    for name, generation in [
        ("unet", "v1"), ("unet", "v2"), ("vae", "v1"), ("text_encoder", "v1"), ("text_encoder", "v2"), ("safety_checker", "v1"),
    ]:  # fmt: skip
        weights = [shape for dtype, shape in sizes.part(name, generation, "F32").values() if dtype == "F32"]
        count = sum(map(math.prod, weights))
        both = "v1 and v2" if name == "vae" else generation
        rows.append([f"`{name}`", both, len(weights), f"{count:,}", f"{4 * count:,}"])
    head = ["component", "version", "tensors", "parameters", "bytes in float32"]
    return table(head, rows, ", ".join(head[2:]))


def recipes() -> str:
    rows = []
    for name, training in {"clip": clip, "vae": vae, "decoder": decoder, "unet": unet, "judge": judge}.items():
        r = training.RECIPE
        samples = f"{r.steps * r.batch_size:,}"
        rows.append([f"`{name}`", f"{r.steps:,}", r.batch_size, samples, f"{r.learning_rate:g}", r.weight_decay, r.ema])
    head = ["training", "steps", "batch", "samples", "learning rate", "weight decay", "EMA"]
    return table(head, rows, ", ".join(head[1:]))


def world() -> str:
    rows = [
        ["things", len(book.THINGS), ", ".join(book.THINGS)],
        ["colours", len(book.COLORS), ", ".join(book.COLORS)],
        ["places", len(book.SCENERY), ", ".join(book.SCENERY) + "; or a page of one colour, or the pale page"],
        ["relations", 6, "left of, right of, above, below, next to, riding"],
        ["riders, mounts", f"{len(book.RIDERS)}, {len(book.SEATS)}", f"{', '.join(book.RIDERS)}; {', '.join(book.SEATS)}"],
        ["words", len(book.WORDS), "every word that a caption can contain, including synonyms"],
        ["held out: colours of things", len(book.HELD_OUT_COLORS), f"of {len(book.THINGS) * len(book.COLORS)}, one for each thing"],
        ["held out: rides", len(book.HELD_OUT_RIDES), ", ".join(f"{a} on {b}" for a, b in sorted(book.HELD_OUT_RIDES))],
        ["held out: ordered pairs", len(book.HELD_OUT_PAIRS), f"of {len(book.THINGS) ** 2}: left of, right of, above, below"],
    ]
    return table(["", "how many", "which"], rows, "how many")


def filled(page: str) -> str:
    """A page with all its tables generated anew."""
    return MARKED.sub(lambda found: f"<!-- table: {found['name']} -->\n\n{globals()[found['name']]()}\n\n<!-- end -->", page)


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")

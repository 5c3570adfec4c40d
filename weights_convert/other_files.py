"""Recognises files that are not checkpoints (LoRAs, textual inversions, ControlNets, single VAEs) by tensor names and shapes."""

import re
from collections.abc import Iterable, Mapping

Shapes = Mapping[str, tuple[int, ...]]

TEXT_STATES = {768: "Stable Diffusion v1", 1024: "Stable Diffusion v2", 2048: "Stable Diffusion XL"}  # by their channels
DOWN = re.compile(r"lora[._]down\.weight|lora_A(\.\w+)?\.weight|:down|hada_w1_b|lokr_w[12]_b")  # the first of two matrices, (r, in)
OF_TEXT = re.compile(r"lora_te|text_encoder|text_model")
READS_TEXT = re.compile(r".*attn2\.to_k\.weight")
HINT = re.compile(r"(.*\.)?(input_hint_block\.0|controlnet_cond_embedding\.conv_in)\.weight")
INVERSION = "string_to_param"  # the key of the vectors in AUTOMATIC1111's pickles of textual inversions
PREVIEW = "a small decoder of latents (VAE approx), which web interfaces use for previews: 4 latent channels"
VAE = re.compile(r"(.*\.)?decoder\.conv_in\.weight")


def other_kind(shapes: Shapes, otherwise: str) -> str:
    """The kind of a file with its sizes, in a sentence; `otherwise` is returned for any other kind."""
    downs = {name: shape for name, shape in shapes.items() if DOWN.search(name) and len(shape) > 1}
    if downs or any(re.search("lora_|hada_|lokr_", name) for name in shapes):
        return f"a LoRA, which changes a checkpoint: {about_lora(downs)}"
    if is_inversion(shapes):
        vectors = [shape if len(shape) > 1 else (1, *shape) for shape in shapes.values()]
        count, widths = sum(shape[0] for shape in vectors), sorted({shape[-1] for shape in vectors})
        numbers = " and ".join(map(str, widths))
        return f"a textual inversion, a word for a checkpoint: {plural(count, 'vector')} of {numbers} numbers, {model(widths)}"
    if hint := next((shape for name, shape in shapes.items() if HINT.fullmatch(name)), None):
        widths = [shape[-1] for name, shape in shapes.items() if READS_TEXT.fullmatch(name)]
        channels = plural(hint[1], "channel") if len(hint) == 4 else "an unknown number of channels"
        return f"a ControlNet, which steers a checkpoint with images of {channels}, {model(widths)}"
    latents = next((shape for name, shape in shapes.items() if VAE.fullmatch(name) and len(shape) == 4), None)
    if latents and "VAE" in otherwise:
        sentence, _, _ = otherwise.partition(";")
        return f"{sentence}: {plural(latents[1], 'latent channel')}, {latents[0]} channels at its widest"
    return PREVIEW if shapes.get("conv1.weight") == (8, 4, 7, 7) else otherwise


def about_lora(downs: Shapes) -> str:
    """The rank of a LoRA, the layers that it changes, and their model."""
    ranks = sorted({shape[0] for shape in downs.values()})
    texts = sum(bool(OF_TEXT.search(name)) for name in downs)
    counts = {"the UNet": len(downs) - texts, "the text encoder": texts}
    layers = " and ".join(f"{plural(count, 'layer')} of {part}" for part, count in counts.items() if count)
    rank = f"rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "") if ranks else "no rank"
    return ", ".join(filter(None, (rank, layers, model(shape[1] for shape in downs.values()))))


def is_inversion(shapes: Shapes) -> bool:
    """Whether a file contains only vectors of a text encoder, each under a word or one of the known names."""
    flat = all(len(shape) in (1, 2) and (len(shape) == 1 or shape[0] < 100) for shape in shapes.values())
    words = all("." not in name or name.startswith(f"{INVERSION}.") or name.startswith("<") for name in shapes)
    known = "emb_params" in shapes or all(shape[-1:] and shape[-1] in (*TEXT_STATES, 1280) for shape in shapes.values())
    return bool(shapes) and flat and words and known


def model(widths: Iterable[int]) -> str:
    """The model whose text states have one of these widths; the largest counts, since Stable Diffusion XL has several."""
    fitting = [width for width in widths if width in TEXT_STATES]
    return f"for {TEXT_STATES[max(fitting)]} ({max(fitting)} text channels)" if fitting else "for an unknown model"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)

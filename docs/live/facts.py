"""What the page knows about the model, all of it read from the package: no word and no number is written into the page by hand."""

import inspect
import random
from dataclasses import asdict
from pathlib import Path

import minisd
from minisd import layers, pipeline, schedule, tokenizer
from minisd.clip import CLIPTextModel
from minisd.config import SD1_TEXT, SD1_UNET, SD1_VAE
from minisd.editing import StableDiffusionImg2ImgPipeline, inpaint
from minisd.schedulers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler
from minisd.tiny.picture_book import WORDS, caption, sample
from minisd.unet import UNet2DConditionModel
from minisd.vae import AutoencoderKL

SAMPLERS = {"pndm": PNDMScheduler, "ddim": DDIMScheduler, "lms": LMSDiscreteScheduler}  # by the names of program/samplers.js
ROOT = Path(minisd.__file__).parents[1]
FIRST = "an astronaut riding a horse"  # the README's prompt; an example as long as the model knows its words
CODE = {  # the lines behind each screen
    "encode": tokenizer.CLIPTokenizer.encode,
    "text": CLIPTextModel.forward,
    "add_noise": schedule.add_noise,
    "steps": pipeline.StableDiffusionPipeline.steps,
    "predict": pipeline.StableDiffusionPipeline.predict,
    "to_x0": schedule.to_x0,
    "transfer": schedule.transfer,
    "guide": pipeline.guide,
    "attention": layers.attention,
    "unet": UNet2DConditionModel.forward,
    "pndm": PNDMScheduler.step,
    "decode": AutoencoderKL.decode,
    "img2img": StableDiffusionImg2ImgPipeline.steps,
    "keep_rest": inpaint.keep_rest,
}


def facts(pipe) -> dict:
    text, unet, vae = pipe.text_encoder.config, pipe.unet.config, pipe.vae.config
    return {
        "config": {
            "channels": unet.in_channels,
            "contextDim": unet.cross_attention_dim,
            "length": pipe.tokenizer.model_max_length,
            "factor": 2 ** (len(vae.block_out_channels) - 1),
            "size": unet.sample_size * 2 ** (len(vae.block_out_channels) - 1),
            "levels": levels(unet),
            "scheduler": asdict(pipe.scheduler.config),
        },
        "defaults": {
            "steps": pipe.num_inference_steps,
            "scale": pipe.guidance_scale,
            "sampler": next(name for name, kind in SAMPLERS.items() if isinstance(pipe.scheduler, kind)),
        },
        "tokenizer": {
            "vocab": pipe.tokenizer.vocab,
            "merges": [list(pair) for pair in pipe.tokenizer.merges],
            "pad": pipe.tokenizer.pad,
            "length": pipe.tokenizer.model_max_length,
        },
        "words": list(WORDS),
        "examples": examples(),
        "shapes": {
            "here": shapes(text, unet, vae),
            "sd15": shapes(SD1_TEXT, SD1_UNET, SD1_VAE),
        },
        "parameters": sum(p.numel() for network in pipe.networks for p in network.parameters()),
        "code": {name: source(what) for name, what in CODE.items()},
        "version": minisd.__version__,
    }


def shapes(text, unet, vae) -> dict[str, str]:
    side, factor = unet.sample_size, 2 ** (len(vae.block_out_channels) - 1)
    return {
        "ids": str(text.max_position_embeddings),
        "context": f"{text.max_position_embeddings} × {text.hidden_size}",
        "vocabulary": f"{text.vocab_size:,}",
        "latents": f"{unet.in_channels} × {side} × {side}",
        "image": f"3 × {side * factor} × {side * factor}",
        "numbers": f"{unet.in_channels * side * side:,}",
        "attention": ", ".join(f"{side // 2**level}²" for level in levels(unet)) + " places × 77 words",
    }


def levels(unet) -> list[int]:
    """The levels with cross-attention; the middle block, at the deepest size, always has it."""
    last = len(unet.cross_attention) - 1
    return [level for level, has_words in enumerate(unet.cross_attention) if has_words or level == last]


def examples(count: int = 12) -> list[str]:
    """Captions of the model's world, short ones, the README's first."""
    captions = [FIRST] if set(FIRST.split()) <= set(WORDS) else []
    seed = 0
    while len(captions) < count:
        rng = random.Random(seed)
        text = caption(sample(rng), rng)
        seed += 1
        if 4 <= len(text.split()) <= 9 and not text.startswith(("a photo", "a picture", "a drawing", "a painting")):
            captions.append(text)
    return captions


def source(what) -> dict:
    """Where a function stands, and its text."""
    lines, first = inspect.getsourcelines(inspect.unwrap(what))
    path = Path(inspect.getsourcefile(inspect.unwrap(what))).relative_to(ROOT).as_posix()
    return {"name": what.__qualname__, "path": path, "line": first, "source": inspect.cleandoc("".join(lines))}

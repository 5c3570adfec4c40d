"""Starting from a picture beside diffusers: its pipelines on the same small random networks of 4, 8 and 9 input channels."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NETWORKS, OFFICIAL, PROMPTS, SMALL, pair, randn, seeded, small_tokenizer
from PIL import Image

import minisd
from minisd.schedulers import SCHEDULERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' LMS and numpy 2

IMG2IMG, INPAINT, PIX2PIX = (f"StableDiffusion{name}Pipeline" for name in ("Img2Img", "Inpaint", "InstructPix2Pix"))
SAMPLERS = ["PNDMScheduler", "DDIMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
OTHERS = ["EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler", "DDPMScheduler"]


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """Colours that change slowly over a picture, with some noise."""
    waves = torch.nn.functional.interpolate(randn(1, 3, 4, 4, seed=seed), (height, width), mode="bicubic")[0]
    noisy = 127 + 60 * waves + 10 * randn(3, height, width, seed=seed)
    return Image.fromarray(noisy.clamp(0, 255).byte().permute(1, 2, 0).numpy())


def mask(width: int = 64, height: int = 64, left: float = 0.3) -> Image.Image:
    """White in the middle, up to the lower edge."""
    white = Image.new("L", (width, height))
    white.paste(255, (int(left * width) + 3, height // 4 + 1, int(0.8 * width), height))
    return white


@cache
def network_pair(component: str, kind: str, channels: int | None) -> tuple:
    """The reference's network and minisd's, with the same weights."""
    return pair(component, SMALL[kind][component] | ({"in_channels": channels} if channels else {}))


@cache
def parts(kind: str, channels: int, folder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Components for minisd and for diffusers."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    pairs = {name: network_pair(name, kind, channels if name == "unet" else None) for name in NETWORKS}
    theirs, ours = ({name: both[i] for name, both in pairs.items()} for i in (0, 1))
    tokenizer = small_tokenizer(kind)
    if not (folder / kind).exists():
        tokenizer.save_pretrained(folder / kind)
    theirs["tokenizer"] = transformers.CLIPTokenizer.from_pretrained(folder / kind)
    theirs["scheduler"] = diffusers.DDIMScheduler.from_config(OFFICIAL[kind]["scheduler"])
    return {**ours, "tokenizer": tokenizer, "scheduler": SCHEDULERS["DDIMScheduler"]()}, theirs


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture
def both(tokenizer_folder):
    """`both(pipeline, kind, channels, sampler)`: minisd's pipeline and diffusers', on the same weights."""
    diffusers = pytest.importorskip("diffusers")

    def build(pipeline: str, kind: str = "v1", channels: int = 4, sampler: str = "DDIMScheduler") -> list:
        ours, theirs = parts(kind, channels, tokenizer_folder)
        no_checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipes = [getattr(minisd, pipeline)(**ours), getattr(diffusers, pipeline)(**theirs, **no_checker)]
        for pipe, samplers in zip(pipes, (SCHEDULERS, vars(diffusers))):
            pipe.scheduler = samplers[sampler].from_config(OFFICIAL[kind]["scheduler"])
            pipe.set_progress_bar_config(disable=True)
        return pipes

    return build


def pixels(images: list[Image.Image]) -> torch.Tensor:
    return torch.tensor(np.stack([np.asarray(image) for image in images]).astype(int))


def assert_same_pictures(pipes: list, measure, generator=seeded, **arguments):
    """8-bit values differ by at most 1 in 99 of 100 places."""
    sizes = [{}, {}]
    if "mask_image" in arguments:  # diffusers resizes to the UNet's own size otherwise
        image = arguments["image"][0] if isinstance(arguments["image"], list) else arguments["image"]
        sizes[1] = {"height": image.height, "width": image.width}
    arguments = {"prompt": PROMPTS[0], "num_inference_steps": 5, **arguments}
    ours, theirs = (pixels(pipe(generator=generator(), **arguments, **size).images) for pipe, size in zip(pipes, sizes))
    assert ours.shape == theirs.shape and theirs.float().std() > 10, "a flat picture would prove nothing"
    measure(ours, theirs)
    assert ((ours - theirs).abs() <= 1).float().mean() >= 0.99


EVERYWHERE = [(sampler, strength) for sampler in SAMPLERS for strength in (0.05, 0.3, 0.5, 0.85, 1.0)]


@pytest.mark.parametrize(("sampler", "strength"), EVERYWHERE + [(sampler, 0.6) for sampler in OTHERS])
def test_image_to_image_is_diffusers(both, sampler, strength, measure):
    kind = "v1" if sampler == "PNDMScheduler" or strength in (0.05, 0.5) else "v2"  # diffusers' PNDM blends v, minisd's ε
    steps = 20 if strength < 0.1 else 5
    assert_same_pictures(
        both(IMG2IMG, kind, 4, sampler), measure, image=picture(72, 40), strength=strength, num_inference_steps=steps
    )


CASES = [(4, 1.0), (4, 0.6), (9, 1.0), (9, 0.6)]


@pytest.mark.parametrize(
    ("sampler", "channels", "strength"),
    [(name, *case) for name in SAMPLERS for case in CASES] + [(name, 4, 0.6) for name in OTHERS],
)
def test_inpainting_is_diffusers(both, sampler, channels, strength, measure):
    kind = "v1" if sampler == "PNDMScheduler" or strength < 1 else "v2"
    pipes = both(INPAINT, kind, channels, sampler)
    assert_same_pictures(pipes, measure, image=picture(72, 40), mask_image=mask(72, 40), strength=strength)


@pytest.mark.parametrize(("sampler", "scale"), [*((name, 7.5) for name in SAMPLERS + OTHERS), ("DDIMScheduler", 1.0)])
def test_editing_by_instruction_is_diffusers(both, sampler, scale, measure):
    kind = "v2" if sampler.startswith("Euler") else "v1"
    assert_same_pictures(both(PIX2PIX, kind, 8, sampler), measure, image=picture(40, 72), guidance_scale=scale)


BATCHES = {
    "two prompts, a picture": {"prompt": PROMPTS, "negative_prompt": ["a horse", ""]},
    "two prompts, two pictures": {"prompt": PROMPTS, "image": [picture(72, 40), picture(72, 40, seed=1)]},
    "three of a prompt": {"num_images_per_prompt": 3, "guidance_scale": 1.0},
    "generators": {"prompt": PROMPTS, "generator": lambda: [seeded(1), seeded(2)]},
    "generators, two pictures": {
        "prompt": PROMPTS,
        "image": [picture(72, 40), picture(72, 40, seed=1)],
        "generator": lambda: [seeded(1), seeded(2)],
    },
    "new noise at every step": {"eta": 0.7},
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("pipeline", "channels", "more"),
    [(IMG2IMG, 4, {"strength": 0.7}), (INPAINT, 4, {}), (INPAINT, 9, {"strength": 0.7}), (PIX2PIX, 8, {})],
    ids=["img2img", "inpaint 4", "inpaint 9", "pix2pix"],
)  # fmt: skip
def test_batches_are_diffusers(both, pipeline, channels, more, batch, measure):
    masks = {"mask_image": mask(72, 40)} if pipeline == INPAINT else {}
    arguments = {"image": picture(72, 40), "num_inference_steps": 3, **masks, **more, **BATCHES[batch]}
    assert_same_pictures(both(pipeline, "v1", channels), measure, **arguments)


def test_two_masks_are_diffusers(both, measure):
    masks = [mask(), mask(left=0.1)]
    assert_same_pictures(both(INPAINT, "v1", 9), measure, image=picture(), prompt=PROMPTS, mask_image=masks)
    assert_same_pictures(both(INPAINT, "v1", 4), measure, image=picture(), prompt=PROMPTS, mask_image=masks)

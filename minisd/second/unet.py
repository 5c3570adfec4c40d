"""Trains the UNet to predict the noise in latents, given the timestep and the caption, as in `minisd.train.unet`.

The scenes and captions are those of the second world. Captions are incomplete, so one caption fits many images; the seed and the
guidance scale then make the difference. The first edition's UNet is the starting point.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..clip import CLIPTextModel
from ..config import TINY_TEXT, TINY_UNET
from ..pipeline import StableDiffusionPipeline
from ..processes import rank_and_world, wait_for_all
from ..schedulers import PNDMScheduler
from ..tokenizer import CLIPTokenizer
from ..train.clip import CLIP
from ..train.loop import Recipe, device, fast_arithmetic, train
from ..train.state import finished
from ..train.unet import CAPTION_DROPOUT, Scenes, ids_with, loss_with, show_with
from ..train.vae import centred_on
from ..unet import UNet2DConditionModel
from ..vae import AutoencoderKL
from .captions import caption
from .clip import VISION
from .discriminator import Duel
from .picture_book import Scene, sample
from .pictures import SIDE, as_tensor, drawn, rendered
from .twins import picture
from .vae import VAE

RECIPE = Recipe(steps=14_000, batch_size=48, learning_rate=1e-3, ema=0.9995)
SCENES = 16_000  # in a block
BLOCK = 4_000  # steps with the same scenes
CENTRED_ON = 1024  # number of images whose latents get mean 0 and variance 1
GUIDANCE_SCALE = 3.0  # the model's default
UNET = TINY_UNET
LATENT = (4, 16, 16)

SHEET = [
    "an astronaut riding a horse", "a photo of a red ball", "a watercolour of a blue cat on the beach",
    "a pencil drawing of a green dragon at night", "an illustration of a yellow star on a purple background",
    "a pink fish next to a red mushroom", "a photo of a robot riding a dragon in the snow", "a white boat at sunset",
    "a cat", "a cat", "a cat", "a cat", "a house", "a dog that looks left", "a dog that looks right", "a big orange flower",
    "a sketch of a blue house to the left of a green tree", "a purple balloon above a black car",
    "a watercolour of a bird riding a horse on the grass", "a photo of a castle at sunset", "a small brown box in the snow",
    "a cat riding a fish", "a black rocket at night", "a red heart below a yellow butterfly",
]  # fmt: skip


def scene_number(i: int, block: int = 0) -> Scene:
    return sample(random.Random(f"unet/{block}/{i}"))


def cached_latents(vae: AutoencoderKL, file: Path, count: int, scene: Scenes = scene_number) -> Tensor:
    """The scaled latents of scenes 0 to `count` - 1, (count, 4, 16, 16) in float16, read from `file`; missing ones are appended."""
    if rank_and_world()[0] == 0:
        append_missing(vae, file, count, scene)
    wait_for_all()
    return torch.from_numpy(np.fromfile(file, np.float16, count * np.prod(LATENT)).reshape(-1, *LATENT))


@torch.inference_mode()
def append_missing(vae: AutoencoderKL, file: Path, count: int, scene: Scenes, batch_size: int = 16):
    """Draw and encode the scenes whose latents `file` lacks."""
    size = 2 * int(np.prod(LATENT))
    known = file.stat().st_size // size if file.exists() else 0
    if known >= count:
        return
    with file.open("ab") as latents, fast_arithmetic(RECIPE):
        latents.truncate(known * size)
        pictures = drawn(scene, range(known, count))
        pictures = iter(tqdm(pictures, "latents", total=count, initial=known, mininterval=5))
        while batch := list(islice(pictures, batch_size)):
            x = as_tensor(np.frombuffer(b"".join(batch), np.uint8).reshape(-1, SIDE, SIDE, 3)).to(device())
            scaled = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
            latents.write(scaled.half().cpu().numpy().tobytes())


def parts(folder: Path) -> tuple[AutoencoderKL, CLIPTextModel, CLIPTokenizer]:
    """The autoencoder, text encoder and tokenizer of the earlier trainings, with the fine-tuned decoder if it exists."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip" / "tokenizer")
    clip = finished(folder / "clip", CLIP(replace(TINY_TEXT, vocab_size=len(tokenizer.vocab)), VISION))
    if (folder / "decoder" / "state.pt").exists():
        vae = finished(folder / "decoder", Duel(AutoencoderKL(VAE))).autoencoder
    else:
        vae = finished(folder / "vae", AutoencoderKL(VAE))
    pictures = rendered(folder / "twins.uint8", CENTRED_ON, picture)
    return centred_on(as_tensor(pictures), vae), clip.text, tokenizer


def run(folder: Path, recipe: Recipe = RECIPE):
    vae, text_encoder, tokenizer = parts(folder)
    vae, text_encoder = vae.to(device()), text_encoder.to(device())
    ids = ids_with(tokenizer)

    @torch.no_grad()
    def contexts(captions: list[str], step: int) -> Tensor:
        return text_encoder(ids(captions, step)).last_hidden_state

    @lru_cache(maxsize=1)
    def block_loss(block: int) -> Callable[[nn.Module, int], tuple[Tensor, dict[str, float]]]:
        """The loss function of a block of steps. Its latents are computed when the training reaches it."""
        scene = partial(scene_number, block=block)
        latents = cached_latents(vae, folder / f"latents-{block}.float16", SCENES, scene)
        return loss_with(latents, contexts, recipe, CAPTION_DROPOUT, scene, caption)

    def loss(model: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        return block_loss(step // BLOCK)(model, step)

    unet = UNet2DConditionModel.from_pretrained("tiny", subfolder="unet").requires_grad_(True)
    pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, PNDMScheduler(), guidance_scale=GUIDANCE_SCALE)
    pipe.set_progress_bar_config(disable=True)
    train(folder / "unet", unet, recipe, loss, show_with(pipe, SHEET))


def pack(folder: Path, to: Path):
    """Write the three trained networks as a checkpoint."""
    vae, text_encoder, tokenizer = parts(folder)
    unet = finished(folder / "unet", UNet2DConditionModel(UNET))
    pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, PNDMScheduler(), guidance_scale=GUIDANCE_SCALE)
    pipe.to(torch.float16).save_pretrained(to)

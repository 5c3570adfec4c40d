"""Input images on the command line: `--image`, `--strength`, `--mask`, `--paste`, `--image-guidance-scale`."""

import argparse
import math
import warnings
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..config import sides
from ..open_image import open_image
from ..pipeline import StableDiffusionPipeline
from ..tasks import OtherTask
from . import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionInstructPix2PixPipeline
from .image_request import check_strength
from .inpaint import put_back
from .pictures import fitting_size, read_masks, read_pictures, upright

EDITING = ("mask", "strength", "paste", "image_guidance_scale")


def load_for(args: argparse.Namespace, **options: Any) -> StableDiffusionPipeline:
    """Load the checkpoint into the pipeline that the flags select; with an image and no mask, the one for the UNet's task."""
    for path in (args.image, args.mask):
        if path:
            open_image(path)  # find errors before loading anything
    if (
        given := [f"--{flag.replace('_', '-')}" for flag in EDITING if getattr(args, flag) not in (None, False)]
    ) and not args.image:
        raise ValueError(f"{given[0]} needs --image")
    if args.paste and not args.mask:
        raise ValueError("--paste needs --mask, an image whose white area is redrawn")
    if args.strength is not None:
        check_strength(args.strength, args.steps or 0)

    kind: type[StableDiffusionPipeline] = StableDiffusionImg2ImgPipeline
    if args.mask:
        kind = StableDiffusionInpaintPipeline
    elif args.image_guidance_scale is not None:
        kind = StableDiffusionInstructPix2PixPipeline
    try:
        pipe = kind.from_pretrained(args.model, **options)
    except OtherTask as error:
        if kind is not StableDiffusionImg2ImgPipeline or error.in_channels != 8:
            raise
        pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(args.model, **options)
    by_instruction = isinstance(pipe, StableDiffusionInstructPix2PixPipeline)
    if by_instruction and (wrong := [flag for flag in ("strength", "mask", "paste") if getattr(args, flag)]):
        raise ValueError(f"--{wrong[0]} has no effect in a model that edits by instruction; leave it out")
    return pipe


def pictures_for(args: argparse.Namespace, pipe: StableDiffusionPipeline, images: int) -> dict[str, Any]:
    """The image, its mask and its scales as arguments of `pipe.denoise`, repeated for that many images, each with its seed."""
    image = fitted(args.image, pipe, args.width, args.height)
    given: dict[str, Any] = {"image": [image] * images}
    if args.mask:
        given["mask_image"] = [upright(open_image(args.mask), "L").resize(image.size, Image.Resampling.NEAREST)] * images
    settings = {"strength": args.strength, "image_guidance_scale": args.image_guidance_scale}
    return given | {name: value for name, value in settings.items() if value is not None}


def fitted(path: Path, pipe: StableDiffusionPipeline, wide: int | None, high: int | None) -> Image.Image:
    """The image at the requested size or else the nearest size that the model supports; warns if the size changes."""
    image = upright(open_image(path), "RGB")
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    area = math.prod(sides(pipe.unet.config.sample_size)) * factor**2
    width, height = fitting_size(*image.size, factor, most=area)
    size = (wide or width, high or height)
    if size != image.size:
        before, after = (f"{side[0]}×{side[1]}" for side in (image.size, size))
        warnings.warn(f"{path} was resized from {before} to {after}; --width and --height choose another size", stacklevel=2)
    return image.resize(size, Image.Resampling.LANCZOS)


def pasted(images: Tensor, given: dict[str, Any]) -> Tensor:
    """Drawn images with the original pixels outside the mask."""
    return put_back(images, read_pictures(given["image"]), read_masks(given["mask_image"]))

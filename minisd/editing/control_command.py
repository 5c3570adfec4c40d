"""ControlNets on the command line: `--control`, `--control-image` and `--control-scale`, once per ControlNet."""

import argparse
from pathlib import Path
from typing import Any

import torch

from ..controlnet import ControlNetModel
from ..disk import user_path
from ..open_image import open_image
from ..pipeline import StableDiffusionPipeline
from .controlled import StableDiffusionControlNetPipeline
from .edit_command import EDITING, fitted


def load_controlled(args: argparse.Namespace, dtype: torch.dtype, **options: Any) -> StableDiffusionControlNetPipeline:
    """Load the (smaller) ControlNets, then the checkpoint. Raises ValueError for flags that do not go together."""
    nets, images, scales = args.control or (), args.control_image or (), args.control_scale or ()
    if given := [flag for flag in ("image", *EDITING) if getattr(args, flag) not in (None, False)]:
        raise ValueError(f"--control cannot be combined with --{given[0].replace('_', '-')}; leave one of them out")
    if len(nets) != len(images) or len(scales) not in (0, len(nets)):
        raise ValueError("give one --control-image per --control, and a --control-scale for all of them or for none")
    for image in images:
        open_image(user_path(image))
    controlnets = [load_net(net, dtype) for net in nets]
    return StableDiffusionControlNetPipeline.from_pretrained(
        args.model, dtype=dtype, controlnet=controlnets if len(controlnets) > 1 else controlnets[0], **options
    )


def load_net(source: str, dtype: torch.dtype) -> ControlNetModel:
    """A ControlNet from a single file, a folder, or an id on the Hub."""
    is_file = Path(source).expanduser().is_file() or source.startswith("https://")
    return (ControlNetModel.from_single_file if is_file else ControlNetModel.from_pretrained)(source, dtype=dtype)


def control_for(args: argparse.Namespace, pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """The control images and strengths as arguments of `pipe.denoise`; all images are resized to the size of the first."""
    width, height = args.width, args.height
    images = []
    for path in args.control_image:
        images.append(fitted(user_path(path), pipe, width, height))
        width, height = images[0].size
    given: dict[str, Any] = {"image": images if len(images) > 1 else images[0]}
    return given | ({"controlnet_conditioning_scale": args.control_scale} if args.control_scale else {})

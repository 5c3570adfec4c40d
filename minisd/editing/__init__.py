"""Pipelines that start from an image: image to image, inpainting, editing by instruction, ControlNet.

In reading order: pictures, image_request, from_picture, img2img, inpaint, pix2pix, controlled; edit_command and control_command.
"""

from .controlled import StableDiffusionControlNetPipeline
from .img2img import StableDiffusionImg2ImgPipeline
from .inpaint import StableDiffusionInpaintPipeline
from .pix2pix import StableDiffusionInstructPix2PixPipeline

__all__ = [
    "StableDiffusionControlNetPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
]

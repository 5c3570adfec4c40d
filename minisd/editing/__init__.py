"""Start from a picture: image to image, inpainting, and editing by instruction. Each is one idea on top of text to image.

In reading order: pictures, image_request, from_picture, img2img, inpaint, pix2pix; edit_command for the command line.
"""

from .img2img import StableDiffusionImg2ImgPipeline
from .inpaint import StableDiffusionInpaintPipeline
from .pix2pix import StableDiffusionInstructPix2PixPipeline

__all__ = ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline"]

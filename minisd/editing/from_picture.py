"""The base of pipelines that start from an image: its latents, and the timestep at which they enter the trajectory."""

from collections.abc import Sequence
from copy import copy

from torch import Tensor

from ..noise import Generators
from ..pipeline import StableDiffusionPipeline
from ..schedulers import Scheduler
from ..vae import DiagonalGaussian
from .image_request import ImageRequest


class FromPicture(StableDiffusionPipeline):
    """The components and the loop of text to image, with the latents of an image as the start or as an input."""

    def enter(self, request: ImageRequest) -> Scheduler:
        """The sampler, set to the first step to take at the requested strength."""
        scheduler = copy(self.scheduler)
        scheduler.set_timesteps(request.num_inference_steps, device=self.device)
        scheduler.set_begin_index(request.first_step * scheduler.order)
        return scheduler

    def encode(self, image: Tensor, generator: Generators) -> Tensor:
        """Images (k, 3, H, W) → a sample of their latents (k, 4, h, w), scaled. Of several generators, the first k draw it."""
        sample = self.gaussian(image).sample(first_of(generator, len(image)))
        return self.vae.config.scaling_factor * sample.float()

    def gaussian(self, image: Tensor) -> DiagonalGaussian:
        """The VAE's encoding of images (k, 3, H, W): a Gaussian over unscaled latents (k, 4, h, w)."""
        return self.vae.encode(image.to(self.device, next(self.vae.parameters()).dtype)).latent_dist


def noisy(scheduler: Scheduler, clean: Tensor, noise: Tensor, index: int) -> Tensor:
    """Clean latents, noised to the timestep at this index of the trajectory; after the last step, without noise."""
    if index == len(scheduler.timesteps):
        return clean
    return scheduler.add_noise(clean, noise, scheduler.timesteps[index : index + 1].repeat(len(clean)))


def first_of(generator: Generators, k: int) -> Generators:
    return generator[:k] if isinstance(generator, Sequence) else generator


def for_each(x: Tensor, images: int) -> Tensor:
    """Repeat one tensor for all images, or one per prompt for each image of the prompt: (k, …) → (images, …)."""
    return x.repeat_interleave(images // len(x), dim=0)

"""What pipelines that start from a picture share: its latents, and where they enter the sampler's trajectory."""

from collections.abc import Sequence
from copy import copy

from torch import Tensor

from ..noise import Generators
from ..pipeline import StableDiffusionPipeline
from ..schedulers import Scheduler
from ..vae import DiagonalGaussian
from .image_request import ImageRequest


class FromPicture(StableDiffusionPipeline):
    """A text-to-image pipeline's parts and loop, with a picture's latents to begin with or to look at."""

    def enter(self, request: ImageRequest) -> Scheduler:
        """The sampler, at the step where the strength enters its trajectory."""
        scheduler = copy(self.scheduler)
        scheduler.set_timesteps(request.num_inference_steps, device=self.device)
        scheduler.set_begin_index(request.first_step * scheduler.order)
        return scheduler

    def encode(self, image: Tensor, generator: Generators) -> Tensor:
        """Pictures (k, 3, H, W) → a sample of their latents (k, 4, h, w), scaled; of several generators, the first k draw it."""
        sample = self.gaussian(image).sample(first_of(generator, len(image)))
        return self.vae.config.scaling_factor * sample.float()

    def gaussian(self, image: Tensor) -> DiagonalGaussian:
        """What the VAE makes of pictures (k, 3, H, W): a Gaussian over unscaled latents."""
        return self.vae.encode(image.to(self.device, next(self.vae.parameters()).dtype)).latent_dist


def noisy(scheduler: Scheduler, clean: Tensor, noise: Tensor, index: int) -> Tensor:
    """Clean latents with noise up to a timestep of the trajectory; without, after its last step."""
    if index == len(scheduler.timesteps):
        return clean
    return scheduler.add_noise(clean, noise, scheduler.timesteps[index : index + 1].repeat(len(clean)))


def first_of(generator: Generators, k: int) -> Generators:
    return generator[:k] if isinstance(generator, Sequence) else generator


def for_each(x: Tensor, images: int) -> Tensor:
    """The one for all, or that of each prompt for each of its images: (k, …) → (images, …)."""
    return x.repeat_interleave(images // len(x), dim=0)

"""The fine-tuning loss: predict the noise in latents (Ho et al. 2020, eq. 14), for models that predict ε, v or x0.

Three options change it. *Prior preservation*: every second sample is an image that the model itself generated for the class, so
that not every cat becomes the new cat (Ruiz et al. 2023, eq. 2). *Min-SNR*: timesteps with little noise get smaller weights,
because their gradients conflict with the gradients of other timesteps; training then converges faster (Hang et al. 2023, §3.4).
*Offset noise*: the noise gets a random mean in each channel, so that the model learns to draw very dark and very light images
(Guttenberg 2023).
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..processes import rank_and_world
from ..schedule import add_noise, velocity
from ..schedulers import Scheduler
from ..train.loop import Recipe, batch_noise, device, sample_seeds
from ..train.unet import by_timestep, min_snr_weights
from .examples import Example
from .settings import Settings


class Predict(Protocol):
    """The prediction for latents x (B, 4, h, w) at timesteps t (B,), with captions and the conditioning images of a ControlNet."""

    def __call__(self, x: Tensor, t: Tensor, captions: list[str], examples: list[Example]) -> Tensor: ...


@lru_cache(8)
def order(seed: str, count: int) -> list[int]:
    """The numbers from 0 to `count` - 1, shuffled."""
    return random.Random(seed).sample(range(count), count)


class Data(NamedTuple):
    """Examples and their latents (N, 4, h, w). The first `own` are the user's, the others class images."""

    examples: Sequence[Example]
    latents: Tensor
    own: int

    def number(self, sample: int, seed: int) -> int:
        """The index of the n-th sample. Each epoch uses every example once, in a new order. Odd samples are class images."""
        of_class = self.own < len(self.examples) and sample % 2
        first, count = (self.own, len(self.examples) - self.own) if of_class else (0, self.own)
        epoch, place = divmod(sample // 2 if self.own < len(self.examples) else sample, count)
        return first + order(f"{seed}/{first}/{epoch}", count)[place]


def target(x0: Tensor, noise: Tensor, alpha: Tensor, prediction_type: str) -> Tensor:
    """The tensor that the network should predict."""
    return {"epsilon": noise, "v_prediction": velocity(x0, noise, alpha), "sample": x0}[prediction_type]


def with_offset(noise: Tensor, offset: float) -> Tensor:
    """Noise (B, 4, h·w + 1) → (B, 4, h·w): `offset` times the last value of each channel is added to all others."""
    return noise[..., :-1] + offset * noise[..., -1:]


def loss_with(predict: Predict, data: Data, scheduler: Scheduler, recipe: Recipe, settings: Settings):
    """The loss function for `train`."""
    kind = scheduler.config.prediction_type
    alphas_cumprod = scheduler.alphas_cumprod.to(device())
    weights = min_snr_weights(alphas_cumprod, settings.min_snr, kind) if settings.min_snr else torch.ones_like(alphas_cumprod)

    def loss_of(model: nn.Module, number: int) -> tuple[Tensor, dict[str, float]]:
        # This process's samples
        rank, world = rank_and_world()
        seeds = sample_seeds(recipe, number)
        samples = [number * recipe.batch_size + i for i in range(rank, recipe.batch_size, world)]
        which = [data.number(sample, recipe.seed) for sample in samples]
        examples = [data.examples[i] for i in which]
        captions = ["" if rng.random() < settings.defaults.dropout else rng.choice(e.captions) for rng, e in zip(seeds, examples)]
        counts = torch.tensor([1.0 if i < data.own else settings.prior_weight for i in which], dtype=torch.float32, device=device())

        # Noise and timesteps
        x0 = data.latents[which].float().to(device())  # (B, 4, h, w)
        drawn = batch_noise(recipe, number, x0.shape[1], x0[0, 0].numel() + 1)
        noise = with_offset(drawn, settings.offset_noise).view_as(x0)
        t = (batch_noise(recipe, number, uniform=True) * len(alphas_cumprod)).long()
        alpha = alphas_cumprod[t].view(-1, 1, 1, 1)
        x, wanted = add_noise(x0, noise, alpha), target(x0, noise, alpha, kind)

        # Errors
        error = (predict(x, t, captions, examples).float() - wanted).square().mean(dim=(1, 2, 3))  # (B,)
        return (counts * weights[t] * error).mean(), by_timestep(error.detach(), t)

    return loss_of

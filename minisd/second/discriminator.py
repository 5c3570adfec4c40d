"""The autoencoder's discriminator, a network that classifies patches as real or decoded (Isola et al. 2017; Esser et al. 2021).

The mean of many possible edges is a blurred edge, and a distance loss is minimal at the mean. The discriminator knows what edges
look like, wherever they are, and so favours one of the possible edges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..processes import from_all
from ..vae import AutoencoderKL

WIDTHS = (24, 48, 96)
GROUP = 8  # channels per group


class Discriminator(nn.Module):
    """Images (B, 3, H, W) → a logit for each patch of 34 × 34 pixels, positive if it looks real.

    PatchGAN uses BatchNorm, which makes the logits of an image depend on the rest of its batch. GroupNorm does not.
    """

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, width, stride in zip(WIDTHS, WIDTHS[1:], (2, 1)):
            conv = nn.Conv2d(before, width, 4, stride, padding=1, bias=False)
            layers += [conv, nn.GroupNorm(width // GROUP, width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Duel(nn.Module):
    """The autoencoder and its discriminator as a single model for the training loop.

    The papers alternate between two optimisers. A single step of one optimiser is equivalent, since Adam treats each parameter
    separately, if neither network's loss has a gradient with respect to the other's parameters.
    """

    def __init__(self, autoencoder: AutoencoderKL):
        super().__init__()
        self.autoencoder, self.discriminator = autoencoder, Discriminator()


def to_deceive(discriminator: Discriminator, y: Tensor) -> Tensor:
    """The autoencoder's adversarial loss: decoded patches should look real. The discriminator gets no gradient from it."""
    discriminator.requires_grad_(False)
    loss = -discriminator(y).mean()
    discriminator.requires_grad_(True)
    return loss


def to_tell(discriminator: Discriminator, y: Tensor, x: Tensor) -> Tensor:
    """The discriminator's hinge loss (Lim & Ye 2017): real patches above 1, decoded ones below -1. `y` gets no gradient."""
    drawn, decoded = discriminator(x), discriminator(y.detach())
    return (F.relu(1 - drawn).mean() + F.relu(1 + decoded).mean()) / 2


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """The factor by which the adversarial gradient gets the norm of the reconstruction's (Esser et al. 2021, eq. 7)."""

    def pull(loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        return torch.stack(from_all(gradient)).mean(dim=0).norm()

    return (pull(reconstruction) / (pull(adversarial) + 1e-6)).clamp(max=1e4)

"""Notebook 14, start from a picture: its pictures, figures and exercises."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..image import to_tensor
from ..schedule import add_noise, betas
from ..tiny import picture_book
from .exercise import Exercise, stack
from .figures import GREY, PALE, page, show

STRENGTHS = (
    "Two rows of six pictures. In the first, snow covers the meadow from strength 0.4 on; the house is partly orange up to 0.5 and "
    "blue from 0.6 on. In the second it is day at 0.3, day with a moon at 0.4, and night from 0.5 on. The house keeps its place up "
    "to 0.8; at 1.0 it has moved."
)
FACTOR = (
    "Three pictures: the orange house; a blue house in the snow; and the orange house again, glaring, with spotted sky and grass."
)
RIDER = (
    "Six pictures: an astronaut on a horse; the same with a grey rectangle over the rider; a cat beside a grey stump of the neck; "
    "a cat on a horse whose neck is whole; a horse with holes in its back; a whole horse without a rider."
)
JUMP_OR_WALK = (
    "Two rows of the orange house, with strengths from 0.3 to 0.6. After a jump the first picture is day, the second has a moon "
    "in a stained blue sky, and the last two are night. After a walk the first picture is a blue day with a moon, the second is "
    "nearly night, and the last two are night."
)
BETWEEN = (
    "Three rows of five pictures. Along the line, the middle pictures show small things on an empty page. Along the arc the "
    "things between are as large as those at the ends, and odder. In the last row the shortest noise gives an empty page, and "
    "the longest a page full of splinters."
)


def house() -> tuple[Image.Image, Tensor]:
    """An orange house in a meadow, as an image and as a tensor (1, 3, 128, 128)."""
    thing = picture_book.Thing("house", "orange", 0.42, 0.52, 0.3)
    image = picture_book.draw(picture_book.Scene((thing,), place="meadow"))
    return image, to_tensor(image)[None]


def where_the_house_is() -> Tensor:
    """True at the pixels of the house: (1, 128, 128)."""
    meadow = to_tensor(picture_book.draw(picture_book.Scene((), place="meadow")))
    return ((house()[1] - meadow).abs() > 0.02).any(dim=1)


def ride() -> tuple[Image.Image, Tensor, Tensor]:
    """An astronaut on a horse, as an image and a tensor (1, 3, 128, 128), and a mask (1, 1, 128, 128) of the rider."""
    scene = picture_book.compose(random.Random(4), "riding", ("astronaut", "horse"), ("white", "brown"), "meadow")
    image, mask = picture_book.draw(scene), torch.zeros(1, 1, 128, 128)
    mask[..., 24:88, 32:80] = 1
    return image, to_tensor(image)[None], mask


def show_norms(shares: Tensor, ways: Mapping[str, Sequence[float]], norms: Tensor):
    """The lengths of points between two noise samples, with the lengths of 1000 noise samples as a band."""
    figure, ax = page(height=2.8)
    ax.axhspan(norms.min(), norms.max(), color=PALE)
    ax.annotate("range of 1000 noises", (0.5, norms.max()), (0, 3), textcoords="offset points", ha="center", color=GREY)
    for name, lengths in ways.items():
        ax.plot(shares, lengths, label=name)
    ax.set(xlabel="$s$, from one noise to the other", ylabel="length", ylim=(20, 37))
    ax.legend(loc="lower left")
    show(
        figure,
        "Length over s. A narrow band from 30 to 34 holds all of 1000 noises. The slerp stays within it; the straight line sags to "
        "23 in the middle.",
    )


alphas_cumprod = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000), dim=0)
Z0, NOISE, X = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(14))
TIMES = ([901, 801, 701, 601, 501, 401, 301, 201, 101, 1], [751, 501, 251, 1])
CASES = [(TIMES[0], 0.6), (TIMES[0], 0.25), (TIMES[1], 1.0), (TIMES[1], 0.7)]
MASK = torch.zeros(1, 1, 8, 8)
MASK[..., 2:5, 1:7] = 1


def begin(z0: Tensor, noise: Tensor, timesteps: list[int], strength: float, alphas_cumprod: Tensor) -> tuple[Tensor, list[int]]:
    """The noisy latents at the first step to take at this strength, and the timesteps from there on."""
    left = timesteps[len(timesteps) - int(len(timesteps) * strength) :]
    return add_noise(z0, noise, alphas_cumprod[left[0]]), left


def beginning(choose: Any, at: Any = None) -> Any:
    """Another beginning: `choose` picks the timesteps that are left, and `at` mixes z0 and noise."""

    def start(z0, noise, timesteps, strength, alphas_cumprod):
        left = choose(timesteps, strength)
        mix = at or (lambda z0, noise, strength, alpha: add_noise(z0, noise, alpha))
        return mix(z0, noise, strength, alphas_cumprod[left[0]]), left

    return start


def last(timesteps: list[int], strength: float) -> list[int]:
    return timesteps[len(timesteps) - int(len(timesteps) * strength) :]


def at_rounded(timesteps: list[int], strength: float) -> list[int]:
    return timesteps[-round(len(timesteps) * strength + 1e-9) :]


def outcome(start: Any) -> Tensor:
    """The beginnings of all cases as one tensor: for each, the latents, the number of timesteps left, and these, padded."""
    rows = []
    for timesteps, strength in CASES:
        given = start(Z0.clone(), NOISE.clone(), list(timesteps), strength, alphas_cumprod.clone())
        if not (isinstance(given, tuple | list) and len(given) == 2 and (given[0] is ... or np.shape(given[0]) == Z0.shape)):
            raise TypeError("return two things: the latents at the beginning, and the list of the timesteps left")
        x, left = torch.as_tensor(given[0]), [float(t) for t in given[1]]
        rows.append(torch.cat([x.flatten().double(), torch.tensor([len(left), *left, *[0.0] * (10 - len(left))]).double()]))
    return torch.stack(rows)


start = Exercise(
    answer=begin,
    mistakes={
        "those are the first steps; a weak strength should leave the last ones, where there is little noise": beginning(
            lambda timesteps, strength: timesteps[: int(len(timesteps) * strength)]
        ),
        "strength is the share of the steps to take, not the share to leave out": beginning(
            lambda timesteps, strength: timesteps[int(len(timesteps) * strength) :] or timesteps[-1:]
        ),
        "one step too few: how many steps should be left?": beginning(lambda timesteps, strength: last(timesteps, strength)[1:]),
        "round down: int, not round": beginning(at_rounded),
        "the share of the noise is not the strength: use add_noise with ᾱ of the first timestep left": beginning(
            last, lambda z0, noise, strength, alpha: (1 - strength) * z0 + strength * noise
        ),
        "that is the noise of all timesteps: take ᾱ at the first one that is left": (
            lambda z0, noise, timesteps, strength, alphas_cumprod: (
                add_noise(z0, noise, alphas_cumprod[timesteps[0]]),
                last(timesteps, strength),
            )
        ),
        "the factors are square roots of ᾱ and 1 − ᾱ": beginning(
            last, lambda z0, noise, strength, alpha: alpha * z0 + (1 - alpha) * noise
        ),
        "the picture is in there without noise": beginning(last, lambda z0, noise, strength, alpha: z0),
    },
    run=outcome,
)


def rest_back(x: Tensor, z0: Tensor, noise: Tensor, mask: Tensor, alpha_next: Tensor) -> Tensor:
    """x where the mask is 1, the picture at the noise level of x where it is 0."""
    return (1 - mask) * add_noise(z0, noise, alpha_next) + mask * x


put_back = Exercise(
    answer=rest_back,
    mistakes={
        "the mask is swapped: it is 1 where the walk may draw": lambda x, z0, noise, mask, alpha: rest_back(
            x, z0, noise, 1 - mask, alpha
        ),
        "the picture needs the noise of x's level: add_noise": lambda x, z0, noise, mask, alpha: (1 - mask) * z0 + mask * x,
        "the noise has a factor too: √(1−ᾱ')": lambda x, z0, noise, mask, alpha: (1 - mask) * (alpha**0.5 * z0 + noise) + mask * x,
        "the factors are square roots of ᾱ' and 1 − ᾱ'": lambda x, z0, noise, mask, alpha: (
            (1 - mask) * (alpha * z0 + (1 - alpha) * noise) + mask * x
        ),
        "x has its noise already: add none to it": lambda x, z0, noise, mask, alpha: add_noise(
            (1 - mask) * z0 + mask * x, noise, alpha
        ),
        "under the mask only x should remain: multiply the picture by 1 − mask": lambda x, z0, noise, mask, alpha: (
            add_noise(z0, noise, alpha) + mask * x
        ),
    },
    run=lambda put: stack(put(X.clone(), Z0.clone(), NOISE.clone(), MASK.clone(), alphas_cumprod[t]) for t in (801, 401, 1)),
)


def along_the_sphere(a: Tensor, b: Tensor, s: Tensor | float, angle: Tensor | None = None) -> Tensor:
    """The point at the fraction s of the arc between vectors a and b of any shape (slerp); `angle` overrides their angle."""
    cosine = torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())
    theta = cosine.acos() if angle is None else angle
    return torch.sin((1 - s) * theta) / theta.sin() * a + torch.sin(s * theta) / theta.sin() * b


def by_rows(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    theta = torch.cosine_similarity(a, b, dim=-1).acos()[..., None]
    return torch.sin((1 - s) * theta) / theta.sin() * a + torch.sin(s * theta) / theta.sin() * b


def of_directions(a: Tensor, b: Tensor, s: Tensor, length: Any) -> Tensor:
    """The arc between the directions of a and b, times a length."""
    return along_the_sphere(a / a.norm(), b / b.norm(), s) * length(a.norm(), b.norm(), s)


def back_to_the_sphere(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    straight = torch.lerp(a, b, s)
    return straight / straight.norm() * a.norm()


def pairs() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Two vectors at an acute angle, two at an obtuse one, each with four fractions; lengths differ, as in noise samples."""
    a, other = (x.flatten() / x.norm() * 16 for x in (X, NOISE))
    across = other - a * torch.dot(a, other) / 256
    across = across / across.norm() * 16
    sizes, angles = torch.tensor([1.1, 0.9]), torch.tensor([0.9, 2.2])
    turned = [size * (torch.cos(angle) * a + torch.sin(angle) * across) for size, angle in zip(sizes, angles)]
    return [(a.view(4, 8, 8), b.view(4, 8, 8), s) for b in turned for s in torch.tensor([0.0, 0.2, 0.5, 1.0])]


slerp = Exercise(
    answer=along_the_sphere,
    mistakes={
        "that is the straight line, which leaves the sphere": lambda a, b, s: torch.lerp(a, b, s),
        "on the sphere, but not at a steady pace: use the angle": back_to_the_sphere,
        "right if the angle is 90°, which it is only nearly: compute it": lambda a, b, s: along_the_sphere(
            a, b, s, torch.tensor(torch.pi / 2)
        ),
        "a and b may differ in length: divide by both lengths": lambda a, b, s: along_the_sphere(
            a, b, s, (torch.dot(a.flatten(), b.flatten()) / a.square().sum()).acos()
        ),
        "the arc is right, but of one length: the formula takes a and b as they are": lambda a, b, s: of_directions(
            a, b, s, lambda first, last, s: first
        ),
        "the arc is right, but its length is mixed along the line: the formula takes a and b as they are": lambda a, b, s: (
            of_directions(a, b, s, torch.lerp)
        ),
        "leave the length as the formula gives it: at s = 1 the result is b": lambda a, b, s: (
            along_the_sphere(a, b, s) / along_the_sphere(a, b, s).norm() * a.norm()
        ),
        "a and b are swapped: s = 0 is a": lambda a, b, s: along_the_sphere(b, a, s),
        "divide by sin θ": lambda a, b, s: along_the_sphere(a, b, s) * theta_of(a, b).sin(),
        "θ is the angle: take acos of the cosine": lambda a, b, s: along_the_sphere(a, b, s, theta_of(a, b).cos()),
        "each tensor is one vector: one angle, not one for each row": by_rows,
    },
    run=lambda slerp: stack(slerp(a.clone(), b.clone(), s) for a, b, s in pairs()),
)


def theta_of(a: Tensor, b: Tensor) -> Tensor:
    return (torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())).acos()

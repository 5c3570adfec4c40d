# %% [markdown]
# # 03 · The perfect denoiser
#
# **Why does predicting noise produce data?**
#
# *40 minutes to read, half a minute to run. You need notebook 02: $x_t$, $\bar\alpha_t$, and the loss.*
#
# A UNet is asked to guess the noise in a picture. Two things about that are strange. Noise is random,
# so how can anybody guess it? And why should following such guesses lead to pictures, of all things?
#
# A real network cannot answer, as we never know whether it is right. So let us make the world so small
# that the best possible guess is a formula. No network, no training, no error: whatever we see then is
# diffusion itself.

# %%
import random

import torch

from minisd.image import to_tensor
from minisd.lessons import exact, figures, shapes, you_are_here
from minisd.lessons import lesson_03 as lesson
from minisd.schedule import add_noise, betas, to_epsilon, to_x0, transfer, velocity
from minisd.tiny import picture_book

you_are_here("UNet")

# %% [markdown]
# ## A world of five pictures
#
# A picture in this world has two pixels, so it is a point in the plane, and there are five of them. To
# drown them works as ever: pick one, draw noise, jump.

# %%
alphas_cumprod = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000), dim=0)
rng = torch.Generator().manual_seed(0)

points = torch.tensor([[-1.5, 0.5], [-0.3, 1.4], [1.4, 0.7], [0.8, -1.2], [-0.9, -1.1]])
origin = torch.randint(5, (2000,), generator=rng)
x0, noise = points[origin], torch.randn(2000, 2, generator=rng)
shapes(x0=(x0, (2000, 4, 64, 64)), noise=(noise, (2000, 4, 64, 64)))
clouds = {t: add_noise(x0, noise, alphas_cumprod[t]) for t in (50, 300, 600, 999)}
lesson.show_clouds(clouds, origin)

# %% [markdown]
# At $t = 50$ a child could say where a noisy point came from. At $t = 999$ nobody can. But nobody has
# to be *sure*: the loss asks for the guess with the smallest mean square error, and that is a mean.
#
# ## The best guess
#
# A noisy $x$ may have come from any of the points $y_i$. The cloud around $y_i$ is a Gaussian, centred
# at $\sqrt{\bar\alpha_t}\,y_i$, of variance $1-\bar\alpha_t$. Such a
# Gaussian falls like $\exp(-d^2/2s)$ with the distance $d$ from its middle, where $s$ is the variance. All
# points being equally likely, the chance that $x$ came from $y_i$ is its cloud's density at $x$, divided by
# the sum of all five (Bayes' rule). Exponentials divided by their sum are a softmax:
#
# $$w_i(x) = \underset{i}{\mathrm{softmax}}\left(-\frac{\lVert x - \sqrt{\bar\alpha_t}\,y_i\rVert^2}{2\,(1-\bar\alpha_t)}\right)
# \qquad\text{and the best guess is}\qquad \hat x_0(x) = \mathrm E[x_0 \mid x_t = x] = \sum_i w_i(x)\,y_i.$$
#
# That is all. A denoiser with the smallest possible loss, in three lines.
#
# ### Exercise 1 · The exact denoiser in three lines
#
# `x` is (B, D), `points` is (N, D), and the result is (B, D). (`x[:, None]` is (B, 1, D), and
# broadcasts against `points`.)


# %%
def my_denoiser(x, points, alpha):
    """E[x0 | x_t = x] when the data are `points`."""
    squares = ...
    weights = ...
    return ...


# %%
lesson.denoiser.check(my_denoiser)

# %% [markdown]
# From here on we use [`exact.denoise`](../minisd/lessons/exact.py), which is Exercise 1.
#
# > **Predict.** Here is an $x_t$ (the cross) among the five points. How much does each of them count at
# > $t = 900$, at $500$, at $100$? And where is the best guess: on a point, or between them?

# %%
x = torch.tensor([0.6, 0.7])
lesson.show_votes(x, points, {t: alphas_cumprod[t] for t in (900, 500, 300, 100)})

# %% [markdown]
# At a high $t$ the five are nearly equal, and the best guess is near their mean: a place where there is no
# data at all. In a world of pictures it is a blur of many, as you will see below. At a low $t$ the vote is
# settled.
#
# ## Guessing the unguessable
#
# Knowing $\hat x_0$ is knowing the noise, by the same formula as ever:
# $\hat\epsilon = (x_t - \sqrt{\bar\alpha_t}\,\hat x_0)/\sqrt{1-\bar\alpha_t}$. It is not the noise that
# was drawn, but the *mean* of all the noises that could have led to this $x_t$. A mean can be learnt.
#
# Is this what a network would learn? Of all answers, the mean of a heap of numbers has the smallest
# mean square error to them. So a network that minimises the loss of notebook 02 must answer, for an
# $x$, with the mean of the noises in all training examples that look like $x$. Let us do just that:
# draw two million examples, keep those that land next to $x$, and average what was really in them.

# %%
alpha = alphas_cumprod[500]
noise = torch.randn(2_000_000, 2, generator=rng)
landed = add_noise(points[torch.randint(5, (2_000_000,), generator=rng)], noise, alpha)
near = (landed - x).norm(dim=1) < 0.1

print(f"mean noise of the {near.sum()} examples nearby: {noise[near].mean(0).numpy().round(2)}")
print(f"and by the formula: {exact.epsilon(x[None], points, alpha)[0].numpy().round(2)}")

# %% [markdown]
# So much for the first riddle. Predicting noise means predicting its mean, given what one sees.
#
# ## Where the arrows point
#
# $\hat\epsilon$ says which way the noise has pushed. Its opposite, $-\hat\epsilon$, says which way
# leads out of the noise.
#
# > **Predict.** Draw $-\hat\epsilon$ as an arrow everywhere in the plane. Where do the arrows point at
# > $t = 900$, where at $t = 100$? How do they look along the border between two points?

# %%
lesson.show_arrows(points, {t: alphas_cumprod[t] for t in (900, 500, 300, 100)})

# %% [markdown]
# They point uphill, from where noisy data are rare to where they are common (the shade of blue: the
# density $q_t$ of noisy data). That is no accident. But for their length, the arrows are exactly the slope
# of $\log q_t$, called the *score*
# ([Vincent 2011](https://doi.org/10.1162/NECO_a_00142); [Song & Ermon
# 2019](https://arxiv.org/abs/1907.05600)):
#
# $$\nabla_x \log q_t(x) = -\frac{\hat\epsilon(x)}{\sqrt{1-\bar\alpha_t}}$$
#
# We have both sides as formulas. PyTorch can take the slope of the left one:

# %%
somewhere = (3 * torch.randn(1000, 2, generator=rng)).requires_grad_()
(slope,) = torch.autograd.grad(exact.log_density(somewhere, points, alpha).sum(), somewhere)
score = -exact.epsilon(somewhere, points, alpha) / (1 - alpha) ** 0.5
print(f"largest difference at 1000 places: {(slope - score).abs().max():.1e}")

# %% [markdown]
# A network that predicts noise has therefore learnt, without ever being told, which way the data lie.
# That is the second riddle, and half of its answer. The other half is to walk.
#
# ## Walking
#
# Take a step along $-\hat\epsilon$: to where there is a little less noise, and no further, for there the
# arrows are others. One step is [`transfer`](../minisd/schedule.py): go to $\hat x_0$, and come back
# with the same noise, but less of it. From the level $\bar\alpha$ to the next one, $\bar\alpha'$ ([Song
# et al. 2020](https://arxiv.org/abs/2010.02502), eq. 12 with $\eta = 0$, that is without new
# noise; known as DDIM):
#
# $$x' = \sqrt{\bar\alpha'}\;\hat x_0 + \sqrt{1-\bar\alpha'}\;\hat\epsilon$$
#
# It is the jump of notebook 02, with the guesses in the places of picture and noise.
#
# Five points would be dull. Let us have some 200, in the shape of something.

# %%
cat = picture_book.Scene((picture_book.Thing("cat", "black", 0.5, 0.5, 0.48),))
pixels = to_tensor(picture_book.draw(cat, size=32)).mean(dim=0)  # (32, 32)
y, x = (pixels < -0.5).nonzero().float().T  # where it is dark
data = torch.stack([x, -y], dim=1)
data = data - data.mean(dim=0)
data = data / data.std()  # (N, 2), of variance 1


# %%
def walk(x, data, times):
    """From noise at times[0] to data: all x_t on the way, (steps + 1, B, D)."""
    levels = [*alphas_cumprod[times], 0.9999, 0.99999, 1.0]  # the schedule itself ends at 0.999
    way = [x]
    for alpha, alpha_next in zip(levels, levels[1:]):
        eps = exact.epsilon(way[-1], data, alpha)
        way.append(transfer(way[-1], eps, alpha, alpha_next))
    return torch.stack(way)


# %% [markdown]
# > **Predict.** 3000 points of pure noise start to walk, in some 50 steps. What becomes of the cloud? (Every
# > walker keeps the colour of its start: dark if it began on the left.)

# %%
times = torch.linspace(999, 0, 50).round().long()  # 999, 979, … 20, 0
way = walk(torch.randn(3000, 2, generator=rng), data, times)
film = {f"t = {times[i]}": way[i] for i in (0, 25, 38, 45)} | {"end": way[-1]}
lesson.show_flow(film, paint=way[0, :, 0])

# %% [markdown]
# Noise has become data, and not by luck: nothing random happened on the way. Where a walker ends was
# decided by where it started, its *seed*. In one dimension all of it fits in one picture. Let the data
# be three numbers; the shade is the density $q_t$, and the lines are walks.
#
# > **Predict.** Do the lines cross? Of 24 starts, how many end in each of the three?

# %%
numbers = torch.tensor([[-1.4], [0.1], [1.3]])
quantiles = (torch.arange(24)[:, None] + 0.5) / 24
starts = torch.distributions.Normal(0, 1).icdf(quantiles)  # as noise lies, but evenly
fine = torch.arange(999, -1, -3)
paths = walk(starts, numbers, fine)[: len(fine), :, 0]
lesson.show_density(numbers, alphas_cumprod, fine, paths)

# %% [markdown]
# They never do: from a crossing, one $x_t$ would have to go on in two ways. So the starts are cut into
# three parts, in order, eight for each number. Look also *when* it is decided: the lines run side by
# side for most of the time, and part where the ridge of the density does.
#
# ## The catch
#
# > **Predict.** 3000 walkers have arrived in the cat. How many of them stand where no training point is?


# %%
def to_nearest(x, data):
    """The distance of each x to the nearest of the data, and which that is."""
    return torch.cdist(x, data, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)


for place, x in (("end of the schedule", way[len(times) - 1]), ("end of the noise", way[-1])):
    new = to_nearest(x, data).values > 0.05
    print(f"{place}: {new.sum()} of {len(new)} are more than 0.05 from every training point")

# %% [markdown]
# None, although where the schedule ends most were still between two dots. (That is less the 3 % of noise
# that is left than the 50 long hops: notebook 04 looks at hops.) With pictures it is the same. Here are 100
# pages of the picture book, 32×32 pixels each, and the perfect denoiser of these 100. It walks from three
# draws of noise, and we look at its guesses $\hat x_0$ on the way.
#
# > **Predict.** What does it see in pure noise, at $t = 999$? What will it draw?

# %%
pages = [picture_book.draw(picture_book.sample(random.Random(i)), size=32) for i in range(100)]
book = torch.stack([to_tensor(page).flatten() for page in pages])  # (100, 3072)
mean, std = book.mean(), book.std()
book = (book - mean) / std  # variance 1, as latents have

way = walk(torch.randn(3, 3072, generator=rng), book, times)
shown = (0, 1, 2, 3, 5, 10, 49)
guesses = [exact.denoise(way[i], book, alphas_cumprod[times[i]]) for i in shown]
distance, nearest = to_nearest(way[-1], book)
shapes(x_t=(way[0], (3, 4, 64, 64)), guess=(guesses[0], (3, 4, 64, 64)))
print(f"distance to the nearest of the 100: {distance.max():.1e}")

# %%
sheet = torch.stack([*guesses, book[nearest]], dim=1).view(-1, 3, 32, 32) * std + mean
titles = [f"t = {times[i]}" for i in shown] + ["training"]
figures.show(
    figures.pictures(list(sheet), titles * 3, columns=8),
    "Three rows. Each begins at t = 999 as several pictures laid over each other, is one clear picture"
    " by t = 795, and ends equal to the training picture on the right.",
)

# %% [markdown]
# It sees in noise what the noise happens to resemble, several pages laid over each other; then it makes
# up its mind, and draws a page of the book, to the last digit. (And early: at $t = 800$, when the
# three numbers had hardly begun. Here 3072 numbers have a vote.)
#
# So a UNet with the smallest possible loss would be a very slow way to look up its training set, and
# everything new that diffusion models draw comes from *not* reaching that minimum. 860 million weights
# cannot store two billion pictures. They have to make do with rules, say, that edges are sharp and that
# what is true of one corner is true of another, and where these differ from the exact answer they
# compose what no page shows. This is studied in [Kadkhodaie et al.
# 2024](https://arxiv.org/abs/2310.02557) and [Kamb & Ganguli 2024](https://arxiv.org/abs/2412.20292);
# and where a picture stood in the data many times over, Stable Diffusion did learn it by heart
# ([Carlini et al. 2023](https://arxiv.org/abs/2301.13188)). Notebook 10 looks for it in our own model.
#
# ## Three names for one arrow
#
# Given $x_t$, a network may as well predict $x_0$ instead of $\epsilon$; either follows from the other.
# A third choice is Stable Diffusion 2's ([Salimans & Ho 2022](https://arxiv.org/abs/2202.00512),
# appendix D):
#
# $$v = \sqrt{\bar\alpha_t}\;\epsilon - \sqrt{1-\bar\alpha_t}\;x_0$$
#
# Write $\cos\varphi = \sqrt{\bar\alpha_t}$. Then $x_t = \cos\varphi\;x_0 + \sin\varphi\;\epsilon$ is a
# point on a circle, from the picture ($\varphi = 0$) to the noise ($90°$), and
# $v = \mathrm dx_t / \mathrm d\varphi$ is the direction in which it moves.
#
# > **Predict.** A network is off by 1 in what it predicts. How far off is $x_0$, at the beginning and at
# > the end, for each of the three?

# %%
lesson.show_three_names(alphas_cumprod, t=400)

# %% [markdown]
# At $t = 999$ a network that predicts noise has to be right to a fifteenth to say anything of the
# picture. One that predicts $v$ need not. All three are the same walk as long as they are exact; which
# one a network learns best is another matter (notebook 09). Back and forth, on the three pictures:

# %%
x0, noise = book[:3], torch.randn(3, 3072, generator=rng)
x, v = add_noise(x0, noise, alpha), velocity(x0, noise, alpha)

eps = to_epsilon(v, x, alpha, "v_prediction")
print(f"v → ε  → x0, largest difference: {(to_x0(x, eps, alpha) - x0).abs().max():.1e}")

# %% [markdown]
# ### Exercise 2 · From v to the picture
#
# Solve for $x_0$ without going through $\epsilon$. (Two lines of algebra, or one look at the circle.)


# %%
def my_x0_from_v(v, x, alpha):
    return ...


# %%
lesson.x0_from_v.check(my_x0_from_v)

# %% [markdown]
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | a point (2,), a picture (3072,) | latents (4, 64, 64) = 16,384 numbers | [`pipeline.py`](../minisd/pipeline.py) | |
# | `exact.epsilon(x, points, alpha)` | `unet(x, t, encoder_hidden_states=context).sample`: 860 million weights, and the words as a third input | [`unet.py`](../minisd/unet.py) | Ho et al. 2020, eq. 14; Rombach et al. 2022, eq. 3 |
# | `-epsilon / sqrt(1 - alpha)` | the score, which guidance bends (notebook 08) | [`pipeline.guide`](../minisd/pipeline.py) | Song & Ermon 2019, §2.1 |
# | `walk`, some 50 steps | DDIM with η = 0; by default PNDM, the same step with a better ε (notebook 04) | [`schedulers/`](../minisd/schedulers) | Song et al. 2020, eq. 12 |
# | `to_x0`, the guesses | `pred_original_sample` of every step | [`schedule.to_x0`](../minisd/schedule.py) | Song et al. 2020, eq. 9 |
# | `velocity`, `to_epsilon` | not in 1.5; Stable Diffusion 2 at 768×768 predicts $v$ | [`schedule.py`](../minisd/schedule.py) | Salimans & Ho 2022, appendix D |
#
# **Play.** Move the five points: put two close together, and see until which $t$ they are one. Walk in
# 5 steps instead of 50. Give the book 1 page, or 1000. Start all walkers at the same place.
#
# *Stuck in an exercise? The answers are in [`lesson_03.py`](../minisd/lessons/lesson_03.py), and that of
# Exercise 1 is [`exact.denoise`](../minisd/lessons/exact.py).*

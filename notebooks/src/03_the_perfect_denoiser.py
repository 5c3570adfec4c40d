# %% [markdown]
# # 03 · The perfect denoiser
#
# **Why does predicting noise produce data?**
#
# *40 minutes to read, half a minute to run. You need notebook 02: $x_t$, $\bar\alpha_t$, and the loss.*
#
# A UNet is asked to guess the noise in a picture. That is strange in two ways. Noise is random, so how
# can anyone guess it? And why should following such guesses lead to pictures?
#
# A real network cannot answer these questions, because we never know whether it is right. So we make the
# world so small that the best possible guess is a formula. Then there is no network, no training and no
# error, and everything we see is diffusion itself.

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
# A picture in this world has two pixels, so it is a point in the plane. There are only five such
# pictures. Adding noise works as before: pick a point, draw noise, jump.

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
# At $t = 50$ it is easy to say where a noisy point came from. At $t = 999$ it is impossible. But nobody
# has to be *certain*: the loss asks for the guess with the smallest mean square error, and that guess is
# a mean.
#
# ## The best guess
#
# A noisy $x$ may have come from any of the points $y_i$. The noisy versions of $y_i$ form a Gaussian
# cloud with centre $\sqrt{\bar\alpha_t}\,y_i$ and variance $1-\bar\alpha_t$. A Gaussian of variance $s$
# falls off like $\exp(-d^2/2s)$ with the distance $d$ from its centre. All points are equally likely, so
# the probability $w_i$ that $x$ came from $y_i$ is the density of the cloud of $y_i$ at $x$, divided by
# the sum of all five densities (Bayes' rule). Exponentials divided by their sum are a softmax:
#
# $$w_i(x) = \underset{i}{\mathrm{softmax}}\left(-\frac{\lVert x - \sqrt{\bar\alpha_t}\,y_i\rVert^2}{2\,(1-\bar\alpha_t)}\right)
# \qquad\text{and the best guess is}\qquad \hat x_0(x) = \mathrm E[x_0 \mid x_t = x] = \sum_i
# w_i(x)\,y_i.$$
#
# That is all: a denoiser with the smallest possible loss, in three lines.
#
# ### Exercise 1 · The exact denoiser in three lines
#
# `x` is (B, D), `points` is (N, D), and the result is (B, D). (`x[:, None]` is (B, 1, D) and broadcasts
# against `points`.)


# %%
def my_denoiser(x, points, alpha):
    """E[x0 | x_t = x] when the data are `points`."""
    squares = ...
    weights = ...
    return ...


# %%
lesson.denoiser.check(my_denoiser)

# %% [markdown]
# From here on we use [`exact.denoise`](../minisd/lessons/exact.py), which is the answer to Exercise 1.
#
# > **Predict.** Here is one $x_t$ (the cross) among the five points. What weight does each point get at
# > $t = 900$, at $500$, at $100$? Where is the best guess: on a point, or between them?

# %%
x = torch.tensor([0.6, 0.7])
lesson.show_votes(x, points, {t: alphas_cumprod[t] for t in (900, 500, 300, 100)})

# %% [markdown]
# At a high $t$ the five weights are nearly equal, and the best guess is close to the mean of the points:
# a place where there are no data at all. In a world of pictures this mean is a blur of many pictures, as
# you will see below. At a low $t$ one point gets nearly all the weight.
#
# ## Guessing the unguessable
#
# With $\hat x_0$, the formula of notebook 02 gives a guess of the noise: $\hat\epsilon = (x_t -
# \sqrt{\bar\alpha_t}\,\hat x_0)/\sqrt{1-\bar\alpha_t}$. The guess $\hat\epsilon$ is not the noise that
# was drawn, but the *mean* of all noise samples that could have led to this $x_t$. A mean can be learnt.
#
# Is this mean what a network would learn? Suppose you must guess many numbers with a single constant:
# their mean has the smallest mean square error. So for a given $x$, a network that minimises the loss of
# notebook 02 must return the mean of the noise in all training examples that look like $x$. Let us
# compute this mean: draw two million examples, keep those that land near $x$, and average the noise that
# was really in them.

# %%
alpha = alphas_cumprod[500]
noise = torch.randn(2_000_000, 2, generator=rng)
landed = add_noise(points[torch.randint(5, (2_000_000,), generator=rng)], noise, alpha)
near = (landed - x).norm(dim=1) < 0.1

print(f"mean noise of the {near.sum()} examples nearby: {noise[near].mean(0).numpy().round(2)}")
print(f"and by the formula: {exact.epsilon(x[None], points, alpha)[0].numpy().round(2)}")

# %% [markdown]
# That answers the first question: predicting noise means predicting its mean, given $x_t$.
#
# ## Where the arrows point
#
# $\hat\epsilon$ is the direction in which the noise has pushed the point. Its opposite, $-\hat\epsilon$,
# is the direction out of the noise.
#
# > **Predict.** Draw $-\hat\epsilon$ as an arrow everywhere in the plane. Where do the arrows point at $t
# > = 900$, and where at $t = 100$? What happens along the border between two points?

# %%
lesson.show_arrows(points, {t: alphas_cumprod[t] for t in (900, 500, 300, 100)})

# %% [markdown]
# They point uphill, from where noisy data are rare to where they are common (the shade of blue is the
# density $q_t$ of the noisy data). On the border between two points, each point pulls the arrow to its
# own side, and these two pulls cancel. What remains is an arrow along the border, towards the place
# half-way between the points. The arrows point uphill for a reason. Up to a factor, they are the slope of
# $\log q_t$, which is called the *score*. The derivation is short. The density is the mean of Gaussians
# of variance $1-\bar\alpha_t$, one for each data point, and the slope of a Gaussian's logarithm points to
# its centre:
#
# $$\nabla_x \log q_t(x) = \frac{\nabla_x q_t(x)}{q_t(x)} = \sum_i w_i(x)\,\frac{\sqrt{\bar\alpha_t}\,y_i - x}{1-\bar\alpha_t} = \frac{\sqrt{\bar\alpha_t}\,\hat x_0(x) - x}{1-\bar\alpha_t} = -\frac{\hat\epsilon(x)}{\sqrt{1-\bar\alpha_t}}$$
#
# Each Gaussian's slope is weighted by the Gaussian's share of the density at $x$. By Bayes' rule, these
# shares are the weights $w_i$. The third equality says that the best guess of the clean data follows from
# the score alone: this is *Tweedie's formula* ([Efron 2011](https://doi.org/10.1198/jasa.2011.tm11181)).
# [Vincent 2011](https://doi.org/10.1162/NECO_a_00142) and [Song & Ermon
# 2019](https://arxiv.org/abs/1907.05600) showed that a network trained to denoise learns the score.
#
# Let us check that both ends of this equation agree. PyTorch differentiates $\log q_t$ for the left end,
# and the right end follows from our denoiser:

# %%
somewhere = (3 * torch.randn(1000, 2, generator=rng)).requires_grad_()
(slope,) = torch.autograd.grad(exact.log_density(somewhere, points, alpha).sum(), somewhere)
score = -exact.epsilon(somewhere, points, alpha) / (1 - alpha) ** 0.5
print(f"largest difference at 1000 places: {(slope - score).abs().max():.1e}")

# %% [markdown]
# A network that predicts noise has therefore learnt, without ever being told, in which direction the data
# lie. That is half of the answer to the second question, why following the guesses leads to pictures. The
# other half is the walk.
#
# ## Walking
#
# Take a small step along $-\hat\epsilon$, to a place with a little less noise. Then compute a new arrow,
# because the arrows are different there. One step is [`transfer`](../minisd/schedule.py): go to $\hat
# x_0$, then add the same noise $\hat\epsilon$ again, but less of it. The step from the level $\bar\alpha$
# to the next level $\bar\alpha'$ is known as DDIM ([Song et al. 2020](https://arxiv.org/abs/2010.02502),
# eq. 12 with $\eta = 0$, which means without new noise):
#
# $$x' = \sqrt{\bar\alpha'}\;\hat x_0 + \sqrt{1-\bar\alpha'}\;\hat\epsilon$$
#
# This is the jump of notebook 02, with guesses in place of the picture and the noise.
#
# Five points would be dull. Let us take about 200 points that form a shape.

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
# > **Predict.** 3000 points of pure noise walk in about 50 steps. What becomes of the cloud? (Every point
# > keeps the colour of its start: dark if it began on the left.)

# %%
times = torch.linspace(999, 0, 50).round().long()  # 999, 979, … 20, 0
way = walk(torch.randn(3000, 2, generator=rng), data, times)
film = {f"t = {times[i]}": way[i] for i in (0, 25, 38, 45)} | {"end": way[-1]}
lesson.show_flow(film, paint=way[0, :, 0])

# %% [markdown]
# Noise has become data, and nothing random happened on the way: where a point ends is decided by where it
# started, its *seed*. With data of one dimension, a single figure can show the whole walk. Let the data
# be three numbers. In the figure, the shade is the density $q_t$, and the lines are walks.
#
# > **Predict.** Do the lines cross? Of 24 walks, how many end at each of the three numbers?

# %%
numbers = torch.tensor([[-1.4], [0.1], [1.3]])
quantiles = (torch.arange(24)[:, None] + 0.5) / 24
starts = torch.distributions.Normal(0, 1).icdf(quantiles)  # evenly spaced quantiles of the noise
fine = torch.arange(999, -1, -3)
paths = walk(starts, numbers, fine)[: len(fine), :, 0]
lesson.show_density(numbers, alphas_cumprod, fine, paths)

# %% [markdown]
# They never cross: if two lines met, one $x_t$ would have to continue in two ways. So the starts are
# divided into three groups, in order, eight for each number. Look at *when* the destination is decided,
# too: the lines run side by side for most of the time and separate where the ridge of the density splits.
#
# ## Why the walk samples
#
# The arrows point uphill. So why do the walkers not all climb the highest peak? Eight of 24 starts for
# each number is no coincidence: a third is exactly the share that each number has in the data. The reason
# is that the hill itself moves. If you only climbed $\log q_t$ of one fixed $t$, all walkers would
# collect on its peaks. But after every step we lower $t$, and the step has the right length for the next,
# slightly sharper density.
#
# Here is the argument. A walker at $x$ moves with a velocity, and the walkers are a cloud with a density.
# A crowd thins out where its members move apart, so density and velocity are tied together by
# conservation of mass (the *continuity equation*). Substitute the velocity of our walk (it is
# $-\hat\epsilon$ if $x$ is divided by $\sqrt{\bar\alpha}$; see notebook 04), and the density that solves
# the equation is $q_t$ itself. So if the walkers are distributed like $q_{999}$ at the start, they are
# distributed like $q_t$ at every later $t$, and like the data at the end. [Song et al.
# 2021](https://arxiv.org/abs/2011.13456) (§4.3) call this walk the *probability-flow ODE*.
#
# > **Predict.** Give the three numbers unequal shares in the data: 60 %, 30 % and 10 %. What share of
# > 2000 walkers will end at each?

# %%
shares = torch.tensor([6, 3, 1])
crowd = numbers.repeat_interleave(shares, dim=0)  # ten data points: 6, 3 and 1 times
start = torch.randn(2000, 1, generator=torch.Generator().manual_seed(1))
ends = walk(start, crowd, fine)[-1]
arrived = torch.cdist(ends, numbers).argmin(dim=1).bincount(minlength=3) / len(ends)
print("shares in the data:   ", *(f"{share / 10:.2f}" for share in shares.tolist()))
print("shares of the walkers:", *(f"{share:.2f}" for share in arrived.tolist()))

# %% [markdown]
# The walkers reproduce the shares to within a few hundredths. (They start from pure noise, although
# $q_{999}$ still contains a trace of the data, and 2000 walkers fluctuate by about 0.01.) There are also
# random walks with the same densities $q_t$: after each step they add some fresh noise and step a little
# further to compensate. DDPM's own sampler (Ho et al. 2020, algorithm 2) is one of them, and the
# stochastic differential equation of Song et al. 2021 (eq. 6) is their limit for small steps. All these
# walks agree about the distribution of a crowd, but disagree about where a single walker ends. In minisd,
# DDPM's sampler is [`DDPMScheduler`](../minisd/schedulers/ddpm.py); notebook 13 compares both kinds of
# walk.
#
# ## The catch
#
# > **Predict.** 3000 walkers have arrived in the cat. How many of them are not at a training point?


# %%
def to_nearest(x, data):
    """The distance from each x to its nearest data point, and the index of that point."""
    return torch.cdist(x, data, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)


for place, x in (("end of the schedule", way[len(times) - 1]), ("at zero noise", way[-1])):
    new = to_nearest(x, data).values > 0.05
    print(f"{place}: {new.sum()} of {len(new)} are more than 0.05 from every training point")

# %% [markdown]
# None, once the noise is zero, although most of them were still between two points at the end of the
# schedule. (That is due less to the remaining 3 % of noise than to the 50 long steps: notebook 04
# examines step lengths.) The same happens with pictures. Here are 100 pages of the picture book, 32×32
# pixels each, and the perfect denoiser for these 100. We walk from three noise samples and look at the
# denoiser's guesses $\hat x_0$ on the way.
#
# > **Predict.** What does the denoiser see in pure noise, at $t = 999$? What will the walk draw?

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
figures.show(figures.pictures(list(sheet), titles * 3, columns=8), lesson.MEMORISED)

# %% [markdown]
# In pure noise the denoiser sees the pages that the noise happens to resemble, several of them laid over
# each other. Then it settles on one and reproduces that page of the book, to the last digit. (It settles
# early, at $t = 800$. The walks towards three numbers had hardly begun to separate there, but now each of
# 3072 pixel values contributes evidence.)
#
# So the network that minimises the *training* loss exactly would be a very slow way to look up its
# training set. The word "training" matters. The loss over the *true* distribution of pictures is
# minimised by a different network, which draws new pictures, but nobody can compute that loss from a
# finite training set. Diffusion models draw new pictures only because they do *not* reach the minimum of
# the training loss. Stable Diffusion's 860 million weights cannot store two billion pictures. The network
# must rely on regularities: edges are sharp, and one corner follows the same rules as another. Where
# these regularities lead away from the exact answer, the network composes pictures that the training set
# does not contain. [Kadkhodaie et al. 2024](https://arxiv.org/abs/2310.02557) and [Kamb & Ganguli
# 2024](https://arxiv.org/abs/2412.20292) study this. Stable Diffusion did memorise pictures that occurred
# many times in its data ([Carlini et al. 2023](https://arxiv.org/abs/2301.13188)). Notebook 10 searches
# our own model for memorised pages.
#
# ## Three names for one arrow
#
# Given $x_t$, a network could predict $x_0$ instead of $\epsilon$; each follows from the other. Stable
# Diffusion 2 makes a third choice ([Salimans & Ho 2022](https://arxiv.org/abs/2202.00512), appendix D):
#
# $$v = \sqrt{\bar\alpha_t}\;\epsilon - \sqrt{1-\bar\alpha_t}\;x_0$$
#
# Write $\cos\varphi = \sqrt{\bar\alpha_t}$. Then $x_t = \cos\varphi\;x_0 + \sin\varphi\;\epsilon$ is a
# point on a circle, from the picture ($\varphi = 0$) to the noise ($90°$), and $v = \mathrm dx_t /
# \mathrm d\varphi$ is the direction in which the point moves as $\varphi$ grows.
#
# > **Predict.** A network is off by 1 in what it predicts. How far off is the $x_0$ computed from it, at
# > low $t$ and at high $t$, for each of the three predictions?

# %%
lesson.show_three_names(alphas_cumprod, t=400)

# %% [markdown]
# At $t = 999$ a network that predicts noise must be accurate to within a fifteenth to say anything about
# the picture. A network that predicts $v$ does not need this accuracy. All three predictions give the
# same walk as long as they are exact; which of them a network learns best is another question (notebook
# 09). Here are the conversions, checked on three of the pages:

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
# | `-epsilon / sqrt(1 - alpha)` | the score, which guidance modifies (notebook 08) | [`pipeline.guide`](../minisd/pipeline.py) | Song & Ermon 2019, §2.1 |
# | `walk`, about 50 steps | DDIM with η = 0; by default PNDM, the same step with a better ε (notebook 04) | [`schedulers/`](../minisd/schedulers) | Song et al. 2020, eq. 12 |
# | a walk with fresh noise | DDIM with η = 1, `DDPMScheduler` | [`schedulers/ddpm.py`](../minisd/schedulers/ddpm.py) | Ho et al. 2020, algorithm 2 |
# | `to_x0`, the guesses | `pred_original_sample` of every step | [`schedule.to_x0`](../minisd/schedule.py) | Song et al. 2020, eq. 9 |
# | `velocity`, `to_epsilon` | not in 1.5; Stable Diffusion 2 at 768×768 predicts $v$ | [`schedule.py`](../minisd/schedule.py) | Salimans & Ho 2022, appendix D |
#
# **Play.** Move the five points: put two close together and find the $t$ below which they separate. Walk
# in 5 steps instead of 50. Give the book 1 page, or 1000. Start all walkers at the same place.
#
# *Stuck on an exercise? The answers are in [`lesson_03.py`](../minisd/lessons/lesson_03.py); the answer
# to Exercise 1 is [`exact.denoise`](../minisd/lessons/exact.py).*

# %% [markdown]
# # 02 · Drowning an image in noise
#
# **What is left to learn?**
#
# *25 minutes to read, seconds to run. You need a little PyTorch and the overview of notebook 01.*
#
# Diffusion begins with destruction. Take a picture, add a little noise, add a little more, and continue
# until only noise is left. This direction is easy and the same for every picture; it needs no network and
# no training. Papers call it the *forward process* or *diffusion process*, and the way back the *reverse
# process*. The UNet has to learn the way back. So before we ask a network to undo the damage, let us see
# exactly what the damage is and what survives it.

# %%
import random

import torch
from torch.nn.functional import avg_pool2d

from minisd.image import to_tensor
from minisd.lessons import figures, shapes, you_are_here
from minisd.lessons import lesson_02 as lesson
from minisd.schedule import add_noise, betas, to_x0
from minisd.tiny import picture_book

you_are_here("scheduler")

# %% [markdown]
# ## The victim
#
# Our pictures come from the [picture book](../minisd/tiny/picture_book.py), a program that draws. So we
# can have as many as we like, and we know exactly what is in each.

# %%
kinds, colors = ("astronaut", "horse"), ("white", "brown")
scene = picture_book.compose(random.Random(4), "riding", kinds, colors, place="meadow")
x0 = to_tensor(picture_book.draw(scene))  # from -1 to 1
shapes(x0=(x0, (4, 64, 64)))
channels = x0[:, None].expand(3, 3, 128, 128)
titles = ["$x_0$", "red", "green", "blue"]
figures.show(figures.pictures([x0, *channels], titles, columns=4), lesson.CHANNELS)

# %% [markdown]
# Stable Diffusion adds its noise not to pixels but to *latents*, which represent a picture with 1/48 as
# many numbers (notebook 05). Everything below holds for pixels and latents alike, and pixels are easier
# to look at.
#
# ## A thousand small steps
#
# The damage is done in 1000 steps. Each step shrinks the picture a little and adds a little noise ([Ho et
# al. 2020](https://arxiv.org/abs/2006.11239), eq. 2):
#
# $$x_t = \sqrt{1-\beta_t}\;x_{t-1} + \sqrt{\beta_t}\;\epsilon_t, \qquad \epsilon_t \sim \mathcal N(0, I)$$
#
# The numbers $\beta_t$ are the *noise schedule*. In Stable Diffusion they grow from 0.00085 to 0.012.
# ($\mathcal N(0, I)$ means: every pixel gets its own independent Gaussian noise of mean 0 and variance
# 1.)

# %%
beta = betas("scaled_linear", 0.00085, 0.012, 1000)  # (1000,)
rng = torch.Generator().manual_seed(0)

x, walk = x0, []
for beta_t in beta:
    x = (1 - beta_t) ** 0.5 * x + beta_t**0.5 * torch.randn(x.shape, generator=rng)
    walk.append(x)  # so walk[t] is x_t: as in the code of all models, t = 0 is the first step

# %% [markdown]
# Why shrink the picture at all? Because variances add up. If $x_{t-1}$ has variance 1, so has $x_t$:
# $(1-\beta_t)\cdot 1 + \beta_t\cdot 1 = 1$. The UNet sees numbers of the same size at every step. If we
# only added noise, the numbers would have to grow to 15 times their size to bury the picture as deeply.
#
# > **Predict.** After how many of the 1000 steps can you no longer make out the horse? Write down a
# > number before you scroll.

# %%
times = [0, 50, 100, 200, 300, 400, 500, 650, 800, 999]
noisy = [walk[t] for t in times]
figures.show(figures.pictures(noisy, [f"t = {t}" for t in times], columns=5), lesson.DROWNING)

# %% [markdown]
# Later than most people think. At $t = 500$ most of $x_t$ is noise, but the eye still finds the horse:
# eyes are denoisers too. (The screen clips values below −1 or above 1. The formulas do not.)
#
# ## One jump
#
# A thousand steps for every training example would be slow. But all steps up to $t$ can be combined into
# one. Substitute each step into the next: the picture is multiplied by $\sqrt{\alpha_0}$, then by
# $\sqrt{\alpha_1}$, and so on, where $\alpha_t = 1 - \beta_t$. And the noise samples of all steps combine
# into a single one, because a sum of independent Gaussians is again a Gaussian, and its variance is the
# sum of their variances:

# %%
first, second = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(2))
first, second = 0.6 * first, 0.8 * second  # variances 0.36 and 0.64
lesson.show_sums({"first noise": first, "second noise": second, "their sum": first + second})

# %% [markdown]
# So one noise sample replaces a thousand. How large must it be? The variances of picture and noise sum to
# 1 after every step, so the noise gains exactly the variance that the picture has lost. Write
# $\bar\alpha_t$ for the product $\alpha_0\,\alpha_1 \cdots \alpha_t$. Then the jump (Ho et al., eq. 4) is
#
# $$x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon, \qquad \epsilon \sim \mathcal N(0, I)$$
#
# One jump with one noise sample reaches any $t$. Two remarks on names. In the code `alphas_cumprod` holds
# all the $\bar\alpha$, and `alpha` is one of them, always *with* the bar, never $1 - \beta$. And $x_0$ is
# the clean picture, although timestep $t = 0$ already includes one step of noise.
#
# ### Exercise 1 · Write the jump
#
# Replace the `...`; if you leave it, the rest of the notebook still runs.


# %%
def my_add_noise(x0, noise, alpha):
    """x_t from a picture, noise of the same shape, and the ᾱ of the timestep."""
    return ...


# %%
lesson.add_noise.check(my_add_noise)

# %% [markdown]
# Is one jump really the same as many small steps? Let us check this on the walk above. How much of $x_0$
# is left in an $x_t$? The measure is the factor $s$ for which $s\,x_0$ is closest to $x_t$: the sum of
# $x_t \cdot x_0$ over all pixels, divided by the sum of $x_0 \cdot x_0$. The rest must be noise, which we
# measure by its standard deviation.
#
# > **Predict.** The picture's factor falls and the noise's factor rises. At which $t$ do they cross: 250,
# > 350 or 500?

# %%
alphas_cumprod = torch.cumprod(1 - beta, dim=0)
shapes(beta=(beta, (1000,)), alphas_cumprod=(alphas_cumprod, (1000,)))

times = range(0, 1000, 50)
picture = torch.tensor([(walk[t] * x0).sum() / (x0 * x0).sum() for t in times])
noise = torch.tensor([(walk[t] - share * x0).std() for t, share in zip(times, picture)])
lesson.show_shares(alphas_cumprod, times, picture, noise)

# %% [markdown]
# They cross shortly after 350, and the points measured on the walk lie on the curves of the jump. The
# walk draws noise 1000 times and the jump draws it once, but no test can tell which of the two made an
# $x_t$. From here on we jump, with [`add_noise`](../minisd/schedule.py), the answer to Exercise 1.
#
# ## Three schedules
#
# If $x_0$ has variance 1 (Stable Diffusion scales its latents accordingly), it contributes the variance
# $\bar\alpha_t$ to $x_t$, and the noise contributes $1-\bar\alpha_t$. The ratio of the two says how
# deeply a picture is buried in noise, regardless of how a schedule numbers its timesteps. It is the
# *signal-to-noise ratio* $\mathrm{SNR}(t) = \bar\alpha_t / (1 - \bar\alpha_t)$. Three schedules are
# common:
#
# * **linear**: $\beta$ from 0.0001 to 0.02 (Ho et al. 2020, §4);
# * **scaled-linear**: $\sqrt\beta$ from $\sqrt{0.00085}$ to $\sqrt{0.012}$. This is Stable Diffusion's
#   schedule (its own code calls it "linear", which confuses many readers);
# * **cosine**: $\bar\alpha$ itself is a squared cosine ([Nichol & Dhariwal
#   2021](https://arxiv.org/abs/2102.09672), eq. 17).

# %%
schedules = {
    "linear": torch.cumprod(1 - betas("linear", 0.0001, 0.02, 1000), dim=0),
    "scaled-linear": alphas_cumprod,
    "cosine": torch.cumprod(1 - betas("squaredcos_cap_v2", 0, 0, 1000), dim=0),
}
lesson.show_schedules(schedules)

# %% [markdown]
# > **Predict.** The same picture, the same noise, the same $t = 500$: with which of the three schedules
# > do you see most of the picture?

# %%
noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
times = (250, 500, 750, 999)
noisy = [add_noise(x0, noise, schedules[name][t]) for name in schedules for t in times]
titles = [f"{name}, t = {t}" for name in schedules for t in times]
small = [x[:, ::2, ::2] for x in noisy]
figures.show(figures.pictures(small, titles, columns=4), lesson.THREE_SCHEDULES)
shapes(noise=(noise, (4, 64, 64)), x_t=(noisy[0], (4, 64, 64)))

# %% [markdown]
# With cosine, by far. A timestep alone does not tell you how noisy a picture is; its SNR does. That is
# why samplers (notebook 04) are described in terms of SNR, or of $\sigma = 1/\sqrt{\mathrm{SNR}}$, and
# $t$ is only an index.
#
# ### Exercise 2 · As much noise as picture
#
# Find the timestep at which SNR = 1, for any schedule: `alphas_cumprod` is a tensor (1000,).


# %%
def my_equal_shares(alphas_cumprod):
    """The t at which picture and noise have the same variance."""
    return ...


# %%
lesson.equal_shares.check(my_equal_shares)

# %% [markdown]
# ## What disappears first, and what last
#
# Back to Stable Diffusion's schedule and to $t = 800$. You have seen the picture at $t = 800$: it looks
# like nothing but noise.
#
# > **Predict.** Average its pixels in blocks of 4×4, 8×8 and 16×16. What will you see in each?
# > (Everything is divided by $\sqrt{\bar\alpha_{800}}$, so that the picture has its original strength.)

# %%
x800 = add_noise(x0, noise, alphas_cumprod[800])


def in_blocks(x, size):
    return avg_pool2d(x, size).repeat_interleave(size, 1).repeat_interleave(size, 2)


averaged = [in_blocks(x800, size) / alphas_cumprod[800] ** 0.5 for size in (1, 4, 8, 16)]
titles = ["1×1", "4×4", "8×8", "16×16", "$x_0$"]
figures.show(figures.pictures([*averaged, x0], titles, columns=5), lesson.BLOCKS)

# %% [markdown]
# Averaging $n \times n$ pixels divides the noise by $n$ and leaves everything larger than a block
# unchanged. Noise is equally strong at every scale, while pictures are strongest in their large shapes.
# So details disappear first and the layout last. On the way back the order is reversed: a sampler first
# settles where things are, and then how they look. Watch for this in every film in these notebooks.
#
# Even at the very end, some of the picture is left: its factor is $\sqrt{\bar\alpha_{999}} = 0.068$. The
# remainder is easiest to see in the largest structure of all, the mean:

# %%
for place in ("night", "snow"):
    scene = picture_book.compose(random.Random(4), "riding", kinds, colors, place)
    x999 = add_noise(to_tensor(picture_book.draw(scene)), noise, alphas_cumprod[999])
    means = "  ".join(f"{mean:+.3f}" for mean in x999.mean(dim=(1, 2)))
    print(f"{place:<6} mean of red, green, blue at t = 999: {means}")
print(f"pure noise has a mean of 0 ± {1 / 128:.3f}")

# %% [markdown]
# So during training the UNet can tell night from snow at every $t$. But sampling begins with *pure*
# noise, whose mean says "medium bright". That is why Stable Diffusion finds it hard to draw very dark and
# very bright pictures ([Lin et al. 2023](https://arxiv.org/abs/2305.08891)). The flaw lies in the three
# numbers of its schedule (0.00085, 0.012 and 1000 steps).
#
# ## What is left to learn
#
# Solve the jump for $x_0$:
#
# $$x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\;\epsilon}{\sqrt{\bar\alpha_t}}$$
#
# We have $x_t$ and know $\bar\alpha_t$. Only $\epsilon$ is missing. Noise and picture are the same
# unknown under two names: if you know the noise, you know the picture.

# %%
recovered = to_x0(x800, noise, alphas_cumprod[800])
print(f"largest difference from the picture: {(recovered - x0).abs().max():.1e}")

# %% [markdown]
# But nobody tells us the noise. Guessing it is all that is left to learn. Here is the whole training
# objective of a diffusion model, without the network (Ho et al. 2020, eq. 14): draw noise, add it to a
# picture, ask for the noise.


# %%
def loss(network, x0, t):
    noise = torch.randn(x0.shape, generator=rng)
    x = add_noise(x0, noise, alphas_cumprod[t])
    return ((noise - network(x, t)) ** 2).mean()


# %% [markdown]
# > **Predict.** The laziest network returns its input and claims "all of it is noise". For which $t$ is
# > that a good guess of the noise?

# %%
for t in (0, 250, 500, 750, 999):
    print(f"t = {t:<3}  loss of the lazy guess: {loss(lambda x, t: x, x0, t):.4f}")

# %% [markdown]
# At $t = 999$ the lazy guess is almost perfect, and worthless: it knows nothing about the picture. A
# small loss does not guarantee a good picture, because an error in $\epsilon$ reaches $x_0$ multiplied by
# $\sqrt{1-\bar\alpha_t}/\sqrt{\bar\alpha_t} = 1/\sqrt{\mathrm{SNR}}$.
#
# > **Predict.** A better guess is off by only 10 % of the noise, at each of five timesteps. What does the
# > picture computed from this guess look like? (The factor $1/\sqrt{\mathrm{SNR}}$ is printed above
# > each.)

# %%
guess = noise + 0.1 * torch.randn(x0.shape, generator=rng)
implied, titles = [], []
for t in (50, 200, 500, 800, 999):
    alpha = alphas_cumprod[t]
    implied.append(to_x0(add_noise(x0, noise, alpha), guess, alpha))
    titles.append(f"t = {t}:  × {((1 - alpha) / alpha) ** 0.5:.2g}")
figures.show(figures.pictures(implied, titles, columns=5), lesson.IMPLIED)

# %% [markdown]
# So one guess at $t = 999$ is not enough, however good the network is. But a roughly right guess is
# enough for a *small step* to a slightly lower $t$, where guessing $x_0$ is easier. Repeating such steps
# is called sampling. Notebook 03 repeats them with a denoiser that makes no errors at all.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `x0`, a picture (3, 128, 128) | latents (4, 64, 64), scaled to variance 1 (notebook 05) | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, §3.1 |
# | `beta` (1000,) | the same numbers | [`schedule.betas`](../minisd/schedule.py) | Ho et al. 2020, eq. 2 |
# | `alphas_cumprod` (1000,) | the same; a sampler with 50 steps visits t = 981, 961, … 1 | [`schedulers/base.py`](../minisd/schedulers/base.py) | Ho et al. 2020, eq. 4 |
# | `add_noise` | the same; used in training, and to start from a picture | [`schedule.add_noise`](../minisd/schedule.py) | Ho et al. 2020, eq. 4 |
# | `to_x0` | the same, in every sampler | [`schedule.to_x0`](../minisd/schedule.py) | Song et al. 2020, eq. 9 |
# | `loss` | the same, with the words as a third input | [`train/unet.py`](../minisd/train/unet.py) | Rombach et al. 2022, eq. 3 |
#
# **Play.** Add noise to a night scene. Draw the ten pictures for the cosine schedule. Average $x_{999}$
# in blocks of 32×32: is the layout still there?
#
# *Stuck on an exercise? The answers are in [`lesson_02.py`](../minisd/lessons/lesson_02.py).*

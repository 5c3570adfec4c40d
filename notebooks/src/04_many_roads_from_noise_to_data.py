# %% [markdown]
# # 04 · Many roads from noise to data
#
# **Why do samplers differ?**
#
# *45 minutes to read, a minute to run. You need notebook 03: the perfect denoiser, `transfer`, and the
# walk.*
#
# In the loop of a diffusion model one line is expensive: calling the UNet. Drawing a picture in 50 steps
# calls it 50 times. Everything else in a sampler is arithmetic that takes next to no time. So all
# samplers ask the UNet the same question, which part of $x_t$ is noise, and they differ in what they make
# of the answers.
#
# How good is a sampler? With a real network nobody can say, because nobody knows where the walk should
# have ended. With the perfect denoiser we know the end to five or more digits. So we return to the small
# worlds of notebook 03, measure there, and only then let the same samplers draw.

# %%
from functools import partial

import torch
from torch.nn.functional import avg_pool2d

from minisd import StableDiffusionPipeline
from minisd.lessons import exact, figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_04 as lesson
from minisd.pipeline import guide
from minisd.schedule import betas, transfer
from minisd.schedulers.lms import blend as integrals
from minisd.schedulers.pndm import BLENDS as TABLE

you_are_here("scheduler")

# %% [markdown]
# ## The path
#
# Notebook 03 took every step with `transfer`: go to $\hat x_0$, then add the same noise $\hat\epsilon$
# again, but less of it. Divide $x$ by $\sqrt{\bar\alpha}$, so that the picture keeps its size and only
# the noise changes:
#
# $$\tilde x = \frac{x}{\sqrt{\bar\alpha}}, \qquad \sigma = \sqrt{\frac{1-\bar\alpha}{\bar\alpha}}$$
#
# Before the step $\tilde x$ is $\hat x_0 + \sigma\,\hat\epsilon$, and after the step it is $\hat x_0 +
# \sigma'\,\hat\epsilon$. So the step is
#
# $$\tilde x' = \tilde x + (\sigma' - \sigma)\,\hat\epsilon$$
#
# When $\sigma$ changes by a little, $\tilde x$ changes by $\hat\epsilon$ times the same amount. So
# $\hat\epsilon$ is the direction of a path, the solution of the differential equation $\mathrm d\tilde
# x/\mathrm d\sigma = \hat\epsilon(\tilde x, \sigma)$ ([Karras et al.
# 2022](https://arxiv.org/abs/2206.00364), eq. 1 with time $\sigma$; it is the probability-flow ODE of
# notebook 03). Sampling means following the path from $\sigma = 14.6$ down to 0.

# %%
alpha = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000).double(), dim=0)
alpha = torch.cat([alpha, torch.ones(1)])  # so alpha[-1] is 1: "timestep -1" is the clean picture
sigma = ((1 - alpha) / alpha).sqrt().tolist()

x, eps = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).double()
moved = transfer(x, eps, alpha[500], alpha[400]) / alpha[400] ** 0.5
straight = x / alpha[500] ** 0.5 + (sigma[400] - sigma[500]) * eps
print(f"transfer and the straight line differ by {(moved - straight).abs().max():.0e}")

# %% [markdown]
# A step with `transfer` goes straight ahead in the direction of the path at the start of the step. That
# is Euler's method, from 1768; as a sampler it is known as DDIM ([Song et al.
# 2020](https://arxiv.org/abs/2010.02502)).


# %%
def ddim_step(eps_of, x, t, t_next):
    return transfer(x, eps_of(x, t), alpha[t], alpha[t_next])


def walk(step, eps_of, x, times):
    """All x on the way, (steps + 1, B, …)."""
    way = [x]
    for t, t_next in zip(times, times[1:]):
        way.append(step(eps_of, way[-1], t, t_next))
    return torch.stack(way)


# %% [markdown]
# > **Predict.** Let the data be three numbers again. From nine places in the noise ($t = 599$, $\sigma =
# > 2.3$) DDIM walks in 4 steps, then in 10. Where will it leave the exact paths: on the left of the
# > figure, where there is nothing but noise, or on the right, near the data?

# %%
numbers = torch.tensor([[-1.4], [0.1], [1.3]]).double()
starts = torch.distributions.Normal(0, 1).icdf((torch.arange(9)[:, None] + 0.5) / 9).double()


def path(times):
    way = walk(ddim_step, lambda x, t: exact.epsilon(x, numbers, alpha[t]), starts, times)
    return times, way / alpha[list(times)].view(-1, 1, 1) ** 0.5


walks = [path(range(599, -2, -600 // steps)) for steps in (4, 10)]
lesson.show_paths(sigma, numbers, walks, fine=path(range(599, -2, -1)))

# %% [markdown]
# On the right. In strong noise $\hat\epsilon$ hardly changes, so the paths are straight, and one long
# step is as good as many short ones. The paths bend where their destination is decided. Keep that in
# mind.
#
# ### Exercise 1 · A DDIM step
#
# Write `transfer` yourself: compute the clean picture from `x` and `eps`, then add `eps` again, at the
# next noise level.


# %%
def my_ddim_step(x, eps, alpha, alpha_next):
    """From the level ᾱ to the level ᾱ', along ε."""
    return ...


# %%
lesson.ddim_step.check(my_ddim_step)

# %% [markdown]
# ## How wrong?
#
# We use the five points of notebook 03 and 1000 walkers in pure noise. We follow them from $t = 999$ to
# $t = 279$, where most walkers lean towards one of the points (below you will see why we stop there).
# These 720 timesteps can be divided into steps of many lengths. For reference, we compute the exact
# endpoints, with one step per timestep and the sampler of Exercise 2, which is better than DDIM.

# %%
points = torch.tensor([[-1.5, 0.5], [-0.3, 1.4], [1.4, 0.7], [0.8, -1.2], [-0.9, -1.1]]).double()
x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()


def eps_of(x, t):
    return exact.epsilon(x, points, alpha[t])


def timesteps(steps, end=-1):
    """Timesteps from 999 to `end`, in equal steps."""
    return range(999, end - 1, (end - 999) // steps)


truth = walk(lesson.heun, eps_of, x, timesteps(720, 279))[-1]
shapes(x=(x, (1000, 4, 64, 64)), truth=(truth, (1000, 4, 64, 64)))

# %% [markdown]
# > **Predict.** Twice as many steps cost twice as much. Does the error fall to a half, or to a quarter?


# %%
def off(x):
    """The mean distance of the walkers from where they should be."""
    return (x - truth).norm(dim=1).mean().item()


for n in (6, 12, 24, 48):
    print(f"{n:2} steps: off by {off(walk(ddim_step, eps_of, x, timesteps(n, 279))[-1]):.4f}")

# %% [markdown]
# To a half. That is the nature of straight steps. The error of one step grows with the square of its
# length, so a step of half the length strays a quarter as far. But the walk needs twice as many steps, so
# in total half of the error remains. In general, if the error falls like $1/n^p$ with the number $n$ of
# steps, a sampler is said to be of *order* $p$. On two logarithmic axes, the error over $n$ is then a
# straight line with slope $-p$. DDIM is of order 1: one more correct digit takes ten times as many calls.
#
# ## A second evaluation
#
# Here is a better step: take a DDIM step, evaluate $\hat\epsilon$ *at its end* too, go back, and step
# again with the mean of the two values. So the step takes into account how the path continues. This is
# Heun's method, from 1900. It calls the network twice per step.
#
# ### Exercise 2 · A sampler of order 2
#
# Write this step, or any other that calls `eps_of` twice and is of order 2. The check walks with it in 30
# steps and in 60, measures the slope, and accepts 2 ± 0.2. (`ddim_step` above has slope 1.)


# %%
def my_step(eps_of, x, t, t_next):
    """From x at t to the x at t_next; eps_of(x, t) is the noise in an x at a timestep."""
    return ...


# %%
lesson.second_order.check(my_step)

# %% [markdown]
# ## A memory
#
# (In a hurry? Run the cells and continue at *A real network*. The part in between explains why these
# samplers win and lose. For later notebooks you only need to know that these samplers exist.)
#
# Calling the network twice is one way to learn how the path bends. A cheaper way is to remember. The
# values of $\hat\epsilon$ from earlier steps are already paid for. If they have been rising, they will
# probably keep rising. So fit a polynomial through the last four values, and use its mean over the
# *coming* step. That mean is a weighted sum of the four values, and `transfer` uses it in place of
# $\hat\epsilon$. Three samplers share this one step and differ only in the weights:
#
# * **DDIM** gives all the weight to the latest $\hat\epsilon$: it assumes that nothing will change.
# * **PLMS** assumes that all steps are equally long. Then the weights are always the same: they are the
#   table of Adams and Bashforth (1883; as a sampler, [Liu et al. 2022](https://arxiv.org/abs/2202.09778),
#   eq. 12).
# * **LMS** uses a polynomial in $\sigma$ and the real lengths of the steps. Its weights are integrals,
#   computed anew for each step by `integrals` ([`lms.blend`](../minisd/schedulers/lms.py)).
#
# The table is [`pndm.BLENDS`](../minisd/schedulers/pndm.py). Its rows are for one, two, three and four
# known values, newest first:

# %%
for row in TABLE.values():
    print("  ".join(f"{24 * weight:+3.0f}/24" for weight in row))


def ddim(sigmas, sigma_next):
    return [1.0]


def plms(sigmas, sigma_next):
    return TABLE[len(sigmas)]


def lms(sigmas, sigma_next):
    return [weight / (sigma_next - sigmas[0]) for weight in integrals(sigmas, sigma_next)]


# %%
def multistep(weights_of, eps_of, x, times, second_look=False):
    """A walk that remembers four ε; `weights_of` says how much each counts, newest first."""
    past, way = [], [x]  # past: pairs (σ, ε)
    for t, t_next in zip(times, times[1:]):
        x = way[-1]
        past = [(sigma[t], eps_of(x, t)), *past[:3]]
        sigmas, noises = zip(*past)
        eps = sum(w * noise for w, noise in zip(weights_of(sigmas, sigma[t_next]), noises))
        if second_look and len(way) == 1:  # explained below
            eps = (eps + eps_of(transfer(x, eps, alpha[t], alpha[t_next]), t_next)) / 2
        way.append(transfer(x, eps, alpha[t], alpha[t_next]))
    return torch.stack(way)


# %% [markdown]
# > **Predict.** Suppose all steps have the same length in $\sigma$. How do the weights of PLMS and LMS
# > differ? And on a real path, with 10 steps of equal length in $t$?

# %%
for name, sigmas, sigma_next in (
    ("equal steps", [3, 4, 5, 6], 2),
    ("real path", [sigma[t] for t in (699, 799, 899, 999)], sigma[599]),
):
    for weights_of in (plms, lms):
        weights = "".join(f"{24 * weight:8.2f}" for weight in weights_of(sigmas, sigma_next))
        print(f"{name:<11}, {weights_of.__name__:<4} {weights}   over 24")

# %% [markdown]
# With equal steps they do not differ at all: 55, −59, 37, −9. The table is the special case of equal
# steps. But the steps of a real path shrink in $\sigma$, and there LMS relies less on the past than the
# table does. Here is how DDIM, PLMS and LMS extrapolate at two places on one path:

# %%
times = range(999, -1, -1)
one = multistep(ddim, eps_of, x[8:9], times)
noise = {t: eps_of(point, t)[0, 0].item() for t, point in zip(times, one)}
lesson.show_forecasts(sigma, noise, (399, 199))

# %% [markdown]
# ## The race
#
# > **Predict.** Four samplers race, and we count their calls. Which slopes will they have? Which is best
# > with 10 calls, and which with 60?

# %%
lengths = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 30, 36, 48, 60, 72)
errors = {"DDIM": {}, "Heun": {}, "PLMS": {}, "LMS": {}}
for n in lengths:
    times = timesteps(n, 279)
    for name, weights_of in (("DDIM", ddim), ("PLMS", plms), ("LMS", lms)):
        errors[name][n] = off(multistep(weights_of, eps_of, x, times)[-1])
    errors["Heun"][2 * n] = off(walk(lesson.heun, eps_of, x, times)[-1])
lesson.show_race(errors)

# %% [markdown]
# DDIM has slope 1 and Heun has slope 2 (measured from 24 calls on). Heun's steps cost twice as much, so
# it needs 10 calls to overtake DDIM. Two other results are surprising: the order of PLMS, and which
# sampler is best.
#
# PLMS uses four values, and Adams and Bashforth's four-step method has order 4. Here PLMS has order 2.
# The table is meant for steps that are equal in $\sigma$; ours are equal in $t$, and the difference
# leaves an error that falls like $1/n^2$ (Liu et al. 2022 prove order 2 themselves). LMS has the right
# weights for every step, and its error falls faster.
#
# But an order says how fast an error falls, not where it starts. PLMS starts low, and up to about 30
# calls it is ahead: its cubic in $t$ follows the bend of the paths better than a cubic in $\sigma$, as
# the left half of the figure before the race shows. The sampler with the highest order is not always the
# best one.
#
# ## The first step
#
# Why is the slope of LMS not 4? A walk begins without a memory. The first step is a DDIM step, the second
# uses two values, the third three. The first three steps are few, but of low order, and once all other
# errors are small, the errors of these three remain. Stable Diffusion's default sampler, PNDM, is PLMS
# with one addition: it takes its first step like Heun, which means that it tries the step, evaluates
# $\hat\epsilon$ at the end, and then steps again with the mean of the two values. That is why 50 steps
# cost 51 calls.
#
# > **Predict.** Which sampler gains from such a second evaluation at the start, PLMS or LMS?

# %%
for name, weights_of in (("PLMS", plms), ("LMS", lms)):
    ends = {
        n: multistep(weights_of, eps_of, x, timesteps(n, 279), second_look=True)[-1]
        for n in lengths
    }
    before, after = errors[name], {n + 1: off(end) for n, end in ends.items()}
    for errors_of, calls, how in ((before, 20, ""), (after, 21, " with a second evaluation")):
        off_by, slope = errors_of[calls], lesson.slope(errors_of)
        print(f"{name:<4} in 20 steps off by {off_by:.5f}, slope {slope:.1f}{how}")

# %% [markdown]
# LMS does. The error of PLMS still falls like $1/n^2$, and is even larger than before. On this path, at
# least, PNDM makes an extra call that does not help it, while LMS, which would benefit from the call,
# does not make it.
#
# ## The corner
#
# Now we walk all the way from $t = 999$ to the data, in 20 steps.
#
# > **Predict.** At $t = 279$ PLMS and LMS are more than ten times closer to the exact path than DDIM.
# > What will remain of this lead at the end?

# %%
times = timesteps(20)
exactly = multistep(lms, eps_of, x, timesteps(1000))[::50]
off_at = {
    name: (multistep(weights_of, eps_of, x, times) - exactly).norm(dim=2).mean(dim=1)
    for name, weights_of in (("DDIM", ddim), ("PLMS", plms), ("LMS", lms))
}
lesson.show_on_the_way(times, off_at, stop=279)

# %% [markdown]
# Nothing: at the end DDIM is ahead. The right half of the figure with the four known values shows why:
# near the data $\hat\epsilon$ bends once more and then becomes constant, while the forecast of a sampler
# with a memory continues to bend. The last step does the most harm. In that step DDIM goes to the guess
# $\hat x_0$, which in a world of points *is* a point. A mixture with older guesses is not a point. So let
# PLMS and LMS forget the past in their last step:


# %%
def ending_with_ddim(weights_of):
    """The same sampler, but its last step, to σ = 0, is a DDIM step."""
    return lambda sigmas, sigma_next: [1.0] if sigma_next == 0 else weights_of(sigmas, sigma_next)


for name, weights_of in (("PLMS", plms), ("LMS", lms)):
    end = multistep(ending_with_ddim(weights_of), eps_of, x, times)[-1]
    better = (end - exactly[-1]).norm(dim=1).mean()
    print(f"{name:<4} off by {off_at[name][-1]:.3f}; with DDIM's last step by {better:.3f}")
print(f"DDIM off by {off_at['DDIM'][-1]:.3f}")

# %% [markdown]
# Now a memory pays off again. The corner is also why the race ended at $t = 279$. An order is a promise
# about steps that are short compared with the bends of the path. Data points have no width: the closer a
# walker comes, the more suddenly its destination is decided, and the sharper its path bends. Our steps
# are not short compared with such bends. Beyond the corner you can still measure slopes, but they are not
# orders.
#
# ## A real network
#
# A network does not know its data by heart, so its guesses should be smoother. Nobody knows the exact end
# here, so we use a walk with 500 calls in its place. (`guide` makes pictures follow their prompt:
# notebook 08.)

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny")
context = pipe.encode_prompt(["", "a red ball on the beach"])


@torch.inference_mode()
def unet_eps(x, t, scale=3.0):
    both = torch.cat([x, x]).float()
    eps = pipe.unet(both, t, encoder_hidden_states=context).sample.double()
    return guide(*eps.chunk(2), scale)


# %%
noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).double()
calls = (2, 5, 10, 20, 50)[: unless_fast(5, 3)]
samplers = {"DDIM": ddim, "PLMS": plms, "LMS": lms}
ways = {
    (name, n): multistep(weights_of, unet_eps, noise, timesteps(n))
    for name, weights_of in samplers.items()
    for n in calls
}
best = multistep(lms, unet_eps, noise, timesteps(unless_fast(500, 50)))  # in place of the exact end
shapes(latents=(best[-1], (1, 4, 64, 64)), context=(context, (2, 77, 768)))

# %% [markdown]
# > **Predict.** The same noise, the same prompt, the same network. How many calls does it take until the
# > ball is right? And which of the three samplers fails worst with too few calls?

# %%
drawn = pipe.decode(torch.cat([ways[name, n][-1] for name in samplers for n in calls]).float())
titles = [f"{name}, {n} calls" for name in samplers for n in calls]
figures.show(figures.pictures(list(avg_pool2d(drawn, 2)), titles, columns=len(calls)), lesson.BALLS)


# %%
def rms(x):
    """Root mean square: an error in units of latents, whose variance is 1."""
    return x.square().mean().sqrt().item()


def error_at(t, name, n):
    done = 999 - t  # of the 1000 timesteps
    return rms(ways[name, n][done * n // 1000] - best[done * (len(best) - 1) // 1000])


at_199 = {name: {n: error_at(199, name, n) for n in calls[1:]} for name in samplers}
at_end = {name: {n: error_at(-1, name, n) for n in calls} for name in samplers}
lesson.show_real_errors({"at t = 199": at_199, "at the end": at_end})

# %% [markdown]
# With DDIM and LMS two calls are almost enough, because the prompt leaves little open: this model knows
# one way to draw a ball. (For Stable Diffusion 20 to 50 calls are usual.) The errors look familiar. After
# four fifths of the timesteps, with 20 or more calls, they behave as in the race: DDIM's error falls
# slowly, and the errors of the samplers with a memory fall fast. With fewer calls PLMS is already far
# off. Then comes a corner: in the last fifth the errors grow, and they grow most where they were
# smallest. The data are not points here, but near the end a picture's outlines are decided, and outlines
# are sharp. PLMS, which was the best sampler with few calls in the race, is the worst here. Is the last
# step to blame again?

# %%
for n in calls[1:3]:
    end = multistep(ending_with_ddim(plms), unet_eps, noise, timesteps(n))[-1]
    ddim_off, plms_off, better = at_end["DDIM"][n], at_end["PLMS"][n], rms(end - best[-1])
    print(f"{n:>2} calls: DDIM off by {ddim_off:.2f}, PLMS by {plms_off:.2f}", end=", ")
    print(f"PLMS with DDIM's last step by {better:.2f}")

# %% [markdown]
# Mostly, but not only: with few calls PLMS had already gone astray before the last step. (With 50 calls
# the last step is short and does little harm. Samplers designed for few calls also lower the order of
# their last step; diffusers calls the option `lower_order_final`.)
#
# > **Predict.** Pictures follow the prompt because guidance multiplies the prompt's effect on
# > $\hat\epsilon$, here by 3. Which of the three samplers gains most if we do without guidance
# > (`scale=1`)?

# %%
plain = partial(unet_eps, scale=1.0)
best_plain = multistep(lms, plain, noise, timesteps(unless_fast(100, 20)))[-1]
for name, weights_of in samplers.items():
    unguided = rms(multistep(weights_of, plain, noise, timesteps(10))[-1] - best_plain)
    print(f"{name:<4} in 10 calls: off by {at_end[name][10]:.2f} guided, {unguided:.2f} unguided")

# %% [markdown]
# PLMS, and only PLMS; the other two are even further off without guidance. So guidance does not make
# every path harder. But it multiplies what bends a path, and a sampler that extrapolates the bend too
# boldly pays for it. Samplers of high order can suffer from guidance and do worse than DDIM;
# [DPM-Solver++](https://arxiv.org/abs/2211.01095) was designed to avoid that (Lu et al. 2022).
# DPM-Solver++ has a memory too, but combines guesses of $x_0$ instead of $\epsilon$.
#
# ## Which timesteps
#
# A sampler is a set of weights and a list of timesteps. Our list begins at 999 and takes equal steps to
# the clean picture ("trailing"). The list of `LMSDiscreteScheduler` includes $t = 0$ ("linspace"). Stable
# Diffusion's own list ends at $t = 1$ and begins late. With 10 steps it begins at 901, but it still
# starts from pure noise, as if $t$ were 999 ("leading").
#
# > **Predict.** Is beginning late a mistake?

# %%
places = {
    "linspace": [*range(999, -1, -111), -1],
    "trailing": [*range(999, 0, -100), -1],
    "leading": [*range(901, 0, -100), -1],
}
for name, times in places.items():
    ends = [multistep(weights_of, unet_eps, noise, times)[-1] for weights_of in (ddim, lms)]
    print(f"{name}: t = {times[0]}, {times[1]}, … {times[-2]}", end="  ")
    print("DDIM off by {:.2f}, LMS by {:.2f}".format(*[rms(end - best[-1]) for end in ends]))

# %% [markdown]
# Beginning late saves calls. From $t = 999$ to 901 $\sigma$ falls by four tenths of the whole way, and
# $\hat\epsilon$ hardly changes; so with "leading" all calls go where the path bends more. But there is a
# price. Even $x_{999}$ still shows how bright the picture is as a whole (notebook 02), and a walk that
# begins late, but from pure noise, loses this information. That is why [Lin et al.
# 2023](https://arxiv.org/abs/2305.08891) ask for samplers that begin at the last timestep. The numbers
# above show which effect is larger here. In any case, the choice of timesteps matters as much as the
# choice of weights.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `ddim_step` | DDIM with η = 0; with η > 0 some of the noise is drawn anew | [`ddim.py`](../minisd/schedulers/ddim.py) | Song et al. 2020, eq. 12 |
# | `plms` with `second_look` | PNDM, the default: 50 steps, 51 calls, t = 981, 961, 961, 941, … 1 | [`pndm.py`](../minisd/schedulers/pndm.py) | Liu et al. 2022, eqs. 11 and 12 |
# | `lms` | K-LMS. It stores $\tilde x$ instead of $x$: that is why it begins with noise times 14.6, and has `scale_model_input` | [`lms.py`](../minisd/schedulers/lms.py) | the σ of Karras et al. 2022, §2 |
# | `lesson.heun` | `HeunDiscreteScheduler`; the EDM sampler is built from this step | [`heun.py`](../minisd/schedulers/heun.py) | Karras et al. 2022, algorithm 1 |
# | `timesteps(50)`: 999, 979, … 19 | PNDM and DDIM 981, 961, … 1; LMS 999, 978.6, … 0 | [`base.py`](../minisd/schedulers/base.py) | Lin et al. 2023 |
# | the last step, to `alpha[-1]` = 1 | PNDM and DDIM stop at $\bar\alpha_0 = 0.99915$; LMS goes to $\sigma = 0$ | [`base.py`](../minisd/schedulers/base.py) | |
# | `unet_eps`: a batch of 2, once per call | the same, with 860 million weights | [`pipeline.py`](../minisd/pipeline.py) | Ho & Salimans 2022, eq. 6 |
#
# **Play.** Let `ending_with_ddim` also replace the second-to-last step. Draw with a guidance scale of
# 7.5. Put your own step from Exercise 2 into the race. Use ten calls where you think they matter most,
# and try to beat the best of the three.
#
# *Stuck on an exercise? The answers are in [`lesson_04.py`](../minisd/lessons/lesson_04.py); the answer
# to Exercise 1 is [`transfer`](../minisd/schedule.py).*

# %% [markdown]
# # 13 · From DDPM to flow
#
# **Which walks lead from noise to data, and which of them are straight?**
#
# *40 minutes to read, half a minute to run. You need the walk and the score of notebook 03, DDIM from
# notebook 04, the arcs of 08 and the small world of 09.*
#
# So far we have walked with DDIM, which adds no randomness. That is not how diffusion models began. The
# first ones ([Sohl-Dickstein et al. 2015](https://arxiv.org/abs/1503.03585)), and DDPM, which made them
# good ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)), draw new noise at every step. Many newer
# models learn a *flow* along straight lines. All of these methods belong to one family. We follow it from
# its oldest member to its youngest, in two dimensions, where the best guess is a formula.

# %%
import torch

from minisd import StableDiffusionPipeline
from minisd.lessons import clouds, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_13 as lesson
from minisd.schedule import add_noise, betas, transfer

you_are_here("scheduler")

# %% [markdown]
# ## The first samplers
#
# Suppose that we knew $x_0$. Then we could *sample* the step from our $x$, at the noise level
# $\bar\alpha$, to a point $x'$ at a lower noise level, $\bar\alpha'$. Given $x_0$ and $x$, the
# distribution of $x'$ is a Gaussian, and its mean is a mixture of $x_0$ and $x$ ([Ho et al.
# 2020](https://arxiv.org/abs/2006.11239), eq. 7, here for a step over several timesteps). It follows from
# Bayes' rule: multiply the density of $x'$ given $x_0$ (mean $\sqrt{\bar\alpha'}\,x_0$, variance
# $1-\bar\alpha'$) by the density of $x$ given $x'$ (mean $\sqrt{1-\beta}\,x'$, variance $\beta$). A
# product of two Gaussians is a Gaussian. With $\beta = 1 - \bar\alpha/\bar\alpha'$:
#
# $$x' = \frac{\sqrt{\bar\alpha'}\,\beta}{1-\bar\alpha}\,x_0 + \frac{\sqrt{1-\beta}\,(1-\bar\alpha')}{1-\bar\alpha}\,x
# + \sqrt{\beta\,\frac{1-\bar\alpha'}{1-\bar\alpha}}\;z, \qquad z \sim N(0, I)$$
#
# We do not know $x_0$, so DDPM uses the best guess $\hat x_0$. This is called *ancestral sampling*,
# because each point is drawn given its parent.
#
# ### Exercise 1 · An ancestral step
#
# Write this step. `z` is the new noise.


# %%
def my_ancestral_step(x, x0, z, alpha, alpha_next):
    """From the level ᾱ to the level ᾱ', with the guess x0 and new noise z."""
    beta = ...
    return ...


# %%
lesson.ancestral.check(my_ancestral_step)

# %% [markdown]
# We use the world of notebook 08, without captions: three arcs of small clouds
# ([`clouds.py`](../minisd/lessons/clouds.py)).

# %%
alphas_cumprod = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000), dim=0)
levels = torch.cat([alphas_cumprod, torch.ones(1)])  # levels[-1] is 1: the clean end


def ddpm(x, t, t_next, rng):
    # the factors of x0 and of the noise
    x0 = clouds.denoise(x, levels[t] ** 0.5, (1 - levels[t]) ** 0.5)
    z = torch.randn(x.shape, generator=rng)
    return lesson.ancestral.answer(x, x0, z, levels[t], levels[t_next])


def ddim(x, t, t_next, rng):
    return transfer(x, clouds.epsilon(x, levels[t]), levels[t], levels[t_next])


# %%
def walk(step, x, steps=200, seed=0):
    """The points at the end, (B, 2), and all points on the way: timestep → (B, 2)."""
    rng, way = torch.Generator().manual_seed(seed), {999: x}
    times = range(999, -2, -1000 // steps)
    for t, t_next in zip(times, times[1:]):
        x = way[t_next] = step(x, t, t_next, rng)
    return x, way


# %% [markdown]
# > **Predict.** 800 walkers start at the *same* noise point. Where do they end with DDIM, and where with
# > DDPM? And where do they end from 800 different starts?

# %%
many = torch.randn(800, 2, generator=torch.Generator().manual_seed(1))
same = torch.tensor([[1.2, 0.4]]).expand(800, 2)
starts = {"one start": same, "800 starts": many}
steps = {"DDIM": ddim, "DDPM": ddpm}
ends = {f"{n}, {s}": walk(steps[n], starts[s])[0] for s in starts for n in steps}
lesson.show_ends({**ends, "data": clouds.data(800, torch.Generator().manual_seed(2))}, lesson.ENDS)

# %% [markdown]
# With DDIM one start leads to one end. With DDPM one start can lead anywhere: after some steps the new
# noise has replaced the old, and the start is forgotten. Yet the last three panels look alike. Do they
# show the same distribution? The *energy distance* between two sets of points is twice the mean distance
# between the sets, minus the mean distances within each set. It is 0 if both sets come from the same
# distribution; an estimate from samples can be slightly below 0. We compare the walkers with the data not
# only at the end but also on the way, with the noise of that timestep added to the data.
#
# > **Predict.** At which timesteps does a crowd of walkers differ from the data? And how long do two
# > walkers from the same start, one with DDIM and one with DDPM, stay together?

# %%
rng = torch.Generator().manual_seed(3)
count = unless_fast(1500, 400)
crowd = torch.randn(count, 2, generator=rng)
ways = {name: walk(step, crowd)[1] for name, step in steps.items()}

# %%
for t in (599, 299, 99, -1):
    fresh, other = (
        add_noise(clouds.data(count, rng), torch.randn(count, 2, generator=rng), levels[t])
        for _ in range(2)
    )
    print(f"t = {t:>3}: two draws of data {lesson.energy(fresh, other):6.3f}", end="")
    print(*(f"   {name} {lesson.energy(way[t], fresh):6.3f}" for name, way in ways.items()), end="")
    both = torch.stack([way[t].flatten() for way in ways.values()])
    print(f"   correlation {both.corrcoef()[0, 1]:5.2f}")

# %% [markdown]
# At no timestep: all differences are small enough to be chance. (Two samples of the data differ about as
# much.) Individual walkers separate early: by $t = 599$, two walkers from the same start have hardly
# anything in common. But both crowds have the same density $q_t$ at every moment.
#
# ## Why both sample
#
# Notebook 03 gave the argument for DDIM: a crowd that moves with the right velocity keeps the density
# $q_t$. Why does the added noise do no harm? Look at very small steps, with $\beta$ the variance of the
# noise that a timestep adds. Small random steps spread a crowd like heat. The heat equation says that the
# density changes by $\tfrac12\lambda^2\beta\,\nabla\!\cdot\!\nabla q$ if the steps have variance
# $\lambda^2\beta$. And since $\nabla q = q\,\nabla\log q$, this is
#
# $$\tfrac12\lambda^2\beta\,\nabla\cdot(q\,\nabla\log q).$$
#
# Here $\nabla\cdot$ is the divergence: it says how fast a flow spreads out. Compare this with the
# continuity equation of notebook 03: a crowd that moves with velocity $u$ changes its density by
# $-\nabla\cdot(q\,u)$. So adding noise has the same effect on the density as moving with velocity
# $u = -\tfrac12\lambda^2\beta\,\nabla\log q$, downhill. The noise can be cancelled exactly, by a step of
# that size *uphill*, along the score. A step without noise is a DDIM step. For small $\beta$, it is
# $x' = x + \tfrac12\beta\,x + \tfrac12\beta\,\nabla\log q_t(x)$ (expand `transfer` to first order). Add
# both the noise and the step uphill, for any $\lambda$:
#
# $$x' = x + \tfrac12\beta\,x + \tfrac{1+\lambda^2}{2}\,\beta\,\nabla\log q_t(x) + \lambda\sqrt{\beta}\;z$$
#
# $\lambda = 0$ is the probability-flow ODE, DDIM's path. $\lambda = 1$ is the reverse *stochastic
# differential equation*, DDPM's limit for small steps ([Anderson
# 1982](https://doi.org/10.1016/0304-4149(82)90051-5); [Song et al.
# 2021](https://arxiv.org/abs/2011.13456), eqs. 6 and 13). All values in between, and above 1, give the
# same densities ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), eq. 6).
#
# ### Exercise 2 · A step of the family
#
# `score` is $\nabla\log q_t(x)$, `strength` is $\lambda$.


# %%
def my_sde_step(x, score, z, beta, strength):
    """One small step towards the data, with new noise z of strength λ."""
    return ...


# %%
lesson.sde_step.check(my_sde_step)

# %% [markdown]
# We know the score: it is $-\hat\epsilon/\sqrt{1-\bar\alpha}$, by Tweedie's formula (notebook 03). So one
# network serves all $\lambda$.
#
# > **Predict.** Walk with $\lambda$ = 0, 1 and 2. Then walk again from a *wrong* start: the same noise at
# > 40 % of its size. Which walks still end at the data?


# %%
def family(strength):
    def step(x, t, t_next, rng):
        alpha, alpha_next = levels[t], levels[t_next]
        score = -clouds.epsilon(x, alpha) / (1 - alpha) ** 0.5
        z = torch.randn(x.shape, generator=rng)
        return lesson.sde_step.answer(x, score, z, 1 - alpha / alpha_next, strength)

    return step


data = clouds.data(count, rng)
for strength in (0, 1, 2):
    right, wrong = (walk(family(strength), crowd * size)[0] for size in (1, 0.4))
    print(f"λ = {strength}  right start: {lesson.energy(right, data):6.3f}", end="")
    print(f"   wrong start: {lesson.energy(wrong, data):6.3f}")

# %% [markdown]
# From the right start, all three walks end at the data. From the wrong start, the walk without noise ends
# in the wrong place. An ODE cannot forget: where a walker starts decides where it ends. With noise, the
# error is forgotten on the way, since at each $t$ the random walk is pulled towards $q_t$, wherever it
# comes from. That is why new noise corrects errors made earlier. DDIM does not forget its start, so it is
# better for everything that needs a map from noise to picture (notebook 14).
#
# ## Straight lines
#
# Now forget the schedule. The simplest way from a data point to a noise sample is a straight line:
#
# $$x_t = (1-t)\,x_0 + t\,\epsilon, \qquad 0 \le t \le 1$$
#
# A point on it moves with the velocity $\epsilon - x_0$. Let a network $v$ learn this velocity from $x_t$
# and $t$, and you have *flow matching* or *rectified flow* ([Lipman et al.
# 2022](https://arxiv.org/abs/2210.02747); [X. Liu et al. 2022](https://arxiv.org/abs/2209.03003);
# [Albergo & Vanden-Eijnden 2022](https://arxiv.org/abs/2209.15571)). Stable Diffusion 3 is trained this
# way. The line itself is the schedule: $1-t$ is the share of the data and $t$ the share of the noise. A
# sampling step is $x \leftarrow x - v\,\Delta t$. (This $v$ is not the $v$ of notebook 03, which follows
# a circle. And $t$ now runs from 0, the data, to 1, the noise. In the papers it runs the other way.)
#
# ### Exercise 3 · The loss of a flow
#
# `x0` and `noise` are (B, 2), `t` is (B, 1). Return the mean square error of `v(x_t, t)`.


# %%
def my_flow_loss(v, x0, noise, t):
    """The loss of rectified flow, one number."""
    x = ...
    return ...


# %%
lesson.flow_loss.check(my_flow_loss)

# %% [markdown]
# Many lines pass through the same $x_t$. The network can only learn the mean of their velocities
# (notebook 03), $\hat\epsilon - \hat x_0$. So the *best* answer follows from the denoiser that we have:
#
# $$v(x, t) = \mathrm E[\epsilon - x_0 \mid x_t = x] = \frac{x - \hat x_0(x)}{t}$$
#
# > **Predict.** Do the walks along $v$ end where DDIM ends, from the same starts?


# %%
def best_flow(x, t):
    return (x - clouds.denoise(x, 1 - t, t)) / t


def flow_walk(v, x, steps):
    """All x on the way from t = 1 to 0, (steps + 1, B, 2)."""
    way = [x]
    for i in range(steps, 0, -1):
        way.append(way[-1] - v(way[-1], i / steps) / steps)
    return torch.stack(way)


# %%
fine = unless_fast(250, 50)
way = flow_walk(best_flow, many, fine)
print(f"flow and DDIM end apart by {(way[-1] - walk(ddim, many, fine)[0]).norm(dim=1).mean():.3f}")
apart = lesson.one_step_apart(best_flow, ddim, way[fine // 2], levels)
print(f"one step from t = 499 to 299 of DDIM, taken by both: {apart:.0e} apart")
shapes(x=(many, (800, 4, 64, 64)), way=(way, (fine + 1, 800, 4, 64, 64)))

# %% [markdown]
# They end in the same places. Divide $x_t$ by $1-t$, and it becomes $x_0 + \sigma\,\epsilon$ with
# $\sigma = t/(1-t)$: the path of notebook 04. Flow matching with Gaussian noise is diffusion under other
# names, with another scale and another clock. Even the step is the same: $x - v\,\Delta t$ is
# $(1-t')\,\hat x_0 + t'\,\hat\epsilon$, and that is a DDIM step. Only the stops along the path differ:
# the flow takes equal steps in $t$, and DDIM takes equal steps in timesteps.
#
# ## Lines and paths
#
# Let a small network learn $v$, as a real model must.


# %%
def train(pairs):
    """Rectified flow on pairs (x0, noise); `pairs(count, rng)` draws them."""
    steps = unless_fast(1000, 60)
    v, rng = lesson.network(), torch.Generator().manual_seed(0)
    optimizer, schedule = lesson.adam(v, steps)  # the learning rate falls from 0.004 to 0
    for _ in range(steps):
        loss = lesson.flow_loss.answer(v, *pairs(256, rng), torch.rand(256, 1, generator=rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return v.requires_grad_(False)


# %%
flow = train(lambda n, rng: (clouds.data(n, rng), torch.randn(n, 2, generator=rng)))

# %% [markdown]
# > **Predict.** On the left are 30 training lines, from noise (small dots) to data (large dots). They
# > cross. On the right the network walks from the same noise samples. Are its paths straight, and what do
# > they do where the lines cross?

# %%
rng = torch.Generator().manual_seed(4)
noise = torch.randn(30, 2, generator=rng)
lines = torch.stack([noise, clouds.data(30, rng)])
lesson.show_paths(
    {"lines of the training": lines, "paths of the flow": flow_walk(flow, noise, 100)}
)


# %%
def straightness(v, steps=200):
    """The mean over all paths and times of |v - (start - end)|²; 0 if v is constant on each path."""
    way = flow_walk(v, many, steps)
    velocity = (way[:-1] - way[1:]) * steps
    return (velocity - (way[0] - way[-1])).square().sum(dim=2).mean().item()


print(f"the flow's paths: {straightness(flow):.3f}")

# %% [markdown]
# Two paths are never at the same place at the same $t$ (notebook 03), so where lines cross, paths turn
# aside. (This view has no time axis, so their traces may cross.) Lines lead from one noise sample to data
# points that are far apart, and the mean of their velocities points towards the middle. So the paths
# first go to the middle, and then out again to an arc. Training on straight lines does not give straight
# paths, because noise and data were paired at random.
#
# The printed number is the *straightness* of X. Liu et al.: how much the velocity changes along a path,
# on average. It is 0 only if one step is exact. (The length of a path would not show whether one step is
# exact. The same paths, divided by $1-t$, are the $x_0 + \sigma\,\epsilon$ of notebook 04, and those are
# straight to within a thousandth. But $\hat x_0$ and $\hat\epsilon$ change along them, and one step fails
# there as well.)
#
# ## Reflow: pair each noise with its own end
#
# The trained network gives us better pairs: each noise sample and the end of *its own* path. The lines
# between these pairs cross much less, since the paths that they replace do not cross. Train a second flow
# on these pairs. This is called *reflow* (X. Liu et al. 2022).
#
# > **Predict.** How much will the velocity of the second flow change along its paths? How many steps will
# > it need?

# %%
noises = torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))
partners = flow_walk(flow, noises, 50)[-1]


def own_ends(n, rng):
    k = torch.randint(len(noises), (n,), generator=rng)
    return partners[k], noises[k]


reflow = train(own_ends)
print(f"the second flow's paths: {straightness(reflow):.3f}")

# %%
own = flow_walk(flow, noise, 50)[[0, -1]]
lesson.show_paths({"lines of the second training": own, "its paths": flow_walk(reflow, noise, 100)})

# %%
flows = {"exact flow": best_flow, "flow": flow, "reflow": reflow}
teacher = flow_walk(flow, crowd, 50)[-1]
print("energy distance from the data:")
for n in (1, 2, 4, 8, 50):
    found = {"DDIM": walk(ddim, crowd, n)[0]}
    found |= {name: flow_walk(v, crowd, n)[-1] for name, v in flows.items()}
    line = "   ".join(f"{name} {lesson.energy(x, data):6.3f}" for name, x in found.items())
    off = (found["reflow"] - teacher).norm(dim=1).mean()
    print(f"steps: {n:>2}   {line}   reflow misses its teacher's end by {off:.3f}")

# %% [markdown]
# With one step, DDIM and the first flow fail, since both go to the mean (notebook 16 looks at this more
# closely). DDIM and the exact flow differ only in where they stop along the path. The second flow arrives
# almost at once: its paths are nearly straight. More steps still bring it closer to the ends of the paths
# of its teacher, the first flow. It has learnt these ends, so it cannot become better than its teacher.
# The price is a second training run, on pairs that must be generated first.
# [InstaFlow](https://arxiv.org/abs/2309.06380) (X. Liu et al. 2023) reflowed Stable Diffusion 1.5 and
# then distilled the result to one step.
#
# ## Pictures
#
# We return to the world of notebook 09: hearts, trees and fish in four colours, as latents of 8×8. A
# small UNet learns the velocity instead of the noise. It expects timesteps up to 999, so it gets
# $999\,t$. The loss is the one from Exercise 3.

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny")
latents, words, unet = lesson.small_world(pipe)  # (120, 4, 8, 8), (12, 77, 128), an untrained UNet
average, rng = lesson.copy_of(unet), torch.Generator().manual_seed(1)
optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3, betas=(0.9, 0.99))
for _ in range(unless_fast(200, 4)):
    which, t = torch.randint(120, (8,), generator=rng), torch.rand(8, 1, 1, 1, generator=rng)
    noise = torch.randn(8, 4, 8, 8, generator=rng)
    v = lesson.with_words(unet, words[which % 12])  # as v(x, t); the UNet gets 999 t
    lesson.flow_loss.answer(v, latents[which], noise, t).backward()
    optimizer.step()
    optimizer.zero_grad()
    lesson.move_towards(average, unet)

# %% [markdown]
# > **Predict.** The UNet was trained for 200 steps on 8 pictures each. What does it draw in 1, 2, 4 and
# > 20 steps? (Four of the twelve captions are shown.)

# %%
start = torch.randn(12, 4, 8, 8, generator=torch.Generator().manual_seed(5))
v, rows = lesson.with_words(average, words), {}
with torch.no_grad():
    for n in (1, 2, 4, 20):
        rows[f"{n} step" + "s" * (n > 1)] = pipe.decode(flow_walk(v, start, n)[-1][[0, 5, 10, 3]])
names = ["a red heart", "a yellow tree", "a green fish", "a blue heart"]
lesson.show_sheet(rows, names, lesson.SMALL_WORLD)

# %% [markdown]
# After a few seconds of training, every picture has the colour and roughly the shape of its caption
# (notebook 09 trains on ten times as many examples). Even one step is enough for that, because in this
# world a caption leaves little open. More steps hardly help: the ragged outlines are the network's error,
# not the sampler's. The velocity of a flow is not the $v$ of notebook 09, but it behaves similarly, and
# for the same reason: near pure noise the network has to say what the *picture* is, and repeating its
# input is not enough.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `ddpm` | `DDPMScheduler`, or DDIM with η = 1; Euler a is the same in σ | [`ddpm.py`](../minisd/schedulers/ddpm.py) | Ho et al. 2020, algorithm 2 |
# | λ between 0 and 1 | DDIM's η | [`ddim.py`](../minisd/schedulers/ddim.py) | Song et al. 2020, eq. 16 |
# | the reverse SDE | "DPM++ 2M SDE" | [`dpm_solver.py`](../minisd/schedulers/dpm_solver.py) | Song et al. 2021, eq. 6 |
# | $v = \epsilon - x_0$ | not in 1.5, and not in minisd; Stable Diffusion 3 | | [Esser et al. 2024](https://arxiv.org/abs/2403.03206) |
# | reflow | InstaFlow, trained from 1.5 and then distilled | | X. Liu et al. 2023 |
#
# **Play.** Reflow a second time. Pair noise and data by colour or by place instead of at random, before
# the first training: does the flow become straighter? Walk with λ = 5 in 200 steps, and in 1000. In the
# last training run, draw $t$ from a bell curve, as Stable Diffusion 3 does.
#
# *Stuck on an exercise? The answers are in [`lesson_13.py`](../minisd/lessons/lesson_13.py).*

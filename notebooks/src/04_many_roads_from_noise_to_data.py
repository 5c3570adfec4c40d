# %% [markdown]
# # 04 · Many roads from noise to data
#
# **Why do samplers differ?**
#
# *45 minutes to read, a minute to run. You need notebook 03: the perfect denoiser, `transfer`, and the walk.*
#
# In the loop of a diffusion model one line is expensive: asking the UNet. A picture in 50 steps asks it
# 50 times. All that a sampler adds is arithmetic that takes no time. So every sampler asks the same
# question, and they differ in what they make of the answers.
#
# How good is one, then? With a real network nobody can say, as nobody knows where the walk should have
# ended. With the perfect denoiser we can know it to five digits and more. So we go back to the small
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
from minisd.schedulers.lms import blend
from minisd.schedulers.pndm import BLENDS

you_are_here("scheduler")

# %% [markdown]
# ## The road
#
# Notebook 03 took every step with `transfer`: to $\hat x_0$, and back with the same noise, but less of
# it. Divide $x$ by $\sqrt{\bar\alpha}$, so that the picture keeps its size and only the noise changes:
#
# $$\tilde x = \frac{x}{\sqrt{\bar\alpha}}, \qquad \sigma = \sqrt{\frac{1-\bar\alpha}{\bar\alpha}}$$
#
# Before the step $\tilde x$ is $\hat x_0 + \sigma\,\hat\epsilon$, after it
# $\hat x_0 + \sigma'\,\hat\epsilon$. So the step is
#
# $$\tilde x' = \tilde x + (\sigma' - \sigma)\,\hat\epsilon$$
#
# Change $\sigma$ by a little, and go along $\hat\epsilon$ by as much. So $\hat\epsilon$ is the direction of a
# road: $\mathrm d\tilde x/\mathrm d\sigma = \hat\epsilon(\tilde x, \sigma)$
# ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), eq. 1 with time $\sigma$). Sampling is
# following it from $\sigma = 14.6$ down to 0.

# %%
alpha = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000).double(), dim=0)
alpha = torch.cat([alpha, torch.ones(1)])  # so alpha[-1] is 1: "timestep -1" is the clean picture
sigma = ((1 - alpha) / alpha).sqrt().tolist()

x, eps = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).double()
hop = transfer(x, eps, alpha[500], alpha[400]) / alpha[400] ** 0.5
straight = x / alpha[500] ** 0.5 + (sigma[400] - sigma[500]) * eps
print(f"transfer and the straight line differ by {(hop - straight).abs().max():.0e}")

# %% [markdown]
# A hop with `transfer` goes straight on in the direction in which the road leaves. That is Euler's
# method, of 1768; as a sampler it is known as DDIM ([Song et al. 2020](https://arxiv.org/abs/2010.02502)).


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
# > **Predict.** Let the data be three numbers again. From nine places in the noise ($t = 599$,
# > $\sigma = 2.3$) DDIM walks in 4 hops, then in 10. Where will it leave the roads: on the left, where
# > there is nothing but noise, or on the right?

# %%
numbers = torch.tensor([[-1.4], [0.1], [1.3]]).double()
starts = torch.distributions.Normal(0, 1).icdf((torch.arange(9)[:, None] + 0.5) / 9).double()


def road_of(times):
    way = walk(ddim_step, lambda x, t: exact.epsilon(x, numbers, alpha[t]), starts, times)
    return times, way / alpha[list(times)].view(-1, 1, 1) ** 0.5


walks = [road_of(range(599, -2, -600 // hops)) for hops in (4, 10)]
lesson.show_roads(sigma, numbers, walks, fine=road_of(range(599, -2, -1)))

# %% [markdown]
# On the right. In much noise $\hat\epsilon$ hardly changes, so the roads are straight, and one long hop is
# as good as many. They bend where it is decided which number it will be. Keep that in mind.
#
# ### Exercise 1 · A DDIM step
#
# Write `transfer` yourself: from `x` and its noise to the clean picture, and back to the next level.


# %%
def my_ddim_step(x, eps, alpha, alpha_next):
    """From the level ᾱ to the level ᾱ', along ε."""
    return ...


# %%
lesson.ddim_step.check(my_ddim_step)

# %% [markdown]
# ## How wrong?
#
# The five points of notebook 03, and 1000 walkers in pure noise. We follow them from $t = 999$ to
# $t = 279$, where most lean towards one of the points (why no further, you will see below). These 720
# timesteps can be taken in hops of many lengths. For the truth we take every single one of them, and not
# with DDIM but with a better sampler, which is Exercise 2.

# %%
points = torch.tensor([[-1.5, 0.5], [-0.3, 1.4], [1.4, 0.7], [0.8, -1.2], [-0.9, -1.1]]).double()
x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()


def eps_of(x, t):
    return exact.epsilon(x, points, alpha[t])


def road(hops, end=-1):
    """Timesteps from 999 to `end`, in equal hops."""
    return range(999, end - 1, (end - 999) // hops)


truth = walk(lesson.heun, eps_of, x, road(720, 279))[-1]
shapes(x=(x, (1000, 4, 64, 64)), truth=(truth, (1000, 4, 64, 64)))

# %% [markdown]
# > **Predict.** Twice as many hops, so twice the price. What becomes of the error: a half, a quarter?


# %%
def off(x):
    """The mean distance of the walkers from where they should be."""
    return (x - truth).norm(dim=1).mean().item()


for hops in (6, 12, 24, 48):
    print(f"{hops:2} hops: off by {off(walk(ddim_step, eps_of, x, road(hops, 279))[-1]):.4f}")

# %% [markdown]
# A half. That is the nature of straight hops. One that is half as long strays from a bend a quarter as
# far, as its error grows with the square of its length; but there are twice as many of them. In general,
# if the error falls like $1/n^p$ with the number $n$ of hops, a sampler is said to be of *order* $p$.
# With logarithms on both axes that is a straight line, which falls with slope $p$. DDIM is of order 1.
# For one more digit it wants ten times the calls.
#
# ## A second look
#
# A better hop: go there, look at $\hat\epsilon$ *there* too, come back, and hop again with the mean of the
# two. So at the start one takes into account how the road goes on. This is Heun's method, of 1900; it
# asks twice per hop. The sampler of Karras et al. (2022, algorithm 1), known as EDM, is
# made of it.
#
# ### Exercise 2 · A sampler of order 2
#
# Write this hop, or any other that asks `eps_of` twice and is of order 2. The check walks with it, in 30
# hops and in 60, measures the slope, and wants 2, give or take 0.2. (`ddim_step`, above, has slope 1.)


# %%
def my_step(eps_of, x, t, t_next):
    """From x at t to the x at t_next; eps_of(x, t) is the noise in an x at a timestep."""
    return ...


# %%
lesson.second_order.check(my_step)

# %% [markdown]
# ## A memory
#
# Asking twice is one way to learn how the road bends. There is a cheaper one: remember. The
# $\hat\epsilon$ of earlier hops are paid for. If they have been rising, they will go on rising. So lay a
# polynomial through the last four, and take its mean over the *coming* hop. That mean is a blend of the
# four, and `transfer` does the rest. One transfer, three blends:
#
# * **DDIM** takes the last $\hat\epsilon$ alone: it will stay as it is now.
# * **PLMS** counts hops, as if all were equally long. Then the shares are always the same, and stand in a
#   table (Bashforth & Adams 1883; [Liu et al. 2022](https://arxiv.org/abs/2202.09778), eq. 12).
# * **LMS** takes a polynomial in $\sigma$, and hops as long as they are. Its shares are computed for each
#   hop anew ([`lms.blend`](../minisd/schedulers/lms.py)).
#
# (In a hurry? Run the cells, and read on at *A real network*. What lies between is why these samplers win
# and lose. Later notebooks need of it only that there are such samplers.)


# %%
def ddim(sigmas, sigma_next):
    return [1.0]


def plms(sigmas, sigma_next):
    return BLENDS[len(sigmas)]


def lms(sigmas, sigma_next):
    return [weight / (sigma_next - sigmas[0]) for weight in blend(sigmas, sigma_next)]


# %%
def multistep(shares_of, eps_of, x, times, second_look=False):
    """A walk with a memory of four; `shares_of` tells how much each ε counts, newest first."""
    noises, way = [], [x]
    for i, t_next in enumerate(times[1:]):
        t, x = times[i], way[-1]
        noises = [eps_of(x, t), *noises[:3]]
        shares = shares_of([sigma[s] for s in times[i::-1][:4]], sigma[t_next])
        eps = sum(share * noise for share, noise in zip(shares, noises))
        if second_look and i == 0:  # we come to that
            eps = (eps + eps_of(transfer(x, eps, alpha[t], alpha[t_next]), t_next)) / 2
        way.append(transfer(x, eps, alpha[t], alpha[t_next]))
    return torch.stack(way)


# %% [markdown]
# > **Predict.** Suppose all hops are equally long in $\sigma$. How do the shares of PLMS and LMS differ?
# > And on a real road, with 10 hops that are equally long in $t$?

# %%
for name, sigmas, sigma_next in (
    ("equal hops", [3, 4, 5, 6], 2),
    ("real road", [sigma[t] for t in (699, 799, 899, 999)], sigma[599]),
):
    for shares_of in (plms, lms):
        shares = "".join(f"{24 * share:8.2f}" for share in shares_of(sigmas, sigma_next))
        print(f"{name}, {shares_of.__name__:<4} {shares}   over 24")

# %% [markdown]
# At equal hops not at all: 55, −59, 37, −9. The table is what that mean comes to when all hops are alike.
# But the hops of a real road shrink in $\sigma$, and there LMS relies less on the past than the table does.
# This is what each of them expects, at two places of one road:

# %%
times = range(999, -1, -1)
one = multistep(ddim, eps_of, x[8:9], times)
noise = {t: eps_of(point, t)[0, 0].item() for t, point in zip(times, one)}
lesson.show_hops(sigma, noise, (399, 199))

# %% [markdown]
# ## The race
#
# > **Predict.** Four samplers, and every call counts. Which slopes will they have? Which is best with
# > 10 calls, which with 60?

# %%
lengths = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 30, 36, 48, 60, 72)
errors = {"DDIM": {}, "Heun": {}, "PLMS": {}, "LMS": {}}
for hops in lengths:
    times = road(hops, 279)
    for name, shares_of in (("DDIM", ddim), ("PLMS", plms), ("LMS", lms)):
        errors[name][hops] = off(multistep(shares_of, eps_of, x, times)[-1])
    errors["Heun"][2 * hops] = off(walk(lesson.heun, eps_of, x, times)[-1])
lesson.show_race(errors)

# %% [markdown]
# DDIM has its 1 and Heun its 2 (the slopes are measured from 24 calls on); as Heun's hops cost double, it
# needs 10 calls to overtake. And then there are two surprises.
#
# PLMS blends four, and Adams and Bashforth's four have order 4. Here they have order 2. Their table is
# meant for equal hops; these are equal in $t$, not in $\sigma$, and what that leaves is an error that
# falls with the square (Liu et al. 2022 prove order 2 themselves). LMS has the right shares for every
# hop, and falls faster.
#
# But an order says how fast an error falls, not from where. PLMS starts low, and up to some 30 calls it
# is ahead: its cubic in $t$ follows this bend better than a cubic in $\sigma$, as the left half of the
# figure above shows. The sampler of the highest order need not be the best one.
#
# ## The first hop
#
# And why is the slope of LMS not 4? Whoever begins has nothing to remember. The first hop is DDIM's, the
# second blends two, the third three. Few hops, but of low order, and once all else is small, they are
# what is left. PNDM, which is PLMS as Stable Diffusion has it, therefore takes its first hop as Heun
# does: it tries it, and then takes it again with the mean of both ends. So 50 steps are 51 calls.
#
# > **Predict.** Who gains by such a second look at the start, PLMS or LMS?

# %%
for name, shares_of in (("PLMS", plms), ("LMS", lms)):
    ends = {n: multistep(shares_of, eps_of, x, road(n, 279), second_look=True)[-1] for n in lengths}
    before, after = errors[name], {n + 1: off(end) for n, end in ends.items()}
    for errors_of, calls, how in ((before, 20, ""), (after, 21, " with a second look")):
        off_by, slope = errors_of[calls], lesson.slope(errors_of)
        print(f"{name:<4} in 20 hops off by {off_by:.5f}, slope {slope:.1f}{how}")

# %% [markdown]
# LMS. The error of PLMS still falls with the square, and is even larger than before. On this road, at
# least, PNDM spends its extra call where it does not help, and LMS, which could use it,
# goes without.
#
# ## The corner
#
# Now all the way, from $t = 999$ to the data, in 20 hops.
#
# > **Predict.** At $t = 279$ PLMS and LMS are more than ten times nearer to the truth than DDIM. What
# > will be left of it at the end?

# %%
times = road(20)
exactly = multistep(lms, eps_of, x, road(1000))[::50]
off_at = {
    name: (multistep(shares_of, eps_of, x, times) - exactly).norm(dim=2).mean(dim=1)
    for name, shares_of in (("DDIM", ddim), ("PLMS", plms), ("LMS", lms))
}
lesson.show_on_the_way(times, off_at, stop=279)

# %% [markdown]
# They lose. You have seen why, in the right half of the figure with the four remembered values: near the
# data $\hat\epsilon$ bends once more and then never again, and a sampler with a memory goes on bending.
# Worst is the last hop. There DDIM goes to the guess $\hat x_0$, which in a world of points *is* a point.
# A blend with older guesses is none. So let us forget the past for one hop:


# %%
def homeward(shares_of):
    """The same sampler, but its last hop, to σ = 0, is DDIM's."""
    return lambda sigmas, sigma_next: [1.0] if sigma_next == 0 else shares_of(sigmas, sigma_next)


for name, shares_of in (("PLMS", plms), ("LMS", lms)):
    end = multistep(homeward(shares_of), eps_of, x, times)[-1]
    better = (end - exactly[-1]).norm(dim=1).mean()
    print(f"{name:<4} off by {off_at[name][-1]:.3f}; with DDIM's last hop by {better:.3f}")
print(f"DDIM off by {off_at['DDIM'][-1]:.3f}")

# %% [markdown]
# Now a memory pays again. And this is why we raced to $t = 279$ only. An order is a promise about hops
# that are short beside everything that happens on the road. Data that are points have no width: the
# closer one comes, the more suddenly it is decided which point it will be. Our hops are not short beside
# that. Beyond the corner one can measure slopes, but no orders.
#
# ## A real network
#
# A network does not know its data by heart, so its guesses should be smoother. What the truth is nobody
# knows here; a walk with 500 calls has to do. (`guide` makes pictures obey their prompt: notebook 08.)

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
blends = {"DDIM": ddim, "PLMS": plms, "LMS": lms}
ways = {
    (name, n): multistep(shares_of, unet_eps, noise, road(n))
    for name, shares_of in blends.items()
    for n in calls
}
best = multistep(lms, unet_eps, noise, road(unless_fast(500, 50)))  # for the truth
shapes(latents=(best[-1], (1, 4, 64, 64)), context=(context, (2, 77, 768)))

# %% [markdown]
# > **Predict.** Same noise, same prompt, same network. From how many calls on will the ball be right? And
# > which of the three goes wrong worst when there are too few?

# %%
drawn = pipe.decode(torch.cat([ways[name, n][-1] for name in blends for n in calls]).float())
titles = [f"{name}, {n} calls" for name in blends for n in calls]
figures.show(
    figures.pictures(list(avg_pool2d(drawn, 2)), titles, columns=len(calls)),
    "Three rows of five pictures of a red ball on the beach, for 2, 5, 10, 20 and 50 calls. With DDIM and"
    " LMS the ball is there with 2 calls, a little flat, and from 5 on hardly anything changes. With PLMS"
    " the page is spoilt up to 10 calls; from 20 on it is like the others.",
)


# %%
def rms(x):
    """Root mean square: an error in units of latents, whose variance is 1."""
    return x.square().mean().sqrt().item()


def error_at(t, name, n):
    done = 999 - t  # of the 1000 timesteps
    return rms(ways[name, n][done * n // 1000] - best[done * (len(best) - 1) // 1000])


at_199 = {name: {n: error_at(199, name, n) for n in calls[1:]} for name in blends}
at_end = {name: {n: error_at(-1, name, n) for n in calls} for name in blends}
lesson.show_real_errors({"at t = 199": at_199, "at the end": at_end})

# %% [markdown]
# With DDIM and LMS two calls all but do, since the prompt leaves little open: this model knows one way to
# draw a ball. (For Stable Diffusion 20 to 50 are usual.) The errors are familiar. With four fifths of the
# timesteps walked, from 20 calls on it is as in the race: DDIM falls slowly, the blends fall fast. With
# fewer, PLMS is far off already. Then comes a corner: in the last fifth errors grow, and most where they
# were smallest. No world of points, but near the end a picture's outlines are decided, and they are sharp.
# And PLMS, the best of the race with few calls, is the worst here. Is it its last hop again?

# %%
for n in calls[1:3]:
    better = rms(multistep(homeward(plms), unet_eps, noise, road(n))[-1] - best[-1])
    ddim_off, plms_off = at_end["DDIM"][n], at_end["PLMS"][n]
    print(f"{n:>2} calls: DDIM off by {ddim_off:.2f}, PLMS by {plms_off:.2f}", end=", ")
    print(f"PLMS with DDIM's last hop by {better:.2f}")

# %% [markdown]
# For the greater part it is, but not all: in few calls PLMS had gone astray before. (With 50 calls the last
# hop is short, and does little harm. Samplers that are meant for few calls do what we did: those of
# diffusers call it `lower_order_final`.)
#
# > **Predict.** The prompt is obeyed because guidance multiplies, here by 3, what it changes in
# > $\hat\epsilon$. Which of the three will be helped most if we do without, `scale=1`?

# %%
plain = partial(unet_eps, scale=1.0)
best_plain = multistep(lms, plain, noise, road(unless_fast(100, 20)))[-1]
for name, shares_of in blends.items():
    unguided = rms(multistep(shares_of, plain, noise, road(10))[-1] - best_plain)
    print(f"{name:<4} in 10 calls: off by {at_end[name][10]:.2f} guided, {unguided:.2f} unguided")

# %% [markdown]
# PLMS, and only PLMS; without guidance the other two are even further off. So guidance does not make every
# road harder. But it multiplies what bends one, and whoever extrapolates a bend with too bold a table pays
# for it. That samplers of high order can suffer from guidance, and can do worse than DDIM, is why
# [DPM-Solver++](https://arxiv.org/abs/2211.01095) was made (Lu et al. 2022). It has a memory too, and
# blends guesses of $x_0$ instead of $\epsilon$.
#
# ## Where to ask
#
# A sampler is a blend and a list of timesteps. Ours begins at 999 and takes equal hops to the clean
# picture ("trailing"). The list of `LMSDiscreteScheduler` goes on to $t = 0$ ("linspace"). Stable
# Diffusion's own ends with $t = 1$ and begins late, with 10 steps at 901, and with noise as pure as if
# that were 999 ("leading").
#
# > **Predict.** Is beginning late a mistake?

# %%
places = {
    "linspace": [*range(999, -1, -111), -1],
    "trailing": [*range(999, 0, -100), -1],
    "leading": [*range(901, 0, -100), -1],
}
for name, times in places.items():
    ends = [multistep(shares_of, unet_eps, noise, times)[-1] for shares_of in (ddim, lms)]
    print(f"{name}: t = {times[0]}, {times[1]}, … {times[-2]}", end="  ")
    print("DDIM off by {:.2f}, LMS by {:.2f}".format(*[rms(end - best[-1]) for end in ends]))

# %% [markdown]
# It saves calls. From $t = 999$ to 901 $\sigma$ falls by four tenths of the whole way, and $\hat\epsilon$
# hardly changes; so every call stands where the road bends more. But it has a price. What is lost is what
# notebook 02 found in the very last noise: how bright the picture is as a whole. [Lin et al.
# 2023](https://arxiv.org/abs/2305.08891) therefore ask for samplers that begin at the end. The numbers
# above say which weighs more here. In any case, where one asks matters as much as how one blends.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `ddim_step` | DDIM with η = 0; with η > 0 some of the noise is drawn anew | [`ddim.py`](../minisd/schedulers/ddim.py) | Song et al. 2020, eq. 12 |
# | `plms` with `second_look` | PNDM, the default: 50 steps, 51 calls, t = 981, 961, 961, 941, … 1 | [`pndm.py`](../minisd/schedulers/pndm.py) | Liu et al. 2022, eqs. 11 and 12 |
# | `lms` | K-LMS. It keeps $\tilde x$ instead of $x$: that is why it begins with noise times 14.6, and has `scale_model_input` | [`lms.py`](../minisd/schedulers/lms.py) | the σ of Karras et al. 2022, §2 |
# | `road(50)`: 999, 979, … 19 | PNDM and DDIM 981, 961, … 1; LMS 999, 978.6, … 0 | [`base.py`](../minisd/schedulers/base.py) | Lin et al. 2023 |
# | the last hop, to `alpha[-1]` = 1 | PNDM and DDIM stop at $\bar\alpha_0 = 0.99915$; LMS goes to $\sigma = 0$ | [`base.py`](../minisd/schedulers/base.py) | |
# | `unet_eps`: a batch of 2, once a call | the same, with 860 million weights | [`pipeline.py`](../minisd/pipeline.py) | Ho & Salimans 2022, eq. 6 |
#
# **Play.** Let `homeward` also take the hop before the last. Draw with a guidance of 7.5. Put your own
# step from Exercise 2 into the race. Ask ten times, where you think it matters most, and try to beat the best of the three.
#
# *Stuck in an exercise? The answers are in [`lesson_04.py`](../minisd/lessons/lesson_04.py), and that of
# Exercise 1 is [`transfer`](../minisd/schedule.py).*

# %% [markdown]
# # 16 · In four steps
#
# **Why do few steps fail, and how does a network learn to take them?**
#
# *35 minutes to read, half a minute to run. You need notebooks 03 (the best guess), 04 (paths), 08
# (guidance) and 10 (the judges).*
#
# Some programs draw while you type. They call the network one to four times per picture, instead of fifty
# times. Better samplers alone did not achieve that. The networks were trained a second time, by a teacher
# that knows the long way. We first look for the limit of the samplers, then train such a student in a few
# seconds, and finally use one that was trained for the built-in model.

# %%
import torch

import minisd
from minisd.evaluate import geometry, prompts, protocol, rates
from minisd.lessons import clouds, figures, unless_fast, you_are_here
from minisd.lessons import lesson_16 as lesson
from minisd.noise import randn
from minisd.schedule import transfer
from minisd.schedulers.lcm import end_of_curve

you_are_here("UNet", "scheduler")

# %% [markdown]
# ## The limit of the samplers
#
# We use the world of notebook 08, without captions: three arcs of small clouds, for which the best guess
# is a formula ([`clouds.py`](../minisd/lessons/clouds.py)). And we use minisd's own samplers. We give
# them 800 points of noise, and compare the results with the ends of the exact paths.

# %%
alphas_cumprod = minisd.DDIMScheduler().alphas_cumprod
start = torch.randn(800, 2, generator=torch.Generator().manual_seed(0))


def follow(sampler, steps, **settings):
    """The ends of the walk, (800, 2), and the number of calls."""
    scheduler = sampler(timestep_spacing="trailing", **settings)
    scheduler.set_timesteps(steps)
    x = start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        guess = clouds.epsilon(scheduler.scale_model_input(x, t), alphas_cumprod[int(t)])
        x = scheduler.step(guess, t, x).prev_sample
    return x, len(scheduler.timesteps)


# %% [markdown]
# > **Predict.** DDIM in one step, in two, in four: where will the points end? And with Heun's method, the
# > sampler of order 2 that left DDIM behind in notebook 04, in two steps? (That is three calls, since the
# > last step, to $\sigma = 0$, is a plain one.)

# %%
exactly, _ = follow(minisd.HeunDiscreteScheduler, unless_fast(200, 40))
ends = {
    f"DDIM in {n}": follow(minisd.DDIMScheduler, n, set_alpha_to_one=True)[0] for n in (1, 2, 4)
}
ends["Heun in 2"] = follow(minisd.HeunDiscreteScheduler, 2)[0]
ends["exact"] = exactly
lesson.show_ends(ends, lesson.FEW_STEPS)

# %% [markdown]
# In one step all points end near the middle, where there are no data. A sampler goes where $\hat x_0$
# points, and in pure noise $\hat x_0$ is the mean of everything (notebook 03). In the world of pictures
# this mean is a brown blur. A network that predicts the mean *perfectly* still cannot draw in one step:
# the fault is not in the network, and no sampler can repair it, because there is only one guess to use.
#
# With two or more steps a sampler can correct its direction. How much is there to correct? The direction
# of a path is $\hat\epsilon$ (notebook 04). Along the exact paths we compare this direction with the
# direction at the start.

# %%
x, first, turned = start, clouds.epsilon(start, alphas_cumprod[999]), {}
for t in range(999, 4, -5):
    eps = clouds.epsilon(x, alphas_cumprod[t])
    turned[t] = torch.cosine_similarity(eps, first).clamp(-1, 1).acos().rad2deg()
    x = transfer(x, eps, alphas_cumprod[t], alphas_cumprod[t - 5])
for t in (749, 499, 249, 99):
    share = (turned[t] > 45).float().mean()
    print(f"t = {t}: turned by {turned[t].median():.0f} degrees, {share:.0%} by more than 45")

# %% [markdown]
# Down to $t = 499$ the paths are straight. All the turning happens in the second half of the timesteps,
# and a sampler with four steps has two calls there, at 499 and 249. By the last call, a third of the
# points have turned by more than 45°, and it is too late to correct what the earlier long steps missed.
#
# > **Predict.** Four modern samplers, with 1 to 20 calls. Which of them has the smallest error with four
# > calls? A cloud has a standard deviation of 0.12: is any error below that?

# %%
samplers = {
    "DDIM": (minisd.DDIMScheduler, {"set_alpha_to_one": True}),
    "Heun": (minisd.HeunDiscreteScheduler, {}),
    "DPM++ 2M": (minisd.DPMSolverMultistepScheduler, {}),
    "K-LMS": (minisd.LMSDiscreteScheduler, {}),
}
errors = {name: {} for name in samplers}
for name, (sampler, settings) in samplers.items():
    for n in (1, 2, 4, 5, 8, 10, 20):  # divisors of 1000
        x, calls = follow(sampler, n, **settings)
        errors[name][calls] = (x - exactly).norm(dim=1).mean().item()
lesson.show_errors({name: {n: e for n, e in es.items() if n <= 20} for name, es in errors.items()})

# %% [markdown]
# With four calls no error is below 0.12, although K-LMS comes close. With up to five calls all samplers
# miss the ends of the paths by more than the width of a cloud, on average. A higher order helps when
# steps are short compared with the bend (notebook 04), and here they are not. Beyond three calls Heun's
# method is even worse than DDIM: it spends the second call of each step on a place that lies off the
# path. (In notebook 04 it overtook DDIM, but that race stopped at $t = 279$, before the sharpest turn.)
#
# ## A jump
#
# So the paths bend, and a small number of straight lines cannot follow them. But the path of each point
# has one end, and this end is a *function* of the point. The network never learnt that function: it
# learnt the mean of all $x_0$ that are possible for an $x_t$. Let us train a network that knows
#
# $$f(x_t, t) = \text{the end of the path through } x_t$$
#
# Such an $f$ is called a *consistency model* ([Song et al. 2023](https://arxiv.org/abs/2303.01469); the
# paper takes a moving average of $f$ as the target, and a later paper, Song & Dhariwal 2023, §3.2, found
# this unnecessary). We could use a teacher to compute the ends in hundreds of steps, and train on these
# ends as targets. There is a cheaper way. All points on a path have the same end. So take *one* step of
# the teacher, from $x_t$ to $\hat x_{t'}$, and demand that $f$ gives the same answer at both points:
#
# $$L = \left\lVert f(x_t, t) - f(\hat x_{t'}, t')\right\rVert^2 \qquad \text{without a gradient through the second } f$$
#
# An $f$ that is 0 everywhere would satisfy this. So one more condition is needed: at $t = 0$ the path is
# at its end, so $f(x, 0) = x$. This condition is built into $f$, as a mixture of $x$ and the network's
# answer in which the network's share is 0 at $t = 0$:

# %%
x, answer = torch.ones(3, 1), torch.zeros(3, 1)  # a network that always answers 0
print(end_of_curve(x, answer, torch.tensor([[0.0], [0.5], [10.0]])).flatten())


def jump_with(network):
    def jump(x, t):  # x (B, 2), t (B, 1)
        return end_of_curve(x, network(x, t), t / 100)

    return jump


# %% [markdown]
# In $f(x, t) = c_\text{skip}\,x + c_\text{out}\cdot\text{answer}$, we set $x$ to 1 and the answer to 0,
# so the printed numbers are $c_\text{skip}$, the share of $x$: all of it at $t = 0$, half at $t = 50$
# (the timestep is divided by 100), almost none at $t = 1000$.
#
# ### Exercise 1 · The target
#
# Write $f(\hat x_{t'}, t')$: one DDIM step of the teacher with its `eps`, then the student's `jump`
# from there. No gradient may flow through it. `alpha` and `alpha_next` belong to `t` and `t_next`.


# %%
def my_target(jump, x, eps, t_next, alpha, alpha_next):
    """What the jump from x should be, (B, 2)."""
    return ...


# %%
lesson.target.check(my_target)

# %% [markdown]
# The teacher is the exact denoiser. Its paths get 20 steps, and the student learns from pairs of
# neighbouring points on them.

# %%
times = torch.tensor([0, *range(49, 1000, 50)])  # 0, 49, 99, … 999


# %%
def distil(steps, rng):
    network = lesson.network()
    jump, optimizer = jump_with(network), torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(steps):
        k = torch.randint(1, 21, (256, 1), generator=rng)
        x, eps, alphas = lesson.teacher(times[k], times[k - 1], alphas_cumprod, rng)
        aim = lesson.target.answer(jump, x, eps, times[k - 1], *alphas)
        loss = (jump(x, times[k]) - aim).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step + 1, jump


# %% [markdown]
# > **Predict.** After 50, 200 and 1000 steps of training the student jumps from the 800 starts, in one
# > call. What do the ends look like?

# %%
film, errors, last = {}, {}, unless_fast(1000, 60)
for step, jump in distil(last, torch.Generator().manual_seed(1)):
    if step in (50, 200, last):
        with torch.no_grad():
            film[f"step {step}"] = jump(start, torch.full((800, 1), 999))
        errors[step] = lesson.errors_by_time(jump, times[1:], exactly, start, alphas_cumprod)
lesson.show_ends({**film, "exact": exactly}, lesson.FILM)
for name, ends in film.items():
    print(f"{name}: off by {(ends - exactly).norm(dim=1).mean():.2f}, in one call")

# %% [markdown]
# One call is now as good as eight calls of DDIM. The student has learnt it without ever seeing the end of
# a path that begins in noise.
#
# > **Predict.** At which end does the student first learn the correct answer, at low or at high $t$? At
# > which timesteps is the student worst early in training, and where at the end of it?

# %%
lesson.show_spreading(times[1:], errors)

# %% [markdown]
# The correct answer is known only at $t = 0$, and in training it spreads from there to higher $t$. The
# jump from $t = 49$ learns from $f(x, 0) = x$, the jump from 99 learns from the jump from 49, and so on.
# Early in training the error grows with $t$: every jump inherits the error of its target and adds its
# own. At the end the curve is nearly flat. A jump from pure noise is then hardly worse than one from
# half-way, since the paths are straight between these two points, and the only difficult part comes after
# both.
#
# ## More than one jump
#
# A single jump is a risk: its mistakes stay in the result. But a consistency model can be called again.
# Jump to the end, add new noise up to a lower timestep, and jump from there. Each jump is shorter and so
# more reliable than the one before. [`LCMScheduler`](../minisd/schedulers/lcm.py) does that (Song et al.
# 2023, algorithm 1; in latents, with guidance, [Luo et al. 2023](https://arxiv.org/abs/2310.04378),
# algorithm 3).
#
# ### Exercise 2 · Drawing with jumps
#
# `times` is a list, for example 999, 749, 499, 249; `noises` has one element fewer. After the last jump
# no noise is added.


# %%
def my_draw(jump, x, times, noises, alphas_cumprod):
    """From x at times[0]: jump, add noises[0] up to times[1], jump, …"""
    for i in range(len(times)):
        x0 = jump(x, times[i])
        x = ...
    return x


# %%
lesson.draw.check(my_draw)

# %% [markdown]
# > **Predict.** With 1, 2 and 4 jumps: do the points come closer to the data? And closer to the ends of
# > their own paths?

# %%
rng = torch.Generator().manual_seed(3)
noises = [torch.randn(800, 2, generator=rng) for _ in range(3)]


def at(x, t):
    with torch.no_grad():
        return jump(x, torch.full((len(x), 1), t))


for places in ([999], [999, 499], [999, 749, 499, 249]):
    ends = lesson.draw.answer(at, start, places, noises, alphas_cumprod)
    far = lesson.from_the_data(ends)
    print(f"{len(places)} jump{'s' * (len(places) > 1)}: {far:.3f} from the data", end=", ")
    print(f"{(ends - exactly).norm(dim=1).mean():.2f} from the end of its own path")
print(f"exact paths: {lesson.from_the_data(exactly):.3f} from the data")

# %% [markdown]
# More jumps bring the points a little closer to the data, but not to the ends of their *own* paths,
# because the new noise moves them to other paths. With several jumps the start no longer decides the
# picture. That is the first price: the map from noise to data, which notebook 14 used for editing, is
# gone. (In this world one jump is already nearly as good as the exact path.)
#
# ## The built-in model
#
# We use the same method, with three differences. The student starts as a copy of the UNet and learns only
# a *LoRA*, small matrices beside its weights. The teacher's step is *guided*, so guidance becomes part of
# the student, and one call per step is enough. And the loss is a little more tolerant of large errors
# ([`distill.py`](../minisd/train/distill.py)).

# %%
pipe = minisd.StableDiffusionPipeline.from_pretrained("tiny")
student = minisd.StableDiffusionPipeline.from_pretrained("tiny")
student.load_lora_weights("tiny")
for each in (pipe, student):
    each.set_progress_bar_config(disable=True)


settings, trailing = pipe.scheduler.config, {"timestep_spacing": "trailing"}


def drawn(pipe, sampler, steps, scale, texts, seeds, **more):
    """Pictures (B, 3, 128, 128) in [-1, 1]; every seed has its own noise."""
    pipe.scheduler = sampler.from_config(settings, **more)
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    how = {"num_inference_steps": steps, "guidance_scale": scale, "generator": rngs}
    return 2 * pipe(texts, **how, output_type="pt").images - 1


# %% [markdown]
# > **Predict.** Four prompts. The teacher draws with guidance, so a step costs two calls: DDIM and DPM++
# > 2M in five steps, Heun in three (with two lists of timesteps), ten calls each. Then the teacher
# > without guidance and the student draw in four calls and in one. Which sets of four pictures will be
# > right?

# %%
cat_and_tree = "a black cat to the left of a green tree"
texts = ["an astronaut riding a horse", "a red ball on the beach", cat_and_tree]
texts = [*texts, "a house at night"][unless_fast(0, 3) :]
seeds, rows = range(len(texts)), {}
for name in ("DDIM", "DPM++ 2M"):
    rows[f"{name}, 10 calls"] = drawn(pipe, samplers[name][0], 5, 2.0, texts, seeds)
for name, more in (("Heun, 10 calls", {}), ("Heun, trailing", trailing)):
    rows[name] = drawn(pipe, minisd.HeunDiscreteScheduler, 3, 2.0, texts, seeds, **more)
    heun = minisd.HeunDiscreteScheduler.from_config(settings, **more)
    heun.set_timesteps(3)
    print(f"{name}: steps start at σ =", *(f"{sigma:.2f}" for sigma in heun.sigmas[:-1:2]))

# %%
for n in (4, 1):
    calls = f"{n} call" + "s" * (n > 1)
    rows[f"teacher, {calls}"] = drawn(pipe, minisd.DDIMScheduler, n, 1.0, texts, seeds, **trailing)
    rows[f"student, {calls}"] = drawn(student, minisd.LCMScheduler, n, 1.0, texts, seeds)
titles = [name if i == 0 else "" for name in rows for i in seeds]
small = list(torch.cat(list(rows.values()))[..., ::2, ::2])
figures.show(figures.pictures(small, titles, columns=8), lesson.ROWS)

# %% [markdown]
# DDIM surprises: five steps are enough for it. The captions of the picture book leave little open, so the
# paths of this model probably bend less than those of our plane. Heun's method depends on its list of
# timesteps. By default, its first step goes from $\sigma = 14.6$ all the way to 1.6, and its last one
# starts at only 0.03. The second guess of the first step is made far off the path and counts as much as
# the first, so colours come out inverted. With "trailing" the same ten calls draw the right things.
#
# The teacher without guidance is the fair comparison. With four calls it draws as well as the student,
# since this model hardly needs guidance. With one call the teacher draws the mean, while the student
# draws things with smeared outlines: that is what distillation has added. Stable Diffusion needs
# guidance, which costs its samplers a second call, and its paths bend more. There the student is ahead
# with four calls, too (Luo et al. 2023, table 1).
#
# > **Predict.** Three mistakes that are easy to make: the student with guidance (scale 4), the student
# > with DDIM instead of its own sampler, and the teacher's UNet, without LoRA, with the LCM sampler. What
# > does each of them draw?

# %%
two = [texts[0], texts[-1]]
mistakes = {
    "student, guided": drawn(student, minisd.LCMScheduler, 4, 4.0, two, (0, 3)),
    "student, DDIM": drawn(student, minisd.DDIMScheduler, 4, 1.0, two, (0, 3)),
    "teacher, LCM": drawn(pipe, minisd.LCMScheduler, 4, 1.0, two, (0, 3)),
}
titles = [name for name in mistakes for _ in two]
small = list(torch.cat(list(mistakes.values()))[..., ::2, ::2])
figures.show(figures.pictures(small, titles, columns=6), lesson.MISTAKES)

# %% [markdown]
# Guidance is in the student's weights already. Applied a second time, it exaggerates: the horse turns
# green and the house yellow. DDIM treats the student's answer as a mean of many pictures, which it no
# longer is, so DDIM moves only part of the way and keeps the old noise. The last pair is not a failure:
# in a world as simple as this one, even the teacher's mean becomes sharp after a step or two.
#
# ## What is lost
#
# > **Predict.** Prompts with two things are the hardest. Of ten such prompts, how many will the judge of
# > notebook 10 find right, for the teacher in 20, four and one calls, and for the student in four and
# > one? And do pictures from different seeds still differ as much as before?

# %%
asked = prompts.prompts_of("two things", unless_fast(10, 1), seed=0)
ways = {
    "teacher, 20 calls": (pipe, minisd.DDIMScheduler, 10, 2.0, {}),
    "teacher, 4 calls": (pipe, minisd.DDIMScheduler, 4, 1.0, trailing),
    "student, 4 calls": (student, minisd.LCMScheduler, 4, 1.0, {}),
    "teacher, 1 call": (pipe, minisd.DDIMScheduler, 1, 1.0, trailing),
    "student, 1 call": (student, minisd.LCMScheduler, 1, 1.0, {}),
}

# %%
for name, (*way, more) in ways.items():
    found = geometry.judge(drawn(*way, [p.text for p in asked], range(len(asked)), **more))
    share = rates.rate(rates.right(found, asked))
    low, high = share.interval()
    print(f"{name:<17}  right: {share.right:>2} of {share.of}   95 %: {low:.2f} to {high:.2f}")

# %%
count = unless_fast(8, 2)
for name, (*way, more) in ways.items():
    cats = drawn(*way, ["a cat"] * count, range(count), **more)
    different = lesson.diversity(protocol.thumbnails(cats))
    print(f"a cat, {name:<17}  two pictures differ by {different:.0f}")

# %% [markdown]
# Ten prompts cannot show a difference between four and twenty calls (notebook 10). With 100 prompts of
# each kind, and 50 guided steps for the teacher, [there is a difference](../docs/few_steps.md): of 200
# pictures of two things, the teacher gets 183 right and the student 168. For all other kinds of prompts,
# the two hardly differ. The student's pictures from different seeds are a little more alike. (Eight
# pictures are a hint, not a proof.) That is the second price. The loss is nearly a squared error. Where
# the student cannot know the end, it answers with a mean, and a mean loses what is rare: fine details,
# then variety.
#
# The third price is a loss of control: with our student, guidance can no longer be turned up or down, and
# there is no negative prompt. (A latent consistency model whose UNet takes the scale as an input keeps
# the scale.) [LCM-LoRA](https://arxiv.org/abs/2311.05556) (Luo et al. 2023) is this method for Stable
# Diffusion. [Adversarial distillation](https://arxiv.org/abs/2311.17042) (Sauer et al. 2023, sd-turbo)
# trains with a discriminator as well as a teacher. The discriminator punishes the blur of a mean, and one
# step is enough.
#
# Here is the first price once more, in pictures. The first three drawings start from the same noise, and
# only the noise added later differs:

# %%
first = randn((1, 4, 16, 16), torch.Generator().manual_seed(2))
student.scheduler = minisd.LCMScheduler.from_config(student.scheduler.config)
sheet = []
for steps, seed in ((4, 0), (4, 1), (4, 2), (1, 0)):
    rng = torch.Generator().manual_seed(seed)
    how = {"num_inference_steps": steps, "guidance_scale": 1.0, "generator": rng}
    images = student(cat_and_tree, latents=first, **how, output_type="pt").images
    sheet.append(2 * images[0, :, ::2, ::2] - 1)
titles = ["later noise 0", "later noise 1", "later noise 2", "one jump"]
figures.show(figures.pictures(sheet, titles, columns=4), lesson.SAME_START)

# %% [markdown]
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `end_of_curve(x, answer, t / 100)` | the same with $10\,t$ | [`lcm.end_of_curve`](../minisd/schedulers/lcm.py) | Luo et al. 2023, §4.1 |
# | the target of Exercise 1, with the exact teacher | a guided DDIM step of the UNet, 20 timesteps long | [`distill.loss_with`](../minisd/train/distill.py) | Luo et al. 2023, algorithm 1 |
# | `my_draw` | `LCMScheduler`, 2 to 8 steps | [`lcm.py`](../minisd/schedulers/lcm.py) | Luo et al. 2023, algorithm 3 |
# | `load_lora_weights("tiny")` | `load_lora_weights("latent-consistency/lcm-lora-sdv1-5")` | [`adapters/`](../minisd/adapters) | Luo et al. 2023 (LCM-LoRA) |
# | one call per step, scale 1 | the same | [`few_steps.md`](../docs/few_steps.md) | |
#
# **Play.** Distil with 5 teacher steps, or with 100: what happens to the errors? Remove the condition
# $f(x, 0) = x$. Let the gradient flow through the target too. Give the student of the built-in model
# eight steps.
#
# *Stuck on an exercise? The answers are in [`lesson_16.py`](../minisd/lessons/lesson_16.py).*

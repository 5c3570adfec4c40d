# %% [markdown]
# # 09 · Train one yourself
#
# **What is optimised?**
#
# *45 minutes to read, three minutes to run. You need notebooks 02 (the loss), 05 (latents) and 06
# (words), and for one section also 03 (three names for one arrow).*
#
# So far the weights came from a file. Here they start as random numbers, and a minute or two later they
# draw. Nothing is hidden: the whole training is a loop of a dozen lines, and you can watch it learn. The
# same loop, run for longer on more pictures, made the built-in model. On still more pictures, it made
# Stable Diffusion.

# %%
import copy
import random
from dataclasses import replace

import torch

from minisd import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel, config
from minisd.lessons import figures, lesson_09_curves, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_09 as lesson
from minisd.schedule import add_noise, velocity
from minisd.tiny.picture_book import TRAINING_SCENES
from minisd.train import unet as recipe

you_are_here("UNet")

# %% [markdown]
# ## A world of twelve captions
#
# A few minutes are not enough for the whole picture book. So we take a corner of its world, with only
# three things in four colours. No two pictures are the same: place, size and angle vary a little.

# %%
kinds, colors = ("heart", "tree", "fish"), ("red", "yellow", "green", "blue")
things = [(kind, color) for kind in kinds for color in colors]
captions = [f"a {color} {kind}" for kind, color in things]
rng = random.Random(0)
book = torch.stack([lesson.small_page(*things[i % 12], rng) for i in range(612)])
figures.show(figures.pictures(list(book[:12]), captions, columns=6), lesson.BOOK)

# %% [markdown]
# The VAE and the text encoder come from the built-in model and are not trained. Stable Diffusion was
# trained in the same way: these two first, separately, and then the UNet with both of them frozen. This
# makes training cheap. The pictures become latents *once*, and each caption becomes states once; what is
# left to train is a single network on precomputed numbers.

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny")
pipe.set_progress_bar_config(disable=True)

with torch.no_grad():
    parts = [pipe.vae.encode(pictures).latent_dist.mode() for pictures in book.split(51)]
    words = pipe.encode_prompt(captions + [""])  # the last one is the empty caption
latents = torch.cat(parts) * pipe.vae.config.scaling_factor
latents, fresh = latents[:600], latents[600:]  # the last twelve are kept out of the training
alphas_cumprod = DDIMScheduler().alphas_cumprod
shapes(latents=(latents, (600, 4, 64, 64)), words=(words, (13, 77, 768)))

# %% [markdown]
# The network is the UNet of the other notebooks, but smaller: two levels instead of three, and the words
# enter only at the coarser one. `fresh_unet()` returns an untrained one, always with the same random
# weights.

# %%
small = replace(
    config.TINY_UNET, block_out_channels=(32, 64), cross_attention=(False, True),
    num_attention_heads=(2, 4), norm_num_groups=8, sample_size=8,
)  # fmt: skip


def fresh_unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(small)


count = sum(p.numel() for p in fresh_unet().parameters())
print(f"{count:,} weights; the UNet of SD 1.5 has 859,520,964")

# %% [markdown]
# ## The loss
#
# Every example consists of four random draws: a picture, a timestep, noise, and whether the caption is
# left out (one in ten is, so that guidance has a second guess to start from: notebook 08).


# %%
def draw_batch(rng, size=32):
    which = torch.randint(len(latents), (size,), generator=rng)
    t = torch.randint(1000, (size,), generator=rng)
    noise = torch.randn(size, 4, 8, 8, generator=rng)
    dropped = torch.rand(size, generator=rng) < 0.1
    context = words[torch.where(dropped, 12, which % 12)]
    return latents[which], t, noise, context


def noise_loss(unet, x0, t, noise, context):
    alpha = alphas_cumprod[t].view(-1, 1, 1, 1)
    eps = unet(add_noise(x0, noise, alpha), t, context).sample
    return (eps - noise).square().mean()


# %% [markdown]
# This is the loss of notebook 02 ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 14) with the
# words as a third input ([Rombach et al. 2022](https://arxiv.org/abs/2112.10752), eq. 3). What is
# optimised is the mean over all four draws. What we can compute is the mean over a batch, which is right
# on average, but noisy.
#
# > **Predict.** What is the loss of a network that always answers 0? (The noise has variance 1.) And what
# > is the loss of a fresh network?

# %%
batch = draw_batch(torch.Generator().manual_seed(0), size=8)
x0, t, noise, context = batch
print(f"always 0:  {noise.square().mean():.2f}")
print(f"a fresh network:  {noise_loss(fresh_unet(), *batch).item():.2f}")
shapes(
    x0=(x0, (8, 4, 64, 64)),
    t=(t, (8,)),
    noise=(noise, (8, 4, 64, 64)),
    context=(context, (8, 77, 768)),
)

# %% [markdown]
# Both losses are about 1. If a training run starts far above or below that, something is already wrong.
#
# ## First, memorise one batch
#
# Before a long training run, do a short one that must succeed: eight fixed examples, with the same noise
# at the same timesteps.
#
# > **Predict.** A million weights have to memorise 8 × 256 noise values. How far does the loss fall?

# %%
unet, losses = fresh_unet(), []
optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3, betas=(0.9, 0.99))
for _ in range(unless_fast(80, 3)):
    loss = noise_loss(unet, *batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
lesson_09_curves.show_losses(losses)

# %% [markdown]
# The loss falls as far as you like: the network need not understand anything to do this. A network that
# cannot do it will not do anything else either. Perhaps gradients do not arrive, the optimiser holds the
# weights of another network, or a shape was broadcast. This test finds in seconds what could otherwise
# cost a night. But do not trust it too much. A wrong *formula* can be memorised just as well; finding
# that takes other plots, which come below.
#
# ## The loop
#
# Now every step draws its own batch. Alongside the weights we keep their *moving average*, a copy that is
# never trained directly. At every step the average moves 2 % of the way towards the current weights. In
# the end we use the average, not the weights.


# %%
def train(unet, loss, steps, keep=0.98):
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3, betas=(0.9, 0.99))
    rng = torch.Generator().manual_seed(1)
    for step in range(1, steps + 1):
        value = loss(unet, *draw_batch(rng))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        for old, new in zip(average.parameters(), unet.parameters()):
            old.lerp_(new.detach(), 1 - keep)
        yield step, value.item(), average


# %% [markdown]
# That is the complete training of a diffusion model. `train` is a generator, so we can look in after
# every step. We look at what the network with the averaged weights draws, two pictures for each caption,
# always from the same noise, and at its error on the twelve pictures that were kept out
# ([`errors`](../minisd/lessons/lesson_09.py)).
#
# Does the network draw the right pictures? Our world is small enough for a simple judge: which of the 600
# latents in the book is nearest, and what is its caption?


# %%
def draw(network, prediction_type="epsilon"):
    """Latents (24, 4, 8, 8), two for each caption."""
    pipe.unet, pipe.scheduler = network, DDIMScheduler(prediction_type=prediction_type)
    how = {"num_inference_steps": unless_fast(20, 3), "guidance_scale": 2.0}
    rng = torch.Generator().manual_seed(5)
    return pipe(captions * 2, **how, generator=rng, output_type="latent").images


# %%
def score(z):
    """How often the nearest page has the colour, and how often the thing, that was asked for."""
    wanted = torch.arange(len(z)) % 12
    found = torch.cdist(z.flatten(1), latents.flatten(1)).argmin(dim=1) % 12
    color, kind = found % 4 == wanted % 4, found // 4 == wanted // 4
    return color.float().mean().item(), kind.float().mean().item()


# %%
print("the judge on twelve fresh pictures, colour and thing:", *score(fresh))

# %% [markdown]
# The judge makes no mistake on real pictures, so we can trust it. Now we train. (This cell takes the
# longest.)

# %%
steps = unless_fast(500, 20)
moments = [steps * part // 10 for part in (1, 2, 3, 5, 10)]
unet, losses, film, raw, averaged = fresh_unet(), [], {}, {}, {}
for step, loss, average in train(unet, noise_loss, steps):
    losses.append(loss)
    if step % (steps // 20) == 0:
        raw[step] = lesson.errors(unet, fresh, words[:12])
        averaged[step] = lesson.errors(average, fresh, words[:12])
    if step in moments:
        film[step] = draw(average)

# %% [markdown]
# > **Predict.** What does the network draw after a tenth of the steps? What is learnt first, colours or
# > things?

# %%
four = [0, 5, 10, 3]  # a red heart, a yellow tree, a green fish, a blue heart
names = [captions[i] for i in four]
rows = {f"step {step}": pipe.decode(z[four]) for step, z in film.items()}
lesson.show_sheet(rows, names, lesson.FILM)

# %%
for step, z in film.items():
    color, thing = score(z)
    print(f"step {step:<4} colour right: {color:4.0%}   thing right: {thing:4.0%}")
print(f"the book has {len(latents)} pictures; {steps * 32} examples were drawn from it")

# %% [markdown]
# Thing and colour are learnt together, and clean outlines last. The network has seen each picture only
# about two dozen times, each time with different noise. It needs no more: what it learns from one red
# thing helps with the other two red things, and the pale background is the same in every picture.
#
# ## What the mean hides
#
# > **Predict.** Below is the loss of every step. The second half of training seems to have achieved
# > little, but the pictures above kept improving. At which timesteps did the network continue to learn?

# %%
lesson_09_curves.show_progress(losses, averaged)

# %% [markdown]
# The curve on the left hides two things. First, it is ragged because some batches contain harder
# timesteps than others: the loss of a single step says next to nothing. Second, its mean is dominated by
# the low timesteps, where the error is tens of times larger and soon reaches its minimum. At the high
# timesteps, where a picture begins, the error continues to fall for a long time, out of sight. So log low
# and high timesteps separately, as [`by_timestep`](../minisd/train/unet.py) does for the built-in model.
#
# > **Predict.** The laziest network answers "everything that I see is noise", $\hat\epsilon = x_t$
# > (notebook 02). At which timesteps does our network beat it?

# %%
alpha = alphas_cumprod[lesson.TIMES]
lazy = (1 - (1 - alpha) ** 0.5) ** 2 + alpha * latents.square().mean()  # E[(x_t − ε)²]
lines = {"a fresh network": lesson.errors(fresh_unet(), fresh, words[:12])}
lines |= {f"after {step} steps": averaged[step] for step in (steps // 5, steps)}
lines |= {"the lazy answer": lazy}
title = "mean square error of ε on fresh pictures"
lesson_09_curves.show_by_timestep(lines, title, lesson.ERRORS)

# %% [markdown]
# At low $t$ the task is hard: the noise is weak and difficult to tell from the picture. At high $t$ the
# task is so easy that returning the input is almost right, and at the highest $t$ our network has not
# even caught up with the lazy answer. But these timesteps are where it counts. At $t = 990$ the squared
# error in $x_0$ is 200 times the squared error in $\epsilon$, and only a network that is *better* than
# lazy knows anything about the picture.
#
# ## The moving average
#
# > **Predict.** Which has the smaller error after 25 steps, the weights or their average? And at the end?

# %%
lesson_09_curves.show_average(raw, averaged)

# %% [markdown]
# At first the average lags behind, because it still contains the random start. Then it wins. Each step of
# the optimiser follows the noise of its batch, and a mean over the last 50 steps removes that noise
# (after [Polyak & Juditsky 1992](https://doi.org/10.1137/0330046), whose mean is unweighted). The average
# costs a copy of the weights and no gradient. (Longer training runs average over more steps.
# [`loop.Average`](../minisd/train/loop.py) keeps less of the past at first, so it does not lag.)
#
# ## ε or v
#
# Notebook 03 gave the arrow three names and left a question open: which of the three does a network learn
# best? Everything is as above, with the same start and the same batches; only the target is now
# $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$.


# %%
def velocity_loss(unet, x0, t, noise, context):
    alpha = alphas_cumprod[t].view(-1, 1, 1, 1)
    v = unet(add_noise(x0, noise, alpha), t, context).sample
    return (v - velocity(x0, noise, alpha)).square().mean()


film_v = {}
for step, _, average_v in train(fresh_unet(), velocity_loss, steps * 3 // 10):
    if step in moments:
        film_v[step] = draw(average_v, "v_prediction")

# %% [markdown]
# > **Predict.** After a fifth of the steps, which network draws better from the same noise: the one that
# > predicts ε, or the one that predicts $v$?

# %%
early = steps // 5
lesson.show_sheet(
    {f"ε, step {early}": pipe.decode(film[early][four]),
     f"v, step {early}": pipe.decode(film_v[early][four])},
    names, lesson.EPS_OR_V,
)  # fmt: skip

# %%
for step, z in film_v.items():
    (color, thing), (color_v, thing_v) = score(film[step]), score(z)
    print(f"step {step:<4} colour right: ε {color:4.0%}, v {color_v:4.0%}", end="   ")
    print(f"thing right: ε {thing:4.0%}, v {thing_v:4.0%}")
print("by chance: 25 % and 33 %")

# %% [markdown]
# $v$ is far ahead. Is it simply the better target? The two losses cannot be compared, because their units
# differ. But both networks imply a guess of $x_0$, and we can compare the errors of these guesses.

# %%
factor = (1 - alpha) / alpha  # turns a square error of ε into a square error of x0
last = steps * 3 // 10
error_v = lesson.errors(average_v, fresh, words[:12], "v_prediction")
lines = {"predicts ε": averaged[last] * factor, "predicts v": error_v * factor}
title = f"mean square error of $x_0$ on fresh pictures after {last} steps"
lesson_09_curves.show_by_timestep(lines, title, lesson.ERRORS_OF_X0)

# %% [markdown]
# Each network is better where its task is easier. In strong noise $v$ is nearly $-x_0$: the network is
# asked for the picture itself. A network that is asked for $\epsilon$ must first learn to repeat its
# input to within a hundredth; only the small remainder says anything about the picture. In weak noise,
# the network that predicts ε has the easier task. Early in training the high timesteps matter more,
# because no picture can be better than its beginning. Later the difference shrinks: at the end of its
# training, the network that predicts ε got everything right, too.
#
# ## What is optimised, then
#
# ε, $v$ and $x_0$ are one guess in three units. Given $x_t$, an error in one *is* an error in the others,
# times a number that depends on $t$ alone:

# %%
x0, noise = fresh[:1], torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
guess = x0 + 0.1  # an x0 that is off by 0.1 everywhere
for t in (10, 250, 500, 750, 990):
    alpha = alphas_cumprod[t]
    x = add_noise(x0, noise, alpha)
    eps = (x - alpha**0.5 * guess) / (1 - alpha) ** 0.5  # the same guess as noise
    v_error = velocity(guess, eps, alpha) - velocity(x0, noise, alpha)
    in_eps, in_v = ((error.square().mean() / 0.1**2) for error in (eps - noise, v_error))
    print(f"t = {t:<3}   SNR {alpha / (1 - alpha):7.3f}   in ε {in_eps:7.3f}   in v {in_v:7.3f}")

# %% [markdown]
# The loss of ε weights a squared error in $x_0$ by the signal-to-noise ratio (SNR, notebook 02), and the
# loss of $v$ weights it by SNR + 1 ([Salimans & Ho 2022](https://arxiv.org/abs/2202.00512), §4). So what
# is optimised is always the same: the mean square error of the guessed picture, *weighted by timestep*.
# Choosing a target means choosing weights, and weights can also be chosen directly. The built-in model
# predicts ε, and its loss is weighted so that no timestep counts more than one with an SNR of 5 ([Hang et
# al. 2023](https://arxiv.org/abs/2303.09556)).

# %%
lesson_09_curves.show_weights()

# %% [markdown]
# The weights in the loss of ε span five orders of magnitude, and plain training spends much of its effort
# at the far left of the plot, on the last details. It still works, as you have seen. Stable Diffusion 1
# was trained like this; version 2 has one model that predicts ε and one that predicts $v$.
#
# ## The model in the package
#
# The built-in model was made by the same loop, in four training runs:
#
# ```bash
# python -m minisd.train clip       # the text encoder, on captions and pictures (notebook 06)
# python -m minisd.train vae        # the VAE (notebook 05)
# python -m minisd.train decoder    # its decoder again, for sharper pictures
# python -m minisd.train unet       # this notebook
# python -m minisd.train pack --to my-model
# python -m minisd.generate --model my-model "an astronaut riding a horse"
# ```
#
# All random numbers of a step come from seeds made from the step's number. So a training run can be
# stopped at any time and resumed later as if nothing had happened. These are the differences from this
# notebook:

# %%
r = recipe.RECIPE
for what, here, there in [
    ("pictures", len(latents), TRAINING_SCENES),
    ("steps × batch", f"{steps} × 32", f"{r.steps} × {r.batch_size}"),
    ("learning rate", 2e-3, f"{r.learning_rate}, after {r.warmup} steps, falling at the end"),
    ("moving average keeps", 0.98, f"{r.ema}, less at first"),
    ("captions dropped", 0.1, recipe.CAPTION_DROPOUT),
    ("loss", "plain", f"no timestep counts more than one with SNR = {recipe.GAMMA:g}"),
]:
    print(f"{what:<21} {here!s:<10} {there}")

# %% [markdown]
# Training writes a line to `log.jsonl` every 50 steps, and `python -m minisd.train plot` draws it. The
# log of the built-in model is part of the package; here it is next to ours. (Its errors are measured with
# the weights themselves, on the pictures of the batch; ours are measured with the moving average, on
# fresh pictures.)

# %%
lesson_09_curves.show_logs(averaged)

# %% [markdown]
# The built-in model's curves jump at step 20,000 for a reason: at that step the text encoder was replaced
# by a better one, and the learning rate, which had fallen to zero, was raised again ([how it was
# trained](../docs/tiny_model.md)).
#
# ## Something is wrong
#
# Training goes wrong quietly. Nothing stops, the loss falls, and days later the pictures are bad, or only
# slightly bad. To find the cause, look at three things: the loss, the error by timestep, and pictures.
#
# Three more training runs follow, half as long as ours, from the same start and on the same batches. In
# each run, one line has one of the following six faults. (Don't look them up in `lesson_09.py`. This is
# the fun part.)
#
# * **roots swapped**: $\sqrt{\bar\alpha}$ and $\sqrt{1-\bar\alpha}$ are swapped in `add_noise`;
# * **learning rate too high**: far more than 2e-3;
# * **every caption dropped**: the UNet always receives the states of the empty prompt;
# * **x0 as the target**: the loss compares `eps` with `x0` instead of `noise`;
# * **average never updated**: the line with `lerp_` is missing;
# * **timesteps from 0 to 249 only**: `torch.randint(250, …)` in `draw_batch`.
#
# In the plots, the loss is computed with the weights themselves; the errors and the pictures come from
# their moving average.

# %%
print(*lesson.suspects, sep="\n")
half = steps // 2
healthy = lesson.Run(losses[:half], averaged[half], pipe.decode(film[half][four]))
ways = lesson.broken_runs(train, fresh_unet, words[12], healthy.losses)
run_a, run_b, run_c = [
    lesson.Run(run, lesson.errors(network, fresh, words[:12]), pipe.decode(draw(network)[four]))
    for run, network in ways
]

# %% [markdown]
# Each plot also shows our own run, half-way through, as "healthy"; the pictures of the healthy run are in
# the film above. Before you look: what would each of the six faults do to the loss? To the error by
# timestep? To the pictures?
#
# ### Exercise 1 · Run A

# %%
lesson.show_run(run_a, healthy, names, lesson.RUN_A)

# %%
fault_a = ...  # one of the suspects, as printed above, in quotation marks

# %%
lesson.fault_a.check(fault_a)

# %% [markdown]
# ### Exercise 2 · Run B

# %%
lesson.show_run(run_b, healthy, names, lesson.RUN_B)

# %%
fault_b = ...

# %%
lesson.fault_b.check(fault_b)

# %% [markdown]
# ### Exercise 3 · Run C
#
# This one draws soft things, mostly in the right colours. Is anything wrong, or does it only need more
# time?

# %%
lesson.show_run(run_c, healthy, names, lesson.RUN_C)

# %%
fault_c = ...

# %%
lesson.fault_c.check(fault_c)

# %% [markdown]
# (`lesson_09.py` explains, next to the answer, why run C draws anything although it was told the wrong
# amount of noise at nearly every $t$. Read it when you have named all three.)
#
# All three losses fall. Judged by the loss alone, two of the three would have passed for good training
# runs; judged by the pictures alone, so would the third. Look at all three plots, every time.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | 600 pictures, twelve captions | LAION-5B, and finally the part of it that a network rates as beautiful, "laion-aesthetics v2 5+" | [`picture_book.py`](../minisd/tiny/picture_book.py) | [Schuhmann et al. 2022](https://arxiv.org/abs/2210.08402) |
# | `noise_loss` | the same | [`train/unet.py`](../minisd/train/unet.py) | Ho et al. 2020, eq. 14; Rombach et al. 2022, eq. 3 |
# | `dropped`, one in ten | the same, from v1-3 on | [`train/unet.py`](../minisd/train/unet.py) | Ho & Salimans 2022, algorithm 1 |
# | `train`: AdamW, 2e-3, batches of 32 | AdamW, 1e-4, batches of 2048 | [`train/loop.py`](../minisd/train/loop.py) | [model card](https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5) |
# | 500 steps | 595,000, in addition to those of v1-1 and v1-2 | [`train/unet.py`](../minisd/train/unet.py) | model card |
# | `average` | the same; the file named "emaonly" contains nothing else | [`loop.Average`](../minisd/train/loop.py) | Polyak & Juditsky 1992 |
# | `velocity_loss` | not in 1.5; Stable Diffusion 2 at 768×768 | [`schedule.velocity`](../minisd/schedule.py) | Salimans & Ho 2022, appendix D |
#
# **Play.** Leave one caption out of the book, and ask for it at the end. Give `timestep_embedding` a
# constant $t$: how much worse does it get? Multiply the loss by
# `recipe.min_snr_weights(alphas_cumprod)[t]`. Train for 5000 steps over a cup of tea.
#
# *Stuck on an exercise? The answers are in [`lesson_09.py`](../minisd/lessons/lesson_09.py).*

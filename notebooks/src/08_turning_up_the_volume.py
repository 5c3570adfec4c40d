# %% [markdown]
# # 08 · Turning up the volume
#
# **What does guidance do, and what does it cost?**
#
# *35 minutes to read, two minutes to run. You need notebook 03, the perfect denoiser.*
#
# Every user of Stable Diffusion knows one number, the *guidance scale*, 7.5 by default. Turn it up, and
# the picture follows the prompt more closely. Guidance is one line of code, and few text-to-image models
# would be worth using without it. What does that line do? And if more is better, why not 100?

# %%
import torch

from minisd import DDIMScheduler, StableDiffusionPipeline
from minisd.evaluate import geometry, prompts, protocol, rates
from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_08 as lesson
from minisd.lessons import lesson_08_plane as plane
from minisd.noise import randn
from minisd.pipeline import guide
from minisd.schedule import to_x0, transfer

torch.set_grad_enabled(False)
you_are_here("UNet")

# %% [markdown]
# ## Two guesses
#
# In training, one caption in ten was replaced by the empty prompt
# ([`train/unet.py`](../minisd/train/unet.py)). So the UNet can make two guesses of the same noise:
# $\epsilon_c$, given the caption $c$, and $\epsilon_\varnothing$, given the empty prompt.

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny")
scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
prompt = "an astronaut riding a horse"
context = pipe.encode_prompt(["", prompt])  # empty, then the caption
x = randn((1, 4, 16, 16), torch.Generator().manual_seed(0))
shapes(context=(context, (2, 77, 768)), x=(x, (1, 4, 64, 64)))

# %% [markdown]
# We denoise in ten steps, using $\epsilon_c$, and compute both guesses at each step. As before, we look
# at $\hat x_0$, the picture that a guess implies.
#
# > **Predict.** What does the UNet see in the same $x_t$ without the caption: at the beginning, half-way,
# > at the end?

# %%
scheduler.set_timesteps(10)
without, with_caption = {}, {}
for t in scheduler.timesteps:
    eps_uncond, eps_cond = pipe.unet(torch.cat([x, x]), t, context).sample.chunk(2)
    without[int(t)] = to_x0(x, eps_uncond, scheduler.alpha(int(t)))
    with_caption[int(t)] = to_x0(x, eps_cond, scheduler.alpha(int(t)))
    x = scheduler.step(eps_cond, t, x).prev_sample

# %%
times = (901, 701, 501, 301, 1)
guesses = torch.cat([guess[t] for guess in (without, with_caption) for t in times])
titles = [f"{what}, t = {t}" for what in ("empty", "caption") for t in times]
small = list(pipe.decode(guesses)[..., ::2, ::2])
figures.show(figures.pictures(small, titles, columns=5), lesson.TWO_GUESSES)

# %% [markdown]
# At the beginning the two guesses differ: without the caption the guess is the mean of all pictures, and
# with it the mean of all pictures with that caption. At the end they agree. By then the content is plain
# to see in $x_t$ itself, and the caption adds nothing.
#
# The difference between the two guesses, $\epsilon_c - \epsilon_\varnothing$, is the effect of the words.
# Guidance amplifies it ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598), eq. 6; their $w$ is ours
# minus 1):
#
# $$\epsilon = \epsilon_\varnothing + w\,(\epsilon_c - \epsilon_\varnothing)$$
#
# At $w = 0$ the words have no effect. At $w = 1$ the result is $\epsilon_c$, which is what training asked
# for. Beyond 1 it is an *extrapolation*: a guess that no network made. In
# [`pipeline.py`](../minisd/pipeline.py) the formula is called `guide`.
#
# ### Exercise 1 · Both guesses in one call
#
# Two guesses per step cost two calls of the UNet. But a UNet accepts batches, and one call with twice the
# batch size is faster. `x` is (B, 4, h, w); `uncond` and `cond` are (B, 77, D). Return the guided ε, and
# call `unet(x, t, encoder_hidden_states=context).sample` once.


# %%
def my_guided(unet, x, t, uncond, cond, scale):
    """ε_∅ + w (ε_c − ε_∅), (B, 4, h, w), in one call."""
    return ...


# %%
lesson.guided.check(my_guided)

# %% [markdown]
# ## Turning the knob
#
# Here is the whole loop. It makes two separate calls, because some steps will not need the second guess.
# (`negative`, `low` and `high` are for later.)

# %%
steps = unless_fast(10, 3)


def draw(texts, seeds, scale, negative="", low=0, high=1000):
    scheduler.set_timesteps(steps)
    x = randn((len(seeds), 4, 16, 16), [torch.Generator().manual_seed(seed) for seed in seeds])
    cond, uncond = pipe.encode_prompt(texts), pipe.encode_prompt([negative] * len(texts))
    for t in scheduler.timesteps:
        eps = pipe.unet(x, t, cond).sample
        if scale != 1 and low <= t < high:
            eps = guide(pipe.unet(x, t, uncond).sample, eps, scale)
        x = scheduler.step(eps, t, x).prev_sample
    return pipe.decode(x).clamp(-1, 1)


# %% [markdown]
# > **Predict.** We draw two prompts at five scales, always from the same noise. What will be wrong with
# > the pictures at $w = 20$? What happens to the colours on the way there?

# %%
scales, pair = (0, 1, 3, 8, 20), [prompt, "a purple star at night"]
rows = torch.stack([draw(pair, (0, 0), scale) for scale in scales], dim=1).flatten(0, 1)
titles = [f"w = {w}" for w in scales] * 2
figures.show(figures.pictures(list(rows), titles, columns=5), lesson.FIVE_SCALES)

# %% [markdown]
# At 0 the words have no effect, and both prompts give the same picture: what the model draws for the
# empty prompt. Then the words take effect, and at 20 they are exaggerated beyond anything in the book. To
# say more we need a world in which we know what the right result is.
#
# ## The perfect denoiser, guided
#
# Notebook 03 had such a world: points in the plane, and the best possible guess as a formula. Now the
# world has three captions, and the points of each caption form an arc. For a perfect network, knowing the
# caption means knowing that only this caption's arc is possible. So $\epsilon_c$ is the formula for the
# points of one arc, and $\epsilon_\varnothing$ the formula for all points. (Each data point is blurred
# into a small cloud, so samples need not coincide with data points.)

# %%
alphas_cumprod = scheduler.alphas_cumprod
arcs = plane.arcs()
world, told = torch.cat(arcs), arcs[0]  # all data, and the data of our caption
x = torch.tensor([1.0, 1.1])
plane.show_line(x, world, told, {t: alphas_cumprod[t] for t in (500, 100)}, scales=(0, 1, 2, 3))

# %% [markdown]
# The left panel shows the formula as a drawing (the arcs and their exact denoiser are in
# [`lesson_08_plane.py`](../minisd/lessons/lesson_08_plane.py)): arrows for $-\epsilon$ start at $x_t$,
# and their tips lie on a line, at a position given by $w$. The middle panel shows the $\hat x_0$ that
# these guesses imply, and how bold guidance is: without the caption the guess is between the arcs; with
# it, the guess is on the arc; and $w = 3$ points to a place where there are no data at all. In the right
# panel, closer to the end, all four guesses nearly coincide.
#
# ## A classifier that nobody trained
#
# In notebook 03, $-\epsilon$ was also the slope of the log-density. Now subtract the slope without the
# caption from the slope with the caption. By Bayes' rule, $q(x \mid c) \propto q(x)\,q(c \mid x)$, the
# result is the slope of the logarithm of the *probability of the caption*:
#
# $$-\frac{\epsilon_c - \epsilon_\varnothing}{\sqrt{1-\bar\alpha_t}} = \nabla_x \log q_t(x \mid c) - \nabla_x \log q_t(x) = \nabla_x \log q_t(c \mid x)$$
#
# So a UNet that only ever guessed noise contains a classifier, and guidance climbs its slope. Before this
# was known, people trained a separate classifier for the purpose ([Dhariwal & Nichol
# 2021](https://arxiv.org/abs/2105.05233), §4); hence the name *classifier-free guidance*, CFG. In the
# plane we have formulas for both sides of the equation, so we can check it:

# %%
alpha = alphas_cumprod[500]
with torch.enable_grad():
    places = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    belief = plane.log_belief(places, world, told, alpha)
    (slope,) = torch.autograd.grad(belief.sum(), places)
difference = plane.epsilon(places, told, alpha) - plane.epsilon(places, world, alpha)
error = (slope + difference / (1 - alpha) ** 0.5).abs().max()
print(f"largest difference at 1000 places: {error:.1e}")

# %% [markdown]
# > **Predict.** Shade the plane by the probability of our caption (the upper arc, in orange), and draw
# > the push of guidance as arrows. Where is the push strong, and where is it weak? What happens when
# > $x_t$ is well inside the caption's region?

# %%
plane.show_belief(world, told, {t: alphas_cumprod[t] for t in (900, 500, 200)})

# %% [markdown]
# (Each shade covers a tenth of the probabilities from 0 to 1; the strongest shade means at least nine
# tenths.) The push is strong where $x_t$ looks like another caption, and vanishes where the caption is
# certain. The push does not point towards the data. It points *away from everything else*, and that is
# not the same.
#
# > **Predict.** 800 walkers start from noise and follow the guided guess. Where do they end at $w = 0$,
# > 1, 2, 4 and 7.5?


# %%
def walk(scale, told, other=world):
    """800 walkers from noise to data, in 50 steps."""
    times = torch.linspace(999, 0, 50).round().long()
    x = torch.randn(800, 2, generator=torch.Generator().manual_seed(1))
    for alpha, alpha_next in zip(alphas_cumprod[times], [*alphas_cumprod[times[1:]], 0.9999]):
        eps = guide(*(plane.epsilon(x, points, alpha) for points in (other, told)), scale)
        x = transfer(x, eps, alpha, alpha_next)
    return x


# %%
clouds = {scale: walk(scale, told) for scale in (0, 1, 2, 4, 7.5)}
titled = {f"w = {scale:g}": x for scale, x in clouds.items()}
plane.show_clouds(titled, world, told, plane.GUIDED)
for scale, x in clouds.items():
    print(f"w = {scale:<3g}  spread from left to right: {x[:, 0].std():.2f}", end="")
    print(f"   height above the data: {(x.norm(dim=1) - told.norm(dim=1).mean()).mean():+.2f}")

# %% [markdown]
# So here is the price, with no imperfect network to blame. A perfect denoiser needs no guidance: $w = 1$
# is exactly right. What guidance adds is *bias*. Guidance prefers the examples that are least like
# anything else (less **diversity**), and exaggerates what distinguishes them, beyond anything in the
# data. Many texts say that guidance with $w$ samples from $q(x)\,q(c \mid x)^w$. The formula does say so
# for each single $t$, but the walk does not end in that distribution ([Bradley & Nakkiran
# 2024](https://arxiv.org/abs/2408.09000)).
#
# Then why does everybody use it? There are several reasons, and this notebook can show only the first:
#
# * A network that is unsure of the caption *hedges*: its guess is too close to the mean of everything.
#   Going further in the direction of the words makes up for that.
# * Captions from the web fit their pictures only loosely. So even a perfect $q(x \mid c)$ is broad, and
#   contains many pictures that users would call wrong.
# * Users want more than $q(x \mid c)$: the most typical and most attractive of its pictures, at the
#   expense of diversity.
#
# (And much of the gain in quality needs no words: moving away from the guess of a worse version of the
# same network, given the same caption, improves pictures too, as [Karras et al.
# 2024](https://arxiv.org/abs/2406.02507) found.) How far is too far? That has to be measured.
#
# ## Measuring it
#
# We use nine prompts: three with one thing, three with two things and three with a rider. Each is drawn
# from two noise samples. Notebook 10 has a *judge*, which finds the things in a picture. It counts a
# picture as right if everything in it matches the prompt and nothing else is there.

# %%
kinds, each = ("one thing", "two things", "riding"), unless_fast(3, 1)
asked = [p for kind in kinds for p in prompts.prompts_of(kind, each, seed=0) for _ in range(2)]
texts, seeds = [p.text for p in asked], [0, 1] * (len(asked) // 2)
print("\n".join(texts[::2]))


def share_right(pictures):
    return rates.rate(rates.right(geometry.judge(pictures), asked))


# %% [markdown]
# We measure the price of guidance with two numbers. *Saturation* is meant as in painting programs: 0 is
# grey, 1 is a pure colour. *Diversity* is how different two pictures of one prompt are: the root mean
# square difference of their thumbnails, in values from 0 to 255. Pages of the book tell us the right
# value of each number.


# %%
def saturation(pictures):
    values = pictures / 2 + 0.5  # from 0 to 1
    most, least = values.amax(dim=1), values.amin(dim=1)
    return ((most - least) / most.clamp(min=0.01)).mean().item()


def diversity(pictures):
    one, other = protocol.thumbnails(pictures).view(-1, 2, 16 * 16 * 3).unbind(dim=1)
    return (one - other).square().mean(dim=1).sqrt().mean().item()


book = lesson.book_pages([p for p in asked[::2] for _ in range(20)])  # drawn by the book's program
print(f"the book: saturation {saturation(book):.2f}, diversity {diversity(book):.0f}")

# %% [markdown]
# > **Predict.** Sketch three curves over $w$, from 1 to 20: how many pictures are right, how saturated
# > they are, how diverse. Where does each begin to change?

# %%
drawn = {scale: draw(texts, seeds, scale) for scale in (1, 1.5, 2, 3, 5, 8, 20)}
shares = {scale: share_right(pictures) for scale, pictures in drawn.items()}
measures = {
    "saturation": ([saturation(pictures) for pictures in drawn.values()], saturation(book)),
    "diversity": ([diversity(pictures) for pictures in drawn.values()], diversity(book)),
}
lesson.show_sweep(list(shares), list(shares.values()), measures)
for scale, share in shares.items():
    print(f"w = {scale:<3g}  right: {share.right} of {share.of}")

# %% [markdown]
# Up to $w = 8$ hardly anything happens: all differences are within the error bars, and saturation and
# diversity stay near the book's own values. At $w = 20$ pictures break, and the colours are too strong.
# (Diversity rises there, too. That is no gain: broken pictures differ because each breaks in its own
# way.) The error bars are 95 % intervals, and they are long: 18 pictures cannot tell a half from two
# thirds. Notebook 10 is about that.
#
# Users of Stable Diffusion expect something else: at $w = 1$ their model follows a prompt only loosely.
# Our network has seen its small world so often that it hardly hedges, so guidance has nothing to make up
# for. Let us take its certainty away.
#
# ## A network that hears faintly
#
# Words reach the UNet only through its cross-attentions (notebook 07). We copy the UNet and let only 30 %
# of each cross-attention's output through ([`muffled`](../minisd/lessons/lesson_08.py)). It still knows
# how to draw, but it hears the prompt faintly. That is an artificial handicap, but every network has the
# same symptom early in its training: the guess with the caption is too close to the guess without it.
# ([The model's card](../docs/tiny_model.md) shows such a network: there, guidance raises the number of
# right pictures from 4 to 19 of 60.)
#
# > **Predict.** Twelve prompts with one thing each. How many pictures will be right at $w = 1$, and how
# > many at $w = 4$?

# %%
faint, sharp = lesson.muffled(pipe.unet, 0.3), pipe.unet
single = prompts.prompts_of("one thing", unless_fast(12, 4), seed=0)
pipe.unet, rescued = faint, {}
for scale in (1, 2, 4, 8):
    rescued[scale] = draw([p.text for p in single], range(len(single)), scale)
    share = rates.rate(rates.right(geometry.judge(rescued[scale]), single))
    low, high = share.interval()
    print(f"w = {scale}  right: {share.right:>2} of {share.of}   95 %: {low:.2f} to {high:.2f}")
pipe.unet = sharp

# %% [markdown]
# Here are the first four of the twelve, scale by scale:

# %%
print(*(p.text for p in single[:4]), sep="   |   ")
images = [image[:, ::2, ::2] for pictures in rescued.values() for image in pictures[:4]]
titles = [f"w = {w}" for w in rescued for _ in range(4)]
figures.show(figures.pictures(images, titles, columns=4), lesson.RESCUED)

# %% [markdown]
# This is what guidance does for Stable Diffusion. The network has the right idea at every step, only too
# weakly, and guidance multiplies exactly what the words contribute. Guidance cannot add what the network
# does not know: some pictures stay wrong at every scale.
#
# ### Exercise 2 · The best scale
#
# Back to the curve of the original network. Luck alone moves its points up and down, so the highest point
# is not a good choice. Instead, find the scale with the largest share of right pictures, and take the
# interval of that share. Return the smallest scale whose share is not below the lower end of that
# interval. A rate `r` has `r.share` and `r.interval()`, which is (low, high).


# %%
def my_best_scale(scales, rates):
    """The smallest scale that is as good as the best. Scales rise, and each has a rate."""
    return ...


# %%
lesson.best_scale.check(my_best_scale)

# %%
best = lesson.best_scale.answer(list(shares), list(shares.values()))
print(f"best scale of our curve: w = {best:g}")
print(f"the built-in model's default: w = {pipe.guidance_scale:g}")

# %% [markdown]
# If the two scales differ, look at the error bars: with 18 pictures many scales are "as good as the
# best". The default was chosen on more pictures, drawn from other prompts
# ([`evaluate/curves.py`](../minisd/evaluate/curves.py)). And it is the best scale only for *this* model
# and for prompts of *this* world. The best scale depends on how much a network hedges, as you have just
# seen, so no number is right for all models. Stable Diffusion's authors [compared scales from 1.5 to
# 8](https://github.com/CompVis/stable-diffusion#weights) for each of their checkpoints; 7.5 is the
# default of their script.
#
# ## Negative prompts
#
# Nothing in the formula requires the line to begin at the empty prompt. Begin it at another prompt, and
# you have a *negative prompt*: guidance moves away from *that*. (Steering away from words was proposed by
# [N. Liu et al. 2022](https://arxiv.org/abs/2206.01714); the form in general use comes from user
# interfaces.) In code, a negative prompt simply replaces `""`. But what does guidance do then? The
# plane shows it. The prompt now allows two arcs, the upper and the left, and the left arc is the negative
# prompt.
#
# > **Predict.** Where do the walkers go: all to the upper arc?

# %%
upper_or_left, left = torch.cat(arcs[:2]), arcs[1]
clouds = {
    "w = 1": walk(1, upper_or_left),
    "w = 2, away from all": walk(2, upper_or_left),
    "w = 1.2, away from left": walk(1.2, upper_or_left, other=left),
    "w = 2, away from left": walk(2, upper_or_left, other=left),
}
plane.show_clouds(clouds, world, upper_or_left, plane.AWAY)

# %%
for title, x in clouds.items():
    at_left, at_upper = ((torch.cdist(x, arc).amin(dim=1) < 0.4).sum() for arc in (left, arcs[0]))
    print(f"{title:<23}  of {len(x)}: {at_left} at the left arc, {at_upper} at the upper one")

# %% [markdown]
# (A few walkers between the arcs count for both.) A negative prompt is not a "not". Where the two guesses
# agree, here at the left arc itself, there is no push at all, and walkers that are there stay. And where
# they disagree, the push continues to the last step. The empty prompt includes every other prompt. So
# once $x_t$ shows what the caption says, the two guesses agree, and guidance stops. A negative prompt
# need not include the caption: the training data may contain no such picture with the negative prompt as
# its text. Then the guess for the negative prompt is bad there, and guidance pushes the walk away from
# this guess again and again.
#
# In pictures one effect is easy to see: what the two prompts have in common is in both guesses, and
# cancels when we subtract. We use the network that hears faintly, because what it draws depends on
# guidance.
#
# > **Predict.** We draw a house at night with $w = 4$, without a negative prompt and with two: "a house"
# > and "at night". What happens to the house, and what to the night?

# %%
negatives, night = ("", "a house", "at night"), ["a house at night"] * 4
pipe.unet = faint
rows = [draw(night, range(4), 4, negative=negative) for negative in negatives]
pipe.unet = sharp
titles = [f"not “{negative}”" if negative else "no negative prompt" for negative in negatives]
small = list(torch.cat(rows)[..., ::2, ::2])
captions = [title for title in titles for _ in range(4)]
figures.show(figures.pictures(small, captions, columns=4), lesson.AWAY_FROM)

# %%
for title, row in zip(titles, rows):
    found = geometry.judge(row)
    houses = sum("house" in [thing.kind for thing in finding.things] for finding in found)
    nights = sum(finding.place == "night" for finding in found)
    print(f"{title:<18}  the judge sees {houses} houses and {nights} nights in 4 pictures")

# %% [markdown]
# Guidance amplifies only what the negative prompt does *not* say. In the second row it amplifies the
# night, and the house is no longer amplified: one house becomes a fish, another turns pink. In the third
# row it amplifies the house, and the night is gone. What both prompts say stays as it would be at about
# $w = 1$. With the original network all three rows would look alike, because it draws house and night
# well without guidance. Most prompts for Stable Diffusion leave much open. Then the same subtraction can
# choose among the possible pictures: with "crowd" as the negative prompt, plenty of pictures of "a
# street" are still possible.
#
# ## Guidance only where it helps
#
# In the first figure the two guesses were far apart at the beginning and almost the same at the end. So
# do we need guidance at every step? At $w = 20$ guidance broke the pictures; perhaps it does so at
# timesteps where it does not help. This is what `low` and `high` are for: `draw` uses guidance at the
# timesteps between them, and $w = 1$ at all others.
#
# > **Predict.** Use $w = 20$ only in the first third of the steps ($t \ge 667$), only in the middle
# > third, or only in the last. Which choice leaves the most pictures right?

# %%
spans = {"nowhere": (0, 0), "everywhere": (0, 1000), "not early": (0, 667)}
spans |= {"early": (667, 1000), "middle": (333, 667), "late": (0, 333)}
partly = {"nowhere": drawn[1], "everywhere": drawn[20]}  # these two we have
hits = {"nowhere": shares[1], "everywhere": shares[20]}
for name, (low, high) in spans.items():
    if name not in partly:
        partly[name] = draw(texts, seeds, 20, low=low, high=high)
        hits[name] = share_right(partly[name])

# %%
colours = {name: saturation(pictures) for name, pictures in partly.items()}
differences = {name: diversity(pictures) for name, pictures in partly.items()}
lesson.show_exchange(hits, colours, differences, saturation(book))
for name, (low, high) in spans.items():
    calls = steps + sum(low <= t < high for t in scheduler.timesteps)
    print(f"{name:<10}  {calls} calls of the UNet   right: {hits[name].right:>2}", end="")
    print(f"   saturation {colours[name]:.2f}   diversity {differences[name]:.0f}")

# %% [markdown]
# The middle third tolerates the most guidance. This is part of what [Kynkäänniemi et al.
# 2024](https://arxiv.org/abs/2404.07724) found with ImageNet models and Stable Diffusion XL: guidance
# does harm at the beginning, is of little use at the end, and does its work in the middle, where it may
# then be stronger. At high noise $\hat x_0$ is a mean of many pictures. Pushing this mean $w$ times
# further only forces a decision too early, and nearly the same decision every time. (At our $w = 20$ the
# last third is actually the worst: 20 times a small difference is a large one.) Mind the intervals.
# Leaving guidance out also saves time, because those steps need no second guess.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | one caption in ten left out | the same, from v1-3 on | [`train/unet.py`](../minisd/train/unet.py) | Ho & Salimans 2022, algorithm 1 |
# | `context` (2, 77, 128), [uncond, cond] | (2, 77, 768), in the same order | [`pipeline.predict`](../minisd/pipeline.py) | |
# | `guide(eps_uncond, eps_cond, scale)` | the same line, `guidance_scale=7.5` | [`pipeline.guide`](../minisd/pipeline.py) | Ho & Salimans 2022, eq. 6 |
# | `negative` in place of `""` | `negative_prompt="…"`; at `guidance_scale` 1 or less it has no effect | [`pipeline.predict`](../minisd/pipeline.py) | N. Liu et al. 2022 |
# | `low`, `high` | not built in: write the loop by hand, as here | | Kynkäänniemi et al. 2024 |
#
# **Play.** Use the prompt itself as its negative prompt: what does the scale do now? Give `draw` a scale
# below 0. Muffle the network to 10 %: how far can guidance go? Let the scale fall with $t$. Use
# `PNDMScheduler` instead of DDIM and draw at scale 5 in 10 steps: samplers that extrapolate ε (see
# notebook 04) do not work well with guidance, which extrapolates it too. Scale every guided ε to the
# standard deviation of $\epsilon_c$ ([Lin et al. 2023](https://arxiv.org/abs/2305.08891), §3.4): what
# happens to the colours?
#
# *Stuck on an exercise? The answers are in [`lesson_08.py`](../minisd/lessons/lesson_08.py).*

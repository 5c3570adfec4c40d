# %% [markdown]
# # 08 · Turning up the volume
#
# **What does guidance do, and what does it cost?**
#
# *35 minutes to read, a minute and a half to run. You need notebook 03, the perfect denoiser.*
#
# Whoever uses Stable Diffusion knows one number, the *guidance scale*, 7.5 by default. Turn it up, and
# the picture follows the prompt more closely. It is one line of code, and without it hardly any
# text-to-image model would be worth using. So what does that line do? And if more is better, why not
# 100?

# %%
import torch

from minisd import DDIMScheduler, StableDiffusionPipeline
from minisd.evaluate import geometry, prompts, protocol, rates
from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_08 as lesson
from minisd.noise import randn
from minisd.pipeline import guide
from minisd.schedule import to_x0, transfer

torch.set_grad_enabled(False)
you_are_here("UNet")

# %% [markdown]
# ## Two guesses
#
# In training, one caption in ten was left out, and the UNet was told nothing, the empty prompt
# ([`train/unet.py`](../minisd/train/unet.py)). So it can be asked for two guesses of the same noise:
# what it makes of $x_t$ when told the caption $c$, called $\epsilon_c$; and what it makes of $x_t$ when
# told nothing, $\epsilon_\varnothing$.

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny")
scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
prompt = "an astronaut riding a horse"
context = pipe.encode_prompt(["", prompt])  # nothing, then the caption
x = randn((1, 4, 16, 16), torch.Generator().manual_seed(0))
shapes(context=(context, (2, 77, 768)), x=(x, (1, 4, 64, 64)))

# %% [markdown]
# We walk from noise to a picture with $\epsilon_c$, in ten steps, and ask at each for both guesses. As
# ever, we look at the $\hat x_0$ that a guess implies.
#
# > **Predict.** What does the UNet see in the same $x_t$ when nobody tells it what to see: at the
# > beginning, half-way, at the end?

# %%
scheduler.set_timesteps(10)
told_nothing, told_caption = {}, {}
for t in scheduler.timesteps:
    eps_uncond, eps_cond = pipe.unet(torch.cat([x, x]), t, context).sample.chunk(2)
    told_nothing[int(t)] = to_x0(x, eps_uncond, scheduler.alpha(int(t)))
    told_caption[int(t)] = to_x0(x, eps_cond, scheduler.alpha(int(t)))
    x = scheduler.step(eps_cond, t, x).prev_sample

# %%
times = (901, 701, 501, 301, 1)
guesses = torch.cat([guess[t] for guess in (told_nothing, told_caption) for t in times])
titles = [f"{what}, t = {t}" for what in ("nothing", "caption") for t in times]
figures.show(
    figures.pictures(list(pipe.decode(guesses)[..., ::2, ::2]), titles, columns=5),
    "Two rows of guesses. At the first timestep the one without a caption is a blur without a"
    " subject, the one with it has the subject's colours. Towards the end the rows are the same.",
)

# %% [markdown]
# At the beginning they differ: one is the mean of everything, the other the mean of everything with
# that caption. At the end they agree. What is in the picture is by then plain to see in $x_t$ itself,
# and nobody needs to be told.
#
# Their difference, $\epsilon_c - \epsilon_\varnothing$, is what the words do. Guidance makes more of
# it ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598), eq. 6; their $w$ is ours minus 1):
#
# $$\epsilon = \epsilon_\varnothing + w\,(\epsilon_c - \epsilon_\varnothing)$$
#
# With $w = 0$ the words count for nothing. With $w = 1$ it is $\epsilon_c$, what training asked for.
# Beyond 1 it is an *extrapolation*: a guess that no network made. In
# [`pipeline.py`](../minisd/pipeline.py) the formula is called `guide`.
#
# ### Exercise 1 · Both guesses in one call
#
# Two guesses a step cost two calls of the UNet. But a UNet takes batches, and one call for twice the
# batch is quicker. `x` is (B, 4, h, w); `uncond` and `cond` are (B, 77, D). Return the guided ε, and
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
# Here is the whole loop. It asks twice, as some steps will do without the second guess. (`negative`,
# `low` and `high` will be of use later.)

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
# > **Predict.** Two prompts, always from the same noise. What will be wrong with the pictures at
# > $w = 0$, and at $w = 20$? What happens to the colours in between?

# %%
scales, pair = (0, 1, 3, 8, 20), [prompt, "a purple star at night"]
rows = torch.stack([draw(pair, (0, 0), scale) for scale in scales], dim=1).flatten(0, 1)
figures.show(
    figures.pictures(list(rows), [f"w = {w}" for w in scales] * 2, columns=5),
    "Two prompts at five scales. At w = 0 nothing is as the prompts say; further on subject and"
    " place are clear; at w = 20 colours are too heavy and shapes have suffered.",
)

# %% [markdown]
# At 0 the words count for nothing, and both prompts get the same picture: what the model draws when
# nobody asks. Then the words win, and at some point they have won, and go on shouting. To say more we
# need a world in which we know what *should* come out.
#
# ## The perfect denoiser, guided
#
# Notebook 03 had such a world: points in the plane, and the best possible guess as a formula. Now let
# the world have three captions, each with an arc of its own. For a perfect network, to be told a caption
# means to know that only that arc is possible. So $\epsilon_c$ is the formula for the points of one
# arc, $\epsilon_\varnothing$ the formula for all points. (Each point is a small cloud, so that one may
# draw what is not in the data.)

# %%
alphas_cumprod = scheduler.alphas_cumprod
arcs = lesson.arcs()
world, told = torch.cat(arcs), arcs[0]  # everything, and what has our caption
x = torch.tensor([1.0, 1.1])
lesson.show_line(x, world, told, {t: alphas_cumprod[t] for t in (500, 100)}, scales=(0, 1, 2, 3))

# %% [markdown]
# Left is the formula as a picture (the arcs and their exact denoiser are in
# [`lesson_08.py`](../minisd/lessons/lesson_08.py)): two arrows out of the noise, and a line through
# their tips on which $w$ is the place. In the middle the same in terms of $\hat x_0$, which shows how
# bold it is: told nothing, the guess is between the arcs; told the caption, it is at the arc; and $w =
# 3$ points at a place where there are no data at all. Nearer to the end, on the right, all four are all
# but one.
#
# ## A classifier that nobody trained
#
# Notebook 03 had a second reading of $-\epsilon$: it is the slope of the log-density. Subtract two
# slopes, and by Bayes' rule, $q(x \mid c) \propto q(x)\,q(c \mid x)$, what is left is the slope of
# *how likely the caption is*:
#
# $$-\frac{\epsilon_c - \epsilon_\varnothing}{\sqrt{1-\bar\alpha_t}} = \nabla_x \log q_t(x \mid c) - \nabla_x \log q_t(x) = \nabla_x \log q_t(c \mid x)$$
#
# So somewhere in a UNet that only ever guessed noise there is a classifier, and guidance climbs it.
# Before that was seen, people trained one for the purpose ([Dhariwal & Nichol
# 2021](https://arxiv.org/abs/2105.05233), §4); hence the name *classifier-free guidance*, CFG. We have
# both sides as formulas:

# %%
alpha = alphas_cumprod[500]
with torch.enable_grad():
    places = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    belief = lesson.log_belief(places, world, told, alpha)
    (slope,) = torch.autograd.grad(belief.sum(), places)
difference = lesson.epsilon(places, told, alpha) - lesson.epsilon(places, world, alpha)
error = (slope + difference / (1 - alpha) ** 0.5).abs().max()
print(f"largest difference at 1000 places: {error:.1e}")

# %% [markdown]
# > **Predict.** Shade the plane by how likely our caption is (the upper arc, in orange), and draw the
# > push of guidance as arrows. Where is it strong, where weak? And what about $x_t$ that lie well
# > inside the caption's part?

# %%
lesson.show_belief(world, told, {t: alphas_cumprod[t] for t in (900, 500, 200)})

# %% [markdown]
# (A shade is a tenth; the darkest is nine tenths and more.) The push is strong where $x_t$ looks like another
# caption, and vanishes where the caption is certain. It does not point to the data. It points *away
# from everything else*, and that is not the same.
#
# > **Predict.** 800 walkers start in noise and walk with the guided guess. Where do they end with
# > $w = 0$, with 1, with 2, 4 and 7.5?


# %%
def walk(scale, told, other=world):
    """800 walkers from noise to data, in 50 steps."""
    times = torch.linspace(999, 0, 50).round().long()
    x = torch.randn(800, 2, generator=torch.Generator().manual_seed(1))
    for alpha, alpha_next in zip(alphas_cumprod[times], [*alphas_cumprod[times[1:]], 0.9999]):
        eps = guide(*(lesson.epsilon(x, points, alpha) for points in (other, told)), scale)
        x = transfer(x, eps, alpha, alpha_next)
    return x


# %%
clouds = {scale: walk(scale, told) for scale in (0, 1, 2, 4, 7.5)}
titled = {f"w = {scale:g}": x for scale, x in clouds.items()}
lesson.show_clouds(titled, world, told, lesson.GUIDED)
for scale, x in clouds.items():
    print(f"w = {scale:<3g}  spread, from left to right: {x[:, 0].std():.2f}", end="")
    print(f"   height above the data: {(x.norm(dim=1) - told.norm(dim=1).mean()).mean():+.2f}")

# %% [markdown]
# So here is the price, without any network to blame. A perfect denoiser needs no guidance: $w = 1$ is
# exactly right. What guidance adds is *bias*. It draws the examples that are least like anything else (less
# **diversity**), and draws them more so than any example is (too much of what sets them apart). Often one
# reads that $w$ samples from $q(x)\,q(c \mid x)^w$. That is what the formula says at each single $t$, but
# not where the walk ends ([Bradley & Nakkiran 2024](https://arxiv.org/abs/2408.09000)).
#
# Then why does everybody use it? Because networks are not perfect. Told the caption, a network hedges:
# it has not seen enough to be sure what belongs to the caption, and its guess is too close to the mean
# of everything. Going further in the direction in which the words have pushed makes up for that. (Much
# of the gain in quality needs no words: to go away from a worse version of the same network, told the
# same caption, does it too, as [Karras et al. 2024](https://arxiv.org/abs/2406.02507) found.) How far is
# too far? That has to be measured.
#
# ## Measuring it
#
# Nine prompts: three of one thing, three of two, three of riding, each drawn from two noises. Notebook
# 10 has a *judge*, which finds the things in a picture; it counts a picture as right if all in it is as
# the prompt says, and nothing else is there.

# %%
kinds, each = ("one thing", "two things", "riding"), unless_fast(3, 1)
asked = [p for kind in kinds for p in prompts.prompts_of(kind, each, seed=0) for _ in range(2)]
texts, seeds = [p.text for p in asked], [0, 1] * (len(asked) // 2)
print("\n".join(texts[::2]))


def share_right(pictures):
    return rates.rate(rates.right(geometry.judge(pictures), asked))


# %% [markdown]
# The price in two numbers. *Saturation*, as painters' programs have it: 0 is grey, 1 is a pure colour.
# And *diversity*: how different two pictures of one prompt are, the root mean square of small
# versions of them, in values from 0 to 255. What is right for both we can ask the book itself.


# %%
def saturation(pictures):
    values = pictures / 2 + 0.5  # from 0 to 1
    most, least = values.amax(dim=1), values.amin(dim=1)
    return ((most - least) / most.clamp(min=0.01)).mean().item()


def diversity(pictures):
    one, other = protocol.thumbnails(pictures).view(-1, 2, 16 * 16 * 3).unbind(dim=1)
    return (one - other).square().mean(dim=1).sqrt().mean().item()


book = lesson.book_pages([p for p in asked[::2] for _ in range(20)])  # by the book's own program
print(f"the book: saturation {saturation(book):.2f}, diversity {diversity(book):.0f}")

# %% [markdown]
# > **Predict.** Draw three curves over $w$, from 1 to 20: how many pictures are right, how saturated
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
# Up to $w = 8$ hardly anything happens: all is within the bars, and saturation and diversity stay near
# the book's own. At 20 pictures break, and the colours leave the line. (Diversity rises
# there, too. That is no gain: two broken pictures differ in their damage.) Whoever knows Stable Diffusion
# expects something else, for at $w = 1$ it follows a prompt only loosely. It fits what the plane has
# shown: guidance makes up for hedging, and this network has seen its small world so often that it hardly
# hedges. ([Its card](../docs/tiny_model.md) shows a model that is not yet sure: there guidance makes 4
# right pictures of 60 into 19.) The bars are 95 % intervals, and long: 18 pictures cannot tell a half from
# two thirds. Notebook 10 is about that.
#
# ### Exercise 2 · The best scale
#
# Since luck alone moves the points up and down, the highest one is no good choice. Better: take the
# scale with the largest share of right pictures, and its interval; of all scales whose share is not
# below the lower end of that interval, return the smallest. A rate `r` has `r.share` and
# `r.interval()`, which is (low, high).


# %%
def my_best_scale(scales, rates):
    """The smallest scale that is as good as the best. Scales rise, and each has a rate."""
    return ...


# %%
lesson.best_scale.check(my_best_scale)

# %%
best = lesson.best_scale.answer(list(shares), list(shares.values()))
print(f"of our curve: w = {best:g}")
print(f"the built-in model's default: w = {pipe.guidance_scale:g}")

# %% [markdown]
# If the two differ, look at the bars: with 18 pictures many scales are "as good as the best". The
# default was chosen by more pictures of other prompts
# ([`evaluate/curves.py`](../minisd/evaluate/curves.py)). And it is the best scale of *this* model for
# prompts of *this* world. The best one depends on how much a network hedges, so no number is right for
# all. Stable Diffusion's authors [compared scales from 1.5 to
# 8](https://github.com/CompVis/stable-diffusion#weights) on each of their checkpoints; 7.5 is their
# script's default.
#
# ## Negative prompts
#
# Nothing in the formula demands that the line begins at the empty prompt. Begin it at another one, and
# you have a *negative prompt*: away from *that*. (Steering away from words is in [N. Liu et al.
# 2022](https://arxiv.org/abs/2206.01714); the form that everybody uses came from user interfaces.) In
# code it is a text in place of `""`. But what have we asked for? In the plane we can see. The prompt now
# allows two arcs, the upper and the left, and the left one is the negative prompt.
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
lesson.show_clouds(clouds, world, upper_or_left, lesson.AWAY)

# %%
for title, x in clouds.items():
    at_left, at_upper = ((torch.cdist(x, arc).amin(dim=1) < 0.4).sum() for arc in (left, arcs[0]))
    print(f"{title:<23}  of {len(x)}: {at_left} at the left arc, {at_upper} at the upper one")

# %% [markdown]
# (A few between the arcs count for both.) A negative prompt is no "not". Where the two guesses agree, here
# at the left arc itself, there is no push at all, and whoever is there stays. And where they disagree, the
# push goes on to the last step. The empty prompt contains every other: at a picture that has the caption
# the two guesses are the same, and guidance falls silent. A negative prompt need not know that picture at
# all. Then its guess is a bad one, and one is pushed away from it again and again.
#
# In the picture book a caption leaves nothing open ("a house" is an orange house on a pale page), so a
# negative prompt has nothing to choose among. But there is something to see: what the two prompts have in
# common is in both guesses, and cancels.
#
# > **Predict.** A house at night, with three negative prompts: nothing, "a house", "at night". What
# > becomes of the house, and what of the night?

# %%
negatives, night = ("", "a house", "at night"), ["a house at night"] * 4
rows = [draw(night, range(4), 3, negative=negative) for negative in negatives]
titles = [f"not “{negative}”" if negative else "no negative" for negative in negatives]
small = torch.cat(rows)[..., ::2, ::2]
figures.show(
    figures.pictures(list(small), [title for title in titles for _ in range(4)], columns=4),
    "Three rows of a house at night: with no negative prompt, with “a house”, and with “at night”."
    " All twelve look nearly alike.",
)

# %%
for title, row in zip(titles, rows):
    found = geometry.judge(row)
    houses = sum("house" in [thing.kind for thing in finding.things] for finding in found)
    nights = sum(finding.place == "night" for finding in found)
    print(f"{title:<14}  the judge sees {houses} houses and {nights} nights")

# %% [markdown]
# Turned up is only what the negative prompt does not say: the night in the second row, the house in the
# third. What both say is left as it would be at about $w = 1$, as well or badly as the network can do it
# alone. (If the rows look alike, it draws both well without guidance.) Most prompts for Stable Diffusion
# leave much open, and there the same subtraction can choose: away from "crowd", "a street" still has
# streets enough.
#
# ## Guidance only where it helps
#
# In the first film the two guesses were far apart at the beginning, where all is open, and the same
# picture at the end. So do we need guidance at every step? At $w = 20$ it broke the pictures; perhaps
# it does so where it is of no use. For this we have `low` and `high`: guidance at the timesteps in
# between, and $w = 1$ at all others.
#
# > **Predict.** $w = 20$ in the first third of the walk only ($t \ge 667$), in the middle, or in the
# > last: which leaves most of the pictures right?

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
# The middle bears most. That is a part of what [Kynkäänniemi et al.
# 2024](https://arxiv.org/abs/2404.07724) found with ImageNet models and Stable Diffusion XL: guidance
# harms at the beginning, is of little use at the end, and does its work in the middle, where it may then
# be stronger. At high noise $\hat x_0$ is a mean of many pictures, and pushing it $w$ times further only
# decides too soon, and too much alike. (At our $w = 20$ the end is even the worst of the three: 20 times a
# small difference is a large one.) Mind the intervals. And whatever is left out need not be computed.
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
# **Play.** Use the prompt itself as its negative: what does the scale do now? Give `draw` a scale below
# 0. Let the scale fall with $t$. Put `PNDMScheduler` in the place of DDIM and draw at scale 5 in 10
# steps: samplers that extrapolate ε (notebook 04) and guidance that extrapolates it as well do not get
# on. Shrink every guided ε to the standard deviation of $\epsilon_c$ ([Lin et al.
# 2023](https://arxiv.org/abs/2305.08891), §3.4): what becomes of the colours?
#
# *Stuck in an exercise? The answers are in [`lesson_08.py`](../minisd/lessons/lesson_08.py).*

# %% [markdown]
# # 07 · The U-Net, and how words steer it
#
# **What is inside the network that guesses the noise, and how does a prompt get a say in it?**
#
# *45 minutes to read, a minute to run. You need notebooks 02 ($x_t$, $\epsilon$) and 06 (the 77 states of a prompt).*
#
# All that is learnt of drawing is in one network. Three things go in: noisy latents, a timestep, the
# states of a prompt. A guess of the noise comes out. We take it apart by breaking it, one part at a
# time, and look at what is then missing in the picture.

# %%
import random

import torch
from einops import rearrange

from minisd import StableDiffusionPipeline, config, schedule
from minisd.evaluate import geometry
from minisd.image import to_tensor
from minisd.layers import timestep_embedding
from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_07 as lesson
from minisd.pipeline import guide
from minisd.tiny import picture_book

you_are_here("UNet")

# %% [markdown]
# ## A U
#
# Whoever is to find noise in a picture must look at single pixels: there the noise is. And must see the
# whole page: is this brown patch a horse's leg, or a tree? A U-Net
# ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)) does both. Going down it halves the maps
# again and again, until a few positions see everything. Going up it doubles them, and each level gets,
# through the *skips*, what its mirror saw on the way down.
#
# Here are ours and Stable Diffusion's, measured while they run. (On PyTorch's `meta` device, where
# tensors have shapes but no numbers: so 860 million weights take no memory, and nothing needs a
# download. [`lesson.measure`](../minisd/lessons/lesson_07.py) does it.)

# %%
tiny, sd15 = lesson.measure(config.TINY_UNET), lesson.measure(config.SD1_UNET)
lesson.show_u(tiny, sd15, skips=(2, 3))

# %% [markdown]
# Each rectangle is a block's feature map: as high as the map's side, as wide as it has channels, and the
# lines are the skips. A block is one to three *ResNet blocks*, and behind each, but for the last at the
# bottom and for Stable Diffusion's lowest level, a transformer, of which more below.
#
# A ResNet block does this twice: normalise, bend, convolve. What came in is added to what comes out; that
# is the shortcut. GroupNorm normalises: it brings groups of channels to mean 0 and variance 1. SiLU bends:
# $x$ times its sigmoid, a ReLU with a soft corner. The whole UNet is [`unet.py`](../minisd/unet.py), in one
# sitting.
#
# > **Predict.** Where in the U are most of the parameters, and where is most of the work: at the top,
# > where the maps are large, or at the bottom, where they are thick? (Work is counted in multiplications
# > and additions, of matrix products and convolutions.)

# %%
lesson.show_costs(tiny, sd15)

# %% [markdown]
# At opposite ends. A convolution's parameters grow with the square of its channels, and the map's size
# costs none. Its work is parameters times positions, and in Stable Diffusion the top has 64 times the
# positions of the bottom. So most of the weights are in the lower half of the U, and most of the work is
# in the upper half.
#
# ## The parts at hand
#
# Now ours, with its weights. We shall draw often, so here is the loop of notebook 01 once more, for
# states instead of a prompt:

# %%
torch.set_grad_enabled(False)
pipe = StableDiffusionPipeline.from_pretrained("tiny")
pipe.set_progress_bar_config(disable=True)
nothing = pipe.encode_prompt([""])  # guidance needs it: notebook 08


# %%
def draw(states, pictures=1, steps=20):
    pipe.scheduler.set_timesteps(unless_fast(steps, 2))
    x = torch.randn(pictures, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for t in pipe.scheduler.timesteps:
        both = [context.expand(pictures, -1, -1) for context in (nothing, states)]
        eps = guide(*[pipe.unet(x, t, context).sample for context in both], pipe.guidance_scale)
        x = pipe.scheduler.step(eps, t, x).prev_sample
    return pipe.decode(x)


# %% [markdown]
# To measure, we need latents whose noise we know. Eight pages of the book:

# %%
scenes = [picture_book.sample(random.Random(i)) for i in range(8)]
pictures = torch.stack([to_tensor(picture_book.draw(scene)) for scene in scenes])
context = pipe.encode_prompt([picture_book.caption(scene, random.Random(0)) for scene in scenes])

x0 = pipe.vae.encode(pictures).latent_dist.mode() * pipe.vae.config.scaling_factor
noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
alphas_cumprod = pipe.scheduler.alphas_cumprod
shapes(x0=(x0, (8, 4, 64, 64)), context=(context, (8, 77, 768)))


# %%
def guess(t, told):
    """The noise that the UNet sees in x_t when it is told that the timestep is `told`."""
    return pipe.unet(schedule.add_noise(x0, noise, alphas_cumprod[t]), told, context).sample


def error(t, told):
    return ((guess(t, told) - noise) ** 2).mean().item()


# %% [markdown]
# ## When
#
# The UNet has to know how much of what it sees is noise. It gets the timestep as a vector of waves (a
# *sinusoidal embedding*), as Transformers get positions ([Vaswani et al.
# 2017](https://arxiv.org/abs/1706.03762), §3.5): each number is a cosine or sine of $t$, and each has
# another frequency. Two layers make a vector of 256 of it, and every ResNet block adds its own linear map
# of that to its channels.

# %%
waves = timestep_embedding(torch.arange(1000), 64)
temb = pipe.unet.time_embedding(waves)
shapes(waves=(waves, (1000, 320)), temb=(temb, (1000, 1280)))
lesson.show_waves(waves[:250])

# %% [markdown]
# Like the hands of a clock: fast ones tell $t$ from $t+1$, slow ones tell early from late.
#
# > **Predict.** Drown a picture until $t = 500$, and lie: "this is $t = 0$, hardly any noise". Or: "this
# > is $t = 999$, nothing but noise". Which picture will the UNet see in it?

# %%
x, alpha = schedule.add_noise(x0, noise, alphas_cumprod[500]), alphas_cumprod[500]
implied = [schedule.to_x0(x, guess(500, told), alpha)[0] for told in (0, 250, 500, 999)]
figures.show(
    figures.pictures(
        [pictures[0], *pipe.decode(torch.stack(implied))],
        ["the page", "told t = 0", "told 250", "told 500 (true)", "told 999"],
        columns=5,
    ),
    "A page of the book, and what the UNet sees in its noisy version. Told the true 500, it sees the"
    " page, a little soft. Told less, it leaves noise in; told more, it takes part of the page away.",
)

# %% [markdown]
# Told too little, it leaves noise in. Told too much, it takes the page itself for noise. Measured, on all
# eight pages:

# %%
said = list(range(0, 1000, unless_fast(50, 100)))
lesson.show_lies(said, {t: [error(t, told) for told in said] for t in (200, 500, 800)})

# %% [markdown]
# The truth is the best thing to tell it, or next to it. Hence the first thing to check, where a sampler
# of your own draws nothing but fog: does the network hear the timestep that fits the noise? (Notebook 11
# has a whole museum of such bugs.)
#
# ## Short cuts
#
# Six skips lead across our U, two on each level. Number 0 starts at the very beginning, behind the first
# convolution, and arrives at the very end; number 5 joins the 4×4 maps. The way up finds them in a list,
# so cutting one is a matter of putting zeros there, in time. A *hook* does it: a function that PyTorch
# calls with a module's inputs just before the module itself.


# %%
def cut(*numbers):
    """Hand zeros to the way up in place of these skips, until the hook is removed."""

    def hook(block, inputs):
        skips = inputs[1]  # of x, skips, temb, context
        for i in numbers:
            skips[i] = torch.zeros_like(skips[i])

    return pipe.unet.up_blocks[0].register_forward_pre_hook(hook)


# %% [markdown]
# > **Predict.** "An astronaut riding a horse", with skips cut: the two at the bottom, the two in the
# > middle, 1, or 0. Which will be missed most, and what will be wrong with the picture?

# %%
rider = pipe.encode_prompt(["an astronaut riding a horse"])
sheet, titles = [], []
for numbers in ((), (4, 5), (2, 3), (1,), (0,)):
    hook = cut(*numbers)
    sheet.append(draw(rider)[0])
    name = f"without {' and '.join(map(str, numbers))}" if numbers else "whole"
    titles.append(f"{name}: {error(500, 500):.2f}")
    hook.remove()

# %%
figures.show(
    figures.pictures(sheet, titles, columns=5),
    "An astronaut on a horse, drawn five times: whole; nearly the same without skips 4 and 5; washed"
    " out without 2 and 3; a little paler without 1; and nothing but noise without skip 0.",
)

# %% [markdown]
# (The number is the error of ε, measured on the eight pages at $t = 500$.)
#
# The layout comes from below and needs no skip. But the noise in $x_t$ is different at every position, and
# the way through the bottom passes a map of 4×4. Where exactly the noise is, only the skips at the top
# can tell, and this network relies on number 0, which hands over the noisy latents almost as they came.
# Without it the UNet may know what the page should show, and still not what to subtract.
#
# (One caution. Zeros are something that the way up has never seen. What we measure is on which skips this
# network *relies*; one trained without a skip would have found another way, if there is any.)
#
# So much for the U: what is asked for, noise, is as fine as a picture can be. A network that has only to
# name what is in a picture needs no way up.
#
# ## Asking
#
# Now to the words. The tool is *attention* ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), eq.
# 1). Everyone who wants to know something sends out a question $q$, everyone who knows something has a
# label $k$ and a message $v$ (the papers say *query*, *key* and *value*). All are vectors of length $d$.
# How well a label fits a question is their product, a softmax turns that into shares, and the answer is
# the messages, blended by these shares:
#
# $$\mathrm{attention}(q, k, v) = \mathrm{softmax}\left(\frac{q\,k^\top}{\sqrt d}\right) v$$
#
# ### Exercise 1 · Attention by hand
#
# `q` is (B, n, T, d), and `k` and `v` are (B, n, S, d): B pictures, n heads that each ask for themselves, T
# who ask, S who answer. Checked against PyTorch's fused `scaled_dot_product_attention`, which the
# networks use.


# %%
def my_attention(q, k, v):
    scores = ...  # (B, n, T, S)
    return ...


# %%
lesson.by_hand.check(my_attention)

# %% [markdown]
# Every transformer in the UNet has two of these. In the first the positions of the map ask each other:
# *self-attention*. In the second they ask the words: questions from the picture, labels and messages
# from the 77 states of the prompt. That is *cross-attention*
# ([Rombach et al. 2022](https://arxiv.org/abs/2112.10752), §3.3).
#
# Behind the two comes a *feed-forward* layer, in which each position thinks for itself. One linear layer
# makes a value and a *gate* of it. The gate, bent by a GELU (another soft ReLU), multiplies the value, and
# a second linear layer makes the result narrow again. Each of the three has a norm in front, and is added
# to what came in.
#
# **Cross-attention is the only place in the whole model where words meet the picture.** In our U there are
# ten:

# %%
cross = [block.attn2 for block in pipe.unet.modules() if hasattr(block, "attn2")]
attn = cross[0]
question, label, message = (layer.weight for layer in (attn.to_q, attn.to_k, attn.to_v))
print(f"{len(cross)} of them; in the first, {attn.heads} heads share these matrices:")
shapes(question=(question, (320, 320)), label=(label, (320, 768)), message=(message, (320, 768)))

# %% [markdown]
# The shares can be looked at. The fused call does not tell them, so we compute them once more, by hand,
# whenever one of the ten is called.

# %%
maps = []


def record(attn, inputs):
    x, context = inputs
    q, k = attn.to_q(x), attn.to_k(context)
    q, k = (rearrange(y, "B T (n d) -> B n T d", n=attn.heads) for y in (q, k))
    shares = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)  # (B, n, positions, 77)
    maps.append(shares.mean(dim=1)[-1])  # mean of the heads; the last of the batch has the prompt


# %%
prompt = "a cat riding a horse at sunset"
hooks = [attn.register_forward_pre_hook(record) for attn in cross]
rng = torch.Generator().manual_seed(0)
film = list(pipe.denoise(prompt, num_inference_steps=unless_fast(20, 4), generator=rng))
for hook in hooks:
    hook.remove()
maps = torch.stack([lesson.enlarge(shares) for shares in maps])  # all to 16×16
maps = maps.view(len(film), len(cross), 77, 16, 16).mean(dim=1)
shapes(x=(film[0].latents, (1, 4, 64, 64)), maps=(maps, (51, 77, 64, 64)))

# %% [markdown]
# > **Predict.** For each word a map of the page: dark is where it is listened to. Where will `cat` be
# > dark, where `horse`, where `sunset`? And the words that name nothing? (Each map has a scale
# > of its own: compare places within a map, not maps.) Above each stands its share of all attention: who
# > gets most?

# %%
words = ["start", *prompt.split()]
heat = maps.mean(dim=0)  # over all steps
heat = [*heat[: len(words)], heat[len(words) :].sum(dim=0)]  # end and padding as one
titles = [f"{word}: {own.mean():.0%}" for word, own in zip([*words, "end, padding"], heat)]
picture = pipe.decode(film[-1].latents)[0]
figures.show(
    figures.pictures([picture, *map(lesson.shade, heat)], ["the picture", *titles], columns=5),
    "A cat on a horse at sunset, and a map for each word. That of cat is dark where the cat is, that"
    " of horse where the horse is, that of sunset around them. Those of small words are blurred.",
)

# %% [markdown]
# The words that name something have found it. Nobody ever showed the UNet where a cat is in a picture: it
# was asked for noise, and given captions. To look at these maps is the way into most of what is done
# with cross-attention, such as editing one word of a prompt and keeping the rest of the picture
# ([Hertz et al. 2022](https://arxiv.org/abs/2208.01626)).
#
# And look at the shares. A softmax has to give away all of its attention. Part of it goes to the start
# token, which has read nothing and is the same in every prompt: a place to look at when there is nothing
# to ask. And the end token with the padding, which have read everything (notebook 06), get a good deal.
# So a prompt is read not only where its words are.
#
# > **Predict.** At the first step $x_t$ is pure noise. Do the maps know already where the cat will be?

# %%
shown = [i * (len(film) - 1) // 4 for i in range(5)]
sheet = [pipe.decode(film[i].pred_original_sample)[0] for i in shown]
for word in ("cat", "horse"):
    sheet += [lesson.shade(maps[i, words.index(word)]) for i in shown]
titles = [f"t = {film[i].timestep:.0f}" for i in shown] + ["cat"] * 5 + ["horse"] * 5
figures.show(
    figures.pictures(sheet, titles, columns=5),
    "Three rows of five steps: the guessed picture, the map of cat, the map of horse. The guess"
    " begins as a blur and ends as a cat on a horse. Nearly from the start, the maps are dark there.",
)

# %% [markdown]
# Words do their work early. When there is next to nothing of a picture, the maps already gather where
# things will be; later steps sharpen them. It fits what we saw in notebook 02: the layout is the last to
# drown, and the first to come back.
#
# ## A heap of rows
#
# > **Predict.** Shuffle the 77 states before the UNet gets them. What will it draw?

# %%
shuffled = context[:, torch.randperm(77, generator=torch.Generator().manual_seed(0))]
x = schedule.add_noise(x0, noise, alphas_cumprod[500])
change = pipe.unet(x, 500, shuffled).sample - pipe.unet(x, 500, context).sample
print(f"largest change of the guess: {change.abs().max():.0e}")

# %% [markdown]
# The same (up to rounding). Attention is a weighted sum, and a sum has no order. To the UNet a prompt is a
# heap of rows. That "a cat riding a horse" is not "a horse riding a cat", the rows must say
# themselves: it is the text encoder that has read them in order.
#
# A heap can also have one row less.
#
# ### Exercise 2 · Mute a word
#
# Return the states so that no attention can go to row `k`, and the shares of the others still sum to 1.
# `states` is (B, T, D). The UNet takes any number of rows.


# %%
def my_mute(states, k):
    return ...


# %%
lesson.mute.check(my_mute)

# %% [markdown]
# Now mute `mushroom` in "a blue mushroom in the snow". There are two places to do it: *after* the text
# encoder has read the prompt, by leaving out the word's row, as in the exercise. Or *before*, by leaving
# out the word's embedding, so that no other row ever hears of it.

# %%
mute = lesson.mute.answer  # or your own
prompt = "a blue mushroom in the snow"
ids = pipe.tokenizer(prompt).input_ids
reader = pipe.text_encoder


def states_without(k, when):
    """The prompt's states with word k muted before the text encoder reads, or after."""
    x = reader.token_embedding(ids) + reader.position_embedding.weight
    x = mute(x, k) if when == "before" else x
    for block in reader.blocks:
        x = block(x, causal=True)
    return mute(reader.final_norm(x), k) if when == "after" else reader.final_norm(x)


# %% [markdown]
# > **Predict.** Three words, muted after or before. What will be drawn instead of a blue mushroom in the
# > snow? In which of the two rows of pictures is the word really gone?

# %%
variants = {"all words": reader(ids).last_hidden_state}
for when in ("after", "before"):
    for word in ("blue", "mushroom", "snow"):
        k = 1 + prompt.split().index(word)  # row 0 is the start token
        variants[f"no {word}, {when}"] = states_without(k, when)
    variants.setdefault("no words at all", nothing)
drawn = {name: draw(states, pictures=4, steps=12) for name, states in variants.items()}

# %%
figures.show(
    figures.pictures([sheet[0] for sheet in drawn.values()], list(drawn), columns=4),
    "Two rows. Above, all words: a blue mushroom in the snow; then each word muted after reading."
    " Below, no words at all: anything; then each word muted before: without blue the mushroom is"
    " red, without mushroom another thing is blue, without snow the page is bare.",
)

# %% [markdown]
# One picture is an anecdote. Here are four for each, and a judge who does not know what was asked for
# (the geometric one of notebook 10) says what it finds in them:

# %%
for name, sheet in drawn.items():
    found = geometry.judge(sheet)
    mushrooms = sum("mushroom" in [thing.kind for thing in page.things] for page in found)
    blue = sum("blue" in [thing.color for thing in page.things] for page in found)
    snow = sum(page.place == "snow" for page in found)
    print(f"{name:<21} a mushroom in {mushrooms} of 4   something blue in {blue}   snow in {snow}")

# %% [markdown]
# Muted *before*, a word's object goes, and the rest stays: without `mushroom` there is something else, and
# it is blue, and in the snow. Without `blue` the mushroom gets its usual colour. Muted *after*, thing and
# place are gone as well. Only `blue` makes a difference: without its row the cap is not blue, but not of
# the usual red either, for the other rows had read that there is a colour. That is the triangle of
# notebook 06, seen in a picture. Stable Diffusion's text encoder reads in the same way, so there, too, a
# word is in more rows than its own.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | 3 levels, 64 to 128 channels, 5.9 million parameters | 4 levels, 320 to 1280 channels, 860 million | [`unet.py`](../minisd/unet.py) | Rombach et al. 2022, §3.2 |
# | `waves` (64,), `temb` (256,) | (320,), (1280,) | [`layers.timestep_embedding`](../minisd/layers.py) | Ho et al. 2020, appendix B |
# | 6 skips, of 4 to 16 positions a side | 12, of 8 to 64 | [`unet.UpBlock`](../minisd/unet.py) | Ronneberger et al. 2015, figure 1 |
# | 10 transformers of 2 to 4 heads, on every level | 16 of 8 heads, on all levels but the lowest, and at the bottom | [`unet.SpatialTransformer`](../minisd/unet.py) | Rombach et al. 2022, §3.3 and appendix E.2.1 |
# | labels and messages from states (77, 128) | from (77, 768); (77, 1024) in Stable Diffusion 2 | [`layers.Attention`](../minisd/layers.py) | Rombach et al. 2022, §3.3 |
# | `my_attention` | the same, fused | [`layers.attention`](../minisd/layers.py) | Vaswani et al. 2017, eq. 1 |
#
# **Play.** Cut skip 0 for the first half of the steps only. Hand the UNet the skips of another picture.
# Double a row instead of muting it: `torch.cat([states, states[:, 3:4]], dim=1)`. Record the maps of the
# self-attention. Swap `cat` for `robot` after the tenth step.
#
# *Stuck in an exercise? The answers are in [`lesson_07.py`](../minisd/lessons/lesson_07.py); that of
# Exercise 1, written out, is [`attention`](../minisd/layers.py) in `layers.py`.*

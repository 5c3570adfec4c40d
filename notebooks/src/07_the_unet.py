# %% [markdown]
# # 07 · The U-Net, and how words steer it
#
# **What is inside the network that guesses the noise, and how does the prompt influence it?**
#
# *45 minutes to read, a minute to run. You need notebooks 02 ($x_t$, $\epsilon$) and 06 (the 77 states of
# a prompt).*
#
# Everything that the model has learnt about drawing is in one network. Three things go in: noisy latents,
# a timestep, and the states of a prompt. A guess of the noise comes out. We look at the blocks of this
# network, and then disable one part at a time to see what goes missing in the picture.

# %%
import inspect
import random

import torch

from minisd import StableDiffusionPipeline, config, layers, schedule, unet
from minisd.evaluate import geometry
from minisd.image import to_tensor
from minisd.lessons import figures, lesson_07_blocks, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_07 as lesson
from minisd.pipeline import guide
from minisd.tiny import picture_book

you_are_here("UNet")

# %% [markdown]
# ## A U
#
# To find noise, a network must look at individual pixels, because that is where noise is. It must also
# see the whole page: is this brown patch a horse's leg or a tree? A U-Net ([Ronneberger et al.
# 2015](https://arxiv.org/abs/1505.04597)) does both. On the way down it halves the feature maps again and
# again, until a few positions see the whole page. On the way up it doubles their size again, and each
# level also receives the outputs of the matching level on the way down, through *skip connections*.
#
# Here are our UNet and Stable Diffusion's, measured while they run.
# ([`measure`](../minisd/lessons/lesson_07_blocks.py) runs them on PyTorch's `meta` device, where tensors
# have shapes but no numbers. So 860 million weights take no memory, and nothing has to be downloaded.)

# %%
tiny = lesson_07_blocks.measure(config.TINY_UNET)
sd15 = lesson_07_blocks.measure(config.SD1_UNET)
lesson_07_blocks.show_u(tiny, sd15, skips=(2, 3))

# %% [markdown]
# Each rectangle is a block's feature map: as high as the side of the map, as wide as its number of
# channels. A block consists of one to three *ResNet blocks*. Each ResNet block is followed by a
# transformer, except for the last one in the middle and those on Stable Diffusion's lowest level. This is
# what a ResNet block and a transformer look like inside:

# %%
lesson_07_blocks.show_inside()

# %% [markdown]
# A ResNet block applies the same sequence twice: normalise, apply a nonlinearity, convolve. GroupNorm
# normalises groups of channels to mean 0 and variance 1. SiLU is the nonlinearity: $x$ times its sigmoid,
# a ReLU with a soft corner. Finally the input is added to the output (a *residual connection*). The
# transformer has three residual parts, which the section on attention explains. In the code, each of the
# two drawings is a few lines:

# %%
for method in (layers.ResnetBlock.forward, unet.BasicTransformerBlock.forward):
    print(inspect.getsource(method))

# %% [markdown]
# The rest of the UNet is down- and upsampling and a loop over the levels. You can read
# [`unet.py`](../minisd/unet.py) in one sitting.
#
# > **Predict.** Where in the U are most of the parameters, and where is most of the work: at the top,
# > where the maps are large, or at the bottom, where they have many channels? (Work is counted in
# > multiplications and additions of matrix products and convolutions.)

# %%
lesson_07_blocks.show_costs(tiny, sd15)

# %% [markdown]
# They are at opposite ends. The number of parameters of a convolution grows with the square of its number
# of channels and does not depend on the size of the map. Its work is the number of parameters times the
# number of positions, and Stable Diffusion's top level has 64 times as many positions as the bottom. So
# most of the weights are in the lower half of the U, and most of the work is in the upper half.
#
# ## Tools
#
# Now we use our UNet with its trained weights. We will draw often, so here is the loop of notebook 01
# again, this time as a function of a prompt's states instead of its text:

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
# To measure errors we need noisy latents whose noise we know. So we encode eight pages of the book and
# generate the noise to add to them:

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
# ## The timestep
#
# The UNet has to know how much of its input is noise. It receives the timestep as a vector of waves (a
# *sinusoidal embedding*), the way Transformers receive positions ([Vaswani et al.
# 2017](https://arxiv.org/abs/1706.03762), §3.5): each number is a cosine or a sine of $t$ at one of many
# frequencies. Two layers turn the waves into a vector of 256 numbers, and every ResNet block adds its own
# linear map of that vector to its channels.

# %%
waves = layers.timestep_embedding(torch.arange(1000), 64)
temb = pipe.unet.time_embedding(waves)
shapes(waves=(waves, (1000, 320)), temb=(temb, (1000, 1280)))
lesson.show_waves(waves[:250])

# %% [markdown]
# The waves work like the hands of a clock: fast ones distinguish $t$ from $t+1$, slow ones distinguish
# early from late.
#
# > **Predict.** Add noise to a picture up to $t = 500$, and lie to the UNet: "this is $t = 0$, hardly any
# > noise". Or: "this is $t = 999$, almost only noise". What will the picture implied by its guess look
# > like?

# %%
x, alpha = schedule.add_noise(x0, noise, alphas_cumprod[500]), alphas_cumprod[500]
implied = [schedule.to_x0(x, guess(500, told), alpha)[0] for told in (0, 250, 500, 999)]
sheet = [pictures[0], *pipe.decode(torch.stack(implied))]
titles = ["the page", "told t = 0", "told 250", "told 500 (true)", "told 999"]
figures.show(figures.pictures(sheet, titles, columns=5), lesson.LIES)

# %% [markdown]
# If the UNet is told too low a timestep, it leaves noise in. If it is told too high a timestep, it
# mistakes the page itself for noise. Here is the error on all eight pages:

# %%
said = list(range(0, 1000, unless_fast(50, 100)))
lesson.show_lies(said, {t: [error(t, told) for told in said] for t in (200, 500, 800)})

# %% [markdown]
# The true timestep, or one close to it, gives the smallest error. So if your own sampler draws nothing
# but fog, check this first: does the timestep that the network receives match the noise? (Notebook 11 is
# a museum of such bugs.)
#
# ## Skip connections
#
# Our U has six skip connections, two per level. Number 0 starts at the very beginning, after the first
# convolution, and arrives at the very end; number 5 joins the 4×4 maps. The way up takes them from a
# list, so we can cut one by putting zeros into the list. A *hook* does that: a function that PyTorch
# calls with a module's inputs just before the module itself.


# %%
def cut(*numbers):
    """Replace these skip connections by zeros, until the hook is removed."""

    def hook(block, inputs):
        skips = inputs[1]  # of x, skips, temb, context
        for i in numbers:
            skips[i] = torch.zeros_like(skips[i])

    return pipe.unet.up_blocks[0].register_forward_pre_hook(hook)


# %% [markdown]
# > **Predict.** Draw "an astronaut riding a horse" with some skip connections cut: the two at the bottom,
# > the two in the middle, number 1, or number 0. Which one matters most, and what will be wrong with the
# > picture?

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
figures.show(figures.pictures(sheet, titles, columns=5), lesson.WITHOUT_SKIPS)

# %% [markdown]
# (The number above each picture is the error of ε on the eight pages at $t = 500$.)
#
# The layout comes from the bottom and needs no skip connection. But the noise in $x_t$ differs at every
# position, and everything that goes through the bottom must pass a 4×4 map. Only the skip connections at
# the top can tell where exactly the noise is, and this network relies on number 0, which carries the
# noisy latents almost unchanged. Without it the UNet may know what the page should show, but not what to
# subtract.
#
# (One caution: in training, no skip connection was ever cut. So we measure which skip connections this
# network *relies* on. A network trained without one of them might have found another way.)
#
# So much for the U. The UNet's output is noise, which has as much detail as any picture can have, and
# that is why the U needs its way up. A network that only has to name what a picture contains needs no way
# up.
#
# ## Attention
#
# Now to the words. They reach the picture through *attention* ([Vaswani et al.
# 2017](https://arxiv.org/abs/1706.03762), eq. 1). Each position that asks has a *query* $q$; each
# position that answers has a *key* $k$ and a *value* $v$. Queries, keys and values are vectors of length
# $d$. The product of a query and a key says how well they match, a softmax turns these scores into
# weights, and the answer is the weighted sum of the values:
#
# $$\mathrm{attention}(q, k, v) = \mathrm{softmax}\left(\frac{q\,k^\top}{\sqrt d}\right) v$$
#
# ### Exercise 1 · Attention by hand
#
# `q` is (B, n, T, d), and `k` and `v` are (B, n, S, d): B pictures, n heads that work independently, T
# queries, S keys and values. The check compares your function with PyTorch's fused
# `scaled_dot_product_attention`, which the networks use.


# %%
def my_attention(q, k, v):
    scores = ...  # (B, n, T, S)
    return ...


# %%
lesson.by_hand.check(my_attention)

# %% [markdown]
# Every transformer in the UNet contains two attention layers. In the first, the positions of the map
# attend to each other: *self-attention*. In the second, they attend to the words: the queries come from
# the picture, the keys and values from the 77 states of the prompt. That is *cross-attention* ([Rombach
# et al. 2022](https://arxiv.org/abs/2112.10752), §3.3).
#
# Then a *feed-forward* layer acts on each position separately. A linear layer computes a value and a
# *gate*. The gate passes through a GELU (another soft ReLU) and multiplies the value, and a second linear
# layer returns to the original width.
#
# **Cross-attention is the only place in the whole model where words meet the picture.** Our U has ten
# cross-attention layers:

# %%
cross = [block.attn2 for block in pipe.unet.modules() if hasattr(block, "attn2")]
attn = cross[0]
query, key, value = (layer.weight for layer in (attn.to_q, attn.to_k, attn.to_v))
print(f"{len(cross)} of them; in the first, {attn.heads} heads share these matrices:")
shapes(query=(query, (320, 320)), key=(key, (320, 768)), value=(value, (320, 768)))

# %% [markdown]
# We can look at the attention weights. The fused function does not return them, so we compute them again,
# by hand, whenever one of the ten layers is called.

# %%
maps = []


def record(attn, inputs):
    x, context = inputs
    q, k = attn.to_q(x), attn.to_k(context)
    q, k = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (q, k))  # (B, n, T, d)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)  # (B, n, positions, 77)
    maps.append(
        weights.mean(dim=1)[-1]
    )  # mean over the heads; the last of the batch has the prompt


# %%
prompt = "a cat riding a horse at sunset"
hooks = [attn.register_forward_pre_hook(record) for attn in cross]
rng = torch.Generator().manual_seed(0)
film = list(pipe.denoise(prompt, num_inference_steps=unless_fast(20, 4), generator=rng))
for hook in hooks:
    hook.remove()
maps = torch.stack([lesson.enlarge(weights) for weights in maps])  # all to 16×16
maps = maps.view(len(film), len(cross), 77, 16, 16).mean(dim=1)
shapes(x=(film[0].latents, (1, 4, 64, 64)), maps=(maps, (51, 77, 64, 64)))

# %% [markdown]
# > **Predict.** Each word gets a map of the page, dark where the page attends to the word. Where will the
# > maps of `cat`, `horse` and `sunset` be dark? And the maps of `a` and `at`, which name nothing? (Each
# > map has its own scale: compare places within a map, not maps.) The title gives the word's share of all
# > attention: which word gets the most?

# %%
words = ["start", *prompt.split()]
heat = maps.mean(dim=0)  # over all steps
heat = [*heat[: len(words)], heat[len(words) :].sum(dim=0)]  # end and padding as one
titles = [f"{word}: {own.mean():.0%}" for word, own in zip([*words, "end, padding"], heat)]
sheet = [pipe.decode(film[-1].latents)[0], *map(lesson.shade, heat)]
figures.show(figures.pictures(sheet, ["the picture", *titles], columns=5), lesson.WORD_MAPS)

# %% [markdown]
# The words that name something have found it in the picture. Nobody ever showed the UNet where a cat is
# in a picture: it was given captions and asked for the noise. Such maps are the starting point for most
# methods that use cross-attention, such as editing one word of a prompt while keeping the rest of the
# picture ([Hertz et al. 2022](https://arxiv.org/abs/2208.01626)).
#
# Look at the shares, too. The weights of a softmax always sum to 1, so a position has to attend to
# something. Part of the attention goes to the start token, which has read nothing and is the same in
# every prompt: a place to look when there is nothing to ask. The end token and the padding, which have
# read everything (notebook 06), get a good deal as well. So the UNet reads the prompt from more states
# than those of its words.
#
# > **Predict.** At the first step $x_t$ is pure noise. Do the maps already know where the cat will be?

# %%
shown = [i * (len(film) - 1) // 4 for i in range(5)]
sheet = [pipe.decode(film[i].pred_original_sample)[0] for i in shown]
for word in ("cat", "horse"):
    sheet += [lesson.shade(maps[i, words.index(word)]) for i in shown]
titles = [f"t = {film[i].timestep:.0f}" for i in shown] + ["cat"] * 5 + ["horse"] * 5
figures.show(figures.pictures(sheet, titles, columns=5), lesson.MAPS_OVER_TIME)

# %% [markdown]
# Words act early. Before the picture has taken shape, the maps already concentrate where things will be;
# later steps sharpen them. This agrees with notebook 02: the layout is the last thing to disappear in
# noise, and the first to come back.
#
# ## A set of rows
#
# > **Predict.** Shuffle the 77 states before the UNet receives them. What will it draw?

# %%
shuffled = context[:, torch.randperm(77, generator=torch.Generator().manual_seed(0))]
x = schedule.add_noise(x0, noise, alphas_cumprod[500])
change = pipe.unet(x, 500, shuffled).sample - pipe.unet(x, 500, context).sample
print(f"largest change of the guess: {change.abs().max():.0e}")

# %% [markdown]
# The guess is the same (up to rounding). Attention is a weighted sum, and a sum has no order. For the
# UNet a prompt is a set of rows, one for each state. The difference between "a cat riding a horse" and "a
# horse riding a cat" must be in the rows themselves: only the text encoder has read the words in order.
#
# We can also remove a row from the set.
#
# ### Exercise 2 · Mute a word
#
# Return the states without row `k`, so that no attention can go to it and the weights of the other rows
# still sum to 1. `states` is (B, T, D). The UNet accepts any number of rows.


# %%
def my_mute(states, k):
    return ...


# %%
lesson.mute.check(my_mute)

# %% [markdown]
# Now mute `mushroom` in "a blue mushroom in the snow". This can be done at two points: *after* the text
# encoder has read the prompt, by removing the word's row, as in the exercise, or *before*, by removing
# the word's embedding, so that no other row ever learns of it.

# %%
mute = lesson.mute.answer  # or your own
prompt = "a blue mushroom in the snow"
ids = pipe.tokenizer(prompt).input_ids
reader = pipe.text_encoder


def states_without(k, when):
    """The prompt's states, with word k muted before or after the text encoder reads it."""
    x = reader.token_embedding(ids) + reader.position_embedding.weight
    x = mute(x, k) if when == "before" else x
    for block in reader.blocks:
        x = block(x, causal=True)
    return mute(reader.final_norm(x), k) if when == "after" else reader.final_norm(x)


# %% [markdown]
# > **Predict.** We mute `blue`, `mushroom` or `snow`, either after or before the text encoder reads the
# > prompt. What will be drawn instead of a blue mushroom in the snow? In which of the two cases is the
# > word really gone?

# %%
variants = {"all words": reader(ids).last_hidden_state}
for when in ("after", "before"):
    for word in ("blue", "mushroom", "snow"):
        k = 1 + prompt.split().index(word)  # row 0 is the start token
        variants[f"no {word}, {when}"] = states_without(k, when)
    variants.setdefault("no words at all", nothing)
drawn = {name: draw(states, pictures=4, steps=12) for name, states in variants.items()}

# %%
sheet = [pictures[0] for pictures in drawn.values()]
figures.show(figures.pictures(sheet, list(drawn), columns=4), lesson.MUTED_WORDS)

# %% [markdown]
# One picture is an anecdote. So we take four pictures of each variant and let a judge that does not know
# the prompt (the geometric judge of notebook 10) say what it finds in them:

# %%
for name, images in drawn.items():
    found = geometry.judge(images)
    mushrooms = sum("mushroom" in [thing.kind for thing in page.things] for page in found)
    blue = sum("blue" in [thing.color for thing in page.things] for page in found)
    snow = sum(page.place == "snow" for page in found)
    print(f"{name:<21} a mushroom in {mushrooms} of 4   something blue in {blue}   snow in {snow}")

# %% [markdown]
# * **Muted before** reading: only what the word says is lost. Without `mushroom` something else appears,
#   but it is still blue and in the snow. Without `blue` the mushroom gets its usual colour.
# * **Muted after** reading: `mushroom` and `snow` are lost as well. Later rows know the thing and the
#   place (notebook 06 could read both there), but this UNet takes them mostly from the word's own row.
# * **The colour** is different. Without the row of `blue` the cap is not blue, but it does not have the
#   usual red either, because the row of `mushroom` has already read that a colour is named. That is the
#   triangle of notebook 06, the causal mask, seen in a picture.
#
# So the UNet does not always use what can be read from a state. Stable Diffusion's text encoder reads in
# the same way; how much its UNet uses the later rows would have to be measured.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | 3 levels, 64 to 128 channels, 5.9 million parameters | 4 levels, 320 to 1280 channels, 860 million | [`unet.py`](../minisd/unet.py) | Rombach et al. 2022, §3.2 |
# | `waves` (64,), `temb` (256,) | (320,), (1280,) | [`layers.timestep_embedding`](../minisd/layers.py) | Ho et al. 2020, appendix B |
# | 6 skip connections, on maps of 4 to 16 positions per side | 12, on maps of 8 to 64 | [`unet.UpBlock`](../minisd/unet.py) | Ronneberger et al. 2015, figure 1 |
# | 10 transformers with 2 to 4 heads, on every level | 16 with 8 heads, on all levels but the lowest, and in the middle | [`unet.SpatialTransformer`](../minisd/unet.py) | Rombach et al. 2022, §3.3 and appendix E.2.1 |
# | keys and values from states (77, 128) | from (77, 768); (77, 1024) in Stable Diffusion 2 | [`layers.Attention`](../minisd/layers.py) | Rombach et al. 2022, §3.3 |
# | `my_attention` | the same, fused | [`layers.attention`](../minisd/layers.py) | Vaswani et al. 2017, eq. 1 |
#
# **Play.** Cut skip connection 0 for the first half of the steps only. Give the UNet the skip connections
# of another picture. Double a row instead of muting it: `torch.cat([states, states[:, 3:4]], dim=1)`.
# Record the maps of the self-attention. Swap `cat` for `robot` after the tenth step.
#
# *Stuck on an exercise? The answers are in [`lesson_07.py`](../minisd/lessons/lesson_07.py); the answer
# to Exercise 1, written out, is [`attention`](../minisd/layers.py) in `layers.py`.*

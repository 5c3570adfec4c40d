# %% [markdown]
# # 15 · Teach it a new word
#
# **Where does a network keep a new thing, and what does it forget in return?**
#
# *40 minutes to read, half a minute to run. You need notebooks 06 (words), 07 (attention), 09 (training)
# and 10 (the judges).*
#
# Show a model a few pictures of your cat, and it draws your cat on the beach. That is *fine-tuning*: the
# training of notebook 09 goes on, with very few pictures. The methods differ mainly in which numbers may
# change. We teach the built-in model a thing that it has never seen, in a few seconds, and then look at
# what else has changed.

# %%
import json
from pathlib import Path

import torch

import minisd
from minisd.adapters.lora import LoRA, attach, layers_of
from minisd.image import to_tensor
from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_15 as lesson
from minisd.lessons.outlines import CONTROLNET, outlines
from minisd.schedule import add_noise
from minisd.train.unet import min_snr_weights

you_are_here("text encoder", "UNet")

# %% [markdown]
# ## A word without a meaning
#
# The picture book has no umbrellas. We ask for some anyway.


# %%
def fresh():
    pipe = minisd.StableDiffusionPipeline.from_pretrained("tiny")
    pipe.scheduler = minisd.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, texts):
    """Pictures (B, 3, 128, 128) in [-1, 1]. The first text always gets the same noise, and so on."""
    rngs = [torch.Generator().manual_seed(seed) for seed in range(len(texts))]
    steps = unless_fast(8, 2)
    images = pipe(texts, num_inference_steps=steps, generator=rngs, output_type="pt").images
    return 2 * images - 1


# %% [markdown]
# > **Predict.** What does the tokenizer make of the word "umbrella"? What does the model draw: nothing,
# > noise, or something else? Will colours and places be right?

# %%
pipe = fresh()
asked = ["an umbrella", "a blue umbrella in the snow", "a green umbrella at sunset"]
asked += ["a yellow umbrella at night"]
print(*pipe.tokenizer.bpe.encode("umbrella").tokens)
before = draw(pipe, asked)
figures.show(figures.pictures(list(before), asked, columns=4), lesson.BEFORE)

# %% [markdown]
# A byte-pair tokenizer has no unknown words (notebook 06). It falls back to fragments, which mean nothing
# here, so the model draws some other thing from the book, and a different one for each noise sample. The
# rest of the prompt works: colours and places are right.
#
# ## Twelve drawings
#
# The program that draws the book can be extended with new things
# ([`new_things.py`](../minisd/lessons/new_things.py)). These twelve pictures are the only umbrellas that
# the model will ever see.

# %%
drawings, captions = lesson.twelve()
letters = "ABCDEFGHIJKL"
small = list(drawings[..., ::2, ::2])
figures.show(figures.pictures(small, list(letters), columns=6), lesson.TWELVE)
for letter, caption in zip(letters, captions):
    print(letter, caption)

# %% [markdown]
# None of the twelve umbrellas is blue in the snow, or yellow at night. As in notebook 09, we turn
# pictures into latents and captions into states once, before training.

# %%
with torch.no_grad():
    latents = pipe.vae.encode(drawings).latent_dist.mode() * pipe.vae.config.scaling_factor
    words = pipe.encode_prompt(captions)
shapes(latents=(latents, (12, 4, 64, 64)), words=(words, (12, 77, 768)))

# %% [markdown]
# ## Three places
#
# Where can a new thing be stored? In *one row* of the text encoder's table of embeddings: *textual
# inversion*. In small matrices *beside* the weights of the UNet: *LoRA*. Or in *all weights* of the UNet:
# *full fine-tuning* (*DreamBooth* is a form of it).
#
# > **Predict.** How many numbers may each method change? How many numbers do the twelve drawings contain,
# > as latents?

# %%
table, layers = pipe.text_encoder.token_embedding.weight, layers_of(pipe.unet)
beside = [LoRA(layer, rank=4) for layer in layers.values()]
sizes = {
    "one row of the table": table.shape[1],
    f"matrices of rank 4 beside {len(layers)} layers": sum(
        p.numel() for b in beside for p in b.parameters()
    ),
    "all weights of the UNet": sum(p.numel() for p in pipe.unet.parameters()),
    "for comparison: the drawings": latents.numel(),
}
for name, count in sizes.items():
    print(f"{name:<36} {count:>9,} numbers")

# %% [markdown]
# Two of the three methods change many more numbers than the data contain. They could memorise the
# drawings, just as a network memorised one batch in notebook 09. The third method changes one row, a
# hundredth of the data's size, and must make do with what the networks already know.
#
# ## One row
#
# Textual inversion ([Gal et al. 2022](https://arxiv.org/abs/2208.01618), §3) adds a word to the
# vocabulary and a row to the table. All weights are frozen. The loss is the usual one. Its gradient
# passes through the UNet and through the text encoder, and ends in that row.
#
# ### Exercise 1 · The new row
#
# `table` is (V, D) and frozen, `row` is (D,) and trained. `ids` is (B, T). Old ids go from 0 to V − 1,
# and the id of the new word is V. Return the embeddings of all ids.


# %%
def my_embed(table, row, ids):
    """Embeddings (B, T, D), through which a gradient reaches the row."""
    return ...


# %%
lesson.embed.check(my_embed)

# %% [markdown]
# The result is a file of about a kilobyte, and since no weight has changed, nothing can be forgotten. We
# will see what a row of numbers can do, and what it cannot.
#
# ## Two thin matrices
#
# Fine-tuning changes a weight matrix $W$, (out, in), by some $\Delta W$ of the same size. LoRA ([Hu et
# al. 2021](https://arxiv.org/abs/2106.09685), §4.1) assumes that a matrix of low *rank* is enough:
#
# $$W' = W + s\,\frac{\alpha}{r}\,B A$$
#
# $A$ (`down`, $r$ × in) maps the inputs to $r$ numbers, and $B$ (`up`, out × $r$) maps these to the
# outputs. $\alpha$ (not a noise level here) is a number stored in the file. The division by $r$ keeps the
# change about equally large when you choose another rank. $s$ is the user's scale. $B$ starts at zero, so
# training starts from the old network. There are two ways to use a LoRA. If it stays *beside* the layer,
# both terms are computed at every call, and $s$ can be changed at any time. If it is *merged*, the sum is
# computed once, and calls are as fast as before.
#
# ### Exercise 2 · Merge it
#
# Return $W'$. `down` is $A$, (r, in), and `up` is $B$, (out, r).


# %%
def my_merged(weight, down, up, alpha, scale):
    """One weight (out, in) that does the same as a layer and its LoRA."""
    return ...


# %%
lesson.merged.check(my_merged)

# %% [markdown]
# A LoRA of rank 4 that has learnt umbrellas is part of this notebook. Here is one of its layers, beside
# and merged, on the states of a caption.

# %%
taught = fresh()
taught.load_lora_weights(lesson.UMBRELLA, adapter_name="umbrella")
layer = layers_of(taught.unet)["mid_block.attention.block.attn2.to_k"]
(lora,) = layer.loras
W, A, B = layer.weight, lora.down.weight, lora.up.weight
x = words[0]
beside = x @ W.T + lora.alpha / lora.rank * (x @ A.T) @ B.T
merged = x @ lesson.merged.answer(W, A, B, lora.alpha, 1.0).T
print(f"outputs up to {beside.abs().max():.1f}, difference {(beside - merged).abs().max():.5f}")
shapes(W=(W, (320, 768)), A=(A, (4, 768)), B=(B, (320, 4)))

# %% [markdown]
# For a convolution, `down` is a convolution with the same kernel and $r$ output channels, and `up` is 1 ×
# 1 ([`lora.py`](../minisd/adapters/lora.py)).
#
# ## A few seconds of training
#
# Now we train a LoRA ourselves, from zero, beside every layer of the UNet. Only the LoRAs get gradients.
# We use the loss of notebook 09, with one change: at low timesteps the error is large, hard to reduce,
# and says little about shapes, so it gets a smaller weight, $\min(1, 5/\mathrm{SNR})$ ([Hang et al.
# 2023](https://arxiv.org/abs/2303.09556), §3.4, who give another reason: its gradients conflict with
# those of the other timesteps).

# %%
torch.manual_seed(0)
pipe.unet.requires_grad_(False)
loras = torch.nn.ModuleList(LoRA(layer, rank=4) for layer in layers.values())
for layer, lora in zip(layers.values(), loras):
    attach(layer, lora)

# %%
alphas_cumprod = pipe.scheduler.alphas_cumprod
weights = min_snr_weights(alphas_cumprod, gamma=5)


def loss_of(which, t, noise):
    x = add_noise(latents[which], noise, alphas_cumprod[t].view(-1, 1, 1, 1))
    eps = pipe.unet(x, t, words[which]).sample
    return (weights[t] * (eps - noise).square().mean(dim=(1, 2, 3))).mean()


# %%
@torch.no_grad()
def fixed_loss():
    """The loss of a fixed batch: every drawing at four timesteps, always with the same noise."""
    noise = torch.randn(48, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return loss_of(
        torch.arange(12).repeat(4), torch.arange(100, 900, 200).repeat_interleave(12), noise
    )


# %% [markdown]
# > **Predict.** Forty steps with four examples each. Does that do anything at all?

# %%
optimizer = torch.optim.AdamW(loras.parameters(), lr=1e-2, betas=(0.9, 0.99))
rng, losses, untaught = torch.Generator().manual_seed(0), [], fixed_loss()
for _ in range(unless_fast(40, 2)):
    which = torch.randint(12, (4,), generator=rng)
    t = torch.randint(1000, (4,), generator=rng)
    loss = loss_of(which, t, torch.randn(4, 4, 16, 16, generator=rng))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
lesson.show_losses(losses)

# %%
print(f"a fixed batch of 48: loss {untaught:.4f} before, {fixed_loss():.4f} after")

# %% [markdown]
# On the fixed batch, forty steps bring the loss to a quarter. Notebook 09 needed 500 steps, but its
# network started from random numbers. This one can already draw; all that is missing is a shape.
#
# > **Predict.** Eight prompts: two for umbrellas alone, two for an umbrella and a second thing (no drawing
# > had two things), and four for old things. Which of them will be right?

# %%
texts = ["a blue umbrella in the snow", "a yellow umbrella at night"]
texts += ["a red umbrella above a car", "an umbrella next to a cat"]
texts += ["a red ball", "a green fish on the beach", "a tree", "an astronaut riding a horse"]
texts = texts[: unless_fast(8, 1)]
ours = draw(pipe, texts)
figures.show(figures.pictures(list(ours), texts, columns=4), lesson.TEN_SECONDS)

# %% [markdown]
# All four umbrellas are there, in colours and places that no drawing combines, and even beside a second
# thing. The network knew colours, places and relations already. But the red ball has become an umbrella,
# and so has the tree, and the fish has lost its eye.
#
# ## Why it forgets
#
# The loss is a mean over twelve captions, and all twelve say "umbrella". A network that *always* draws an
# umbrella has the same loss as one that looks at the word first. Nothing in the data says that a ball is
# still a ball.
#
# The remedy is called *prior preservation* ([Ruiz et al. 2023](https://arxiv.org/abs/2208.12242), §3.3).
# Before training, the old model itself draws *class images*. Then every second training example is a
# class image, and the loss has two terms:
#
# $$L = L_{\text{new}} + \lambda\,L_{\text{class}}$$
#
# $\lambda$ weights the class images; here it is 1. In the paper the class images show the new thing's
# class, for one caption such as "a cat". An umbrella has no class in our book, so we take captions of
# other things. Full fine-tuning with class images is DreamBooth. Class images also work with a LoRA: the
# LoRA in `taught`, loaded above, was trained for 500 steps on the twelve drawings and on 40 class images,
# for captions of the book. Some class images show one thing and some two, but none shows an umbrella.
#
# > **Predict.** The same eight prompts, from the same noise, drawn by `taught`. Is everything right now?

# %%
theirs = draw(taught, texts)
figures.show(figures.pictures(list(theirs), texts, columns=4), lesson.WITH_CLASS_IMAGES)

# %% [markdown]
# The ball and the tree are back, and the fish has its eye back. The umbrellas that stand alone are still
# there. But beside a second thing there is no umbrella any more. A likely reason is in the data again:
# the training set now contains pictures of two things, and none of them shows an umbrella. The class
# images protect the old things, but they also teach the model where the new thing does *not* belong.
#
# ## Measured
#
# Eight prompts are anecdotes (notebook 10). [`new_thing.py`](../docs/new_thing.py) trained five times,
# for two minutes each and from the same twelve drawings. It asked each model for 40 umbrellas, with new
# captions, and for 60 pictures of old things. The geometric judge of notebook 10 was told what an
# umbrella is. The five runs are textual inversion, LoRAs of rank 16 without and with class images, a LoRA
# of rank 4 with class images, and full fine-tuning without class images. There are 200 class images here,
# not 40.
#
# > **Predict.** Which of the methods learns the umbrella? Which of them forgets most: the one that changes
# > most numbers?

# %%
docs = Path("../docs")
measured = json.loads((docs / "tiny_model/new_thing.json").read_text())
for name, row in measured.items():
    old = {kind: row[kind][0] for kind in ("one thing", "two things", "riding")}
    print(f"{name}, {row['bytes']:,} bytes\n   new: {row['new'][0]} of 40", end="; ")
    print(
        "old:", *(f"{kind} {count}," for kind, count in old.items()), f"{sum(old.values())} of 60"
    )

# %% [markdown]
# Textual inversion forgets nothing and learns nothing. All other methods learn the umbrella. Trained
# without class images, the LoRA of rank 16 has lost nearly all old things that stand alone, probably
# because captions of single things resemble the captions of the drawings most. With class images it keeps
# most of them. (For the old things, the totals 46, 53 and 54 of 60 hardly differ, but 22 of 60 is clearly
# lower.) And a small file does not mean a small change: without class images, a LoRA with a fifth of the
# file size forgot more than full fine-tuning. (Size was not the only difference. The LoRA's learning rate
# was twenty times as high, and full fine-tuning dropped a tenth of the captions.)
#
# Here are the first eight of the 40 prompts, for each method:

# %%
lesson.show_long_runs(measured, docs / "images/new_thing.png")

# %% [markdown]
# The second row of pictures shows what one embedding can do. The embedding began as a copy of the one for
# "mushroom", and after a thousand steps the model mostly draws trees for it. Why not mushrooms? Ask the
# untaught UNet how well each of its words explains the twelve drawings:

# %%
scores = lesson.losses_by_word(fresh(), latents, captions, unless_fast(19, 2))
print(*(f"{word} {loss:.4f}" for word, loss in scores), sep=", ")

# %% [markdown]
# To us an umbrella looks like a mushroom. To the loss, "tree" is the best of the nineteen words, and
# "mushroom" is in the middle. So training moved the embedding towards trees. An embedding *chooses* among
# the shapes that the UNet can draw. This training run found no embedding that makes the UNet draw a new
# shape. In a large model, which can draw nearly everything and only lacks the word, choosing may be
# enough: for a style, or for a toy.
#
# ## The scale
#
# As long as a LoRA stays beside the weights, it can be turned up and down.
#
# > **Predict.** A green umbrella on the beach, and a pink one in the snow, at scales 0, 0.5, 1 and 1.5.
# > What is half an umbrella?

# %%
scales, rows = (0, 0.5, 1, 1.5), []
for scale in scales:
    taught.set_adapters("umbrella", scale)
    rows.append(draw(taught, ["a green umbrella on the beach", "a pink umbrella in the snow"]))
sheet, titles = torch.stack(rows, dim=1).flatten(0, 1), [f"scale {scale}" for scale in scales] * 2
figures.show(figures.pictures(list(sheet), titles, columns=4), lesson.SCALES)

# %% [markdown]
# At 0 it is the old model. Half of the change is not half an umbrella: it is a mushroom, the thing in the
# book that looks most like one. At 1.5 the umbrella is larger, and its outline and handle fall apart. The
# weights change in proportion to the scale. The pictures do not.
#
# ## Which layers hold it
#
# LoRAs for Stable Diffusion are usually placed beside attention layers only. Ours is beside all layers.
#
# > **Predict.** First switch on only the part beside attention. Then switch on only the rest; more than
# > half of it is beside convolutions. Which of the two parts holds the umbrella?

# %%
sheet = []
for part in (True, False):  # attention, and everything else
    count = 0
    for path, layer in layers_of(taught.unet).items():
        layer.loras[0].scale = float((".attn" in path) == part)
        count += sum(p.numel() for p in layer.loras.parameters()) * ((".attn" in path) == part)
    sheet += draw(taught, ["a green umbrella on the beach", "a yellow umbrella at night"])
    print("attention:" if part else "the rest:", f"{count:,} numbers")
titles = ["attention"] * 2 + ["the rest"] * 2
figures.show(figures.pictures(sheet, titles, columns=4), lesson.PARTS)

# %% [markdown]
# Without the part beside attention hardly anything is missing, and the attention part alone draws no
# umbrella. That fits what attention does: it decides which words act on which positions. The shape itself
# is drawn by the layers around it, and these had never drawn an umbrella. (This does not prove that a
# LoRA *trained* beside attention alone would fail, because then attention would have to do it all. Try
# it.)
#
# ## Outlines instead of words
#
# Some things are hard to say in words: where exactly, how large, with which outline. A *ControlNet*
# ([Zhang et al. 2023](https://arxiv.org/abs/2302.05543), §3) takes such information from a second
# picture. A ControlNet is a copy of the UNet's encoder half that also sees this picture. Each of its
# outputs passes through a 1×1 convolution and is added to a skip connection. The convolutions start at
# zero, so training starts from the old model, as with $B = 0$ above. (A layer of zeros can learn: the
# gradient of its weights contains its inputs, not its weights.)
#
# ### Exercise 3 · A steered skip connection
#
# `skip` and `control` are (B, C, h, w). Return the skip connection that the decoder gets. `weight` is (C,
# C), and `bias` is (C,). `scale` is the user's: at 0 the ControlNet has no effect.


# %%
def my_controlled(skip, control, weight, bias, scale):
    """The skip connection, steered by the output of the ControlNet."""
    return ...


# %%
lesson.controlled.check(my_controlled)

# %% [markdown]
# This ControlNet was trained for 25 minutes on four thousand pages of the book and their outlines
# ([`outlines.py`](../docs/outlines.py)). The UNet has not changed.

# %%
controlnet = minisd.ControlNetModel.from_pretrained(CONTROLNET)
steered = minisd.StableDiffusionControlNetPipeline.from_pipe(fresh(), controlnet=controlnet)
steered.set_progress_bar_config(disable=True)
outlined = lesson.outlined()[: unless_fast(4, 1)]
pages = [outlines(prompt.scene) for prompt in outlined]
for prompt in outlined:
    print(prompt.text)

# %% [markdown]
# > **Predict.** The same outlines with three prompts: their own, "a purple cat at night", and "a red fish
# > on the beach". What follows the outlines, and what follows the prompt, if the two contradict each
# > other?

# %%
sheet = [torch.nn.functional.max_pool2d(to_tensor(page), 2) for page in pages]
for wish in (None, "a purple cat at night", "a red fish on the beach"):
    texts = [wish or prompt.text for prompt in outlined]
    rngs = [torch.Generator().manual_seed(seed) for seed in range(len(texts))]
    how = {"num_inference_steps": unless_fast(8, 2), "generator": rngs, "output_type": "pt"}
    sheet += list(2 * steered(texts, pages, **how).images[..., ::2, ::2] - 1)
rows = ("outlines", "own prompt", "a purple cat", "a red fish")
titles = [name if i == 0 else "" for name in rows for i in range(len(outlined))]
figures.show(figures.pictures(sheet, titles, columns=4), lesson.COLOURED_IN)

# %% [markdown]
# Places and sizes follow the outlines. Colours and background follow the prompt, and mostly the kind of
# thing does, too: the box's outlines become a cat of the same size. But the outlines of a dragon with
# wings are too distinctive to become a cat, and those of an astronaut become a red astronaut, not a fish.
# Over 160 prompts, the overlap between the things drawn and the outlines rises from 0.58 to 0.90 on
# average. The pictures are [as often correct](../docs/finetune.md) as without outlines, except that
# pictures of two things lose a little (from 36 to 32 of 40).
#
# ## With your own pictures
#
# `python -m minisd.finetune` runs the same training from the command line, and first estimates its time
# and memory. By default it trains a LoRA for the built-in model. With a graphics card you can teach
# Stable Diffusion your cat:
#
# ```bash
# python -m minisd.finetune --model CompVis/stable-diffusion-v1-4 --data my-cat --caption "a sks cat" --class-prompt "a cat" --out sks
# ```
#
# Afterwards, `--lora sks/sks.safetensors` draws with it.
#
# "sks" is a rare word that the first DreamBooth programs used. (It is also the name of a rifle, and
# sometimes that shows. Draw your word with the untaught model first: it should mean nothing.) The class
# prompt is the caption of the class images. [Train on your own images](../docs/finetune.md) has the other
# methods and all options.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | one row of 128 numbers | of 768, often several rows | [`new_word.py`](../minisd/finetune/new_word.py) | Gal et al. 2022, §3 |
# | rank 4 beside all 169 layers | beside the 128 layers of attention: 797,184 numbers | [`low_rank.py`](../minisd/finetune/low_rank.py), [`lora.py`](../minisd/adapters/lora.py) | Hu et al. 2021, §4.1 |
# | all 5,898,596 weights | 859,520,964 | [`whole_network.py`](../minisd/finetune/whole_network.py) | Ruiz et al. 2023, §3.2 |
# | class images for 40 or 200 captions | for one caption, such as "a cat" | [`prior.py`](../minisd/finetune/prior.py) | Ruiz et al. 2023, §3.3 |
# | a ControlNet of 1.9 million weights, without attention on the way down | 361 million | [`controlnet.py`](../minisd/controlnet.py) | Zhang et al. 2023, §3 |
# | `weights`, with γ = 5 | the same, `--min-snr 5` | [`objective.py`](../minisd/finetune/objective.py) | Hang et al. 2023, §3.4 |
#
# **Play.** Teach it a cup, a kite, a snail or a lamp: `lesson.twelve("lamp")`. Train beside attention
# only. Replace every second example with a picture that the old model draws, and its caption. Merge the
# LoRAs of two things, or load both. Add a drawing of an umbrella next to a cat.
#
# *Stuck on an exercise? The answers are in [`lesson_15.py`](../minisd/lessons/lesson_15.py).*

# %% [markdown]
# # 11 · The bug museum
#
# **How do reimplementations go wrong?**
#
# *40 minutes to read, a minute to run. You need the parts of the pipeline: notebooks 04 to 08.*
#
# You could now write Stable Diffusion yourself. Many people have done so, and many of them made the same
# mistakes. The dangerous mistakes do not stop the program: the shapes fit, the weights load, a picture
# comes out, and a number somewhere in the middle is wrong.
#
# This museum has nineteen such bugs, each a single line. We put them into the running model one by one
# and look at two things: what the eye sees, and what the numbers say.

# %%
import copy
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from minisd import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, clip, pipeline, unet
from minisd.config import TINY_VAE
from minisd.layers import Attention, Downsample, attention
from minisd.lessons import lesson_11 as lesson
from minisd.lessons import shapes, you_are_here

you_are_here("text encoder", "UNet", "scheduler", "VAE")

# %% [markdown]
# ## The instrument
#
# Every bug is a context manager: inside its `with` block the model is broken, and after the block the
# model is as before.


# %%
@contextmanager
def changed(objects, name, value):
    """Give each object another attribute `name` for as long as the block lasts."""
    before = [getattr(thing, name) for thing in objects]
    try:
        for thing in objects:
            setattr(thing, name, value)
        yield
    finally:
        for thing, old in zip(objects, before):
            setattr(thing, name, old)


# %% [markdown]
# We examine bugs on a [`Case`](../minisd/lessons/lesson_11.py): a prompt and a seed. A case draws the
# picture. It also gives every part of the pipeline its *correct* inputs and records the outputs. So a
# wrong output tells you which part is wrong, because the mistake cannot come from an earlier part. The
# error of a part is the largest difference from its correct output, divided by the largest correct
# number.

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny")
pipe.set_progress_bar_config(disable=True)
case = lesson.Case(pipe, "an astronaut riding a horse")
latent, picture = (4, 64, 64), (3, 512, 512)
there = {"words": (1, 77, 768), "UNet": (3, *latent), "guidance": latent, "sampler": (1, *latent),
         "encoder": (1, *latent), "decoder": (1, *picture), "pixels": picture}  # fmt: skip
shapes(**{part: (output, there[part]) for part, output in case.right.items()})

# %% [markdown]
# First the control: a change that is *not* a bug. Softmax attention can be computed by PyTorch's fused
# function, or written out ([`layers.attention`](../minisd/layers.py)); mathematically both are the same
# sum.
#
# > **Predict.** How large is the error of the UNet? Exactly 0?


# %%
def written_out(q, k, v, is_causal=False):
    return attention(q, k, v, is_causal)


control = case.examine(lambda: changed([F], "scaled_dot_product_attention", written_out))
print(f"error of the UNet: {control.errors['UNet']:.0e}")
print(f"the picture is off by {control.off:.3f} grey levels")

# %% [markdown]
# Not 0, but a millionth or less: a different order of summation rounds differently. Keep this number in
# mind. An error that is no larger cannot be distinguished from rounding.
#
# ## Room 1 · Words

# %%
text = pipe.text_encoder
forward = clip.CLIPLayer.forward


def not_causal(self, x, causal=False):
    return forward(self, x)


room_1 = {
    "padded with id 0": lambda: changed([pipe.tokenizer], "pad_id", 0),
    "GELU for QuickGELU": lambda: changed(text.blocks, "activation", F.gelu),
    "no causal mask": lambda: changed([clip.CLIPLayer], "forward", not_causal),
    "last block left out": lambda: changed([text], "blocks", text.blocks[:-1]),
}

# %% [markdown]
# Each of these four bugs would be right in *another* model, which is how such bugs arise. Stable
# Diffusion 2 pads with id 0, uses the exact GELU (QuickGELU is a cheaper formula for nearly the same
# curve), and leaves out its encoder's last block. BERT, another text encoder, has no causal mask.
# (Padding with zeros looks so much like a mistake that it was reported as one, [diffusers
# #2201](https://github.com/huggingface/diffusers/issues/2201); but Stable Diffusion 2 was trained that
# way.)
#
# > **Predict.** Four wrong text encoders. Which of the pictures will you be able to tell from the right
# > one?

# %%
found = lesson.show_room(case, room_1)

# %% [markdown]
# Look at the pictures before the numbers. A recognisable astronaut on a horse does not prove that the
# text encoder is right. The UNet is robust: in training it saw everything in many wordings, so it treats
# a text state that is *near* the right one as if it were the right one. Robust networks hide bugs.
#
# | bug | right | the test that finds it |
# |---|---|---|
# | padded with id 0 | v1 pads with the end token, v2 with id 0; neither version masks the padding | [`test_tokenizer.py`](../tests/test_tokenizer.py) `test_v1_pads_with_the_end_and_v2_with_id_0` |
# | GELU for QuickGELU | v1 was trained with $x\,\sigma(1.702x)$, v2 with the exact GELU | [`test_clip.py`](../tests/test_clip.py) `test_v1_has_quick_gelu_and_v2_the_exact_one` |
# | no causal mask | a state depends only on its own token and those before it | `test_a_token_is_seen_from_its_place_on` |
# | last block left out | v1 uses the last block, v2 the second-to-last; both then apply the final norm | `test_parity_with_transformers`, `test_v2_skips_the_last_layer_but_not_the_last_norm` |
#
# ## Room 2 · The UNet


# %%
def sines_first(t, dim, right=unet.timestep_embedding):
    return right(t, dim).roll(dim // 2, dims=-1)


def gate_first(self, x):
    gate, value = self.proj_in(x).chunk(2, dim=-1)
    return self.proj_out(value * F.gelu(gate))


def tanh_gelu(self, x):
    value, gate = self.proj_in(x).chunk(2, dim=-1)
    return self.proj_out(value * F.gelu(gate, approximate="tanh"))


# %%
def every(kind, model=pipe.unet):
    return [module for module in model.modules() if isinstance(module, kind)]


room_2 = {
    "sines first": lambda: changed([unet], "timestep_embedding", sines_first),
    "gate first": lambda: changed([unet.FeedForward], "forward", gate_first),
    "heads read as width": lambda: changed(every(Attention), "heads", 32),
    "padded like VAE": lambda: changed(every(Downsample), "pad", (0, 1, 0, 1)),
}

# %% [markdown]
# The timestep embedding has cosines before sines (in other models, sines come first). The feed-forward
# layer splits its hidden values into two halves, and one half gates the other: but which is the gate?
# When downsampling, the UNet pads in one way and the encoder of the VAE in another, and both ways give an
# output of the same size. The subtlest of the four comes from a file: the setting `attention_head_dim` in
# a UNet's JSON holds the *number* of heads, not their dimension ([diffusers
# #2011](https://github.com/huggingface/diffusers/issues/2011)). If the setting is read as a dimension,
# each of our attention layers has 32 heads, with the same weights.
#
# > **Predict.** The weights were trained with 2, 3 and 4 heads, and are now divided among 32: will
# > anything be left of the picture? And which of the four bugs is worst?

# %%
found |= lesson.show_room(case, room_2)

# %% [markdown]
# With each of the four bugs, the network's outputs are off by a large part of their size, and yet
# something is left of the picture. If you had never seen the right one, would you have looked for a bug,
# or blamed the size of the model?
#
# | bug | right | the test that finds it |
# |---|---|---|
# | sines first | cosines first, exponent $i/\mathrm{half}$ | [`test_layers.py`](../tests/test_layers.py) `test_timestep_embedding_of_stable_diffusion` |
# | gate first | value first, gate second | [`test_unet.py`](../tests/test_unet.py) `test_geglu_takes_the_value_first_and_the_exact_gelu_of_the_gate` |
# | heads read as width | 8 heads at every level in v1; in v2 heads of 64 channels | `test_heads_are_a_number_not_a_width` |
# | padded like VAE | the UNet pads on every side | `test_the_unets_downsampling_pads_on_every_side` |
#
# ## Room 3 · The dark room
#
# Three more bugs are in the same network. GELU has a well-known approximation with a tanh. And a
# GroupNorm divides by $\sqrt{\sigma^2 + \varepsilon}$. (Here $\sigma^2$ is the variance of the numbers to
# be normalised, and $\varepsilon$ is a small number that prevents division by 0. Neither is the noise of
# the other notebooks.) This $\varepsilon$ is $10^{-5}$ in the UNet's ResNet blocks but $10^{-6}$ in front
# of its transformers. Using one value for all norms is a bug, whichever value it is.

# %%
room_3 = {
    "tanh GELU": lambda: changed([unet.FeedForward], "forward", tanh_gelu),
    "all norms 1e-5": lambda: changed(every(nn.GroupNorm), "eps", 1e-5),
    "all norms 1e-6": lambda: changed(every(nn.GroupNorm), "eps", 1e-6),
}

# %% [markdown]
# > **Predict.** What will you see? And how large will the error be, compared with the control?

# %%
found |= lesson.show_room(case, room_3)
print(f"control: no bug{'':<7} UNet {'':<11} {control.errors['UNet']:.1e}")

# %% [markdown]
# Nothing. No eye will ever find these three bugs. And a wrong $\varepsilon$ causes an error about as
# small as the tolerance that any comparison needs: our comparisons with the reference implementations
# allow 1e-5 for small networks, and 1e-4 at the official sizes. (Put `eps=1e-5` into `SpatialTransformer`
# and run `test_parity_with_diffusers`: it passes.)
#
# Is a wrong $\varepsilon$ a bug at all, then? The small error only shows that the variances are large
# compared with $10^{-5}$ *on these inputs*. So let us make the variances small: in the same network we
# reduce all weights, except those of the norms, to 1 % (a *quiet* network), and we give it latents at a
# tenth of their size.

# %%
quiet = copy.deepcopy(pipe.unet)
with torch.no_grad():
    for name, weight in quiet.named_parameters():
        if "norm" not in name:
            weight *= 0.01

# %%
given = 0.1 * case.x, case.times, case.context.expand(3, -1, -1)
for name, value in {"all norms 1e-5": 1e-5, "all norms 1e-6": 1e-6}.items():
    with torch.no_grad():
        right = quiet(*given).sample
        with changed(every(nn.GroupNorm, quiet), "eps", value):
            wrong = quiet(*given).sample
    print(f"{name}, in a quiet network: {lesson.distance(wrong, right):.1e}")

# %% [markdown]
# The bugs are the same, and now they are obvious. `test_parity_where_eps_counts` uses such inputs, in
# both [`test_unet.py`](../tests/test_unet.py) and [`test_vae.py`](../tests/test_vae.py), and it
# illustrates the most important sentence of this notebook: **a test needs inputs that reveal the
# mistake.** (`test_eps_of_every_group_norm` also reads the values directly. The tanh is caught by the
# test of the gate in Room 2, which uses a layer small enough to compute by hand.)
#
# ## Room 4 · Guidance and the sampler
#
# Networks can be right to the last digit while the code that uses their outputs is wrong.


# %%
def halves_swapped(eps_cond, eps_uncond, scale, right=pipeline.guide):
    return right(eps_uncond, eps_cond, scale)


room_4 = {
    "halves swapped": lambda: changed([pipeline], "guide", halves_swapped),
    "linear betas": lambda: changed([pipe], "scheduler", PNDMScheduler(beta_schedule="linear")),
    "timesteps 980 to 0": lambda: changed([pipe], "scheduler", PNDMScheduler(steps_offset=0)),
    "last alpha 1": lambda: changed([pipe], "scheduler", PNDMScheduler(set_alpha_to_one=True)),
}

# %% [markdown]
# In the batch the unconditional half comes first, then the conditional half. The schedule is linear in
# $\sqrt\beta$ (Stable Diffusion's own code calls that "linear"). The timesteps are multiples plus 1 (981
# … 1), and the last step goes not to $\bar\alpha = 1$ but to $\bar\alpha_0$: two oddities of the original
# sampler that every later implementation has had to repeat ([diffusers
# #465](https://github.com/huggingface/diffusers/issues/465)).
#
# > **Predict.** One of the four bugs is obvious at first glance. Which one? And what does the model draw
# > with it?

# %%
found |= lesson.show_room(case, room_4)

# %% [markdown]
# With the halves swapped, guidance moves away from the prompt: the picture shows whatever is *least* like
# an astronaut on a horse. It is the one bug in this room that everybody would find at once. The last two
# bugs in the table cost a little sharpness, or nothing. The pictures are hardly worse, only different:
# with a fixed seed, an implementation with one of these bugs never agrees with the reference, and nobody
# knows why.
#
# | bug | right | the test that finds it |
# |---|---|---|
# | halves swapped | $\epsilon_\varnothing + w\,(\epsilon_c - \epsilon_\varnothing)$, the unconditional half first | [`test_guidance.py`](../tests/test_guidance.py) `test_the_unconditional_half_comes_first`, `test_guidance_goes_away_from_the_unconditional` |
# | linear betas | linear in $\sqrt\beta$ | [`test_schedule.py`](../tests/test_schedule.py) `test_alphas_cumprod_of_stable_diffusion` |
# | timesteps 980 to 0 | 981 … 1 | [`test_schedulers.py`](../tests/test_schedulers.py) `test_timesteps` |
# | last alpha 1 | $\bar\alpha_0$ | `test_the_last_step_goes_to_the_first_alpha_not_to_one` |
#
# ## Room 5 · The autoencoder


# %%
def cut_off(x):
    return right_to_pil(x - 1 / 255)


right_to_pil, small_factor = pipeline.to_pil, replace(pipe.vae.config, scaling_factor=0.18215)
room_5 = {
    "padded like UNet": lambda: changed(every(Downsample, pipe.vae), "pad", (1, 1, 1, 1)),
    "factor of SD": lambda: changed([pipe.vae], "config", small_factor),
    "VAE norms 1e-5": lambda: changed(every(nn.GroupNorm, pipe.vae), "eps", 1e-5),
    "not rounded": lambda: changed([pipeline], "to_pil", cut_off),
}
print(f"our scaling factor: {pipe.vae.config.scaling_factor}")

# %% [markdown]
# The encoder of the VAE pads on the right and bottom only, so that every output sees the pixels at and
# after its position. The scaling factor belongs to one particular VAE. And the last line of the program
# converts numbers to 8 bits: it has to round them. Truncating makes a picture darker, by half a grey
# level on average if the fractional parts are evenly spread; in practice the amount depends on the
# picture's flat colours.
#
# > **Predict.** One of the four bugs causes a large error but has no effect at all on the picture. How
# > is that possible?

# %%
found |= lesson.show_room(case, room_5)

# %% [markdown]
# Text-to-image never uses the encoder. The padding bug sleeps until somebody builds image-to-image or
# inpainting on the encoder, or trains on its latents. Let us wake it up.
#
# > **Predict.** Each of the three downsampling layers looks one pixel too far up and to the left, at its
# > own resolution. What does a picture look like after encoding and decoding?


# %%
def round_trip():
    with torch.no_grad():
        return pipe.vae(case.drawn).sample[0]


trips = {"right": round_trip()}
with room_5["padded like UNet"]():
    trips["padded like UNet"] = round_trip()
lesson.show_round_trip(case.drawn[0], trips)

# %% [markdown]
# The picture has moved by 1 + 2 + 4 = 7 pixels, down and to the right, and there is a grey band where the
# encoder looked beyond the page. Several ports of this encoder had the bug
# ([one](https://github.com/kjsman/stable-diffusion-pytorch/issues/8),
# [two](https://github.com/divamgupta/stable-diffusion-tensorflow/issues/41)), and for a while so did
# diffusers itself. Its tests did not find it, and the reason is instructive ([diffusers
# #156](https://github.com/huggingface/diffusers/pull/156)): the small model in the tests had only one
# level.
#
# > **Predict.** A VAE with one level, random weights, and the wrong padding. How large is the error?

# %%
for widths in ((16,), (16, 16), (16, 16, 16)):
    torch.manual_seed(0)
    small = AutoencoderKL(replace(TINY_VAE, block_out_channels=widths)).requires_grad_(False)
    right = small.encode(case.drawn).latent_dist.mean
    with changed(every(Downsample, small), "pad", (1, 1, 1, 1)):
        wrong = small.encode(case.drawn).latent_dist.mean
    print(f"levels: {len(widths)}   error: {lesson.distance(wrong, right):.2f}")

# %% [markdown]
# The error is 0: with one level there is no downsampling, so there is nothing to pad. This is the lesson
# of the dark room again: the test ran and passed, and it could not have failed. (The small models in our
# own tests have three levels and two layers per level; [`helpers.py`](../tests/helpers.py) explains why.)
#
# | bug | right | the test that finds it |
# |---|---|---|
# | padded like UNet | (0, 1, 0, 1): right and bottom | [`test_vae.py`](../tests/test_vae.py) `test_downsampling_pads_right_and_bottom_only` |
# | factor of SD | 0.18215 in Stable Diffusion; applied outside the VAE, once | [`test_pipeline.py`](../tests/test_pipeline.py) `test_the_scaling_factor_is_divided_out_before_the_vae` |
# | VAE norms 1e-5 | $10^{-6}$ everywhere in the VAE | `test_eps_of_every_group_norm_is_1e_6`, `test_parity_where_eps_counts` |
# | not rounded | rounded | [`test_image.py`](../tests/test_image.py) `test_pixels_are_rounded_not_cut_off` |
#
# ## What eyes see, and what numbers see
#
# > **Predict.** We sort all nineteen bugs by the error of the faulty part. Will sorting by the change in
# > the picture give the same order? How many of the bugs change the picture by less than one grey level
# > on average?

# %%
lesson.show_museum(found, rounding=control.errors["UNet"])

# %% [markdown]
# The orders differ. Some bugs with an error of a third or more leave a picture that you would be proud
# of. Whether you notice a bug depends on the prompt, on the seed, and on how often you have seen the
# right picture. So:
#
# * Compare **numbers**, not pictures: with a reference implementation, on the same weights and the same
#   inputs.
# * Compare **part by part**, each on correct inputs. A picture tells you that something is wrong; the
#   first wrong tensor tells you what.
# * Choose **inputs that reveal the mistake**: small weights to test the norms' ε, several levels to test
#   padding, and norms whose weights are not 1 and whose biases are not 0 (new norms start with weights 1
#   and biases 0, which hides mistakes).
# * **Break the code on purpose**, and watch the test fail. We put each of the nineteen bugs into our
#   code, and each time the test named in the table failed.
#
# Some traps are not on show. The encoder's log-variance is clamped to [−30, 20]
# (`test_log_variance_is_clamped`). Between two timesteps, K-LMS interpolates $\sigma$ itself in minisd
# and in diffusers, but $\log\sigma$ in k-diffusion
# (`test_lms_interpolates_sigma_itself_at_a_fractional_time`). And problems with names and shapes, such as
# 1×1 convolutions in place of linear layers, decoder levels numbered from the other end, and keys with
# and without a prefix, are caught by *strict* loading in both directions (notebook 12).
#
# ## Three mysteries
#
# Here are another prompt, another seed and three broken pipelines, each with one bug from the museum.
# Which bug is it?

# %%
museum = room_1 | room_2 | room_3 | room_4 | room_5
case = lesson.Case(pipe, "a red car on the beach", seed=1)
lesson.show_mysteries(case, museum)

# %% [markdown]
# First find the faulty part. Look at the picture second; it does not help with the third mystery. You may
# run anything you like: for instance, `case.examine(museum["sines first"])` returns a result whose
# `.errors` you can compare.

# %%
for part in case.right:
    print(f"{part:<9}", ", ".join(name for name in museum if lesson.PART[name] == part))

# %% [markdown]
# ### Exercise 1 · The first mystery

# %%
first = ...  # a name, as printed above, in quotation marks

# %%
lesson.mystery_1.check(first)

# %% [markdown]
# ### Exercise 2 · The second mystery

# %%
second = ...

# %%
lesson.mystery_2.check(second)

# %% [markdown]
# ### Exercise 3 · The third mystery

# %%
third = ...

# %%
lesson.mystery_3.check(third)

# %% [markdown]
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `pad_id`, `activation` | the same as in our model; v2 differs in both | [`tokenizer.py`](../minisd/tokenizer.py), [`clip.py`](../minisd/clip.py) | Radford et al. 2021; Hendrycks & Gimpel 2016, §2 |
# | `timestep_embedding` | the same, 320 numbers | [`layers.py`](../minisd/layers.py) | Vaswani et al. 2017, §3.5 |
# | `FeedForward` | the same, 4 × 320 to 4 × 1280 wide | [`unet.py`](../minisd/unet.py) | Shazeer 2020, §2 |
# | heads (2, 3, 4) | 8 at every level, so 40 to 160 channels each | [`config.py`](../minisd/config.py) | |
# | ε of the norms | the same | [`unet.py`](../minisd/unet.py), [`vae.py`](../minisd/vae.py) | |
# | guidance, 2.0 | the same, 7.5 | [`pipeline.guide`](../minisd/pipeline.py) | Ho & Salimans 2022, eq. 6 |
# | steps_offset, last $\bar\alpha$ | the same | [`schedulers/base.py`](../minisd/schedulers/base.py) | none: CompVis' `make_ddim_timesteps` |
# | the scaling factor | 0.18215 | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, appendix G |
#
# **Play.** Put in two bugs at once. Swap the skip connection and the input from below in
# `UpBlock.forward`: the number of channels stays the same, but their order changes. Remove the clamp of
# the log-variance, and look for an input on which that makes a difference. Find a bug of your own, and
# write the test that finds it.
#
# *Stuck on an exercise? The answers are in [`lesson_11.py`](../minisd/lessons/lesson_11.py).*

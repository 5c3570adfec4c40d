# %% [markdown]
# # 01 · A picture in sixty seconds
#
# **What happens between a prompt and a picture?**
#
# *25 minutes to read, seconds to run. You need Python and a little PyTorch: what a tensor is, and what
# its shape tells you.*
#
# Somebody types *an astronaut riding a horse* and gets a picture that nobody ever drew. The first twelve
# notebooks take apart the machine that draws it, until you know every line of code between the words and
# the picture. Four more show what else it can do.
#
# The machine is Stable Diffusion, written in plain PyTorch. We run the smallest version of it: the same
# networks, the same sampler and the same program, but with ten million weights instead of a billion. This
# repository's own code trained it on a picture book. The trained model is part of the package, so there
# is nothing to download, and a laptop is enough.
#
# Below is the map for all notebooks. Each notebook highlights the parts it is about; in this one, that is
# all of them. You don't need to understand the boxes yet. First we play.

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
    """A picture: a tensor (3, height, width) of red, green and blue values from -1 to 1."""
    rng, steps = torch.Generator().manual_seed(seed), unless_fast(steps, 4)
    result = pipe(prompt, num_inference_steps=steps, generator=rng, output_type="pt", **more)
    return 2 * result.images[0] - 1


# %% [markdown]
# The result after each **Predict** is folded away. Write down your guess first. Then run the cell, or
# click to unfold the result.
#
# > **Predict.** We ask for the same thing four times, each time with a different *seed*. What will the
# > four pictures have in common, and what will differ?

# %%
prompt = "an astronaut riding a horse"
figures.show(
    figures.pictures(
        [draw(prompt, seed) for seed in range(4)], [f"seed {i}" for i in range(4)], columns=4
    ),
    lesson.FOUR_SEEDS,
)

# %% [markdown]
# The words are the same, so the four pictures agree on their content. The seed decides everything that
# the words leave open. The same seed always gives the same picture.
#
# The model did not look up any of the four pictures. The picture book is [a program that
# draws](../minisd/tiny/picture_book.py), so we know everything that the model has seen. Some combinations
# were deliberately left out of the book:

# %%
never = [f"{rider} on {mount}" for rider, mount in sorted(HELD_OUT_RIDES)]
print("never in the book:", ", ".join(never))

# %% [markdown]
# In the book astronauts ride dragons and cats ride horses, but no astronaut rides a horse. The model has
# drawn a combination that it has never seen. (Is that understanding? Notebook 10 tests it.)
#
# ## One word at a time
#
# The book is a small world. Apart from "small", "big" and some synonyms, this is everything in it:

# %%
print("things:", ", ".join(THINGS))
print("colours:", ", ".join(COLORS))
print("places:", ", ".join(phrase for phrase, _ in SCENERY.values()), "or on a … background")
print("two things: … to the left of …, to the right of, above, below, next to, riding")

# %% [markdown]
# > **Predict.** We change the prompt word by word and keep the seed: seed 0 in the upper row, seed 1 in
# > the lower row. What stays the same within a row, although the words change?

# %%
prompts = [
    "a red house in the snow",
    "a blue house in the snow",
    "a blue mushroom in the snow",
    "a blue mushroom at night",
]
titles = [prompts[0], "… blue …", "… mushroom …", "… at night"] * 2
images = [draw(p, seed) for seed in (0, 1) for p in prompts]
figures.show(figures.pictures(images, titles, columns=4), lesson.CHANGED_WORDS)

# %% [markdown]
# Each word decides one aspect: the colour, the thing or the place. Where only the colour changes, the
# thing stays nearly as it was. What the words leave open is decided by the seed, or rather by the noise
# that the seed generates, as we will see.
#
# ## How many steps?
#
# A picture is not made all at once, but in steps. More steps take longer.
#
# > **Predict.** How many steps does the house in the snow need before you would accept the picture?

# %%
counts = [2, 4, 8, 16, 32]
images = [draw(prompts[0], steps=n) for n in counts]
figures.show(
    figures.pictures(images, [f"{n} steps" for n in counts], columns=5), lesson.STEP_COUNTS
)

# %% [markdown]
# Past a certain point, extra steps buy nothing. Where that point lies depends on the *sampler*, the part
# that takes the steps. (The map and the code call it the *scheduler*; notebook 04 is about it.) We
# continue with 20 steps; the usual number is 50.
#
# ## How large?
#
# Every page of the book is 128×128 pixels. But the number 128 appears nowhere in the code of the
# networks. They accept pictures of any size, as long as the sides are multiples of 8.
#
# > **Predict.** What will the model draw on a page twice as wide? And on a tall page?

# %%
pages = [(96, 96), (128, 128), (128, 256), (192, 128)]  # height and width
lesson.show_sizes({f"{h} × {w}": draw(prompts[0], height=h, width=w) for h, w in pages})

# %% [markdown]
# The code accepts every size. But the model has learnt that a page of 128 pixels holds one house, and it
# fills the rest as if another page began there: the wide picture has two houses. (The tall one has a
# single house and more sky.) Stable Diffusion was trained on 512×512 pictures and has the same weakness
# on larger ones ([He et al. 2023](https://arxiv.org/abs/2310.07702)).
#
# Why multiples of 8? Because the UNet never sees a pixel. It works on *latents*, which have four channels
# and are 8 times smaller on each side. In total they are 1/48 as many numbers as the picture has. At the
# very end the VAE turns the latents into a picture.
#
# ### Exercise 1 · The shape of the latents
#
# A picture has the shape (3, height, width). Return the shape of its latents as three numbers. Replace
# the `...`; if you leave it in place, the rest of the notebook still runs.


# %%
def my_latents_shape(height, width):
    """Three numbers."""
    return ...


# %%
lesson.latents_shape.check(my_latents_shape)

# %% [markdown]
# ## Watch it draw
#
# Now let us look at the steps themselves. `pipe.denoise` runs the same pipeline, but yields one step at a
# time. Instead of a seed we pass what the seed generates: latents full of random numbers. (From here on,
# every new tensor is listed with its shape, here and in Stable Diffusion 1.5.)

# %%
noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
steps = list(pipe.denoise(prompt, num_inference_steps=20, latents=noise))

latents = torch.cat([noise] + [step.latents for step in steps])
guesses = torch.cat([step.pred_original_sample for step in steps])
shapes(latents=(latents, (22, 4, 64, 64)), guesses=(guesses, (21, 4, 64, 64)))

# %% [markdown]
# We keep the noise and the latents after each step. For 20 steps that makes 22 tensors: the noise and 21
# results, because this sampler tries its first step and then repeats it with a better estimate (notebook
# 04).
#
# In every step the UNet looks at the latents $x_t$ and guesses which part of them is noise. Remove that
# noise, and what remains is a guess of the finished latents. The finished latents are called $x_0$. The
# timestep $t$ tells the UNet how noisy the latents are, from 999 (almost nothing but noise) down to 0.
# The UNet was trained on all 1000 timesteps; 20 steps visit every fiftieth of them: 951, 901, … 1.
#
# > **Predict.** When can you first tell what the picture will be: in the latents, and in the guesses?

# %%
shown = [0, 3, 6, 9, 13, 21]
titles = [f"t = {steps[i].timestep:.0f}" for i in shown[:-1]] + ["the end"]
decoded = pipe.decode(latents[shown])
lesson.show_film(titles, latents[shown], decoded, pipe.decode(guesses[shown[:-1]]))

# %% [markdown]
# The guesses show the subject long before the latents do. The first guess is made from nothing but noise
# and words, and it has to be a blur: with so little information, the best guess is close to the mean of
# all pictures that are still possible (notebook 03). So the sampler does not jump to the guess. It goes a
# small part of the way, asks the UNet again, and gets a better guess. The layout is settled first, the
# details last.
#
# Look at the last latents, too. They are not just numbers for a network: you can see the rider in them
# (the four channels are shown side by side).
#
# ## Take it apart
#
# That was the whole machine. Now we use its parts one by one, by hand.
#
# **The tokenizer** turns words into numbers, always 77 of them. It is a dictionary, not a network.
#
# > **Predict.** How many of the 77 numbers does our prompt need?

# %%
ids = pipe.tokenizer(["", prompt]).input_ids
token = {number: token for token, number in pipe.tokenizer.vocab.items()}
print("without a prompt:", *[token[i] for i in ids[0, :8].tolist()], "…")
print("with the prompt: ", *[token[i] for i in ids[1, :8].tolist()], "…")
shapes(ids=(ids, (2, 77)))

# %% [markdown]
# The prompt becomes a start token, five words and an end token. More end tokens pad the list to 77.
# (`</w>` marks the end of a word. A word that is not in the dictionary is split into pieces.)
#
# **The text encoder** turns each number into a vector and lets each vector depend on the words before it:
# this *horse* has a rider.

# %%
context = pipe.text_encoder(ids).last_hidden_state
shapes(context=(context, (2, 77, 768)))

# %% [markdown]
# **The UNet** guesses the noise in the latents, given $t$ and the context. We ask it twice, without the
# prompt and with it, and then amplify the difference that the prompt makes. That is *guidance* ([Ho &
# Salimans 2022](https://arxiv.org/abs/2207.12598)): without it, pictures follow their prompts only
# loosely (notebook 08).
#
# $$\epsilon = \epsilon_\text{without} + w\,(\epsilon_\text{with} - \epsilon_\text{without})$$
#
# The factor $w$ is the *guidance scale*. Every model has its own default; in the code it is
# `pipe.guidance_scale`.

# %%
pipe.scheduler.set_timesteps(20)
t = pipe.scheduler.timesteps[0]

both = pipe.unet(torch.cat([noise, noise]), t, encoder_hidden_states=context).sample
without, with_prompt = both.chunk(2)
eps = without + pipe.guidance_scale * (with_prompt - without)
print("guidance scale of the built-in model:", pipe.guidance_scale, "(of SD 1.5: 7.5)")
shapes(noise=(noise, (1, 4, 64, 64)), both=(both, (2, 4, 64, 64)), eps=(eps, (1, 4, 64, 64)))

# %% [markdown]
# **The scheduler** takes the step: from the latents and the guessed noise it computes latents with a
# little less noise. It is a formula and has nothing to learn.
#
# > **Predict.** The standard deviation of the latents is about 1. By how much will the first of 20 steps
# > change them?

# %%
step = pipe.scheduler.step(eps, t, noise)
print(f"standard deviation of the latents: {noise.std():.2f}")
print(f"standard deviation of the change:  {(step.prev_sample - noise).std():.2f}")
shapes(prev_sample=(step.prev_sample, (1, 4, 64, 64)))

# %% [markdown]
# By very little. After twenty such steps **the VAE**, the last part, turns the latents into pixels.
# Before decoding, the latents are divided by a fixed number (notebook 05).

# %%
picture = pipe.vae.decode(latents[-1:] / pipe.vae.config.scaling_factor).sample
shapes(picture=(picture, (1, 3, 512, 512)))

# %% [markdown]
# And that is everything. Here is the map again, now with the tensors that we have just made, each above
# its shape:

# %%
lesson.show_way(prompt, ids, context, noise, latents[-1:], picture, calls=len(steps))

# %% [markdown]
# The machine has three networks. Here is how many weights each one has:

# %%
for name in ("text_encoder", "unet", "vae"):
    weights = sum(weight.numel() for weight in getattr(pipe, name).parameters())
    print(f"{name:<12}  {weights:>9,}")

# %% [markdown]
# ### Exercise 2 · Build it again
#
# Draw without the pipeline: `parts` has a `tokenizer`, a `text_encoder`, a `unet`, a `scheduler` and a
# `vae`, and nothing else. Everything you need is in the cells above. The check compares every pixel and
# allows for one grey level of rounding.


# %%
def my_pipe(parts, prompt, steps, scale, rng):
    """A picture (1, 3, 128, 128) from -1 to 1."""
    context = ...  # (2, 77, 128): without the prompt, with it
    latents = torch.randn(1, 4, 16, 16, generator=rng)
    parts.scheduler.set_timesteps(steps)
    for t in parts.scheduler.timesteps:
        both = ...  # (2, 4, 16, 16): ask the UNet
        eps = ...  # (1, 4, 16, 16): guidance
        latents = parts.scheduler.step(eps, t, latents).prev_sample
    return ...  # ask the VAE


# %%
lesson.rebuild.check(my_pipe)

# %% [markdown]
# Do the parts alone really draw what the pipeline draws? We draw one picture with the answer to the
# exercise and one with the pipeline, and compare them.

# %%
rng = torch.Generator().manual_seed(3)
by_hand = lesson.rebuild.answer(lesson.tiny(), prompts[3], 10, pipe.guidance_scale, rng)
by_pipe = pipe(prompts[3], num_inference_steps=10, generator=torch.Generator().manual_seed(3))
print("every pixel is the same:", to_pil(by_hand)[0].tobytes() == by_pipe.images[0].tobytes())

# %% [markdown]
# Read [`pipeline.py`](../minisd/pipeline.py) next, starting at `denoise`: you already know it.
#
# ## Open questions
#
# You have seen everything once and should have many questions. Each has a notebook:
#
# | you saw | and may ask | |
# |---|---|---|
# | noise, and a $t$ | what is noise good for? | 02 |
# | a guess in every step | how can a network guess noise, and why does that lead to pictures? | 03 |
# | the scheduler | why so many steps, and how few are enough? | 04 |
# | latents, and the VAE | where do the pixels go? | 05 |
# | ids and context | how do words become numbers that mean something? | 06 |
# | the UNet | what is inside, and where do the words enter? | 07 |
# | two guesses, and guidance | what does guidance do, and what does it cost? | 08 |
# | weights | where do they come from? | 09 |
# | an astronaut on a horse | does the model understand what it draws? | 10 |
# | code | how would you notice a mistake? | 11 |
# | "in SD 1.5" | is that all? | 12 |
# | the whole machine | what else can it do: other walks, editing, new words, few steps? | 13–16 |
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `tokenizer`, a vocabulary of 734 | 49,408, from CLIP | [`tokenizer.py`](../minisd/tokenizer.py) | Sennrich et al. 2016, §3.2 |
# | `text_encoder`, (77, 128) | the text half of CLIP ViT-L/14, (77, 768) | [`clip.py`](../minisd/clip.py) | Radford et al. 2021, §2.4 |
# | `unet`, 6 million weights | 860 million, in the same blocks | [`unet.py`](../minisd/unet.py) | Rombach et al. 2022, §3.2, §3.3 |
# | `eps`, with guidance | the same formula, with $w = 7.5$ | [`pipeline.guide`](../minisd/pipeline.py) | Ho & Salimans 2022, eq. 6, whose $w$ is ours minus 1 |
# | `scheduler`, PNDM | the same | [`schedulers/pndm.py`](../minisd/schedulers/pndm.py) | Liu et al. 2022, eq. 12 |
# | `vae`, 16×16 to 128×128 | 64×64 to 512×512 | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, §3.1 |
# | 20 steps | 50 steps | [`pipeline.py`](../minisd/pipeline.py) | |
#
# **Play.** Ask for something of your own. Ask for something outside the model's world, such as a red cat
# riding a mushroom. Add a negative prompt (`negative_prompt="snow"`). Set `guidance_scale` to 1 or to 15.
# Start from noise of your own: mirror it, or combine half of one seed's noise with half of another's.
#
# *Stuck on an exercise? The answers are in [`lesson_01.py`](../minisd/lessons/lesson_01.py).*

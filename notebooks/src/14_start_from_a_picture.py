# %% [markdown]
# # 14 · Start from a picture
#
# **How does a picture enter a process that begins with noise?**
#
# *40 minutes to read, half a minute to run. You need the walk of notebook 03, the latents of 05 and the
# guidance of 08.*
#
# Text to image begins with noise and ends with a picture. Many tools begin with a picture: they redraw
# it, repair a part of it, or turn one picture into another. None of them needs a new network. They only
# change where the loop begins, or add one line to it. We write these changes by hand, and then check that
# the pipelines of [`minisd/editing`](../minisd/editing) do the same.

# %%
import torch

from minisd import DDIMScheduler, StableDiffusionPipeline
from minisd.editing import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_14 as lesson
from minisd.noise import randn
from minisd.pipeline import guide
from minisd.schedule import add_noise, transfer

torch.set_grad_enabled(False)
you_are_here("VAE", "scheduler")

# %% [markdown]
# ## The picture as latents
#
# The loop works on latents, so the picture must become latents first. Notebook 05 introduced the
# encoder. It answers with a Gaussian: a mean for each number, and a standard deviation. We can take the
# mean, which is also the *mode*, or draw a *sample*.

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny", scheduler=DDIMScheduler)
pipe.set_progress_bar_config(disable=True)
page, x = lesson.house()  # an orange house in a meadow, as an image and as a tensor
gaussian = pipe.vae.encode(x).latent_dist
rng = torch.Generator().manual_seed(0)
mode, one, other = gaussian.mode(), gaussian.sample(rng), gaussian.sample(rng)
shapes(x=(x, (1, 3, 512, 512)), mode=(mode, (1, 4, 64, 64)))

# %% [markdown]
# > **Predict.** The latents have a standard deviation of about 1. How far apart are two samples of the
# > same picture? And how far apart are the two pictures that the decoder makes from them, in grey levels
# > from 0 to 255?


# %%
def rms(x):
    return x.square().mean().sqrt().item()


back, first, second = pipe.vae.decode(torch.cat([mode, one, other])).sample.split(1)
print(f"spread of the latents {mode.std():.2f}, of one Gaussian {gaussian.std.mean():.2f}")
print(f"two samples, decoded, differ by {127.5 * rms(first - second):.1f} grey levels")
print(f"the picture and its decoded mode differ by {127.5 * rms(back - x):.1f}")

# %% [markdown]
# The encoder is sure of itself: its Gaussians are thirty times as narrow as the spread of the latents.
# The two samples decode to nearly the same picture, and the difference between them is only a fifth of
# the autoencoder's own reconstruction error. Image to image takes a sample, so it draws random numbers
# from its seed twice: first for the sample, then for the noise. An implementation that takes the mode
# instead gets a different picture from the same seed.
#
# ## The factor
#
# One multiplication is missing. The noise has variance 1, so the latents must have variance 1 too, or
# $\bar\alpha$ would not describe the ratio of signal to noise. The encoder's output is multiplied by the
# *scaling factor* (notebook 05). For our model it is 1.008 and could nearly be left out. For Stable
# Diffusion it is 0.18215: its encoder returns numbers that are 5.5 times as large.
#
# > **Predict.** Suppose that a program forgets the factor, for a VAE like Stable Diffusion's. It adds the
# > noise of $t = 501$ to latents 5.5 times too large. Notebook 05 showed what happens to the ratio of
# > signal to noise. Which timestep normally has the resulting ratio, and what will the network *draw*?

# %%
alphas_cumprod, factor = pipe.scheduler.alphas_cumprod, pipe.vae.config.scaling_factor
z0 = factor * mode
ratio = alphas_cumprod / (1 - alphas_cumprod)  # signal to noise
wrong = (ratio - ratio[501] / 0.18215**2).abs().argmin()
print(f"this model's factor: {factor:.3f}")
print(f"signal to noise at t = 501: {ratio[501]:.2f}. Without 0.18215 it is that of t = {wrong}")

# %% [markdown]
# The program says $t = 501$, but the latents have the signal-to-noise ratio of $t = 79$, and their
# numbers are several times too large. You will see the result as soon as we have a loop.
#
# ## Where the loop begins
#
# Notebook 02 jumped from a picture to any noise level:
# $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ ([Ho et al.
# 2020](https://arxiv.org/abs/2006.11239), eq. 4). There it produced training examples. Here it is the
# beginning of a walk: the network cannot tell whether an $x_t$ came from noise by walking, or from a
# picture by jumping, if the picture resembles its training data. So image to image jumps to some $t$ and
# walks back with another prompt. ([SDEdit, Meng et al. 2021](https://arxiv.org/abs/2108.01073), did this
# without words, for strokes of paint.) The *strength* says how far to jump: of $n$ steps, take the last
# $\lfloor n \cdot \text{strength}\rfloor$.
#
# ### Exercise 1 · The start of image to image
#
# `timesteps` is the list of all steps, from noise to data. Return the noisy latents at which the loop
# begins, and the timesteps that are left. (`int` rounds down.)


# %%
def my_start(z0, noise, timesteps, strength, alphas_cumprod):
    """x_t at the first step that the strength leaves, and the list of timesteps from there on."""
    left = ...
    return ..., left


# %%
lesson.start.check(my_start)

# %% [markdown]
# Here is the loop. It is the walk of notebook 03 with guidance, and it can also walk upwards, which we
# need later. `after` is for inpainting.


# %%
def level(t):
    return alphas_cumprod[max(t, 0)]  # "t = -1" is the end of the walk; DDIM stops at ᾱ of t = 0


def walk(x, times, prompt, scale=2.0, after=lambda x, t: x):
    """x at the last of the times, from x at the first; `after` may change x after each step."""
    context = pipe.encode_prompt([""] * len(x) + [prompt] * len(x))
    for t, t_next in zip(times, times[1:]):
        if scale == 1:
            eps = pipe.unet(x, max(t, 0), context[len(x) :]).sample
        else:
            eps = guide(*pipe.unet(torch.cat([x, x]), max(t, 0), context).sample.chunk(2), scale)
        x = after(transfer(x, eps, level(t), level(t_next)), t_next)
    return x


# %% [markdown]
# > **Predict.** "A blue house in the snow" and "an orange house at night", drawn over the orange house
# > with six strengths. What changes first, the colour, the background, or the place of the house? What
# > is left of the picture at strength 1?

# %%
n = unless_fast(10, 4)
times = [*range(1 + 1000 * (n - 1) // n, 0, -1000 // n), -1]  # 901, 801, … 1, and the end
noise = randn((1, 4, 16, 16), torch.Generator().manual_seed(0))
strengths = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
prompts = ("a blue house in the snow", "an orange house at night")
starts = [times[n - int(n * strength) :] for strength in strengths]
drawn = [walk(add_noise(z0, noise, level(left[0])), left, p) for p in prompts for left in starts]
for strength, (t, *_) in zip(strengths, starts):
    share = level(t) ** 0.5
    print(f"strength {strength}: from t = {t}, where √ᾱ = {share:.2f} of the picture is left")

# %%
titles = [f"strength {strength}" for strength in strengths] * 2
small = list(pipe.decode(torch.cat(drawn))[..., ::2, ::2])
figures.show(figures.pictures(small, titles, columns=6), lesson.STRENGTHS)

# %% [markdown]
# The colours of house and background change first, and places change last. At low strengths parts of both
# pictures are mixed: an orange wall in the snow, or a moon above a sunny meadow. Then there is a range of
# strengths at which the prompt decides the colours and the picture decides the places. Noise destroys
# details first and large shapes last (notebook 02), so one might expect the large sky to stay. But the
# prompt describes these flat colours, and guidance pushes the picture towards them. The prompt says
# nothing about places. Even at strength 1 something of the picture is left, since the walk begins at
# $t = 901$, and $\bar\alpha$ is not 0 there.
#
# Now we run the pipeline, with the same picture, prompt, steps and seed. It draws a sample of the latents
# and then the noise, as described above.

# %%
img2img = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
img2img.set_progress_bar_config(disable=True)
rng, seed = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
how = {"strength": 0.6, "num_inference_steps": n, "generator": seed, "output_type": "latent"}
theirs = img2img(prompts[1], page, **how).images

sample, drawn_noise = factor * gaussian.sample(rng), randn((1, 4, 16, 16), rng)
left = times[n - int(n * 0.6) :]
ours = walk(add_noise(sample, drawn_noise, level(left[0])), left, prompts[1])
print(f"largest difference from the pipeline's latents: {(theirs - ours).abs().max():.0e}")

# %% [markdown]
# Now we forget the factor, at strength 0.6. Our own factor is nearly 1, so to imitate Stable Diffusion's
# VAE we make the latents 5.5 times too large:

# %%
left = starts[3]
two = [walk(add_noise(k * z0, noise, level(left[0])), left, prompts[0]) for k in (1, 1 / 0.18215)]
sheet = [x[0], *pipe.decode(torch.cat(two))]
titles = ["the picture", "with the factor", "without"]
figures.show(
    figures.pictures([image[:, ::2, ::2] for image in sheet], titles, columns=6), lesson.FACTOR
)

# %% [markdown]
# To the network the picture is so clear that there is nothing left for the prompt to decide. The house
# stays orange, blurred and with too much contrast. So this bug does not look like noise. It looks like
# a strength that has no effect.
#
# ## Only a part
#
# *Inpainting* redraws the part of a picture under a mask, and keeps the rest. The simplest program lets
# the walk draw what it likes, and pastes the rest of the picture over it at the end. But then the new
# part is drawn without regard to the rest. A better way: after *every* step, put the rest of the picture
# back, with the noise of the next timestep (Sohl-Dickstein et al. 2015; [RePaint, Lugmayr et al.
# 2022](https://arxiv.org/abs/2201.09865), eq. 8):
#
# $$x \leftarrow (1 - m)\left(\sqrt{\bar\alpha'}\,x_0 + \sqrt{1-\bar\alpha'}\,\epsilon\right) + m\,x$$
#
# Here $m$ is the mask: one number for each latent position, 1 where the picture is redrawn and 0
# elsewhere. (RePaint also repeats steps, because the new part may still fit badly. We do not repeat
# steps.)
#
# ### Exercise 2 · Put the rest back
#
# `x` has just reached the noise level `alpha_next`; `mask` is (1, 1, h, w) and contains zeros and ones.


# %%
def my_put_back(x, z0, noise, mask, alpha_next):
    """x where the mask is 1, the picture at the noise level of x where it is 0."""
    return ...


# %%
lesson.put_back.check(my_put_back)

# %% [markdown]
# > **Predict.** An astronaut rides a horse. We mask the rider, ask for a cat riding a horse, and then
# > for a horse alone. The horse's neck is partly under the mask. What goes wrong if the rest is pasted
# > only at the end?

# %%
ride, x_ride, mask = lesson.ride()  # image, tensor (1, 3, 128, 128), mask (1, 1, 128, 128)
z_ride, m = factor * pipe.vae.encode(x_ride).latent_dist.mode(), mask[..., ::8, ::8]


def rest_at(t):
    return add_noise(z_ride, noise, level(t)) if t >= 0 else z_ride


def keep(x, t):
    return (1 - m) * rest_at(t) + m * x


wishes = ("a cat riding a horse on the grass", "a horse on the grass")
at_end = [keep(walk(noise, times, wish), -1) for wish in wishes]
each_step = [walk(noise, times, wish, after=keep) for wish in wishes]

# %%
latents = torch.cat([at_end[0], each_step[0], at_end[1], each_step[1]])
sheet = [x_ride[0], (x_ride * (1 - mask))[0], *pipe.decode(latents)]
titles = ["picture", "mask", "cat, at the end", "cat, each step"]
titles += ["horse, at the end", "horse, each step"]
figures.show(figures.pictures(sheet, titles, columns=3), lesson.RIDER)

# %% [markdown]
# If the rest is pasted only at the end, the parts do not fit: only a grey stump of the horse's neck
# remains, and the horse alone has holes in its back. If the rest is put back after each step, the network
# sees it, and the guesses under the mask continue the horse. The network sees the rest only through the
# noise, so at high $t$ it hardly knows what it must fit. For this reason some UNets have nine input
# channels and are trained to see the mask and the masked picture without noise
# ([`inpaint.py`](../minisd/editing/inpaint.py)).
#
# Now we run the inpainting pipeline, with the same noise:

# %%
inpaint = StableDiffusionInpaintPipeline.from_pipe(pipe)
inpaint.set_progress_bar_config(disable=True)
seed, rng = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
how = {"num_inference_steps": n, "generator": seed, "output_type": "latent"}
theirs = inpaint(wishes[1], ride, mask, **how).images

z_ride = factor * pipe.vae.encode(x_ride).latent_dist.sample(rng)
noise = randn((1, 4, 16, 16), rng)
ours = walk(noise, times, wishes[1], after=keep)
print(f"largest difference from the pipeline's latents: {(theirs - ours).abs().max():.0e}")

# %% [markdown]
# ## The way back
#
# Image to image forgets: many pictures lead to nearly the same $x_t$, and the noise is random. But the
# walk of DDIM is deterministic. So is there a noise from which the walk arrives at exactly *this*
# picture? Walk backwards: the same step, with $\bar\alpha$ falling instead of rising. This is *DDIM
# inversion* ([Song et al. 2020](https://arxiv.org/abs/2010.02502), §4.3).
#
# There is a catch. A step down from $t'$ to $t$ uses $\hat\epsilon$ at $t'$. The step up begins at $t$
# and does not know that value yet, so it takes $\hat\epsilon$ at $t$ instead. The two are close if the
# steps are short.
#
# > **Predict.** Walk from the picture up to $t = 999$ and down again, with the same prompt and without
# > guidance. How does the error depend on the number of steps? And is what we find up there Gaussian
# > noise with standard deviation 1?


# %%
def upwards(n):
    """The timesteps of n steps, from the clean picture to t = 999."""
    return [-1, *torch.linspace(1, 999, n).round().int().tolist()]


caption = "an orange house on the grass"
for steps in (5, 10, 20)[: unless_fast(3, 1)]:
    up = upwards(steps)
    found = walk(z0, up, caption, scale=1)
    off = rms(walk(found, up[::-1], caption, scale=1) - z0)
    print(f"{steps:2} steps: back with an error of {off:.3f}", end="; ")
    print(f"the noise has a standard deviation of {found.std():.2f}")

# %% [markdown]
# With twice as many steps the error is about half as large. With 20 steps the error is hardly visible.
# The noise is a surprise: its standard deviation is only half of what it should be. Is that because we
# chose the mode of the latents, which contains no noise at all? We make two comparisons: we invert a
# sample of the same latents, and a picture that the model itself has drawn, from noise that we know.

# %%
up = upwards(unless_fast(20, 4))
own = walk(noise, up[::-1], caption, scale=1)
for name, z in (("mode", z0), ("sample", factor * one), ("the model's own", own)):
    found = walk(z, up, caption, scale=1)
    print(f"{name:<16} standard deviation of the noise found: {found.std():.2f}")
alike = torch.cosine_similarity(found.flatten(), noise.flatten(), dim=0)
print(f"standard deviation of the noise at t = 0: {(1 - level(0)) ** 0.5:.2f}")
print(f"the model's own: cosine of the angle between the noise found and the true one: {alike:.2f}")

# %% [markdown]
# A sample differs from the mode by only a thirtieth of the spread of the latents, too little to see. But
# the noise found from the sample has a standard deviation much closer to 1. In a flat sky the network
# knows exactly what the picture is, and takes every difference from that picture for noise. The steps up
# multiply this difference. At $t = 0$ its standard deviation should be $\sqrt{1-\bar\alpha_0}$, about as
# much as the noise in a sample from the encoder. The mode contains no noise, so there is hardly anything
# to multiply. So inversion is a good way to come *back* to a picture, but what it finds is not quite
# noise. For the picture that the model itself drew, the noise found has nearly the right direction, but
# it is too short. (We have not found out why.)
#
# Coming back is not the purpose, though: we want to edit. Go up with the caption of the picture, and down
# with *another* prompt. Where the two prompts lead to the same guess, the way down undoes the way up, so
# only the difference between the prompts changes the picture.
#
# > **Predict.** We compare image to image and inversion, with the same strengths, the same 20 steps and
# > the prompt "an orange house at night". Which of the two keeps more of the house? Which turns to night
# > first?

# %%
count = unless_fast(20, 4)
rows = []
for strength in (0.3, 0.4, 0.5, 0.6):
    up = upwards(count)[: int(count * strength) + 1]
    jumped, walked = add_noise(z0, noise, level(up[-1])), walk(z0, up, caption, scale=1)
    rows.append(walk(torch.cat([jumped, walked]), up[::-1], prompts[1]))
by_jump, by_walk = torch.stack(rows, dim=1)
titles = [f"{how} to {s}" for how in ("jump", "walk") for s in (0.3, 0.4, 0.5, 0.6)]
pictures = pipe.decode(torch.cat([by_jump, by_walk]))
figures.show(
    figures.pictures(list(pictures[..., ::2, ::2]), titles, columns=4), lesson.JUMP_OR_WALK
)

# %% [markdown]
# With inversion, night falls at a lower strength and without stains, and at low strengths the house stays
# closer to the original:

# %%
there = lesson.where_the_house_is()  # (1, 128, 128)
for how, row in zip(("jump", "walk"), pictures.split(4)):
    off = [127.5 * rms((picture - x[0])[there.expand_as(picture)]) for picture in row]
    print(f"{how}: the house differs by", *(f"{value:.0f}" for value in off), "grey levels")

# %% [markdown]
# [Prompt-to-prompt](https://arxiv.org/abs/2208.01626) (Hertz et al. 2022) edits a picture that the model
# has drawn, by starting again from the same noise. For a real picture, inversion must first find the
# noise. With guidance, though, the way down no longer matches the way up, and the error grows;
# [null-text inversion](https://arxiv.org/abs/2211.09794) (Mokady et al. 2022) corrects this error.
#
# ## Between two pictures
#
# Every noise sample is a picture in disguise. What lies half-way between two of them? Their mean seems
# the natural answer. But noise has a property that is hard to see in two dimensions.
#
# > **Predict.** A noise sample is a vector of 1024 numbers with variance 1. How long is it? How much do
# > the lengths of 1000 noise samples differ? How long is the mean of two of them?

# %%
norms = randn((1000, 1024), torch.Generator().manual_seed(2)).norm(dim=1)
a, b = (randn((1, 4, 16, 16), torch.Generator().manual_seed(seed)) for seed in (0, 7))
cosine = torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)
print(f"lengths of 1000 noises: {norms.min():.1f} to {norms.max():.1f}, mean {norms.mean():.1f}")
print(f"length of the mean of two: {((a + b) / 2).norm():.1f}; cosine of their angle: {cosine:.2f}")

# %% [markdown]
# All noise samples have nearly the same length, $\sqrt{1024} = 32$: the squared length is a sum of 1024
# squares, and such a sum hardly varies. So noise lies on a *sphere*. And any two noise samples are
# nearly at right angles, so the straight line between them passes through the inside, where noise
# samples never lie: the midpoint has a length of only $32/\sqrt2$.
#
# The remedy is to walk along the sphere ([Shoemake 1985](https://doi.org/10.1145/325334.325242)). If
# the angle between $a$ and $b$ is $\theta$, *spherical linear interpolation* (slerp) is
#
# $$\mathrm{slerp}(a, b, s) = \frac{\sin((1-s)\,\theta)}{\sin\theta}\,a + \frac{\sin(s\,\theta)}{\sin\theta}\,b$$
#
# ### Exercise 3 · Slerp
#
# Write it for two tensors of any shape. Treat each tensor as *one* vector. The angle follows from
# $\cos\theta = a\cdot b\,/\,(\lVert a\rVert\,\lVert b\rVert)$.


# %%
def my_slerp(a, b, s):
    """The point at the share s of the arc from a to b, in the shape of a."""
    theta = ...
    return ...


# %%
lesson.slerp.check(my_slerp)

# %%
shares = torch.linspace(0, 1, 41)
straight = [torch.lerp(a, b, s).norm().item() for s in shares]
arc = [lesson.along_the_sphere(a, b, s).norm().item() for s in shares]
lesson.show_norms(shares, {"straight line": straight, "slerp": arc}, norms)

# %% [markdown]
# > **Predict.** Draw without a prompt, from five points on the straight line and five on the arc. What
# > does the model draw from noise that is too short? And from noise that is too long?

# %%
shares = torch.linspace(0, 1, 5)
lines = [torch.lerp(a, b, s) for s in shares]
arcs = [lesson.along_the_sphere(a, b, s) for s in shares]
lengths = (0.35, 0.7, 1, 1.2, 1.5)
between = walk(torch.cat([*lines, *arcs, *(b * k for k in lengths)]), times, "", scale=1)
titles = [f"{way}, {s:.2f}" for way in ("line", "arc") for s in shares]
titles += [f"length × {k}" for k in lengths]
small = list(pipe.decode(between)[..., ::2, ::2])
figures.show(figures.pictures(small, titles, columns=5), lesson.BETWEEN)

# %% [markdown]
# Along this straight line things shrink towards the middle and the page becomes emptier. Along the arc
# they stay as large as at the ends, although what lies between two pictures need not be a good picture.
# (For other pairs of noise samples the effect is often smaller.) The last row shows why. The network
# relies on $t$ for the amount of noise. If there is less noise, it takes the missing noise for missing
# content: at a third of the length nothing is left but a plain page. If there is more noise, it takes the
# excess for content, and the page fills with splinters.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | a sample of the encoder's Gaussian, times 1.008 | the same, times 0.18215 | [`from_picture.py`](../minisd/editing/from_picture.py) | Rombach et al. 2022, appendix G |
# | `add_noise`, then the last $\lfloor n s\rfloor$ steps | `StableDiffusionImg2ImgPipeline`, strength 0.8 | [`img2img.py`](../minisd/editing/img2img.py) | Meng et al. 2021 |
# | `keep` after each step | `StableDiffusionInpaintPipeline` with a UNet of 4 channels | [`inpaint.py`](../minisd/editing/inpaint.py) | Lugmayr et al. 2022, eq. 8 |
# | a UNet that sees the masked picture | `stable-diffusion-inpainting`, 9 channels | [`inpaint.py`](../minisd/editing/inpaint.py) | |
# | `walk` upwards | not built in: `DDIMInverseScheduler` in diffusers | [`schedule.transfer`](../minisd/schedule.py) | Song et al. 2020, §4.3 |
# | noise of length 32 | of length $\sqrt{16384} = 128$ | [`noise.py`](../minisd/noise.py) | |
#
# **Play.** Draw from noise that is too short or too long, with a prompt and guidance: which of the two
# does the model forgive? Give inpainting a strength of 0.5: start from the noisy picture instead of pure
# noise. Invert with guidance, and come back with the same guidance: at which scale does it fail?
# Interpolate between the inversions of two pictures. Take the mean of 16 noise samples, and bring it back
# to length 32.
#
# *Stuck on an exercise? The answers are in [`lesson_14.py`](../minisd/lessons/lesson_14.py).*

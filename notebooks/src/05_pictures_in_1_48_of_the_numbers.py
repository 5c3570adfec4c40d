# %% [markdown]
# # 05 · Pictures in 1/48 of the numbers
#
# **What is a latent?**
#
# *40 minutes to read, half a minute to run. You need notebook 01, the whole picture, and from 02 the
# signal-to-noise ratio.*
#
# A picture of 128×128 pixels is 49,152 numbers, and most of them say what their neighbours say. A UNet
# that painted pixels would have to get each of them right, at every step. So before any diffusion
# begins, another network, the *autoencoder*, learns to say the same in fewer numbers: its encoder for
# the training of the UNet, its decoder for the end of every drawing. What the UNet sees, guesses and
# cleans of noise is never a picture, it is *latents*. What are they?

# %%
import random

import torch
from torch.nn.functional import avg_pool2d, interpolate, unfold

from minisd import AutoencoderKL
from minisd.image import to_tensor
from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_05 as lesson
from minisd.schedule import add_noise, betas
from minisd.tiny import picture_book

you_are_here("VAE")

# %% [markdown]
# ## There and back

# %%
vae = AutoencoderKL.from_pretrained("tiny", subfolder="vae")
vae.requires_grad_(False)

ride = picture_book.compose(
    random.Random(4), "riding", ("astronaut", "horse"), ("white", "brown"), "meadow"
)
night = picture_book.compose(random.Random(7), "", ("dragon",), ("green",), "night")
x = torch.stack([to_tensor(picture_book.draw(scene)) for scene in (ride, night)])
z = vae.encode(x).latent_dist.mode()
y = vae.decode(z).sample
shapes(x=(x, (2, 3, 512, 512)), z=(z, (2, 4, 64, 64)), y=(y, (2, 3, 512, 512)))

# %% [markdown]
# $3\cdot128\cdot128 : 4\cdot16\cdot16 = 48$, and likewise in Stable Diffusion. The simplest way to save as
# much would be to store a picture of 18×18 pixels.
#
# How well it works is usually said in decibels. The *peak signal-to-noise ratio* compares the error
# with the largest difference that there can be, which is 2 between −1 and 1:
# $\mathrm{PSNR} = -10\,\log_{10}$ of the mean of $((y-x)/2)^2$. Ten dB more are a tenth of the square error.
#
# > **Predict.** Which errors will the 18×18 pixels make that the latents don't? And what will the latents
# > get wrong?


# %%
def psnr(y, x):
    return lesson.psnr_of((y.clamp(-1, 1) - x).square().mean())


def eighteen(x):
    return interpolate(interpolate(x, 18, mode="area"), 128, mode="bicubic")


sheet, titles = [], []
for picture, small, back in zip(x, eighteen(x), y):
    error = (back.clamp(-1, 1) - picture).abs().mean(dim=0)
    sheet += [picture, small, back, lesson.grey(1 - 4 * error)]
    titles += ["picture", f"18×18: {psnr(small, picture):.1f} dB"]
    titles += [f"from latents: {psnr(back, picture):.1f} dB", "its error × 4"]

# %%
figures.show(
    figures.pictures(sheet, titles, columns=4),
    "An astronaut on a horse, and a dragon at night, each four times: as it is; blurred; from its latents, very much like the"
    " original; and the error, which is dark along outlines and nearly white elsewhere.",
)

# %% [markdown]
# 18×18 pixels blur everything alike. The latents keep shapes and sharp edges between colours, and what
# they get wrong is thin: outlines, and the smallest parts. A latent position has four numbers for 8×8
# pixels. What these four can say, encoder and decoder have agreed on in training, and they spend it on
# what saves most. (It is the same with small print and small faces in Stable Diffusion.) Two pictures
# are few; so let us draw more.

# %%
count = unless_fast(128, 32)
scenes = [picture_book.sample(random.Random(f"book/{i}")) for i in range(count)]
pages = torch.stack([to_tensor(picture_book.draw(scene)) for scene in scenes])
latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pages.split(16)])
for name, back in (("18×18", eighteen(pages[:32])), ("latents", vae.decode(latents[:32]).sample)):
    print(f"{name:<8} {torch.stack([psnr(b, page) for b, page in zip(back, pages)]).mean():.1f} dB")

# %% [markdown]
# ## What the four numbers say
#
# > **Predict.** Show the four channels as grey pictures of 16×16 pixels. Will one recognise the scene, or
# > is it a code?

# %%
factor = vae.config.scaling_factor
sheet, titles = [], []
for picture, four in zip(x, z):
    sheet += [avg_pool2d(picture, 8), *(lesson.grey(factor * channel / 2.5) for channel in four)]
    titles += ["8×8 pixels each", "channel 0", "channel 1", "channel 2", "channel 3"]
figures.show(
    figures.pictures(sheet, titles, columns=5),
    "Both scenes as mosaics of 16×16 squares, and their four channels in grey. In each channel sky, ground and figure can be"
    " made out, in other shades of grey from channel to channel.",
)

# %% [markdown]
# One recognises it. A latent is a *map*: what is at a place in the picture is at that place in the
# latents. And the channels look like colours, somehow mixed. How mixed, one can compute.
#
# ### Exercise 1 · Latents to colours
#
# Find the linear map from the four numbers at a position, and a 1, to the mean red, green and blue of
# its 8×8 pixels, with the least square error: a matrix (5, 3). (`torch.linalg.lstsq(a, b).solution` is
# the $m$ that brings $a\,m$ nearest to $b$; all positions of all pictures are rows,
# `t.permute(0, 2, 3, 1).flatten(0, 2)`, and the 1 is a fifth column.)


# %%
def my_preview_matrix(latents, pictures):
    """(5, 3), the constant last, from latents (N, 4, h, w) and pictures (N, 3, 8h, 8w)."""
    colors = avg_pool2d(pictures, 8)
    return ...


# %%
lesson.preview.check(my_preview_matrix)

# %% [markdown]
# > **Predict.** The decoder has a million weights and more, this has 15. How near do they come?

# %%
matrix = lesson.preview_matrix(latents[16:], pages[16:])  # the first 16 are for the test


def preview(latents):
    return torch.einsum("nchw,cd->ndhw", latents, matrix[:4]) + matrix[4].view(1, 3, 1, 1)


colors = avg_pool2d(pages[:16], 8)
left = (preview(latents[:16]) - colors).var() / colors.var()
print(f"{sum(p.numel() for p in vae.decoder.parameters()):,} weights in the decoder, 15 here")
print(f"which explain {1 - left:.0%} of the variance of the colours of new pictures")

# %%
blocks, guesses = avg_pool2d(x, 8), preview(z)
figures.show(
    figures.pictures(
        [blocks[0], guesses[0], blocks[1], guesses[1]],
        ["mean colours", "15 weights", "mean colours", "15 weights"],
        columns=4,
    ),
    "Two pairs of mosaics of 16×16 squares: the mean colours of both scenes, and beside each what the matrix makes of the"
    " latents: the same scene, in colours that are about right, with stray squares.",
)

# %% [markdown]
# So the colours are in there, only mixed, and the decoder's many weights are for what happens within the
# 8×8 pixels. (In our autoencoder that is no wonder: early in its training three of the four channels were
# pulled towards the colours, see [`train/vae.py`](../minisd/train/vae.py). But nobody pulled those of
# Stable Diffusion, and there [such a
# matrix](https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204) does as well.
# The live previews of many user interfaces are one.)
#
# ## A map, not a meaning
#
# If it is a map, one can cut and paste.
#
# > **Predict.** (1) The left half of one picture's latents, the right half of the other's. (2) The
# > latents of the astronaut, mirrored. (3) The mean of both latents. What will the decoder draw of each?

# %%
halves = torch.cat([z[:1, :, :, :8], z[1:, :, :, 8:]], dim=3)
mirrored, mean = z[:1].flip(3), z.mean(dim=0, keepdim=True)
drawn = vae.decode(torch.cat([halves, mirrored, mean])).sample

pasted = torch.cat([x[0, :, :, :64], x[1, :, :, 64:]], dim=2)
sheet = [*drawn, pasted, x[0].flip(2), x.mean(dim=0)]
titles = ["(1) halves of latents", "(2) mirrored latents", "(3) mean of latents"]
titles += ["halves of pictures", "mirrored picture", "mean of pictures"]

# %%
figures.show(
    figures.pictures(sheet, titles, columns=3),
    "Above, decoded: half a rider and half a dragon, joined like the cut pictures below; a mirrored rider with frayed edges and"
    " a disfigured head, unlike the clean mirror image below; and both scenes laid over each other, much like the mean of the"
    " pictures below.",
)

# %% [markdown]
# Cutting works, and the seam even heals a little, as the decoder looks a few positions around (and, through
# one layer of attention, faintly everywhere). Mirroring shows what the four numbers hold besides colour.
# Everything has moved to its mirrored place, but each position is still drawn as it was, with its edges
# slanting the old way.
#
# And the mean of a rider and a dragon is no dragon-rider. It is a double exposure, as it is with pictures.
# Nothing in a latent knows what a dragon is. An autoencoder makes pictures shorter; it does not
# understand them. Meaning comes in with the UNet, and with words.
#
# > **Predict.** Scaled latents have mean 0 and variance 1, as noise has. So what will the decoder draw
# > of pure noise? And what of the rider's own latents, when all positions have changed places?

# %%
rng = torch.Generator().manual_seed(0)
noise = torch.randn(2, 4, 16, 16, generator=rng) / factor
places = torch.randperm(256, generator=rng)
shuffled = z[:1].flatten(2)[:, :, places].view(1, 4, 16, 16)
drawn = vae.decode(torch.cat([noise, shuffled, z[:1]])).sample
titles = ["noise", "other noise", "shuffled", "in order"]
figures.show(
    figures.pictures(list(avg_pool2d(drawn, 2)), titles, columns=4),
    "Noise is decoded to a mosaic of bright shards in all colours, both times; shuffled latents to shreds of meadow, sky and"
    " rider; in order, they are the rider.",
)

# %% [markdown]
# Shards. That is what every drawing begins with. Each number may well be such as latents have, but in
# latents neighbours belong together. How they do, over the whole picture, is what diffusion has to learn.
#
# ## The scaling factor
#
# Why "scaled"? All of notebook 02 took for granted that $x_0$ has variance 1: the signal-to-noise ratio
# of a timestep is $\bar\alpha_t/(1-\bar\alpha_t)$ only then. But an encoder may make its numbers as
# large as it likes. So latents are multiplied by a constant, once and for all, before diffusion sees
# them, and divided by it before they are decoded.
#
# ### Exercise 2 · The scaling factor
#
# Latents (N, 4, h, w) of many pictures, whose channels have the mean 0: find the one factor that gives
# them variance 1.


# %%
def my_scaling_factor(latents):
    return ...


# %%
lesson.scaling_factor.check(my_scaling_factor)

# %%
print(f"std of the latents of {count} pictures: {latents.std():.3f}")
print(f"so the factor is {1 / latents.std():.3f}; the configuration says {factor:.3f}")
lesson.show_channels(factor * latents)

# %% [markdown]
# The configuration's was measured on 512 other pictures, when training was over. It is not far from 1,
# for a reason that comes below. In Stable Diffusion it is 0.18215, as latents there have a std of 5.5;
# such a factor is measured on a first batch ([Rombach et al. 2022](https://arxiv.org/abs/2112.10752),
# appendix G), but this number is only in the code.
#
# One thing is neater here: our channels also have a mean near 0. That cost nothing. Subtract a mean
# behind the encoder's last 1×1 convolution, and add it before the decoder's first: two biases change, and
# no picture does ([`train.vae.centred`](../minisd/train/vae.py)).
#
# > **Predict.** Suppose somebody forgets the factor, and the latents have a std of 5.5. At which $t$ will
# > picture and noise be equally strong? With the factor it is 354.

# %%
alphas_cumprod = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000), dim=0)
snr = alphas_cumprod / (1 - alphas_cumprod)
for std in (1, 5.5):
    print(f"std {std}: SNR 1 at t = {(std**2 * snr - 1).abs().argmin()}, ", end="")
    print(f"SNR {std**2 * snr[999]:.3f} at t = 999")

# %%
noise = torch.randn(1, 4, 16, 16, generator=rng)
sheet = {}
for std in (1, 5.5):
    for t in (300, 600, 800, 999):
        noisy = add_noise(std * factor * z[:1], noise, alphas_cumprod[t])
        size = (std**2 * alphas_cumprod[t] + 1 - alphas_cumprod[t]) ** 0.5
        sheet[f"std {std}, t = {t}"] = preview(noisy / size / factor)[0]
figures.show(
    figures.pictures(list(sheet.values()), list(sheet), columns=4),
    "Previews of noisy latents. With std 1 the rider can be made out at t = 300, hardly anything at t = 600, and from t = 800 on"
    " there are only coloured squares. With std 5.5 the rider is clear at t = 600 and can be made out at t = 800.",
)

# %% [markdown]
# Such a UNet would spend most of its timesteps on pictures that are hardly noisy, and would never learn to
# begin from nothing: at $t = 999$ its SNR is thirty times what it should be. Both networks
# have to agree on one number, and this is it.
#
# ## What the K and the L are for
#
# The encoder does not answer with numbers. It answers with a Gaussian for each: a mean, and how sure it
# is of it (`latent_dist`; `mode()` is the mean). That makes it a *variational autoencoder*, a VAE. In
# training the decoder gets a draw, so it sees latents with noise. Left to itself, the encoder would make
# that noise vanish, or its means so large that no noise matters. Therefore the loss has a second term,
# which pulls each Gaussian towards the standard one. How far the two are apart is the *Kullback–Leibler
# divergence*, the KL of `AutoencoderKL` ([Kingma & Welling 2013](https://arxiv.org/abs/1312.6114),
# appendix B):
#
# $$\mathrm{loss} = \text{error of the picture} + w \cdot \mathrm{KL}, \qquad
# \mathrm{KL} = \tfrac12\left(\mu^2 + s^2 - 1 - \ln s^2\right) \text{ for each latent number}$$
#
# It is cheapest at $\mu = 0$, $s = 1$: at noise that says nothing of the picture. Every latent number
# that does say something costs.
#
# > **Predict.** How large is the noise $s$ that the encoder allows itself, beside the latents' std? And
# > what does it cost in dB?

# %%
posterior = vae.encode(pages[:16]).latent_dist
print(f"std of the latents {latents.std():.2f}; of the noise {posterior.std.median():.3f}")
for name, choice in (("mean", posterior.mode()), ("draw", posterior.sample(rng))):
    print(f"decoded from the {name}: {psnr(vae.decode(choice).sample, pages[:16]):.2f} dB")
nats = posterior.kl().mean()
print(f"KL of a picture: {nats:.0f} nats = {nats / 0.6931 / 8:.0f} bytes")

# %% [markdown]
# A few hundredths, and it costs next to nothing. (The mean KL is also an upper bound of how much
# the latents *tell* of a picture, in nats, of which one is 1.44 bits. The picture itself has 49,152
# bytes.)
#
# > **Predict.** How much noise can the decoder take before it is seen, 3 %, 10 %, 30 %?

# %%
draw = torch.randn(latents[:16].shape, generator=rng) / factor  # as large as latents
sizes = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
by_noise = {}
for size in sizes:
    back = vae.decode(latents[:16] + size * draw).sample
    by_noise[size] = psnr(back, pages[:16]).item()
encoder, schedule = posterior.std.median() * factor, (1 - alphas_cumprod[0]) ** 0.5
lesson.show_noise(
    by_noise, {"the encoder's own": encoder.item(), "what the schedule leaves": schedule.item()}
)

# %%
sizes = (0.03, 0.1, 0.3, 1.0)
drawn = vae.decode(torch.cat([z[:1] + size * draw[:1] for size in sizes])).sample
figures.show(
    figures.pictures(list(avg_pool2d(drawn, 2)), [f"noise {size}" for size in sizes], columns=4),
    "The rider from latents with more and more noise: unharmed at 0.03 and 0.1, with faint stains at 0.3, and in pieces among"
    " shards at 1.",
)

# %% [markdown]
# That is what the KL buys: latents that are next to each other are decoded to pictures that are next to
# each other. A UNet is never exactly right, and it need not be. Even the noise that Stable Diffusion's
# schedule leaves in the last latents, $\sqrt{1-\bar\alpha_0} = 0.029$, is not seen.
#
# ## The price
#
# And if $w$ were larger? To see that, we need an autoencoder that trains in a second. Take 8×8 pixels,
# 192 numbers, to 4 and back, the same 1/48, with nothing but one matrix there and one matrix back.

# %%
patches = unfold(pages, 8, stride=8).transpose(1, 2).reshape(-1, 192)
patches = patches[torch.randperm(len(patches), generator=rng)[:1024]]
patches = patches - patches.mean(dim=0)


def start(*shape, std):
    return (std * torch.randn(*shape, generator=rng)).requires_grad_()


# %%
def train(weight):
    encode, decode, logvar = start(192, 4, std=0.02), start(4, 192, std=0.1), start(4, std=0.1)
    optimizer = torch.optim.Adam([encode, decode, logvar], lr=0.03)
    for _ in range(unless_fast(700, 20)):
        mean, std = patches @ encode, (logvar / 2).exp()
        noisy = mean + std * torch.randn(mean.shape, generator=rng)
        kl = 0.5 * (mean**2 + std**2 - 1 - logvar).mean()
        loss = (noisy @ decode - patches).square().mean() + weight * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return std.detach(), lesson.psnr_of((mean @ decode - patches).square().mean()).item()


# %% [markdown]
# > **Predict.** As $w$ grows, noise gets cheaper than information. Will all four channels become noisier
# > together?

# %%
trained = {weight: train(weight) for weight in (0.02, 0.05, 0.1, 0.3)}
variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).flip(0)
lesson.show_collapse(variances, trained)

# %% [markdown]
# They go one after another, the one that explains least of the pictures first. At $s = 1$ a channel has
# given up: it is pure noise, and the decoder ignores it (*posterior collapse*). For matrices the best
# answer is known, and is what the lines show ([Lucas et al. 2019](https://arxiv.org/abs/1911.02469)):
# the channels are the principal components (the directions in which the patches differ most), and one lives
# as long as its variance is more than $24\,w$ (192 numbers for 4 channels, and the ½ of the KL).
#
# So a large $w$ costs detail, and a tiny one lets latents be as large as they like. Stable Diffusion's is
# tiny: $10^{-6}$ for sums over pixels and latents (in its code), which is 48 times less
# for means as we take them. That is why its latents are far from a std of 1, and why it needs a scaling
# factor. Ours is much larger (`KL_WEIGHT` in [`train/vae.py`](../minisd/train/vae.py)), and its latents
# are near a std of 1 by themselves.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `x` (3, 128, 128) → `z` (4, 16, 16) | (3, 512, 512) → (4, 64, 64), also 48 to 1 | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, §3.1 |
# | encoder and decoder, 2.7 million weights | the same four levels, 84 million | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, appendix G |
# | L1 loss of pixels, edges and blobs | L1, a perceptual loss, and a discriminator that asks for sharpness | [`train/vae.py`](../minisd/train/vae.py) | Rombach et al. 2022, §3.1 |
# | `latent_dist.mode()`, `.sample()` | a draw in training and for image-to-image; text-to-image never encodes | [`vae.DiagonalGaussian`](../minisd/vae.py) | Kingma & Welling 2013, appendix B |
# | `scaling_factor` | 0.18215, outside the VAE: `latents / 0.18215` before decoding | [`pipeline.decode`](../minisd/pipeline.py) | Rombach et al. 2022, appendix G |
# | channel means near 0 | not 0 | [`train.vae.centred`](../minisd/train/vae.py) | |
#
# **Play.** Put the dragon's latents into a window of the rider's. Swap one channel only. Multiply latents
# by 1.5, or by −1. Change one number of one position, and see how far away the picture changes. Which
# picture of the book has the worst PSNR?
#
# *Stuck in an exercise? The answers are in [`lesson_05.py`](../minisd/lessons/lesson_05.py).*

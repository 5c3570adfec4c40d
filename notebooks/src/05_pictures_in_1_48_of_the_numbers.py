# %% [markdown]
# # 05 · Pictures in 1/48 of the numbers
#
# **What is a latent?**
#
# *40 minutes to read, half a minute to run. You need the overview of notebook 01, and from 02 the
# signal-to-noise ratio.*
#
# A picture of 128×128 pixels has 49,152 numbers, and most of them repeat what their neighbours say. A
# UNet that painted pixels would have to get each of them right, at every step. So before any diffusion
# begins, another network, the *autoencoder*, learns to express the same picture in fewer numbers. Its
# encoder is used to train the UNet, and its decoder is used at the end of every drawing. The UNet never
# sees a picture. What it sees, guesses and denoises are *latents*. What are they?

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
# The latents have 48 times fewer numbers than the picture: $3\cdot128\cdot128 : 4\cdot16\cdot16 = 48$.
# The ratio is the same in Stable Diffusion. The simplest way to save as much would be to shrink the
# picture to 18×18 pixels: 972 numbers, where the latents have 1024.
#
# Quality is usually measured in decibels. The *peak signal-to-noise ratio* compares the error with the
# largest possible difference, which is 2 for values between −1 and 1: $\mathrm{PSNR} = -10\,\log_{10}$ of
# the mean of $((y-x)/2)^2$. Ten dB more means a tenth of the squared error.
#
# > **Predict.** Which errors will the 18×18 pixels make that the latents do not? And what will the
# > latents get wrong?


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
figures.show(figures.pictures(sheet, titles, columns=4), lesson.THERE_AND_BACK)

# %% [markdown]
# 18×18 pixels blur everything alike. The latents keep shapes and sharp edges between colours, and their
# errors are confined to outlines and the smallest parts. A latent position has four numbers for 8×8
# pixels. In training, the encoder and the decoder learned to spend these four on whatever reduces the
# error most. (Too little is left for the finest details, so small print and small faces suffer in Stable
# Diffusion.) Two pictures are too few to judge by, so let us draw more.

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
# > **Predict.** Show the four channels as grey pictures of 16×16 pixels. Can you recognise the scene, or
# > do the channels look like a secret code?

# %%
factor = vae.config.scaling_factor
sheet, titles = [], []
for picture, four in zip(x, z):
    sheet += [avg_pool2d(picture, 8), *(lesson.grey(factor * channel / 2.5) for channel in four)]
    titles += ["8×8 pixels each", "channel 0", "channel 1", "channel 2", "channel 3"]
figures.show(figures.pictures(sheet, titles, columns=5), lesson.FOUR_CHANNELS)

# %% [markdown]
# You can. Latents are a *map*: each place in the picture has its place in the latents. And the channels
# look like mixtures of colours. If they are, we can compute the colours from them.
#
# ### Exercise 1 · Latents to colours
#
# Find the linear map that predicts the mean red, green and blue of 8×8 pixels from the four numbers at
# their latent position and a constant 1, with the smallest squared error. The map is a matrix (5, 3).
# (`torch.linalg.lstsq(a, b).solution` is the matrix $m$ for which $a\,m$ is closest to $b$. Turn every
# position of every picture into a row with `t.permute(0, 2, 3, 1).flatten(0, 2)`, and append the 1 as a
# fifth column.)


# %%
def my_preview_matrix(latents, pictures):
    """(5, 3), constant last, from latents (N, 4, h, w) and pictures (N, 3, 8h, 8w)."""
    colors = avg_pool2d(pictures, 8)
    return ...


# %%
lesson.preview.check(my_preview_matrix)

# %% [markdown]
# > **Predict.** The decoder has more than a million weights, and this matrix has 15. How close does the
# > matrix come to the mean colours?

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
sheet = [blocks[0], guesses[0], blocks[1], guesses[1]]
titles = ["mean colours", "15 weights"] * 2
figures.show(figures.pictures(sheet, titles, columns=4), lesson.PREVIEWS)

# %% [markdown]
# So the latents do contain the colours, in mixed form, and the decoder needs its many weights for the
# detail within the 8×8 pixels. (For our autoencoder that is no surprise: early in its training three of
# the four channels were pulled towards the colours; see [`train/vae.py`](../minisd/train/vae.py). Nobody
# did that for Stable Diffusion, yet [such a
# matrix](https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204) works there
# just as well. Many user interfaces use one for their live previews.)
#
# ## A map, not a meaning
#
# If latents are a map, we can cut and paste them.
#
# > **Predict.** We decode three tensors: (1) the left half of one picture's latents joined to the right
# > half of the other's; (2) the astronaut's latents, mirrored; (3) the mean of both pictures' latents.
# > What will the decoder draw from each?

# %%
halves = torch.cat([z[:1, :, :, :8], z[1:, :, :, 8:]], dim=3)
mirrored, mean = z[:1].flip(3), z.mean(dim=0, keepdim=True)
drawn = vae.decode(torch.cat([halves, mirrored, mean])).sample

pasted = torch.cat([x[0, :, :, :64], x[1, :, :, 64:]], dim=2)
sheet = [*drawn, pasted, x[0].flip(2), x.mean(dim=0)]
titles = ["(1) halves of latents", "(2) mirrored latents", "(3) mean of latents"]
titles += ["halves of pictures", "mirrored picture", "mean of pictures"]

# %%
figures.show(figures.pictures(sheet, titles, columns=3), lesson.CUT_AND_PASTE)

# %% [markdown]
# Cutting works, and the seam even heals a little, because the decoder also looks at nearby positions
# (and, through one layer of attention, faintly everywhere). Mirroring shows that the four numbers hold
# more than colour: they also hold the slant of edges. Everything has moved to its mirrored place, but
# each position is still drawn as before, with its edges slanting the old way.
#
# And the mean of a rider and a dragon is not a dragon-rider. It is a double exposure, just like the mean
# of the two pictures. Nothing in a latent knows what a dragon is. An autoencoder compresses pictures; it
# does not understand them. Meaning comes from the UNet, and from words.
#
# > **Predict.** Scaled latents have mean 0 and variance 1, like noise. So what will the decoder draw from
# > pure noise? And from the rider's own latents when their positions are shuffled?

# %%
rng = torch.Generator().manual_seed(0)
noise = torch.randn(2, 4, 16, 16, generator=rng) / factor
places = torch.randperm(256, generator=rng)
shuffled = z[:1].flatten(2)[:, :, places].view(1, 4, 16, 16)
drawn = vae.decode(torch.cat([noise, shuffled, z[:1]])).sample
titles = ["noise", "other noise", "shuffled", "in order"]
figures.show(figures.pictures(list(avg_pool2d(drawn, 2)), titles, columns=4), lesson.SHARDS)

# %% [markdown]
# Shards. Every drawing begins like this. Each number alone could come from a real picture, but in the
# latents of real pictures neighbouring numbers depend on each other. Diffusion has to learn how they do,
# over the whole picture.
#
# ## The scaling factor
#
# Why "scaled"? Notebook 02 assumed that $x_0$ has variance 1: only then is
# $\bar\alpha_t/(1-\bar\alpha_t)$ the signal-to-noise ratio of a timestep. But an encoder may make its
# numbers as large as it likes. So latents are multiplied by a fixed constant, the *scaling factor*,
# before the UNet sees them, and divided by it before they are decoded.
#
# ### Exercise 2 · The scaling factor
#
# Given latents (N, 4, h, w) of many pictures, whose channels have mean 0: find the one factor that gives
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
# The factor in the configuration was measured on 512 other pictures after training. It is close to 1, for
# a reason explained below. In Stable Diffusion it is 0.18215, because latents there have a std of 5.5.
# [Rombach et al. 2022](https://arxiv.org/abs/2112.10752) (appendix G) measure such a factor on the first
# batch, but the number 0.18215 appears only in the code.
#
# Our channels also have a mean near 0. Centring them costs nothing: subtract the mean after the encoder's
# last 1×1 convolution, and add it back before the decoder's first 1×1 convolution. Two biases change, but
# no decoded picture does ([`train.vae.centred`](../minisd/train/vae.py)).
#
# > **Predict.** Suppose somebody forgets the factor, and the latents have a std of 5.5. At which $t$ will
# > picture and noise be equally strong? With the factor, this happens at $t = 354$.

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
previews = figures.pictures(list(sheet.values()), list(sheet), columns=4)
figures.show(previews, lesson.FORGOTTEN_FACTOR)

# %% [markdown]
# A UNet trained on such latents would spend most of its timesteps on pictures with hardly any noise, and
# would never learn to begin from pure noise: at $t = 999$ the SNR is thirty times what it should be. The
# VAE and the UNet have to agree on one number, the scaling factor.
#
# ## What the K and the L are for
#
# The encoder does not return numbers. It returns a Gaussian for each latent number: a mean, and a
# standard deviation (`latent_dist`; `mode()` is the mean). That makes it a *variational autoencoder*, a
# VAE. In training the decoder receives a sample, so it sees latents with noise. Left alone, the encoder
# would make that noise vanish, or make its means so large that no noise matters. Therefore the loss has a
# second term that pulls each Gaussian towards the standard normal distribution. The distance between the
# two is the *Kullback–Leibler divergence*, the KL of `AutoencoderKL` ([Kingma & Welling
# 2013](https://arxiv.org/abs/1312.6114), appendix B):
#
# $$\mathrm{loss} = \text{error of the picture} + w \cdot \mathrm{KL}, \qquad
# \mathrm{KL} = \tfrac12\left(\mu^2 + s^2 - 1 - \ln s^2\right) \text{ for each latent number}$$
#
# The KL is smallest at $\mu = 0$, $s = 1$. Such a number is pure noise and says nothing about the
# picture. A latent number that does say something has a cost.
#
# > **Predict.** How large is the noise $s$ that the encoder chooses, compared with the std of the
# > latents? And how many dB does this noise cost?

# %%
posterior = vae.encode(pages[:16]).latent_dist
print(f"std of the latents {latents.std():.2f}; of the noise {posterior.std.median():.3f}")
for name, choice in (("mean", posterior.mode()), ("sample", posterior.sample(rng))):
    print(f"decoded from the {name}: {psnr(vae.decode(choice).sample, pages[:16]):.2f} dB")
nats = posterior.kl().mean()
print(f"KL of a picture: {nats:.0f} nats = {nats / 0.6931 / 8:.0f} bytes")

# %% [markdown]
# The noise $s$ is a few hundredths, and it costs almost nothing. (The mean KL is also an upper bound on
# how much information the latents carry about a picture, in nats; one nat is 1.44 bits. The picture
# itself takes 49,152 bytes.)
#
# > **Predict.** How much noise can the decoder tolerate before you can see the noise: 3 %, 10 %, 30 %?

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
noisy = figures.pictures(list(avg_pool2d(drawn, 2)), [f"noise {s}" for s in sizes], columns=4)
figures.show(noisy, lesson.NOISY_LATENTS)

# %% [markdown]
# So latents that are close to each other are decoded to pictures that are close to each other. This is
# what the noise in training is for: the decoder has to draw the same picture from the mean and from
# samples around it. (We have not trained an autoencoder without the KL for comparison.) A UNet never
# produces exactly the right latents, but with such a decoder small errors do not matter. Even the noise
# that Stable Diffusion's schedule leaves in the last latents, $\sqrt{1-\bar\alpha_0} = 0.029$, is
# invisible.
#
# ## The price
#
# What if $w$ were larger? To see that, we need an autoencoder that trains in a second. It maps 8×8 pixels
# (192 numbers) to 4 numbers and back, again a factor of 48, with a single matrix in each direction.

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
# > **Predict.** As $w$ grows, noise becomes cheaper than information. Will all four channels become
# > noisier together?

# %%
trained = {weight: train(weight) for weight in (0.02, 0.05, 0.1, 0.3)}
variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).flip(0)
lesson.show_collapse(variances, trained)

# %% [markdown]
# They collapse one after another, beginning with the channel that explains the least of the patches'
# variance. At $s = 1$ a channel is pure noise, and the decoder ignores it (*posterior collapse*). For
# matrices the optimum is known ([Lucas et al. 2019](https://arxiv.org/abs/1911.02469)); the lines in the
# figure show it. At the optimum, the channels are the principal components, the directions in which the
# patches differ most, and a channel survives as long as its variance is larger than $24\,w$.
#
# Where does the 24 come from? A channel of variance $\lambda$ that is decoded with noise $s$ adds
# $\lambda s^2$ to the squared error of a patch, which the loss averages over 192 numbers. The channel also
# adds $-w\,\ln s$ of KL, which the loss averages over 4 numbers. (The KL is lowest if $\mu^2 + s^2$ is 1
# on average. Then only $-\ln s$ is left.) The sum $\lambda s^2/192 - w \ln s/4$ is smallest at $s^2 =
# 24\,w/\lambda$, which reaches 1 when $\lambda = 24\,w$.
#
# So a large $w$ costs detail, and a tiny $w$ lets latents grow as large as they like. Stable Diffusion's
# $w$ is tiny: $10^{-6}$ in its code, for sums over pixels and latents. In a loss of means, such as ours,
# the same weight would be another 48 times smaller. Because its $w$ is tiny, Stable Diffusion's latents
# have a std far from 1 and need a scaling factor. Our $w$ is much larger (`KL_WEIGHT` in
# [`train/vae.py`](../minisd/train/vae.py)), and our latents have a std near 1 without help.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | `x` (3, 128, 128) → `z` (4, 16, 16) | (3, 512, 512) → (4, 64, 64), also 48 to 1 | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, §3.1 |
# | encoder and decoder, 2.7 million weights | the same four levels, 84 million | [`vae.py`](../minisd/vae.py) | Rombach et al. 2022, appendix G |
# | L1 loss on pixels, edges and pooled pixels | L1, a perceptual loss, and a discriminator that rewards sharpness | [`train/vae.py`](../minisd/train/vae.py) | Rombach et al. 2022, §3.1 |
# | `latent_dist.mode()`, `.sample()` | a sample in training and for image-to-image; text-to-image never encodes | [`vae.DiagonalGaussian`](../minisd/vae.py) | Kingma & Welling 2013, appendix B |
# | `scaling_factor` | 0.18215, outside the VAE: `latents / 0.18215` before decoding | [`pipeline.decode`](../minisd/pipeline.py) | Rombach et al. 2022, appendix G |
# | channel means near 0 | not 0 | [`train.vae.centred`](../minisd/train/vae.py) | |
#
# **Play.** Put the dragon's latents into a window of the rider's. Swap one channel only. Multiply latents
# by 1.5, or by −1. Change one number at one position, and measure how far away the picture changes. Which
# picture of the book has the worst PSNR?
#
# *Stuck on an exercise? The answers are in [`lesson_05.py`](../minisd/lessons/lesson_05.py).*

# %% [markdown]
# # 10 · Does it understand?
#
# **What may we claim?**
#
# *40 minutes to read, two minutes to run. You need notebook 01, and from notebook 08 what guidance is.*
#
# A model draws an astronaut riding a horse, and people say that it understands. But one picture, picked
# out of many by somebody who would like it to be true, shows nothing. What would? In the picture book we
# are better off than the makers of large models: every prompt has a right answer, and we have all the
# pictures that the model was trained on. So let us do it properly: a judge, prompts that were fixed
# beforehand, one seed each, and every share with its uncertainty. Only then a sentence that begins with
# "it can".

# %%
import random
from collections import Counter

import torch

from minisd import DDIMScheduler, StableDiffusionPipeline
from minisd.evaluate import findings, geometry, protocol, rates
from minisd.evaluate.prompts import FAMOUS, Prompt, kinds_of, prompts_of
from minisd.image import to_tensor
from minisd.lessons import figures, shapes, unless_fast, you_are_here
from minisd.lessons import lesson_10 as lesson
from minisd.tiny import picture_book
from minisd.tiny.picture_book import TRAINING_SCENES, training_scene

you_are_here("text encoder", "UNet", "scheduler", "VAE")

# %% [markdown]
# ## What it has never seen
#
# Training scene number $i$ is made from nothing but the number $i$, so it is the same on every machine.
# Here is the whole training set of the UNet again.
#
# > **Predict.** There are four riders and five mounts. How often did each pair occur?

# %%
training = [training_scene(i) for i in range(unless_fast(TRAINING_SCENES, 2000))]
rides = Counter(kinds_of(scene) for scene in training if scene.relation == "riding")
print(f"{len(training)} scenes, {rides.total()} of them rides:\n")
mounts = sorted({mount for _, mount in rides})
print(" " * 9 + "".join(f"{mount:>8}" for mount in mounts))
for rider in sorted({rider for rider, _ in rides}):
    print(f"{rider:<9}" + "".join(f"{rides[rider, mount]:>8}" for mount in mounts))

# %% [markdown]
# Four pairs never occurred. Before anything was trained, some combinations were *held out*
# ([`picture_book.py`](../minisd/tiny/picture_book.py)): a mount of each rider, a colour of each thing, a
# tenth of the pairs of things. Each word and each thing is in the training set, but not these together.
# Whoever draws them has put together what it never saw together.
#
# The famous ride is one of them. Five drawings, and not the best five of fifty: the seeds are 0 to 4.

# %%
pipe = StableDiffusionPipeline.from_pretrained("tiny")
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.set_progress_bar_config(disable=True)
steps = unless_fast(12, 3)


def draw(prompts):
    """A picture for each prompt, from the prompt's own seed: (B, 3, 128, 128) in [-1, 1]."""
    seeds = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    return 2 * pipe(texts, num_inference_steps=steps, generator=seeds, output_type="pt").images - 1


# %%
rider = draw(prompts_of(FAMOUS, 5, seed=0))
shapes(rider=(rider, (5, 3, 512, 512)))
figures.show(
    figures.pictures(list(rider), [f"seed {seed}" for seed in range(5)], columns=5),
    "Five drawings for the prompt “an astronaut riding a horse”, from the seeds 0 to 4:"
    " each a white astronaut on a brown horse.",
)

# %% [markdown]
# How many of them are right? Would you have said the same if somebody else had made them? That is why we
# need a judge who does not care.
#
# ## A judge
#
# [Ours](../minisd/evaluate/geometry.py) is not a network, and has learnt nothing. It knows how the book
# draws, and looks for the drawing that explains a picture best: on which of the 16 places is it (five
# scenes, ten plain colours, the pale page)? Which thing, in which colour and size and where, brings a
# drawing nearest to the picture? Does one more thing bring it nearer still? What it finds is a scene, so
# that we can have it drawn.
#
# > **Predict.** Here are five pages of the book. What could the judge overlook?

# %%
pages = protocol.render(prompts_of("two things", 3, seed=0) + prompts_of("riding", 2, seed=0))
lesson.show_findings(pages, geometry.judge(pages))

# %% [markdown]
# And on the five rides that the model drew:

# %%
ridden = geometry.judge(rider)
lesson.show_findings(rider, ridden)

# %% [markdown]
# Is that what was asked for? We are strict: all that the prompt says must be right, and there must be
# nothing else. Colours that it does not name must be the usual ones, and a place that it does not name
# must be the pale page. With a thing too few or too many, only the place can still be right.

# %%
scene = prompts_of(FAMOUS, 1, seed=0)[0].scene
for seed, finding in enumerate(ridden):
    answers = findings.verdict(finding, scene)
    details = "   ".join(f"{name}: {'yes' if yes else 'no'}" for name, yes in answers.items())
    print(f"seed {seed} is {'right' if all(answers.values()) else 'wrong'}   ({details})")

# %% [markdown]
# ### Exercise 1 · To the left of
#
# Write the rule for a relation. A thing has a middle, `x` and `y` (from 0 to 1, to the right and *down*),
# and a `scale`, half its width. The first is to the left of the second if it is further to the left than
# it is above or below, and if the two are not `close`: then they overlap, as a rider and its mount do.


# %%
def close(first, second):
    apart = max(abs(first.x - second.x), abs(first.y - second.y))
    return apart < 0.75 * (first.scale + second.scale)


def my_left_of(first, second):
    """Whether the first thing is to the left of the second: True or False."""
    return ...


# %%
lesson.left.check(my_left_of)

# %% [markdown]
# ## Who judges the judge?
#
# If a judge is wrong about one picture in five, a perfect model gets 80 %. So the judge comes first, and
# on pictures that are right beyond doubt: pages of the book. Then on the same pages after a trip through
# the VAE and back, for no picture of the model can be sharper than that.
#
# > **Predict.** In how many of twenty faultless pictures does it find something wrong?

# %%
kinds = {name: f"{name}, new {what}" for name, what in lesson.NEW.items()}
count = unless_fast(20, 2)
sets = {name: prompts_of(name, count, seed=0) for pair in kinds.items() for name in pair}
for painter, paint in {"pages": protocol.render, "VAE": protocol.through(pipe.vae)}.items():
    for name in kinds:
        share = rates.rate(rates.right(geometry.judge(paint(sets[name])), sets[name]))
        low, high = share.interval()
        print(f"{painter:<5}  {name:<10}  {share.right} of {share.of}   {low:.2f} to {high:.2f}")

# %% [markdown]
# What is missing here will be missing for the model too, so these are its ceilings. The interval at the
# end of a line is as important as the count. If 20 of 20 are right, the true share need not be 1: it may
# be 0.9, and we were lucky. The interval is made so that it contains the true share in 95 % of all such
# experiments ([Wilson 1927](https://doi.org/10.1080/01621459.1927.10502953)). From here on, nothing is
# compared without it.
#
# ## Seen and new
#
# Now the model. Three kinds of prompts, each with combinations that were in the training set and with new
# ones; twenty of each, one seed a prompt, and nothing is drawn a second time.
#
# > **Predict.** What if it had learnt its pages by heart: how many of the new ones would be right? And if
# > it understood, in your sense of the word?

# %%
pictures = {name: draw(prompts) for name, prompts in sets.items()}
seen = {name: geometry.judge(images) for name, images in pictures.items()}
good = {name: rates.right(seen[name], prompts) for name, prompts in sets.items()}
shares = {name: rates.rate(outcomes) for name, outcomes in good.items()}
skills = {name: rates.skills(seen[name], prompts) for name, prompts in sets.items()}

for name, share in shares.items():
    each = "   ".join(f"{skill} {one.right:>2}" for skill, one in skills[name].items())
    print(f"{name:<22}  right {share.right:>2} of {share.of}   ({each})")

# %% [markdown]
# In front is the number of pictures in which everything is right; in brackets, one respect at a time.
#
# Say that alone a thing has the right shape in 80 % and the right colour in 90 % of all cases. Then two
# things, drawn with the same skill, are right in $(0.8 \cdot 0.9)^2 = 52\,\%$, times the share in which the
# place is right and, among pictures whose things are right, the share in which the relation is. This
# product is what "independent" means in the figure ([Okawa et al. 2023](https://arxiv.org/abs/2310.09336)).
# A model that reaches it is not bad at putting together. It is not good enough at the parts.

# %%
parts = skills["one thing"]
product = {name: rates.expected(parts, seen[name], sets[name]) for name in ("two things", "riding")}
lesson.show_rates({name: (shares[name], shares[new]) for name, new in kinds.items()}, product)

# %% [markdown]
# (The line is at 1 where one thing was right 20 times of 20. By the lower end of that interval it might as
# well be at $0.84^2 = 0.7$.)
#
# Is "new" worse than "seen"? That is a question about a *difference*, which has an interval of its own.
# (Whether two intervals overlap is another question.) It follows from the two intervals in three lines
# ([Newcombe 1998](https://pubmed.ncbi.nlm.nih.gov/9595617/), method 10):


# %%
def difference(a, b):
    """a − b for two rates, and the ends of its 95 % interval."""
    (a_low, a_high), (b_low, b_high) = a.interval(), b.interval()
    apart = a.share - b.share
    low = apart - ((a.share - a_low) ** 2 + (b_high - b.share) ** 2) ** 0.5
    high = apart + ((a_high - a.share) ** 2 + (b.share - b_low) ** 2) ** 0.5
    return apart, low, high


# %%
compared = {name: (shares[name], shares[new]) for name, new in kinds.items()}
compared["all three"] = tuple(lesson.total(pair) for pair in zip(*compared.values()))
for name, pair in compared.items():
    apart, low, high = difference(*pair)
    print(f"{name:<10}  seen − new: {apart:+.2f}, between {low:+.2f} and {high:+.2f}")

# %% [markdown]
# An interval that contains 0 does not say that there is no difference. It says that this experiment
# cannot see one.
#
# ### Exercise 2 · How many pictures tell 70 % from 80 %?
#
# Let two models draw $n$ pictures each, and let $p$ and $q$ be their true shares of right ones. What we
# count wobbles around the truth, with variance $p(1-p)/n$ for one and $q(1-q)/n$ for the other. For the
# difference these variances add; call its standard deviation $s$. To be believed, a difference must be
# $1.96\,s$ away from 0. Were the true one just as large, every second experiment would miss it. A Gaussian
# falls more than 0.84 of its standard deviations short in 2 of 10 cases only. So 8 of 10 experiments find
# it if $|p - q| = (1.96 + 0.84)\,s$. How large is $n$?


# %%
def my_pictures_needed(p, q):
    """How many pictures of each model it takes to tell the share p from the share q."""
    return ...


# %%
lesson.enough.check(my_pictures_needed)

# %% [markdown]
# Don't trust a formula that can be tried. Two models, of 70 % and 80 %, draw $n$ pictures each and are
# compared by the interval above, 500 times.
#
# > **Predict.** How often does the interval exclude 0, with 20 pictures? With 100?


# %%
def told_apart(n, p=0.7, q=0.8, experiments=500):
    """The share of experiments in which the interval of the difference excludes 0."""
    counts = torch.distributions.Binomial(n, torch.tensor([p, q])).sample((experiments,)).int()
    pairs = [difference(rates.Rate(a, n), rates.Rate(b, n)) for a, b in counts.tolist()]
    return sum(low > 0 or high < 0 for _, low, high in pairs) / experiments


torch.manual_seed(0)
for n in (20, 100, 290, 1000):
    print(f"{n:>4} pictures of each model: told apart in {told_apart(n):.0%} of the experiments")

# %% [markdown]
# Remember it when you next see two models compared by a sheet of sixteen pictures. And mind that the
# intervals are about luck with seeds and prompts of *these* kinds. They know nothing of other prompts.
# (The whole protocol, `python -m minisd.evaluate`, has a hundred prompts of each kind, 50 steps, and a
# second judge.)
#
# ## Where nothing may be right
#
# A share of right pictures means something beside the share that luck would bring. So here is luck.
# *Shuffled:* each picture is judged by the next one's prompt. *Silent:* the pictures are drawn for the
# empty prompt, and judged by one that the model never heard.
#
# > **Predict.** How many pictures are right by luck? And how many have at least the right relation, or
# > the right place?

# %%
two = sets["two things"]
silent = draw([Prompt("", prompt.seed, prompt.scene) for prompt in sets["one thing"]])
controls = {
    "shuffled, one thing": rates.shuffled(seen["one thing"], sets["one thing"]),
    "shuffled, two things": rates.shuffled(seen["two things"], two),
    "silent, one thing": rates.rate(rates.right(geometry.judge(silent), sets["one thing"])),
}
for name, luck in controls.items():
    print(f"{name:<20}  right {luck.right} of {luck.of}")

# %% [markdown]
# And respect by respect, with faultless pages in the place of pictures, each of them judged by the next
# page's prompt:

# %%
for skill, luck in rates.skills(geometry.judge(protocol.render(two)), [*two[1:], *two[:1]]).items():
    print(f"{skill:<9}  right {luck.right} of {luck.of}")

# %% [markdown]
# Luck does not get everything right, so the strict count stands for something. A single respect is a
# different matter. Besides riding there are only three relations (left or right, above or below, next
# to), and a guess is often right. Whoever reports "60 % of the relations" and not what a guess would
# bring has reported little.
#
# ## Does it draw from memory?
#
# A picture of a *seen* combination could be a page of the training set, learnt by heart. Let us look for
# the nearest page to each picture. Distance is the root mean square of thumbnails of 16×16 pixels, in
# values from 0 to 255. By itself it says nothing, so we need company. *Training pages*, after a trip
# through the VAE: so near is a memory. *New pages* of the same prompts, after the same trip: so near is
# somebody who never saw the training set, because the world is small.
#
# > **Predict.** Where between the two are the model's pictures?


# %%
def thumbnails(scenes):
    pages = [to_tensor(picture_book.draw(scene, 32)) for scene in scenes]
    return protocol.thumbnails(torch.stack(pages))


book = torch.cat([thumbnails(training[i : i + 1000]) for i in range(0, len(training), 1000)])


def nearest(images):
    """For each picture the distance to the nearest training page, and the number of that page."""
    return (torch.cdist(protocol.thumbnails(images), book) / book.shape[1] ** 0.5).min(dim=1)


# %%
asked = [prompt for prompts in sets.values() for prompt in prompts]
known = [Prompt("", 0, scene) for scene in random.Random(0).sample(training, len(asked) // 2)]
by_vae = protocol.through(pipe.vae)
lesson.show_distances(
    {
        "training pages": nearest(by_vae(known)).values,
        "new pages": nearest(by_vae(asked[::2])).values,
        "the model's pictures": nearest(torch.cat(list(pictures.values()))).values,
    }
)

# %% [markdown]
# The measure works: it finds the training pages, and what is left of their distance is what the VAE
# loses. A model that draws from memory lies with them. One that lies with the new pages, or to the right
# of them, does not. (Far to the right is no praise either: so far from any page is what has gone wrong.)
#
# Some pictures of new combinations, chosen by a seed, and below each the nearest training page:

# %%
chosen = random.Random(0).sample([(new, i) for new in kinds.values() for i in range(count)], 5)
images = torch.stack([pictures[new][i] for new, i in chosen])
distance, number = nearest(images)
pages = protocol.render([Prompt("", 0, training[i]) for i in number])
figures.show(
    figures.pictures([*images, *pages], ["drawn"] * 5 + [f"{d:.0f} away" for d in distance], 5),
    "Five of the model's pictures, and below each the training page that is nearest: mostly the"
    " same place, with like colours in like parts, but not the same scene.",
)
for new, i in chosen:
    print(sets[new][i].text)

# %% [markdown]
# With Stable Diffusion the search was not in vain. [Carlini et al.
# 2023](https://arxiv.org/abs/2301.13188) found about a hundred pictures of its training set that version
# 1.4 draws again all but exactly. They had looked among those that stood in it most often.
#
# ## Failures, by seed and not by taste
#
# Whoever chooses which failures to show can make them look charming, or hopeless. A seed has chosen
# these.
#
# > **Predict.** What goes wrong most often: a shape, a colour, the place, the number of things?

# %%
order = [(name, i) for name in sets for i in range(count)]
random.Random(0).shuffle(order)
order.sort(key=lambda at: good[at[0]][at[1]])  # the wrong ones first, else as the seed has them
titles = [f"{n}: {'right' if good[name][i] else 'wrong'}" for n, (name, i) in enumerate(order, 1)]
figures.show(
    figures.pictures([pictures[name][i] for name, i in order[:10]], titles, columns=5),
    "Ten numbered pictures, most of which look right. What was asked for and what the judge found stands below.",
)
for n, (name, i) in enumerate(order[:10], 1):
    print(f"{n:>2}  asked for: {sets[name][i].text}\n    found:     {lesson.words(seen[name][i])}")

# %% [markdown]
# For each of them: is it the model that is wrong, or the judge? Both happen, and only looking tells. Here
# the judge is wrong about eight of ten. (If one is called right, there were fewer than ten wrong ones.)
#
# ## The same words in another order
#
# All that was new so far was a *pair*. The rider was one who rides, the mount one that is ridden. Here is
# something that the grammar allows, and that no page shows in any form.
#
# > **Predict.** "A horse riding an astronaut": who is on top?

# %%
upside = draw([Prompt("a horse riding an astronaut", seed, scene) for seed in range(5)])
figures.show(
    figures.pictures(list(upside), [f"seed {seed}" for seed in range(5)], columns=5),
    "Five drawings for the prompt “a horse riding an astronaut”, from the seeds 0 to 4:"
    " each a brown astronaut on something white.",
)
for text, images in ((FAMOUS, rider), ("a horse riding an astronaut", upside)):
    for found, times in Counter(map(lesson.from_the_top, geometry.judge(images))).items():
        print(f"{text}: {times} × {found}")

# %% [markdown]
# The judge sees an astronaut and nothing else: what is under it is white on the pale page, and no proper
# horse. But look: the astronaut is on top, and has even become brown, as a horse would be. So "riding" is
# hardly a relation to this model. It is a kind of picture, in which each word has its accustomed place. No
# held-out pair could have told the two apart. A smaller CLIP than the one that
# Stable Diffusion listens to was put to this test too: shown two captions of the same words in different
# order, it chooses the one that fits hardly more often than chance ([Thrush et al.
# 2022](https://arxiv.org/abs/2204.03162)).
#
# ## What we may claim
#
# **This:** of so many prompts of such a kind, fixed beforehand, one seed each, so many pictures are right
# in everything, in this interval; by a judge that is right about so many faultless ones; where luck gets
# next to none. So many *new* combinations are among them, which no page could have shown. And these are
# the failures.
#
# **Not this:** that it understands. It puts together what it has seen apart; the last section shows how far. **Nor this:**
# anything about what is not in the book. **And not this:** that it is better than Stable Diffusion.
# [GenEval](https://arxiv.org/abs/2310.11513) asks for things, colours and positions, as we do, and
# Stable Diffusion 1.5 gets 43 % there: 97 % for one object, 76 % for its colour, 4 % for the position of
# two, 6 % for their two colours. But it is asked for anything, in a model of everything, and its judge has
# to recognise photographs. Ours knows nineteen things that look the same on every page, and a judge who
# knows that there are no others. The two numbers have the same unit, and nothing else in common.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | a training set that a program draws | up to two billion pictures with texts, from the web | [`train/unet.py`](../minisd/train/unet.py) | Schuhmann et al. 2022 |
# | held-out combinations | unknown: nobody has listed what is in those pictures | [`picture_book.py`](../minisd/tiny/picture_book.py) | Okawa et al. 2023 |
# | the judge, by drawing | an object detector, and CLIP for the colours | [`evaluate/geometry.py`](../minisd/evaluate/geometry.py) | Ghosh et al. 2023 |
# | all right or wrong | the same in GenEval, 553 prompts with four pictures each | [`evaluate/findings.py`](../minisd/evaluate/findings.py) | Ghosh et al. 2023 |
# | 95 % intervals | seldom given | [`evaluate/rates.py`](../minisd/evaluate/rates.py) | Wilson 1927 |
# | the nearest of all pages | the 350,000 most repeated pictures, 500 drawings for each | [`evaluate/protocol.py`](../minisd/evaluate/protocol.py) | Carlini et al. 2023 |
#
# **Play.** Count again with guidance 1. Take the next twenty prompts. Swap other words: "a boat riding a
# cat". Be a milder judge, to whom only the things must be right. Show the judge noise, a bare page, a
# photograph: what does it find?
#
# *Stuck in an exercise? The answers are in [`lesson_10.py`](../minisd/lessons/lesson_10.py).*

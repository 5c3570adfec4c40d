# %% [markdown]
# # 06 · Words into vectors
#
# **How does text enter?**
#
# *40 minutes to read, a minute to run. You need a little PyTorch and the overview of notebook 01.*
#
# A UNet adds and multiplies. It cannot read. So before the first denoising step, and only once, the
# prompt is turned into 77 vectors. A tokenizer cuts it into pieces and replaces each piece by a number, a
# table turns the numbers into vectors, and the vectors exchange information. The strangest part is how
# the vectors get their meaning: by looking at pictures.

# %%
import random
import warnings
from collections import Counter

import torch
import torch.nn.functional as F

from minisd import CLIPTextModel, CLIPTokenizer
from minisd.image import to_tensor
from minisd.lessons import lesson_06 as lesson
from minisd.lessons import shapes, unless_fast, you_are_here
from minisd.tiny import picture_book as book
from minisd.train.clip import contrastive_loss, end_token_state, shortest

you_are_here("text encoder")

# %% [markdown]
# ## Pieces
#
# A network needs text as a list of numbers. Each number is an index into a fixed vocabulary. A vocabulary
# of words would never be complete: there is always one more word, and every typing error is a new one.
# Letters would work, but a prompt would then be hundreds of letters long, and `h` alone means nothing.
# *Byte-pair encoding* lies in between: it keeps frequent words whole and splits rare ones into pieces
# ([Sennrich et al. 2016](https://arxiv.org/abs/1508.07909), §3.2; with bytes instead of letters, Radford
# et al. 2019, §2.2).
#
# The pieces are learnt by counting. Start with letters. Find the pair of neighbours that occurs most
# often and join it into one piece. Repeat. We use 2000 captions from the [picture
# book](../minisd/tiny/picture_book.py), the only world that our tiny model knows. (`</w>` marks the end
# of a word.)

# %%
rng = random.Random(0)
texts = [book.caption(book.sample(rng), rng) for _ in range(2000)]
words = Counter(word for text in texts for word in text.split())
print(texts[0], "|", texts[1], "|", texts[2])
print(lesson.letters("riding"), "→", lesson.join(lesson.letters("riding"), ("i", "n")))

# %% [markdown]
# > **Predict.** Which pair will be joined first? Think of `red`, `on`, `the`, `of`, `balloon`,
# > `astronaut`.

# %%
spelled = {word: lesson.letters(word) for word in words}
for step in range(5):
    pairs = Counter()
    for word, parts in spelled.items():
        for pair in zip(parts, parts[1:]):
            pairs[pair] += words[word]
    pair, count = pairs.most_common(1)[0]
    spelled = {word: lesson.join(parts, pair) for word, parts in spelled.items()}
    print(f"merge {step}: {' + '.join(pair):<10} {count} times")

# %% [markdown]
# That is all there is to training a tokenizer. Our tiny model's tokenizer was trained in the same way,
# with more merges and on ten times as many captions:

# %%
tokenizer = CLIPTokenizer.from_pretrained("tiny", subfolder="tokenizer")
print("its first merges:", [" + ".join(pair) for pair in tokenizer.merges[:5]])
print(f"{len(tokenizer.vocab)} tokens: 2 · 256 bytes, {len(tokenizer.merges)} merges, start, end")

# %% [markdown]
# The first merges of that tokenizer are the ones that we have just learnt, except for the order of pairs
# that are about equally frequent. Each merge makes a new token. The vocabulary begins with the 256 bytes,
# so that every text can be spelled, followed by the same 256 bytes marked as the end of a word. Stable
# Diffusion's vocabulary is built in the same way from far more text: 48,894 merges, so 49,408 tokens.
#
# To tokenize a word, replay the merges: of all pairs of neighbours in the word, join the one that was
# learnt *earliest*. Repeat until the word contains no pair that was learnt.

# %%
ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}  # when each pair was learnt
for note, parts in lesson.merges_of("astronaut", ranks):
    print(f"{note:<10} {'  '.join(parts)}")
whole = sum(len(tokenizer.bpe.encode(word).ids) == 1 for word in book.WORDS)
print(f"{whole} of the {len(book.WORDS)} words of the picture book are one token")

# %% [markdown]
# The word `astronaut` is frequent enough to be one token, like the other words of the picture book.
#
# > **Predict.** No caption contains a starfish. Into which pieces will the word be split? And what
# > happens to a ☃?

# %%
names = {number: token for token, number in tokenizer.vocab.items()}
for word in ("starfish", "ballroom", "☃"):
    print(f"{word:<10} {'  '.join(names[i] for i in tokenizer.bpe.encode(word).ids)}")

# %% [markdown]
# `starfish` ends in the same token as `fish`; what the model makes of that is another question. The
# snowman becomes three bytes (its UTF-8 encoding, shown as letters). So the tokenizer accepts every text,
# even one with unknown characters.
#
# ### Exercise 1 · The merge loop
#
# Write the loop that splits a word. `lesson.letters` and `lesson.join` are the functions from above.
# `ranks` tells when a pair was learnt: 0 is the earliest, and pairs that are not in `ranks` were never
# learnt.


# %%
def my_pieces(word, ranks):
    """The tokens of a word, as a list of strings."""
    parts = lesson.letters(word)
    return ...


# %%
lesson.merge_loop.check(my_pieces)

# %% [markdown]
# ## 77 boxes
#
# The ids of a prompt are placed between a start and an end token, and the remaining positions up to 77
# are filled with padding. Stable Diffusion 1 pads with the end token, Stable Diffusion 2 with id 0, which
# is the `!`. (In the diffusers version of Stable Diffusion 2, even a `!` that you type gets the padding
# id; OpenCLIP's own tokenizer treats it as a word.)

# %%
prompt = "a cat riding a horse at sunset"
ids = tokenizer(prompt).input_ids
v2 = CLIPTokenizer(tokenizer.vocab, tokenizer.merges, pad="!")(prompt).input_ids
end = ids[0].tolist().index(tokenizer.end_id)
tokens = ["start", *prompt.split(), "end"]
lesson.show_boxes(ids[0].tolist(), v2[0].tolist(), tokens + ["padding"] * (77 - len(tokens)))
shapes(ids=(ids, (1, 77)))

# %% [markdown]
# > **Predict.** All 77 boxes count: the UNet has no mask that hides the padding. So what are the 77
# > numbers of the empty prompt? And what happens to a prompt of 80 words?

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    rows = tokenizer(["", "cat " * 77 + "on the beach"]).input_ids
for row in rows.tolist():
    print(*row[:4], "…", *row[-3:])
print(said[0].message)

# %% [markdown]
# The empty prompt is a start token, an end token and 75 padding tokens. It is a prompt like any other,
# and an important one: guidance uses it at every step (notebook 08). Only 75 tokens of the long prompt
# fit. The rest is cut off, including the beach: this is the limit that users of Stable Diffusion run
# into.
#
# ## Ids into vectors
#
# The first layer of the [text encoder](../minisd/clip.py) is a table with a row of 128 numbers for each
# token. A second table has a row for each of the 77 positions. The row of a token and the row of its
# position are added.

# %%
text_encoder = CLIPTextModel.from_pretrained("tiny", subfolder="text_encoder")
looked_up = text_encoder.token_embedding(ids)  # a row for each id
x = looked_up + text_encoder.position_embedding.weight
states = text_encoder(ids).last_hidden_state  # after all layers
shapes(ids=(ids, (1, 77)), x=(x, (1, 77, 768)), states=(states, (1, 77, 768)))

# %% [markdown]
# The outputs of the last layer are the *states*: one vector for each of the 77 positions.
#
# In the picture book `kitten` is another word for `cat`, and `sphere` for `ball`: synonyms are drawn in
# exactly the same way.
#
# > **Predict.** Compare two vectors by the cosine of the angle between them: 1 means the same direction,
# > 0 means unrelated. What is the cosine between the rows of `cat` and `kitten` in the token table? And
# > between the states of `a cat` and `a kitten` at the end token, after the last layer?


# %%
def in_table(word):
    return text_encoder.token_embedding.weight[tokenizer.vocab[word + "</w>"]]


def at_end(text):
    ids = tokenizer(text).input_ids
    return end_token_state(text_encoder(ids).last_hidden_state, ids)[0]


for a, b in (("cat", "kitten"), ("ball", "sphere"), ("astronaut", "spaceman"), ("cat", "house")):
    before = F.cosine_similarity(in_table(a), in_table(b), dim=0)
    after = F.cosine_similarity(at_end(f"a {a}"), at_end(f"a {b}"), dim=0)
    print(f"{a + ', ' + b:<20} in the table {before:5.2f}   at the end {after:5.2f}")

# %% [markdown]
# In the table, synonyms are only slightly similar, but more similar than random vectors. (Two random
# directions of 128 numbers have a cosine of 0 ± 0.09.) After the transformer, the states of synonyms are
# almost identical. The table holds a trace of what a word means; the layers add the rest.
#
# ## Who attends to whom
#
# The layers are four transformer blocks. In each, every position looks at the others (attention, see
# notebook 07) and takes in some of what it sees; then two linear layers with a nonlinearity between them
# act on each position separately. A *causal mask* restricts the attention: a position sees itself and
# earlier positions, never later ones.
#
# > **Predict.** Replace one token of the prompt by another one, `box`. Which of the states will change?
# > Repeat this for each token and put all changes into a table: what does it look like?

# %%
changes = torch.zeros(len(tokens), len(tokens))
for k in range(len(tokens)):
    other = ids.clone()
    other[0, k] = tokenizer.vocab["box</w>"]
    changes[k] = (text_encoder(other).last_hidden_state - states)[0, : len(tokens)].norm(dim=1)
lesson.show_changes(changes, tokens)

# %% [markdown]
# The table is a triangle. Replacing token $k$ changes the states from $k$ onwards. For earlier states the
# change is not just small but exactly 0: the first `a` cannot know that a cat will follow.
#
# The mask comes from language models, which must not see the word that they have to predict. Our text
# encoder predicts no words, but it is one half of a CLIP (*contrastive language–image pre-training*; see
# the last section of this notebook). CLIP's authors kept the mask so that they could start from a
# language model or train one alongside, but did neither ([Radford et al.
# 2021](https://arxiv.org/abs/2103.00020), §2.4). Because of the mask, the end token is the first one that
# has read the whole prompt. And the tokens after the end token, such as the padding `!` of Stable
# Diffusion 2, change no earlier state:

# %%
moved = (text_encoder(v2).last_hidden_state - states)[0].norm(dim=1)
length = states.norm(dim=-1).mean()
print(f"v2's padding changes the states up to the end token by {moved[: end + 1].max():.0f}")
print(f"and those after it by up to {moved[end + 1 :].max():.0f}; a state has length {length:.0f}")

# %% [markdown]
# ## What a state knows
#
# Take captions like `a red cat on the beach`: 10 colours, 19 things, 5 places. What does each state know?
# Can we read the thing from the state of `red`, or the place from the state of `cat`? *Reading* here
# means predicting with a linear map, the simplest tool there is. It is fitted to 1000 captions and tested
# on 1000 others.

# %%
colors, things = list(book.COLORS), list(book.THINGS)
places = ["on the beach", "on the grass", "in the snow", "in the night", "in the sunset"]
answers = torch.tensor(
    [[rng.randrange(len(of)) for of in (colors, things, places)] for _ in range(2000)]
).T  # (3, 2000)
texts = [f"{book.with_article(colors[i])} {things[j]} {places[k]}" for i, j, k in answers.T]

# %%
rows = text_encoder(tokenizer(texts).input_ids[:, :10]).last_hidden_state.double()
shapes(rows=(rows, (2000, 10, 768)))


def can_read(answer, row):
    """How often a linear map of a row's states, fitted to the first 1000, is right about the rest."""
    wanted = F.one_hot(answer).double()
    reader = torch.linalg.lstsq(rows[:1000, row], wanted[:1000]).solution
    return ((rows[1000:, row] @ reader).argmax(dim=1) == answer[1000:]).float().mean()


# %% [markdown]
# > **Predict.** Chance is 10 % for the colour, 5 % for the thing, 20 % for the place. At the position of
# > the thing, how often is the linear map right about each of the three? And can anything be read from
# > the state of the article?

# %%
shares = torch.tensor([[can_read(answer, row) for row in range(10)] for answer in answers])
columns = ["start", "a/an", "red", "cat", "on/in", "the", "beach", "end", "padding", "padding"]
lesson.show_knowledge(shares, ["which colour?", "which thing?", "which place?"], columns)

# %% [markdown]
# Every state knows its own word and all words before it, and nothing about later words. Knowledge only
# grows. Even the article tells a little (after `an` only orange is possible), and `on` leaves only two of
# the five places. From the last word of the place onwards, and in all of the padding, all three answers
# can be read.
#
# Keep this figure in mind. The UNet will look at all 77 states. The state of `cat` contains not just the
# cat but also what came before it. And the cat is in every later state.
#
# ## Which prompts are similar
#
# Back to the state of the end token, which has read the whole prompt.
#
# > **Predict.** Sort these five pairs, the most similar first.

# %%
for a, b in (
    ("a red ball", "a green ball"),
    ("a red ball", "a pink ball"),
    ("a ball on the beach", "a ball at the beach"),
    ("a ball on the beach", "a ball at night"),
    ("a cat above a horse", "a horse above a cat"),
):
    print(f"{F.cosine_similarity(at_end(a), at_end(b), dim=0):.2f}  {a}, {b}")

# %% [markdown]
# Two phrases for the same place are almost identical. Red is closer to pink than to green. And the order
# of cat and horse makes a difference, although the words are the same. That is not automatic: large CLIPs
# treat a sentence almost as a bag of words, and respect word order better when their training adds
# sentences in the wrong order as negative examples ([Yuksekgonul et al.
# 2023](https://arxiv.org/abs/2210.01936)). Ours was trained that way.
#
# Now compare all 19 things: `a ball`, `a box`, `a star` …
#
# > **Predict.** What will the text encoder find most similar to a star: a flower, a balloon, a bird, or a
# > rocket?

# %%
things.sort(key=lambda thing: colors.index(book.USUAL_COLOR[thing]))
ends = F.normalize(torch.stack([at_end(book.with_article(thing)) for thing in things]), dim=1)
likeness = ends @ ends.T
lesson.show_likeness(likeness, things, [book.USUAL_COLOR[thing] for thing in things])

# %%
nearest = [things[i] for i in (likeness - 2 * torch.eye(len(things))).argmax(dim=1)]
same = sum(book.USUAL_COLOR[a] == book.USUAL_COLOR[b] for a, b in zip(things, nearest))
print("  ".join(f"{a} → {b}" for a, b in zip(things, nearest)))
print(f"{same} of {len(things)} share the colour of the nearest thing; by chance it would be 1")

# %% [markdown]
# In the picture book each thing has a usual colour, which it gets if the caption names none: a star is
# yellow, and so is a bird. No caption ever says so; only the pictures show it. But how did a network that
# reads text get to see pictures?
#
# ## A minute of CLIP
#
# The text encoder comes from a game for two networks ([Radford et al.
# 2021](https://arxiv.org/abs/2103.00020), figure 3). One turns pictures into vectors, the other turns
# captions into vectors. They receive $N$ pictures and their $N$ captions and have to find out which
# belong together: in the $N \times N$ table of all cosines, the cosine of a picture and its own caption
# has to be the largest in its row and in its column. Each row is a classification among $N$ answers, and
# so is each column. The loss is the mean of two cross-entropies, one over the rows and one over the
# columns:
#
# $$\mathcal L = \tfrac12\,\mathrm{CE}(s\,P C^\top) + \tfrac12\,\mathrm{CE}(s\,C P^\top), \qquad \text{where the right answer of row } i \text{ is } i.$$
#
# $P$ and $C$ are the vectors of pictures and captions, each of length 1. The scale $s$ is learnt too:
# cosines never exceed 1, and without a scale no softmax could be confident.
#
# ### Exercise 2 · The contrastive loss in four lines
#
# `pictures` and `captions` are (N, D), with vectors of any length. `F.cross_entropy(logits, answers)`
# takes the softmax of each row and averages over the rows.


# %%
def my_loss(pictures, captions, scale):
    pictures, captions = ...  # of length 1
    similarity = ...  # (N, N)
    answers = ...
    return ...


# %%
lesson.contrastive.check(my_loss)

# %% [markdown]
# The two networks have the architecture of the CLIP that trained the built-in text encoder
# ([`train/clip.py`](../minisd/train/clip.py)), but they are smaller, with two layers of width 64 each,
# and start from random weights. Their pictures are 32×32 (for Stable Diffusion's CLIP, 224×224).

# %%
torch.manual_seed(0)
clip = lesson.small_clip(len(tokenizer.vocab))
print(f"{sum(weights.numel() for weights in clip.parameters()):,} weights")


def pairs(numbers):
    """Random pages of the book: pictures (B, 3, 32, 32) and their captions' ids (B, T)."""
    rngs = [random.Random(number) for number in numbers]
    scenes = [book.sample(rng) for rng in rngs]
    pixels = torch.stack([to_tensor(book.draw(scene, size=32)) for scene in scenes])
    ids = tokenizer([book.caption(scene, rng) for scene, rng in zip(scenes, rngs)]).input_ids
    return pixels, shortest(ids, tokenizer.end_id)  # nothing after the end token matters


# %% [markdown]
# > **Predict.** Train on 300 batches of 64 pairs, then test on 256 pages that the networks have never
# > seen. How often will they pick the right caption for a page out of all 256? Chance is 0.4 %.


# %%
@torch.no_grad()
def cosines(pixels, ids):
    return clip(pixels, ids) / clip.logit_scale.exp()


def found(cosines):
    """How often a picture's own caption comes first."""
    return (cosines.argmax(dim=1) == torch.arange(len(cosines))).float().mean()


balls = [book.Scene((book.Thing("ball", color, x=0.5, y=0.5, scale=0.33),)) for color in colors]
balls = torch.stack([to_tensor(book.draw(ball, size=32)) for ball in balls])
captions = [f"{book.with_article(color)} ball" for color in colors]
captions = tokenizer(captions).input_ids[:, :5]  # including the end token

# %%
fresh = pairs(range(1_000_000, 1_000_256))
before, found_before = cosines(balls, captions), found(cosines(*fresh))

steps = unless_fast(300, 3)
optimizer = torch.optim.AdamW(clip.parameters(), weight_decay=0.05)
pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
for step in range(steps):
    loss = contrastive_loss(clip(*pairs(range(64 * step, 64 * step + 64))))  # Exercise 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    pace.step()

# %%
print(f"own caption found among 256: {found_before:.1%} before, {found(cosines(*fresh)):.0%} after")
after = cosines(balls, captions)
lesson.show_training(before, after, colors)

# %% [markdown]
# In a minute the networks have gone from chance to about every second page, although nobody ever defined
# a colour. Look off the diagonal, too: purple is near pink and blue, orange near yellow and brown, green
# far from red. The colours have arranged themselves as on a colour wheel, although the networks were told
# only which caption belongs to which picture.
#
# The encoder of our tiny model was trained in the same way, with larger networks and for longer. Its
# batches also contained, for every page, a twin that differs in one respect, so the encoder had to get
# every word right. The encoder of Stable Diffusion 1 is OpenAI's CLIP, trained on 400 million pictures
# from the internet with the text next to them (Radford et al. 2021, §2.2).
#
# After training, the image network is set aside. The text network is *frozen*, and the UNet learns to
# draw from its states. The UNet uses all of these states, although CLIP's loss only looks at the state of
# the end token. The other states turn out to be useful, too, although nobody trained them for that.
#
# ## In Stable Diffusion 1.5 this is …
#
# | here | in SD 1.5 | code | paper |
# |---|---|---|---|
# | 220 merges, 734 tokens | 48,894 merges, 49,408 tokens; lower case, too; start 49406, end and padding 49407 | [`tokenizer.py`](../minisd/tokenizer.py) | Sennrich et al. 2016, §3.2 |
# | `astronaut` is one token | there, too: "a photograph of an astronaut riding a horse" is 320 8853 539 550 18376 6765 320 4558 | [`tokenizer.py`](../minisd/tokenizer.py) | |
# | padding with the end token, or id 0 | the end token; id 0 in Stable Diffusion 2 | [`tokenizer.py`](../minisd/tokenizer.py) | |
# | a table of 734 rows of 128 numbers, 77 positions | 49,408 rows of 768, 77 positions | [`clip.py`](../minisd/clip.py) | Radford et al. 2021, §2.4 |
# | 4 blocks, 4 heads, causal | 12 blocks, 12 heads, causal; 123 million weights | [`clip.py`](../minisd/clip.py) | Radford et al. 2021, §2.4 and appendix F |
# | `states` (1, 77, 128), after the final norm | (1, 77, 768), also after the final norm; Stable Diffusion 2 skips the last of 24 blocks | [`clip.py`](../minisd/clip.py) | Rombach et al. 2022, §3.3 |
# | `contrastive_loss`, batches of 64 | the same, batches of 32,768 | [`train/clip.py`](../minisd/train/clip.py) | Radford et al. 2021, figure 3 and §2.5 |
#
# **Play.** Let notebook 01 draw "a starfish". Read the colour from the *difference* of two states. Train
# the small CLIP on pages of one colour: which cosines can it not learn? Give it 3000 steps, and ask its
# text network what is similar to a star.
#
# *Stuck on an exercise? The answers are in [`lesson_06.py`](../minisd/lessons/lesson_06.py).*

"""Notebook 06, words into vectors: byte-pair merges step by step, the figures, and the exercises."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from torch import Tensor

from ..config import TINY_TEXT, TINY_VISION
from ..tokenizer import CLIPTokenizer
from ..train.clip import CLIP, contrastive_loss
from .exercise import Exercise, stack
from .figures import DENSITY, GREY, INK, ORANGE, PALE, page, show

Pair = tuple[str, str]

TOKENIZER = CLIPTokenizer.from_pretrained("tiny", subfolder="tokenizer")
RANKS = {pair: rank for rank, pair in enumerate(TOKENIZER.merges)}  # the order in which the pairs were learnt


def letters(word: str) -> list[str]:
    """A word before any merge; the last letter carries the mark of the word's end."""
    return [*word[:-1], word[-1] + "</w>"]


def join(parts: Sequence[str], pair: Pair) -> list[str]:
    """The parts, with every occurrence of the pair joined."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def merges_of(word: str, ranks: Mapping[Pair, int], start=letters, choose=min) -> Iterator[tuple[str, list[str]]]:
    """Yield the states of a word from letters to tokens, each with the merge that led to it: always the pair learnt earliest."""
    parts = start(word)
    yield "letters", parts
    while pairs := [pair for pair in zip(parts, parts[1:]) if pair in ranks]:
        pair = choose(pairs, key=ranks.__getitem__)
        parts = join(parts, pair)
        yield f"merge {ranks[pair]}", parts


def small_clip(vocab_size: int) -> CLIP:
    """Two towers with random weights, small enough to train in a minute; the pictures are 32×32."""
    small = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIP(replace(TINY_TEXT, vocab_size=vocab_size, **small), replace(TINY_VISION, image_size=32, **small), dim=64)


def show_boxes(v1: Sequence[int], v2: Sequence[int], tokens: Sequence[str]):
    """The 77 ids of a prompt, its tokens with their names; v2's padding in orange."""
    columns, rows = 11, 7
    figure, ax = page(height=3.6)
    for i, (ours, theirs) in enumerate(zip(v1, v2)):
        x, y, padding = i % columns, rows - 1 - i // columns, ours != theirs
        ax.add_patch(Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, facecolor=PALE if padding else "white", edgecolor=GREY))
        if padding:
            ax.text(x + 0.33, y + 0.5, ours, ha="center", va="center", size=8.5)
            ax.text(x + 0.74, y + 0.5, theirs, ha="center", va="center", size=8.5, color=ORANGE, weight="bold")
        else:
            ax.text(x + 0.5, y + 0.5, f"{tokens[i]}\n{ours}", ha="center", va="center", size=8.5)
    ax.set(xlim=(0, columns), ylim=(0, rows), title="the prompt, then padding (left: v1, right: v2)")
    ax.set_axis_off()
    show(
        figure,
        "77 boxes in seven rows of eleven. The first boxes hold the start token, the words and the end token, each with its id. "
        f"All others are grey and hold padding: the end token's id {v1[-1]} for v1, and in orange {v2[-1]} for v2.",
    )


def heatmap(ax: Axes, values: Tensor, rows: Sequence[str], columns: Sequence[str], form: str = "") -> AxesImage:
    """Numbers as shades of blue, from white at 0 and below to dark at 1; with a `form`, digits are shown too."""
    shades = ax.imshow(values, cmap=DENSITY, vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(values.tolist() if form else []):
        for j, value in enumerate(row):
            ax.text(j, i, format(value, form), ha="center", va="center", size=8.5, color="white" if value > 0.6 else INK)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return shades


def show_changes(changes: Tensor, tokens: Sequence[str]):
    """How much each state (columns) changes when a token (rows) is replaced."""
    figure, ax = page(height=3.4)
    heatmap(ax, changes / changes.max(), tokens, tokens)
    for i, j in (changes == 0).nonzero().tolist():
        ax.text(j, i, "0", ha="center", va="center", size=8.5, color=GREY)
    ax.xaxis.tick_top()
    ax.set(xlabel="state of … (stronger colour: larger change)", ylabel="replaced token")
    show(
        figure,
        "A table of shades with a row for each replaced token and a column for each state. Cells on the diagonal and to the "
        "right of it are blue; all cells to the left are white and say 0.",
    )


def show_knowledge(shares: Tensor, questions: Sequence[str], tokens: Sequence[str]):
    """How often the answer to each question can be read from the state of each token."""
    figure, ax = page(height=2.0)
    heatmap(ax, shares, questions, tokens, form=".0%")
    ax.xaxis.tick_top()
    show(
        figure,
        "A table of percentages with a row for each question and a column for each token. In each row the left cells are near "
        "chance, and from the token that gives the answer onwards they are near 100 %: first for the colour, then the thing, "
        "then the place.",
    )


def show_likeness(likeness: Tensor, words: Sequence[str], groups: Sequence[str]):
    """The cosines between the states of words, which are sorted and labelled by group."""
    figure, ax = page(height=5.2)
    shades = heatmap(ax, likeness, [f"{word}  ({group})" for word, group in zip(words, groups)], words)
    figure.colorbar(shades, ax=ax, label="cosine (0 or less is blank)", shrink=0.7)
    ax.tick_params(axis="x", rotation=90)
    ax.set_aspect("equal")
    for group in dict.fromkeys(groups):
        first, count = groups.index(group), groups.count(group)
        ax.add_patch(Rectangle((first - 0.5, first - 0.5), count, count, fill=False, edgecolor=ORANGE, linewidth=1.5))
    show(
        figure,
        f"A square of shades, {len(words)} things by {len(words)}, sorted by their usual colour. Off the diagonal, many of the "
        "darkest cells lie in the orange frames along it, each around the things of one colour.",
    )


def show_training(before: Tensor, after: Tensor, words: Sequence[str]):
    """The cosines of pictures (rows) and captions (columns) before and after training."""
    figure, axes = page(1, 2, height=3.7)
    for ax, cosines, title in zip(axes, (before, after), ("before", "after")):
        shades = heatmap(ax, cosines, words, words)
        ax.tick_params(axis="x", rotation=90)
        ax.set(title=title, xlabel="caption: a … ball", ylabel="picture of a ball", aspect="equal")
    figure.colorbar(shades, ax=axes, label="cosine (0 or less is blank)", shrink=0.7)
    show(
        figure,
        "Two squares of shades, pictures of balls in ten colours against their ten captions. Before training everything is nearly "
        "white; after training the diagonal is darkest, and similar colours such as purple and pink are dark too.",
    )


PIECES = ("balloon", "ballroom", "fishing", "rainbow", "starfish", "a", "spacemen")


def ids_of(merge) -> list[int]:
    try:
        return [TOKENIZER.vocab[token] for word in PIECES for token in merge(word, RANKS)]
    except KeyError as error:
        raise LookupError(f"{error} is not in the vocabulary or not in ranks: stop when no pair of the word is in ranks") from None


def spell(word: str, ranks: Mapping[Pair, int], **slips) -> list[str]:
    """A word's tokens."""
    return list(merges_of(word, ranks, **slips))[-1][1]


def longest_first(word: str, ranks: Mapping[Pair, int]) -> list[str]:
    """The longest token that fits, from the left."""
    parts, rest = [], letters(word)
    while rest:
        length = next(n for n in range(len(rest), 0, -1) if "".join(rest[:n]) in TOKENIZER.vocab)
        parts, rest = parts + ["".join(rest[:length])], rest[length:]
    return parts


merge_loop = Exercise(
    answer=spell,
    mistakes={
        "take the pair that was learnt first, not the leftmost pair": lambda word, ranks: spell(
            word, ranks, choose=lambda pairs, key: pairs[0]
        ),
        "the pair learnt first has the smallest rank": lambda word, ranks: spell(word, ranks, choose=max),
        "the last letter carries the mark of the word's end: start from lesson.letters(word)": lambda word, ranks: spell(
            word, ranks, start=list
        ),
        "one merge is not enough: continue until no pair of the word is in ranks": lambda word, ranks: list(merges_of(word, ranks))[
            :2
        ][-1][1],
        "that takes the longest piece that fits; apply the merges in the order in which they were learnt": longest_first,
    },
    run=ids_of,
)

FEATURES = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(6))


def loss(pictures: Tensor, captions: Tensor, scale: float, normalize=F.normalize) -> Tensor:
    return contrastive_loss(scale * normalize(pictures, dim=-1) @ normalize(captions, dim=-1).T)


def one_way(pictures: Tensor, captions: Tensor, scale: float) -> Tensor:
    """Each picture looks for its caption, but no caption looks for its picture."""
    similarity = scale * F.normalize(pictures, dim=-1) @ F.normalize(captions, dim=-1).T
    return F.cross_entropy(similarity, torch.arange(len(similarity)))


contrastive = Exercise(
    answer=loss,
    mistakes={
        "a cosine is a product of vectors of length 1: use F.normalize(…, dim=-1)": lambda pictures, captions, scale: loss(
            pictures, captions, scale, normalize=lambda x, dim: x
        ),
        "pictures find their captions; captions must find their pictures too": one_way,
        "captions find their pictures; pictures must find their captions too": lambda pictures, captions, scale: one_way(
            captions, pictures, scale
        ),
        "the mean of the two, not their sum": lambda pictures, captions, scale: 2 * loss(pictures, captions, scale),
        "cosines lie between -1 and 1, too close together for a softmax: where is the scale?": lambda pictures, captions, scale: (
            loss(pictures, captions, 1.0)
        ),
    },
    run=lambda loss: stack(loss(*FEATURES.clone(), scale) for scale in (5.0, 14.0)),
)

"""Trains the text encoder: contrastive learning matches captions and images (Radford et al. 2021, figure 3).

Each image's twin (see `twins`) is in the same batch. Captions are incomplete, so a caption may also be true of other images in the
batch. Such pairs are not negatives, and the loss excludes them.
"""

import random
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..config import TINY_TEXT, TINY_VISION
from ..image import to_pil
from ..processes import rank_and_world, wait_for_all
from ..tokenizer import CLIPTokenizer
from ..train.clip import CLIP, contrastive_loss, of_all, shortest
from ..train.loop import Recipe, device, train
from .captions import phrase
from .muon import muon
from .picture_book import Scene
from .pictures import as_tensor, rendered
from .twins import RESPECTS, mentions, picture, scene_and_twin, truth_of
from .words import learn_tokenizer

RECIPE = Recipe(steps=4000, batch_size=128, learning_rate=1e-3, weight_decay=0.05)
PAIRS = 30_000  # of scenes and their twins, drawn once; their captions are regenerated every time
TEST_PAIRS = 100  # per respect
VISION = TINY_VISION

SHEET = [
    "an astronaut riding a horse", "a photo of a red ball", "a blue cat on the beach", "a pencil drawing of a dragon",
    "a watercolour of a house", "a dog that looks left", "a small star at night", "a boat below a balloon",
]  # fmt: skip


def test_picture(i: int) -> Scene:
    return test_pair(i // 2)[i % 2]


def test_pair(i: int) -> tuple[Scene, Scene, str]:
    return scene_and_twin(i, respect=list(RESPECTS)[i // TEST_PAIRS])


def seeds_of_all(recipe: Recipe, step: int) -> list[random.Random]:
    """One random generator for each pair of the whole batch, in the order in which `of_all` joins the shares of the processes."""
    world, pairs = rank_and_world()[1], recipe.batch_size // 2
    return [random.Random(f"{recipe.seed}/{step}/{i}") for rank in range(world) for i in range(rank, pairs, world)]


def small(pictures: np.ndarray) -> Tensor:
    """Images at the input size of the image encoder."""
    return F.avg_pool2d(as_tensor(pictures), pictures.shape[1] // VISION.image_size)


def masked(similarity: Tensor, truth: Tensor) -> Tensor:
    """Mask the similarities of pairs in which a caption is true of another's image, which are neither positives nor negatives."""
    others = truth & ~torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    return similarity.masked_fill(others, -torch.inf)


def loss_with(pictures: np.ndarray, tokenizer: CLIPTokenizer, recipe: Recipe = RECIPE):
    def loss_of(model: CLIP, step: int) -> tuple[Tensor, dict[str, float]]:
        seeds = seeds_of_all(recipe, step)
        which = [rng.randrange(len(pictures) // 2) for rng in seeds]
        pairs = [scene_and_twin(i) for i in which]
        requests = [request for pair, rng in zip(pairs, seeds) for request in mentions(*pair, rng)]
        truth = torch.tensor(truth_of(requests, [scene for pair in pairs for scene in pair[:2]])).to(device())
        captions = [phrase(request, random.Random(f"{recipe.seed}/{step}/{i}/words")) for i, request in enumerate(requests)]
        numbers = [2 * i + twin for i in which for twin in (0, 1)]

        rank, world = rank_and_world()
        share = slice(rank * len(captions) // world, (rank + 1) * len(captions) // world)
        ids = shortest(tokenizer(captions[share]).input_ids, tokenizer.end_id).to(device())
        of_pictures, of_captions = model.features(small(pictures[numbers[share]]).to(device()), ids)
        similarity = masked(model.similarity(of_all(of_pictures), of_all(of_captions)).float(), truth)
        return contrastive_loss(similarity), accuracy(similarity.detach())

    return loss_of


def accuracy(similarity: Tensor) -> dict[str, float]:
    """How often an image's own caption ranks before all captions that are not true of it, and before its twin's."""
    here = torch.arange(len(similarity), device=similarity.device)
    first = (similarity.argmax(dim=1) == here).float().mean()
    return {"first": float(first), "before_twin": float(told_apart(similarity).float().mean())}


def told_apart(similarity: Tensor) -> Tensor:
    """For each image, whether its own caption is more similar to it than its twin's."""
    here = torch.arange(len(similarity), device=similarity.device)
    return similarity[here, here] > similarity[here, here ^ 1]


def show_with(pictures: np.ndarray, tokenizer: CLIPTokenizer):
    pairs = [test_pair(i) for i in range(len(pictures) // 2)]
    requests = [r for i, pair in enumerate(pairs) for r in mentions(*pair, random.Random(f"clip test/{i}"))]
    captions = [phrase(request, random.Random(f"clip test/{i}/words")) for i, request in enumerate(requests)]

    @torch.inference_mode()
    def show(model: CLIP, path: Path) -> dict[str, float]:
        """How often twins are distinguished in each respect; writes a sheet of the images most similar to some captions."""
        features = partial(features_of, model, tokenizer)
        parts = [features(pictures[i : i + 100], captions[i : i + 100]) for i in range(0, len(captions), 100)]
        of_pictures, of_captions = (torch.cat(part) for part in zip(*parts))
        asked = features(pictures[:1], SHEET)[1]
        best = (asked @ of_pictures.T).topk(8).indices.tolist()
        sheet(SHEET, [[pictures[i] for i in row] for row in best]).save(path)

        right = defaultdict(list)
        apart = [told_apart(a @ b.T) for a, b in zip(of_pictures.split(100), of_captions.split(100))]
        for (_, _, respect), both in zip(pairs, torch.cat(apart).view(-1, 2).tolist()):
            right[respect] += both
        return {f"twin {respect}": sum(of) / len(of) for respect, of in right.items()}

    return show


def features_of(model: CLIP, tokenizer: CLIPTokenizer, pictures: np.ndarray, captions: list[str]) -> tuple[Tensor, Tensor]:
    ids = shortest(tokenizer(captions).input_ids, tokenizer.end_id)
    return model.features(small(pictures).to(device()), ids.to(device()))


def sheet(captions: list[str], rows: list[list[np.ndarray]]) -> Image.Image:
    """A row of images below each caption."""
    side, line = 64, 14
    page = Image.new("RGB", (side * len(rows[0]), (side + line) * len(rows)), "white")
    for i, (caption, row) in enumerate(zip(captions, rows)):
        ImageDraw.Draw(page).text((2, i * (side + line) + 1), caption, fill="black")
        for j, image in enumerate(to_pil(small(np.stack(row)))):
            page.paste(image, (j * side, i * (side + line) + line))
    return page


def run(folder: Path, recipe: Recipe = RECIPE):
    vocabulary = folder / "clip" / "tokenizer"
    if rank_and_world()[0] == 0 and not vocabulary.exists():
        learn_tokenizer().save_pretrained(vocabulary)
    wait_for_all()
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary)
    pictures = rendered(folder / "twins.uint8", 2 * PAIRS, picture)
    test = rendered(folder / "test_twins.uint8", 2 * TEST_PAIRS * len(RESPECTS), test_picture)
    torch.manual_seed(recipe.seed)
    model = CLIP(replace(TINY_TEXT, vocab_size=len(tokenizer.vocab)), VISION)
    train(folder / "clip", model, recipe, loss_with(pictures, tokenizer, recipe), show_with(test, tokenizer), optimizer_of=muon)

"""The second judge: CLIP must find the prompt more similar to the image than every prompt that differs from it in one aspect.

It shares nothing with the first judge except the training images. It cannot count, so it does not notice an extra thing.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import TINY_TEXT
from ...tokenizer import CLIPTokenizer
from ...train.clip import CLIP, shortest
from ...train.loop import device
from ...train.state import finished
from ..captions import phrase
from ..clip import VISION
from ..picture_book import COLORS, RIDERS, SCENERY, SEATS, STYLES, THINGS, Request
from ..twins import OPPOSITE, turned
from .prompts import Prompt
from .rates import Judge, Verdict


def alternatives(request: Request) -> Iterator[tuple[str, Request]]:
    """All requests that differ from this one in one aspect, with the name of the aspect."""

    def with_new(name: str, i: int, value: str) -> Request:
        values = getattr(request, name)
        return replace(request, **{name: (*values[:i], value, *values[i + 1 :])})

    for i, kind in enumerate(request.kinds):
        kinds = (RIDERS, tuple(SEATS))[i] if request.relation == "riding" else tuple(THINGS)
        yield from (("things", with_new("kinds", i, other)) for other in kinds if other != kind)
    for i, color in enumerate(request.colors):
        if color:
            yield from (("colours", with_new("colors", i, other)) for other in COLORS if other not in (color, request.place))
    if len(set(request.colors) - {None}) == 2:
        yield "colours", replace(request, colors=request.colors[::-1])
    yield from (("direction", with_new("looks", i, OPPOSITE[look])) for i, look in enumerate(request.looks) if look)
    yield from (("size", with_new("sizes", i, OPPOSITE[size])) for i, size in enumerate(request.sizes) if size)
    if request.relation in ("left", "above"):
        yield "relation", turned(request)
        yield "relation", replace(request, relation={"left": "above", "above": "next"}[request.relation])
    if request.relation == "next":
        yield "relation", replace(request, relation="above")
        yield "relation", replace(turned(request), relation="above")
    if request.place:
        yield from (("place", replace(request, place=other)) for other in (*SCENERY, *COLORS) if other != request.place)
    if request.style:
        yield from (("style", replace(request, style=other)) for other in STYLES if other != request.style)


def judge_with(model: CLIP, tokenizer: CLIPTokenizer) -> Judge:
    side = VISION.image_size

    @torch.inference_mode()
    def verdict(picture: Tensor, prompt: Prompt) -> Verdict:
        others = list(alternatives(prompt.request))
        texts = [phrase(request, random.Random(prompt.text)) for request in (prompt.request, *(other for _, other in others))]
        small = F.adaptive_avg_pool2d(picture[None], side)
        ids = shortest(tokenizer(texts).input_ids, tokenizer.end_id)
        of_picture, of_texts = model.features(small.to(device()), ids.to(device()))
        own, *rest = (of_picture @ of_texts.T)[0].tolist()
        result: Verdict = {}
        for (aspect, _), similarity in zip(others, rest):
            result[aspect] = result.get(aspect, True) and own > similarity
        return result

    return lambda pictures, prompts: [verdict(picture, prompt) for picture, prompt in zip(pictures.float(), prompts)]


def trained(folder: Path) -> Judge:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip" / "tokenizer")
    model = finished(folder / "clip", CLIP(replace(TINY_TEXT, vocab_size=len(tokenizer.vocab)), VISION))
    return judge_with(model.to(device()), tokenizer)

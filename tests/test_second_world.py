"""The second edition's world: scenes keep their promises, captions tell the truth, and the four styles differ."""

import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from minisd.second import captions, picture_book
from minisd.second.captions import WORDS, caption, mention, phrase
from minisd.second.drawing import THINGS, draw
from minisd.second.picture_book import (
    COLORS,
    DIRECTED,
    RELATIONS,
    RIDERS,
    SCENERY,
    SEATS,
    SIZES,
    STYLES,
    Request,
    Scene,
    compose,
    is_held_out,
    sample,
)

FIRST_EDITION = {
    "an astronaut riding a horse": Request(("astronaut", "horse"), relation="riding"),
    "a red ball": Request(("ball",), ("red",)),
    "a blue cat on the beach": Request(("cat",), ("blue",), place="beach"),
    "a green dragon at night": Request(("dragon",), ("green",), place="night"),
    "a yellow star on a purple background": Request(("star",), ("yellow",), place="purple"),
}


def scenes(count: int, held_out: bool = False) -> list[Scene]:
    rng = random.Random(1)
    return [sample(rng, held_out) for _ in range(count)]


def pixels(scene: Scene, size: int = 64) -> np.ndarray:
    return np.asarray(draw(scene, size), np.float32)


def words(text: str) -> list[str]:
    return re.findall("[a-z]+", text)


@pytest.mark.parametrize("style", STYLES)
def test_a_scene_is_always_drawn_alike(style):
    scene = replace(scenes(1)[0], style=style)
    assert draw(scene).size == (128, 128) and draw(scene).mode == "RGB"
    assert draw(scene, 64).size == (64, 64)
    assert np.array_equal(pixels(scene), pixels(scene))
    assert not np.array_equal(pixels(scene), pixels(replace(scene, seed=scene.seed + 1, place="beach")))


def test_two_sizes_show_the_same_picture():
    for scene in scenes(12):
        small, large = pixels(scene), np.asarray(draw(scene, 128).reduce(2), np.float32)
        assert np.abs(small - large).mean() < 8


@pytest.mark.parametrize("style", STYLES)
def test_every_thing_is_drawn_inside_the_page_and_differs_from_its_place(style):
    rng = random.Random(2)
    for kind in THINGS:
        scene = compose(Request((kind,), sizes=("big",), style=style), rng)
        empty = replace(scene, things=())
        assert (np.abs(pixels(scene) - pixels(empty)).max(2) > 40).mean() > 0.1


@pytest.mark.parametrize("style", STYLES)
def test_every_colour_shows_at_every_place(style):
    heart = compose(Request(("heart",), sizes=("big",), style=style), random.Random(3))
    for place in (*COLORS, *SCENERY):
        for color in COLORS:
            if color != place:
                scene = replace(heart, place=place, things=(replace(heart.things[0], color=color),))
                difference = np.abs(pixels(scene, 32) - pixels(replace(scene, things=()), 32)).max(2)
                assert np.sort(difference.ravel())[-60] > 20, (color, place)


def random_request(rng: random.Random) -> Request:
    """Any request of the grammar, possible or not for `sample`."""
    relation = rng.choice(("", *RELATIONS))
    kinds = (rng.choice(RIDERS), rng.choice(list(SEATS))) if relation == "riding" else tuple(rng.choices(list(THINGS), k=2))
    kinds = kinds if relation else kinds[:1]
    maybe = lambda values: rng.choice([None, *values])  # noqa: E731
    return Request(
        kinds,
        tuple(maybe(COLORS) for _ in kinds),
        tuple(maybe(SIZES) for _ in kinds),
        tuple(maybe(("left", "right")) if kind in DIRECTED else None for kind in kinds),
        relation,
        maybe((*COLORS, *SCENERY)),
        maybe(STYLES),
    )


def test_what_is_requested_is_composed():
    rng = random.Random(4)
    for _ in range(2000):
        request = random_request(rng)
        assert request.holds(compose(request, rng))


def test_things_stay_on_the_page_and_apart_from_its_colour():
    for scene in scenes(2000):
        for thing in scene.things:
            assert thing.color != scene.place
            assert thing.x - thing.scale >= 0 and thing.x + thing.scale <= 1
            assert thing.y - thing.scale >= 0 and thing.y + thing.scale <= 1
        if scene.relation in ("left", "above"):
            first, second = scene.things
            assert (first.x < second.x - 0.3) if scene.relation == "left" else (first.y < second.y - 0.3)


def test_captions_are_true_and_say_more_or_less():
    rng, said, possible = random.Random(5), Counter(), Counter()
    for scene in scenes(3000):
        request = mention(scene, rng)
        assert request.holds(scene)
        told = {
            "color": request.colors[0], "size": request.sizes[0], "looks": request.looks[0], "place": request.place,
            "style": request.style,
        }  # fmt: skip
        possible.update(name for name in told if name != "looks" or scene.things[0].looks)
        said.update(name for name, value in told.items() if value)
        said["nothing"] += not any(told.values())
    share = {name: said[name] / possible[name] for name in possible}
    for name, expected in {"color": 0.6, "place": 0.55, "style": 0.5, "size": 0.2, "looks": 0.33}.items():
        assert abs(share[name] - expected) < 0.06, (name, share[name])
    assert said["nothing"] > 300


def test_a_caption_says_what_is_requested_and_nothing_else():
    request = Request(("cat",), ("purple",), ("small",), ("left",), "", "beach", "watercolour")
    texts = {phrase(request, random.Random(i)) for i in range(300)}
    assert "a watercolour of a small purple cat that looks left, on the beach" in texts
    assert all("purple" in text and "small" in text and "left" in text and "beach" in text for text in texts)
    beside = {phrase(Request(("cat", "dog"), relation="left"), random.Random(i)) for i in range(200)}
    assert {"a cat to the left of a dog", "a dog to the right of a cat"} <= beside


def test_prompts_of_the_first_edition_are_still_valid():
    for text, request in FIRST_EDITION.items():
        assert text in {phrase(request, random.Random(i)) for i in range(200)}


def test_every_word_is_used_and_captions_are_short():
    rng, used = random.Random(6), set()
    for scene in scenes(6000):
        text = caption(scene, rng)
        used.update(words(text))
        assert len(words(text)) <= 35  # far below 77 tokens
    assert used == set(WORDS)


def test_held_out_scenes_are_never_sampled_and_each_part_of_them_is():
    seen = scenes(6000)
    assert not any(map(is_held_out, seen)) and all(map(is_held_out, scenes(200, held_out=True)))
    things = [thing for scene in seen for thing in scene.things]
    assert {thing.kind for thing in things} == set(THINGS)
    for kind in THINGS:
        colors = {thing.color for thing in things if thing.kind == kind}
        assert colors == set(COLORS) - forbidden(picture_book.HELD_OUT_COLORS, kind)
        styles = {scene.style for scene in seen for thing in scene.things if thing.kind == kind}
        assert styles == set(STYLES) - forbidden(picture_book.HELD_OUT_STYLES, kind)
    rides = {tuple(thing.kind for thing in scene.things) for scene in seen if scene.relation == "riding"}
    assert rides == {(rider, mount) for rider in RIDERS for mount in SEATS} - picture_book.HELD_OUT_RIDES


def forbidden(pairs, kind):
    return {value for thing, value in pairs if thing == kind}


@pytest.mark.parametrize("style", [None, *STYLES])
def test_an_astronaut_riding_a_horse_is_held_out_in_every_style(style):
    request = Request(("astronaut", "horse"), relation="riding", style=style)
    assert is_held_out(request) and is_held_out(compose(request, random.Random(7)))


def test_a_request_is_held_out_only_if_it_says_so():
    kind, color = next(iter(picture_book.HELD_OUT_COLORS))
    assert is_held_out(Request((kind,), (color,))) and not is_held_out(Request((kind,)))


def test_what_is_not_said_takes_every_value():
    rng = random.Random(8)
    cats = [compose(Request(("cat",)), rng) for _ in range(2000)]
    for values, get, least in (
        (COLORS, lambda scene: scene.things[0].color, 0.06),
        (SIZES, lambda scene: scene.things[0].size, 0.25),
        (("left", "right"), lambda scene: scene.things[0].looks, 0.45),
        (STYLES, lambda scene: scene.style, 0.2),
        ((*COLORS, *SCENERY), lambda scene: scene.place, 0.02),
    ):
        counts = Counter(map(get, cats))
        assert set(counts) == set(values) and min(counts.values()) > least * len(cats)


def test_next_to_holds_either_way_round():
    scene = compose(Request(("cat", "dog"), relation="next"), random.Random(9))
    assert Request(("dog", "cat"), relation="next").holds(scene) and not Request(("dog", "cat"), relation="left").holds(scene)


def test_looking_left_is_looking_right_in_a_mirror():
    scene = replace(compose(Request(("horse",), style="book", place="pink"), random.Random(10)), seed=0)
    thing = replace(scene.things[0], x=0.5, angle=0.0)
    left, right = (pixels(replace(scene, things=(replace(thing, looks=looks),))) for looks in ("left", "right"))
    assert np.abs(left - right).mean() > 5 and np.abs(left[:, ::-1] - right).mean() < 4


def test_styles_differ():
    """In each style the same scenes have other edges, other borders, or other shading."""
    drawn = {style: [pixels(replace(scene, style=style), 128) for scene in scenes(20)] for style in STYLES}
    for i, first in enumerate(STYLES):
        for second in STYLES[i + 1 :]:
            assert np.mean([np.abs(a - b).mean() for a, b in zip(drawn[first], drawn[second])]) > 8, (first, second)
    border = {style: np.mean([picture[:2].mean() for picture in pictures]) for style, pictures in drawn.items()}
    assert min(border["watercolour"], border["pencil"]) > max(border["book"], border["photo"]) + 20
    fine = {style: np.mean([np.abs(np.diff(picture, axis=0)).mean() for picture in pictures]) for style, pictures in drawn.items()}
    assert fine["pencil"] > 1.3 * fine["photo"]


def test_the_dictionaries_of_the_language_cover_the_world():
    assert set(captions.STYLE_WORDS) == {*STYLES, None} and set(captions.PLACE_WORDS) == set(SCENERY)
    assert set(captions.RELATION_WORDS) == set(RELATIONS) and set(captions.SYNONYM) <= set(THINGS)

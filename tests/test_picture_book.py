"""The world: what a scene says is what is drawn and what is written, and what is held out is never drawn."""

import random

import numpy as np
import pytest

from minisd.tiny.drawing import THINGS
from minisd.tiny.picture_book import (
    COLORS,
    HELD_OUT_COLORS,
    HELD_OUT_PAIRS,
    HELD_OUT_RIDES,
    RELATIONS,
    RIDERS,
    SCENERY,
    SEATS,
    USUAL_COLOR,
    WORDS,
    Scene,
    Thing,
    caption,
    compose,
    draw,
    is_held_out,
    sample,
)


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(0)
    return [sample(rng) for _ in range(3000)]


def test_the_world_is_as_large_as_promised():
    assert len(THINGS) >= 16 and {"astronaut", "horse"} <= THINGS.keys()
    assert len(COLORS) == 10 and len(SCENERY) == 5
    assert {phrase for pair in RELATIONS.values() for phrase in pair} == {
        "to the left of", "to the right of", "above", "below", "next to", "riding",
    }  # fmt: skip
    assert USUAL_COLOR.keys() == THINGS.keys()


def test_held_out_is_never_sampled_and_leaves_every_word_and_every_single_thing(scenes):
    assert not any(is_held_out(scene) for scene in scenes)
    alone = {(t.kind, t.color) for scene in scenes for t in scene.things}
    assert alone.isdisjoint(HELD_OUT_COLORS)
    assert {kind for kind, _ in alone} == THINGS.keys() and {color for _, color in alone} == COLORS.keys()
    assert {(kind, USUAL_COLOR[kind]) for kind in THINGS}.isdisjoint(HELD_OUT_COLORS)
    rides = {tuple(t.kind for t in scene.things) for scene in scenes if scene.relation == "riding"}
    assert rides == {(r, m) for r in RIDERS for m in SEATS} - HELD_OUT_RIDES
    assert ("astronaut", "horse") in HELD_OUT_RIDES
    assert len(HELD_OUT_PAIRS) == pytest.approx(len(THINGS) ** 2 / 10, rel=0.1)


def test_the_held_out_can_be_asked_for():
    rng = random.Random(1)
    assert all(is_held_out(sample(rng, held_out=True)) for _ in range(50))


def test_a_seed_is_a_scene():
    assert sample(random.Random(7)) == sample(random.Random(7)) != sample(random.Random(8))


def test_captions_name_what_is_there(scenes):
    rng = random.Random(2)
    for scene in scenes[:500]:
        text = caption(scene, rng)
        assert set(text.split()) <= set(WORDS)
        for thing in scene.things:
            assert thing.color in text.split() or not thing.color_is_named
        assert not scene.relation or any(
            word in text for word in ("left", "right", "above", "over", "below", "under", "next", "beside", "riding")
        )


def test_captions_say_who_is_where_in_either_order():
    scene = compose(random.Random(0), "left", ("cat", "house"), ("red", "blue"), "")
    texts = {caption(scene, random.Random(i)) for i in range(100)}
    assert any("red cat to the left of a blue house" in t for t in texts)
    assert any("blue house to the right of a red cat" in t for t in texts)
    assert not any("red cat to the right" in t for t in texts)


@pytest.mark.parametrize("relation", ["left", "above", "next"])
def test_things_stand_as_the_relation_says(relation):
    for seed in range(50):
        first, second = compose(random.Random(seed), relation).things
        assert first.y < second.y - 0.3 if relation == "above" else first.x < second.x - 0.3


def test_a_thing_is_drawn_where_it_stands_and_in_its_colour():
    empty = np.array(draw(Scene(()))).astype(int)
    page = np.array(draw(Scene((Thing("heart", "red", 0.25, 0.75, 0.2),)))).astype(int)
    rows, columns = np.nonzero(np.abs(page - empty).sum(axis=2) > 30)
    assert abs(rows.mean() / 128 - 0.75) < 0.04 and abs(columns.mean() / 128 - 0.25) < 0.02
    assert np.ptp(columns) / 128 == pytest.approx(0.4, abs=0.03)
    assert tuple(page[98, 32]) == COLORS["red"]


def test_nothing_leaves_the_page(scenes):
    for scene in scenes:
        for thing in scene.things:
            assert thing.x - 0.95 * thing.scale >= 0 and thing.x + 0.95 * thing.scale <= 1
            assert thing.y - 0.95 * thing.scale >= -0.02 and thing.y + 0.95 * thing.scale <= 1.02


def test_no_thing_has_the_colour_of_its_page(scenes):
    assert not any(thing.color == scene.place for scene in scenes for thing in scene.things)

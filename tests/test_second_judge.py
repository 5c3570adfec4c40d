"""The judge of the second world: it reads what its network predicts, and a request is wrong only in what it says."""

import math
import random
from dataclasses import replace

import pytest
import torch

from minisd.second import judge
from minisd.second.findings import Finding, is_right, verdict
from minisd.second.judge import GRID, LOOKS, PLACES, Prediction, any_scene, detection_loss, read
from minisd.second.picture_book import COLORS, STYLES, THINGS, Request, Thing, compose
from minisd.second.twins import all_of

CAT = Thing("cat", "red", 0.3, 0.6, 0.19, looks="left")
STAR = Thing("star", "blue", 0.75, 0.6, 0.19)
BOTH = Finding((STAR, CAT), "beach", "pencil")


def seen(scene) -> Finding:
    return Finding(scene.things, scene.place, scene.style)


def prediction_of(scenes) -> Prediction:
    """A prediction without doubt or error."""
    of = lambda count: torch.full((len(scenes), count, GRID, GRID), -20.0)  # noqa: E731
    heat, color, looks, box = of(len(THINGS)), of(len(COLORS)), of(2), of(3)
    place, style = torch.full((len(scenes), len(PLACES)), -20.0), torch.full((len(scenes), len(STYLES)), -20.0)
    for i, scene in enumerate(scenes):
        place[i, PLACES.index(scene.place)] = style[i, STYLES.index(scene.style)] = 20
        for thing in scene.things:
            row, column = int(thing.y * GRID), int(thing.x * GRID)
            heat[i, list(THINGS).index(thing.kind), row, column] = color[i, list(COLORS).index(thing.color), row, column] = 20
            looks[i, LOOKS.index(thing.looks or "left"), row, column] = 20
            box[i, :, row, column] = torch.tensor([thing.x * GRID - column, thing.y * GRID - row, math.log(thing.scale)])
    return Prediction(heat, color, looks, box, place, style)


def test_a_perfect_prediction_is_read_as_the_scene_and_has_the_least_loss():
    scenes = [any_scene(i) for i in range(40)]
    for scene, found in zip(scenes, read(prediction_of(scenes))):
        assert is_right(found, all_of(scene)), (scene, found)
    wrong = prediction_of([*scenes[1:], scenes[0]])
    assert detection_loss(prediction_of(scenes), scenes) < 0.1 < 1 < detection_loss(wrong, scenes)


@pytest.mark.parametrize("relation", ["", "left", "above", "next", "riding"])
def test_scenes_are_right_for_their_own_requests(relation):
    """The seats of riders differ, so that one in fifty stands outside the bounds for `riding`."""
    kinds = ("cat", "horse") if relation else ("cat",)
    right = []
    for i in range(300):
        scene = compose(Request(kinds, relation=relation), random.Random(i))
        right.append(is_right(seen(scene), all_of(scene)))
        assert is_right(seen(scene), Request(kinds, relation=relation)) or relation == "riding"
    assert sum(right) >= 290


def test_only_what_is_said_can_be_wrong():
    ask = Request(("cat", "star"), relation="left")
    assert is_right(BOTH, ask)
    true = {"colors": ("red", None), "looks": ("left", None), "sizes": ("", None), "place": "beach", "style": "pencil"}
    false = {"colors": ("blue", None), "looks": ("right", None), "sizes": ("big", None), "place": "night", "style": "book"}
    aspects = {"colors": "colours", "looks": "direction", "sizes": "size", "place": "place", "style": "style"}
    for name, aspect in aspects.items():
        assert is_right(BOTH, replace(ask, **{name: true[name]}))
        found = verdict(BOTH, replace(ask, **{name: false[name]}))
        assert [key for key, right in found.items() if not right] == [aspect]


def test_a_missing_thing_or_one_too_many_is_wrong():
    assert verdict(BOTH, Request(("cat",), style="pencil")) == {"things": False, "style": True}
    assert not is_right(Finding((), "beach", "pencil"), Request(("cat",)))
    assert verdict(Finding((CAT,), "beach", "book"), Request(("cat", "star"), colors=("red", None), relation="left")) == {
        "things": False, "colours": False, "relation": False,
    }  # fmt: skip


def test_training_takes_a_step(tmp_path):
    torch.manual_seed(0)
    model = judge.Detector()
    renders = torch.zeros(4, 128, 128, 3, dtype=torch.uint8).numpy()
    pool = torch.zeros(4, 3, 128, 128, dtype=torch.uint8)
    loss, _ = judge.loss_with(renders, pool, replace(judge.RECIPE, batch_size=4))(model, 0)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())

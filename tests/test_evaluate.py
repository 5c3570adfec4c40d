"""The evaluation: what counts as right, how it is counted, and whether the judges see what is there."""

import json
import random
from dataclasses import replace

import pytest
import torch

from minisd.evaluate import curves, detector, geometry
from minisd.evaluate.__main__ import main
from minisd.evaluate.detector import GRID, KINDS, Prediction
from minisd.evaluate.findings import PLACES, Finding, holds, is_right, verdict
from minisd.evaluate.model import fingerprint
from minisd.evaluate.prompts import FAMOUS, HELD_OUT, SETS, has_new_color, kinds_of, prompts_of
from minisd.evaluate.protocol import evaluate, nearest_training_picture, render, render_near_misses
from minisd.evaluate.rates import Rate, expected, rate, right, shuffled, skills
from minisd.evaluate.report import as_json, contact_sheet, disagreements, markdown
from minisd.image import to_tensor
from minisd.pipeline import StableDiffusionPipeline
from minisd.tiny.picture_book import COLORS, HELD_OUT_PAIRS, HELD_OUT_RIDES, Scene, Thing, draw, is_held_out, training_scene

CAT, BALL = Thing("cat", "blue", 0.26, 0.5, 0.22), Thing("ball", "red", 0.74, 0.55, 0.22)
LEFT = Scene((CAT, BALL), "left", "night")


def truth(scene: Scene) -> Finding:
    return Finding(scene.things, scene.place)


@pytest.mark.parametrize("name", [*SETS, FAMOUS])
def test_the_truth_is_right(name):
    prompts = prompts_of(name, 200, 0)
    assert all(right([truth(prompt.scene) for prompt in prompts], prompts))


@pytest.mark.parametrize(
    ("things", "place", "wrong"),
    [
        ((CAT, BALL), "night", set()),
        ((BALL, CAT), "night", set()),
        ((replace(CAT, kind="bird"), BALL), "night", {"things"}),
        ((replace(CAT, color="red"), BALL), "night", {"colours"}),
        ((replace(CAT, color="red"), replace(BALL, color="blue")), "night", {"colours"}),
        ((CAT, BALL), "snow", {"place"}),
        ((replace(CAT, x=0.74), replace(BALL, x=0.26)), "night", {"relation"}),
        ((replace(CAT, x=0.5, y=0.2), replace(BALL, x=0.5, y=0.8)), "night", {"relation"}),
        ((CAT,), "night", {"things", "colours", "relation"}),
        ((CAT, BALL, replace(BALL, y=0.1)), "night", {"things", "colours", "relation"}),
    ],
)
def test_everything_must_be_right(things, place, wrong):
    found = Finding(things, place)
    assert {name for name, good in verdict(found, LEFT).items() if not good} == wrong
    assert is_right(found, LEFT) == (not wrong)


def test_of_two_ways_to_read_a_picture_the_one_with_the_right_things_counts():
    """Kinds that have changed places, while the colours are where they should be, are right things in wrong colours."""
    found = Finding((replace(BALL, color="blue", x=CAT.x), replace(CAT, color="red", x=BALL.x)), "night")
    assert {name for name, good in verdict(found, LEFT).items() if not good} == {"colours", "relation"}


@pytest.mark.parametrize(("x", "y", "rides"), [(0.42, 0.45, True), (0.28, 0.62, False), (0.5, 0.65, False)])
def test_who_rides_sits_on_top(x, y, rides):
    """And not in front of it, beside it, or in its middle."""
    assert holds("riding", Thing("cat", "red", x, y, 0.18), Thing("horse", "blue", 0.5, 0.66, 0.3)) is rides


@pytest.mark.parametrize(("scale", "size"), [(0.18, "small"), (0.42, "big")])
def test_a_size_counts_where_it_was_asked_for(scale, size):
    ball = Thing("ball", "red", 0.5, 0.5, scale, size=size)
    other = "big" if size == "small" else "small"
    assert is_right(Finding((ball,), ""), Scene((ball,)))
    assert not is_right(Finding((ball,), ""), Scene((replace(ball, size=other),)))


def test_wilsons_interval():
    low, high = Rate(8, 10).interval()
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert Rate(0, 20).interval()[0] == 0 and Rate(20, 20).interval()[1] == 1
    assert Rate(0, 0).share == 0


def test_the_next_prompt_is_chance_and_skills_multiply():
    prompts = prompts_of("two things", 40, 0)
    found = [truth(prompt.scene) for prompt in prompts]
    assert rate(right(found, prompts)).share == 1
    assert shuffled(found, prompts).share < 0.1
    half = Rate(1, 2)
    single = {"things": half, "colours": half, "place": half}
    assert expected(single, found, prompts) == pytest.approx(0.5**5)
    mirrored = [Finding(tuple(replace(t, x=1 - t.x, y=1 - t.y) for t in each.things), each.place) for each in found]
    other_kinds = [Finding(tuple(replace(t, kind="?") for t in each.things), each.place) for each in mirrored]
    nexts = sum(prompt.scene.relation == "next" for prompt in prompts)
    assert expected(single, mirrored[:20] + other_kinds[20:], prompts) == pytest.approx(
        0.5**5 * sum(prompt.scene.relation == "next" for prompt in prompts[:20]) / 20
    )
    assert nexts > 0
    assert skills(found, prompts).keys() == {"things", "colours", "relation", "place"}


def test_prompts_are_always_the_same_and_seen_means_seen():
    for name in SETS:
        prompts = prompts_of(name, 60, 7)
        assert prompts == prompts_of(name, 70, 7)[:60]
        assert [prompt.seed for prompt in prompts] == list(range(7, 67))
        assert all(is_held_out(prompt.scene) == (name in HELD_OUT) for prompt in prompts)
        assert any(has_new_color(p.scene) for p in prompts) == (name == "one thing, new colour")
    assert all(kinds_of(prompt.scene) in HELD_OUT_PAIRS for prompt in prompts_of("two things, new pair", 60, 0))
    assert all(kinds_of(prompt.scene) in HELD_OUT_RIDES for prompt in prompts_of("riding, new pair", 60, 0))
    assert not {p.text for p in prompts_of("two things", 60, 0)} & {p.text for p in prompts_of("two things", 60, 0, "tuning")}
    famous = prompts_of(FAMOUS, 3, 0)
    assert {prompt.text for prompt in famous} == {FAMOUS} and is_held_out(famous[0].scene)


def test_new_means_new_in_the_other_order_too():
    """“A next to b” is the picture of “b next to a”, so nothing that may be drawn in one of them is called new."""
    for prompt in prompts_of("two things, new pair", 100, 0):
        assert prompt.scene.relation in ("left", "above")


def test_near_misses_are_wrong():
    for name in [*SETS, FAMOUS]:
        prompts = prompts_of(name, 20, 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("minisd.evaluate.protocol.render", lambda others: [truth(other.scene) for other in others])
            assert not any(right(render_near_misses(prompts), prompts))


@pytest.mark.parametrize("name", ["one thing", "a size", "two things", "riding"])
def test_the_first_judge_sees_what_is_drawn(name):
    prompts = prompts_of(name, 12, 0)
    assert rate(right(geometry.judge(render(prompts)), prompts)).right >= 11


def test_the_first_judge_sees_nothing_on_a_bare_page_nor_in_noise():
    pages = torch.stack([to_tensor(draw(Scene((), "", place))) for place in PLACES])
    assert geometry.judge(pages) == [Finding((), place) for place in PLACES]
    noise = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert not any(is_right(found, prompts_of("one thing", 1, 0)[0].scene) for found in geometry.judge(noise))


def test_the_second_judge_reads_peaks_as_things():
    heat = torch.full((1, len(KINDS), GRID, GRID), -9.0)
    color, box = torch.zeros(1, len(COLORS), GRID, GRID), torch.zeros(1, 3, GRID, GRID)
    heat[0, 4, 7, 3], heat[0, 4, 7, 4], heat[0, 9, 2, 12] = 3.0, 2.0, 0.5  # the second is no peak, the last is sure enough
    color[0, 6, 7, 3] = 1.0
    box[0, :, 7, 3] = torch.tensor([0.5, 0.25, -1.5])
    place = torch.nn.functional.one_hot(torch.tensor([2]), len(PLACES)).float()
    (found,) = detector.read(Prediction(heat, color, box, place))
    assert [thing.kind for thing in found.things] == [list(KINDS)[9], list(KINDS)[4]]
    thing = found.things[1]
    assert (thing.color, thing.x, thing.y) == (list(COLORS)[6], 3.5 / GRID, 7.25 / GRID)
    assert thing.scale == pytest.approx(0.2231, abs=1e-4) and found.place == PLACES[2]


def test_the_second_judge_sees_what_is_drawn():
    prompts = [prompt for name in SETS for prompt in prompts_of(name, 20, 0)]
    assert rate(right(detector.judge(render(prompts)), prompts)).share > 0.93


def test_a_training_picture_is_its_own_nearest():
    pictures = torch.stack([to_tensor(draw(training_scene(i))) for i in (3, 8)])
    fresh = render(prompts_of("two things", 2, 0))
    nearest = nearest_training_picture({"training": pictures, "fresh": fresh}, 20)
    assert nearest["training"].max() < 10 < nearest["fresh"].min()


@pytest.fixture(scope="module")
def evaluation():
    """The protocol with a perfect painter in the place of the model, and another that paints nothing but a page."""
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    blank = lambda prompts: torch.stack([to_tensor(draw(Scene((), "", ""))) for _ in prompts])  # noqa: E731
    judges = {"first": geometry.judge, "second": detector.judge}
    sets = {name: prompts_of(name, 3, 0) for name in ("one thing", "two things, new pair", FAMOUS)}
    return evaluate(pipe.vae, render, {"no prompt": blank}, judges, sets, 20)


def test_a_report_has_every_table(evaluation):
    text = markdown(evaluation, {"model": "tiny", "steps": 3})
    assert "model tiny, steps 3" in text
    for title in ("The judges", "The VAE", "The model", "Controls", "Memorisation"):
        assert f"## {title}" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| one thing |")]
    assert len(rows) == 2 and rows[1][1].startswith("1.00 (0.44")
    assert "| no prompt |" in text and "| all new combinations |" in text and "| astronaut on horse |" in text
    assert 25 < evaluation.psnr < 45


def test_every_verdict_is_written_down(evaluation):
    report = json.loads(json.dumps(as_json(evaluation, {"steps": 3})))
    assert len(report["pictures"]) == 9 and report["settings"] == {"steps": 3}
    first = report["pictures"][0]
    assert first["prompt"] == prompts_of("one thing", 1, 0)[0].text and first["first"]["right"] is True
    assert {"kind", "color", "x", "y", "scale"} == first["first"]["things"][0].keys()


def test_chance_chooses_the_contact_sheet(evaluation):
    sheet = contact_sheet(evaluation, seed=0, count=6)
    assert sheet.size == (5 * 148, 2 * 186)
    assert sheet.tobytes() == contact_sheet(evaluation, seed=0, count=6).tobytes()
    assert sheet.tobytes() != contact_sheet(evaluation, seed=1, count=6).tobytes()


def test_what_the_judges_disagree_on_has_a_sheet_of_its_own(evaluation):
    nothing = [Finding((), "")] * 3
    other = {"first": evaluation.judged["first"], "second": dict.fromkeys(evaluation.sets, nothing)}
    assert disagreements(replace(evaluation, judged=other)).size == (5 * 148, 2 * 186)
    same = {"first": evaluation.judged["first"], "second": evaluation.judged["first"]}
    assert disagreements(replace(evaluation, judged=same)).size == (5 * 148, 186)


def test_curves_go_on_where_they_were_stopped(tmp_path, monkeypatch, capsys):
    drawn, two_points = [], list(curves.points("-", 2))[:2]
    monkeypatch.setattr(curves, "points", lambda weights, count, few_steps: [{**point, "weights": weights} for point in two_points])
    monkeypatch.setattr(curves, "measure", lambda pipe, point: drawn.append(point) or {**point, "right": 1})
    for _ in range(2):
        assert curves.main(["--prompts", "2", "--out", str(tmp_path / "curves.json")]) == 0
    assert len(drawn) == len(json.loads((tmp_path / "curves.json").read_text())) == 2


def test_weights_have_a_fingerprint():
    network = torch.nn.Linear(2, 2)
    before = fingerprint(network)
    assert fingerprint(network) == before and len(before) == 8
    network.weight.data[0, 0] += 1e-6
    assert fingerprint(network) != before


def test_errors_are_one_sentence(capsys, tmp_path):
    assert main(["--prompts", "1"]) == 1
    assert "at least 2" in capsys.readouterr().err
    assert main(["--model", str(tmp_path / "missing"), "--quick"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_scene_may_be_random_and_its_truth_is_still_right():
    rng = random.Random(0)
    scenes = [training_scene(rng.randrange(10**6)) for _ in range(300)]
    assert all(is_right(truth(scene), scene) for scene in scenes)

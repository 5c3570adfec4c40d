"""The evaluation of the second edition: its prompts, what counts as right, and how variety is measured."""

import json
import random
from dataclasses import replace

import pytest
import torch

from minisd.image import to_tensor
from minisd.pipeline import StableDiffusionPipeline
from minisd.second.clip import VISION
from minisd.second.drawing import draw
from minisd.second.evaluate import curves, protocol, similarity, variety
from minisd.second.evaluate.__main__ import main
from minisd.second.evaluate.prompts import FAMOUS, HELD_OUT, SETS, mentions, new_in, prompts_of
from minisd.second.evaluate.protocol import evaluate, near_miss, open_prompts, render, verdicts_with
from minisd.second.evaluate.rates import right, skills
from minisd.second.evaluate.report import as_json, contact_sheet, disagreements, markdown
from minisd.second.findings import Finding, is_right
from minisd.second.picture_book import Request, Scene, compose, is_held_out
from minisd.second.twins import all_of, is_true


def truth(scene: Scene) -> Finding:
    return Finding(scene.things, scene.place, scene.style)


@pytest.mark.parametrize("name", SETS)
def test_prompts_are_always_the_same_and_new_means_new(name):
    prompts = prompts_of(name, 40, 7)
    assert prompts == prompts_of(name, 50, 7)[:40] and [prompt.seed for prompt in prompts] == list(range(7, 47))
    assert [p.request for p in prompts] != [p.request for p in prompts_of(name, 40, 7, "tuning")]
    for prompt in prompts:
        assert new_in(prompt.request) == ({SETS[name].new} - {""})
        assert (name in HELD_OUT) == is_held_out(prompt.request) or prompt.request.relation == "next"
        assert all(mentions(prompt.request, trait) or len(SETS[name].traits) > 1 for trait in SETS[name].traits)


def test_the_astronaut_is_one_prompt_with_many_seeds():
    prompts = prompts_of(FAMOUS, 3, 0)
    assert {prompt.text for prompt in prompts} == {FAMOUS} and [prompt.seed for prompt in prompts] == [0, 1, 2]
    assert is_held_out(prompts[0].request)


@pytest.mark.parametrize("name", [*SETS, FAMOUS])
def test_renders_are_right_and_near_misses_wrong(name):
    for prompt in prompts_of(name, 15, 0):
        assert is_true(prompt.request, variety.render_of(prompt.request, prompt.seed))
        assert not is_true(prompt.request, near_miss(prompt))


def test_renders_come_from_the_training_scenes_where_those_can_fit():
    scenes = [variety.render_of(Request(("cat",)), seed) for seed in range(50)]
    assert not any(map(is_held_out, scenes)) and len({scene.place for scene in scenes}) > 5
    assert is_held_out(variety.render_of(prompts_of(FAMOUS, 1, 0)[0].request, 0))


def test_entropy_in_bits():
    assert variety.entropy("aaaa") == 0
    assert variety.entropy("abab") == 1
    assert variety.entropy("abcd") == 2
    assert variety.entropy("aaab") == pytest.approx(0.8113, abs=1e-4)


def test_the_books_own_diversity_is_1_and_that_of_alike_images_0():
    book = [variety.scene_of("cat", f"fresh/{i}") for i in range(64)]
    shares = variety.diversity(book, "cat")
    assert shares.keys() == variety.OPEN.keys()
    assert all(0.9 < share < 1.1 for share in shares.values())
    assert set(variety.diversity(book[:1] * 64, "cat").values()) == {0.0}
    assert "direction" not in variety.diversity([variety.scene_of("house", str(i)) for i in range(64)], "house")
    assert variety.diversity(book, "dog") == {}  # no image shows the right thing


def test_blur_has_less_edge_energy_and_grey_no_saturation():
    pictures = render(prompts_of("one thing", 4, 0))
    soft = torch.nn.functional.avg_pool2d(pictures, 3, stride=1, padding=1)
    assert variety.edge_energy(soft) < 0.8 * variety.edge_energy(pictures)
    assert variety.saturation(pictures.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)) == 0
    assert variety.saturation(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)) == 1


@pytest.mark.parametrize("relation", ["", "left", "above", "next", "riding"])
def test_alternatives_differ_in_one_aspect_and_are_not_true_of_the_image(relation):
    kinds = ("cat", "horse") if relation else ("cat",)
    scene = compose(Request(kinds, sizes=("big", "small"), relation=relation), random.Random(0))
    request = all_of(scene)
    others = list(similarity.alternatives(request))
    assert {aspect for aspect, _ in others} >= {"things", "colours", "direction", "size", "place", "style"}
    assert ("relation" in dict(others)) == (relation in ("left", "above", "next"))
    assert not any(is_true(other, scene) for _, other in others)
    assert not list(similarity.alternatives(replace(Request(("cat",)), kinds=())))


def test_the_second_judge_asks_for_the_highest_similarity():
    """A stand-in for CLIP, to which only the captions about a cat are similar to an image."""

    class Words:
        end_id = 1

        def __call__(self, texts):
            self.texts = texts
            return type("Ids", (), {"input_ids": torch.ones(len(texts), 77, dtype=torch.long)})

    words = Words()

    class Model:
        def features(self, pictures, ids):
            assert pictures.shape[1:] == (3, VISION.image_size, VISION.image_size)
            return torch.ones(1, 1), torch.tensor([[float("cat" in text or "kitten" in text)] for text in words.texts])

    prompts = prompts_of("one thing", 60, 0)
    judge = similarity.judge_with(Model(), words)
    verdicts = judge(torch.zeros(60, 3, 128, 128), prompts)
    for prompt, verdict in zip(prompts, verdicts):
        assert verdict == {"things": prompt.request.kinds == ("cat",), "colours": False}


@pytest.fixture(scope="module")
def evaluation():
    """The protocol with renders as the model's images, and a judge that knows what has been drawn."""
    known: dict[bytes, Finding] = {}

    def drawn(scene: Scene, size: int = 128):
        picture = draw(scene, size)
        known[to_tensor(picture).numpy().tobytes()] = truth(scene)
        return picture

    look = lambda pictures: [known.get(p.numpy().tobytes(), Finding((), "", "")) for p in pictures]  # noqa: E731
    vae = StableDiffusionPipeline.from_pretrained("tiny").vae
    judges = {"first": verdicts_with(look), "second": verdicts_with(lambda pictures: [Finding((), "", "")] * len(pictures))}
    sets = {name: prompts_of(name, 3, 0) for name in ("everything about one thing", "two things, new pair", FAMOUS)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "draw", drawn)
        patch.setattr(protocol, "SEEDS", 6)
        blank = lambda prompts: torch.ones(len(prompts), 3, 128, 128)  # noqa: E731
        yield evaluate(vae, render, {"no prompt": blank}, {"night": blank}, judges, look, sets, 20)


def test_judges_and_controls(evaluation):
    assert all(all(right(of)) for of in evaluation.calibration["renders"]["first"].values())
    assert not any(any(right(of)) for of in evaluation.calibration["near misses"]["first"].values())
    assert not any(right(evaluation.controls["no prompt"]["first"]))
    assert not any(right(evaluation.chance["first"]["everything about one thing"]))
    assert evaluation.edges["the model's"] == 1 > evaluation.edges["round trips"]
    assert evaluation.negatives["night"][1:] == (0, 6)
    assert {name: rate.share for name, rate in skills(evaluation.judged["first"][FAMOUS]).items()} == {"things": 1, "relation": 1}


def test_a_report_has_every_table(evaluation):
    text = markdown(evaluation, {"model": "tiny", "steps": 3})
    assert "model tiny, steps 3" in text and text.count("\n## ") == 7
    rows = [line for line in text.splitlines() if line.startswith(f"| {FAMOUS} |")]
    assert "1.00 (0.44" in rows[1] and "| astronaut on horse | 1.00" in text
    assert "| all new combinations |" in text and "| no prompt |" in text and f"{FAMOUS}, by the next" not in text
    report = json.loads(json.dumps(as_json(evaluation, {"steps": 3})))
    assert len(report["pictures"]) == 9 and report["pictures"][0]["first"]["things"] is True


def test_chance_chooses_the_contact_sheet_and_disagreements_have_their_own(evaluation):
    assert contact_sheet(evaluation, seed=0).size == (8 * 148, 2 * 186)
    assert disagreements(evaluation).size == (8 * 148, 2 * 186)
    same = replace(evaluation, judged=dict.fromkeys(("first", "second"), evaluation.judged["first"]))
    assert disagreements(same).size == (8 * 148, 186)


def test_curves_resume(tmp_path, monkeypatch):
    measured, two_points = [], list(curves.points("-", 2))[:2]
    monkeypatch.setattr(curves, "finder", lambda folder: None)
    monkeypatch.setattr(curves, "points", lambda weights, count: two_points)
    monkeypatch.setattr(curves, "measure", lambda pipe, look, point: measured.append(point) or {**point, "right": 1})
    for _ in range(2):
        assert curves.main(["--model", "tiny", "--prompts", "2", "--out", str(tmp_path / "curves.json")]) == 0
    assert len(measured) == len(json.loads((tmp_path / "curves.json").read_text())) == 2


def test_a_point_of_the_curves():
    """Renders as the model's images: as saturated and as sharp as themselves."""
    look = lambda pictures: [Finding((), "", "")] * len(pictures)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "painter", lambda pipe, steps, scale: render)
        point = {"set": "two things", "steps": 25, "scale": 2.0, "weights": "-", "of": 3}
        assert curves.measure(None, look, point) == {**point, "right": 0, "saturation": 1.0, "edge_energy": 1.0}
        assert curves.measure(None, look, {**point, "set": "a cat"})["diversity"] == {}


def test_open_prompts_mention_only_the_thing():
    prompts = open_prompts("cat")
    assert {prompt.text for prompt in prompts} == {"a cat"} and len({prompt.seed for prompt in prompts}) == protocol.SEEDS
    assert is_right(truth(compose(Request(("cat",)), random.Random(0))), prompts[0].request)


def test_errors_are_one_sentence(capsys, tmp_path):
    assert main(["--model", "tiny", "--prompts", "1"]) == 1
    assert "at least 2" in capsys.readouterr().err
    assert main(["--model", "tiny", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")

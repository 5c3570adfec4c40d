"""The things for lessons about fine-tuning: drawn and judged like those of the picture book, which does not keep them."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import randn
from PIL import Image

from minisd import ControlNetModel, DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from minisd.evaluate import geometry
from minisd.evaluate.findings import is_right
from minisd.evaluate.prompts import prompts_of
from minisd.finetune.examples import read_examples
from minisd.image import to_tensor
from minisd.lessons.new_things import NEW_THINGS, example, new_things, prompts_for, write_examples
from minisd.lessons.outlines import CONTROLNET, outlines, write_pairs
from minisd.tiny.drawing import THINGS
from minisd.tiny.picture_book import draw, sample


def test_the_first_judge_knows_them_inside_the_context_only():
    before = sample(random.Random(0))
    with new_things():
        prompts = [prompts_for(kind, 1)[0] for kind in NEW_THINGS]
        found = geometry.judge(torch.stack([to_tensor(draw(prompt.scene)) for prompt in prompts]))
        assert all(is_right(finding, prompt.scene) for finding, prompt in zip(found, prompts))
    assert not NEW_THINGS.keys() & THINGS.keys() and sample(random.Random(0)) == before
    assert {kind for kind, _ in geometry.templates()[0]} == set(THINGS)


def test_drawings_and_captions_are_written_as_finetune_reads_them(tmp_path):
    with new_things():
        write_examples(tmp_path, ["umbrella", "kite"], 3)
        examples = read_examples(tmp_path)
        assert examples[4].captions == (example("umbrella", 1)[1],)
    assert len(examples) == 6 and all(Image.open(e.picture).size == (128, 128) for e in examples)


def test_outlines_do_not_depend_on_colours_or_places():
    scene = sample(random.Random(1))
    other = replace(scene, things=tuple(replace(thing, color="pink") for thing in scene.things), place="night")
    assert outlines(scene).tobytes() == outlines(other).tobytes()
    drawn = to_tensor(outlines(scene))[0] > 0
    covered = geometry.silhouette(scene.things, 128) > 0
    assert drawn.any() and not (drawn & ~F.max_pool2d(covered[None].float(), 3, 1, 1)[0].bool()).any()


def test_nearer_things_hide_the_outlines_of_farther_ones():
    scene = next(s for s in (sample(random.Random(i)) for i in range(100)) if s.relation == "riding")
    apart = [to_tensor(outlines(replace(scene, things=(thing,)))) > 0 for thing in scene.things]
    assert (to_tensor(outlines(scene)) > 0).sum() < (apart[0] | apart[1]).sum()


def test_pairs_are_written_as_finetune_reads_them(tmp_path):
    write_pairs(tmp_path, 2)
    examples = read_examples(tmp_path, steered=True)
    assert [e.condition.name for e in examples] == ["00000.condition.png", "00001.condition.png"]
    assert all(Image.open(path).size == (128, 128) for e in examples for path in (e.picture, e.condition))


def test_the_controlnet_of_the_package_draws_things_in_their_outlines():
    """Without it, the overlap is about one half (docs/finetune.md)."""
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    pipe = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=ControlNetModel.from_pretrained(CONTROLNET))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    prompts = prompts_of("one thing", 4, 0, "outlines test")
    noise = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
    pages = [outlines(prompt.scene) for prompt in prompts]
    images = pipe([prompt.text for prompt in prompts], pages, num_inference_steps=6, generator=noise, output_type="pt").images
    for found, prompt in zip(geometry.judge(2 * images - 1), prompts):
        assert geometry.same_place(found.things, prompt.scene.things) > 0.75, prompt.text


def test_the_controlnet_of_the_package_is_the_same_in_diffusers(measure):
    theirs = pytest.importorskip("diffusers").ControlNetModel.from_pretrained(CONTROLNET, torch_dtype=torch.float32)
    given = (randn(2, 4, 16, 16), torch.tensor([300, 700]), randn(2, 77, 128, seed=1), randn(2, 3, 128, 128, seed=2).sigmoid())
    with torch.no_grad():
        (ours, middle), (down, mid) = ControlNetModel.from_pretrained(CONTROLNET)(*given), theirs(*given, return_dict=False)
    for mine, other in zip([*ours, middle], [*down, mid], strict=True):
        assert measure(mine, other) < 1e-5

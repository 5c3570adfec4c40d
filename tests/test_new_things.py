"""The things for lessons about fine-tuning: drawn and judged like those of the picture book, which does not keep them."""

import random

import torch
from PIL import Image

from minisd.evaluate import geometry
from minisd.evaluate.findings import is_right
from minisd.finetune.examples import read_examples
from minisd.image import to_tensor
from minisd.lessons.new_things import NEW_THINGS, example, new_things, prompts_for, write_examples
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

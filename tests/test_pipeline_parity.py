"""Prompt to picture beside diffusers, on whole small checkpoints in its layout."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import NETWORKS, OFFICIAL, PROMPTS, SMALL, pair, randn, seeded, small_tokenizer
from PIL import Image

from minisd import StableDiffusionPipeline
from minisd.schedulers import SCHEDULERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' LMS and numpy 2


def pixels(images: list[Image.Image]) -> torch.Tensor:
    return torch.tensor(np.stack([np.asarray(image) for image in images]).astype(int))


@pytest.fixture(scope="session")
def written_by_diffusers(tmp_path_factory) -> dict[str, Path]:
    """Small checkpoints of both kinds, made and written by diffusers and transformers alone."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("diffusers")
    for kind in ("v1", "v2"):
        networks = {component: pair(component, SMALL[kind][component])[0] for component in NETWORKS}
        small_tokenizer(kind).save_pretrained(root / f"tokenizer-{kind}")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(root / f"tokenizer-{kind}")
        scheduler = getattr(diffusers, OFFICIAL[kind]["scheduler"]["_class_name"]).from_config(OFFICIAL[kind]["scheduler"])
        parts = {**networks, "tokenizer": tokenizer, "scheduler": scheduler}
        whole = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        whole.save_pretrained(root / kind)
    return {kind: root / kind for kind in ("v1", "v2")}


def both(folder: Path, sampler: str | None = None) -> list:
    """The folder as minisd's pipeline and as diffusers', with this sampler or the folder's own."""
    diffusers = pytest.importorskip("diffusers")
    pipes = [library.from_pretrained(folder) for library in (StableDiffusionPipeline, diffusers.StableDiffusionPipeline)]
    for pipe, samplers in zip(pipes, (SCHEDULERS.__getitem__, partial(getattr, diffusers))):
        pipe.set_progress_bar_config(disable=True)
        if sampler:
            pipe.scheduler = samplers(sampler).from_config(pipe.scheduler.config)
    return pipes


def assert_same_pictures(pipes: list, measure, generator=seeded, **arguments):
    """8-bit values differ by at most 1, and fewer than 1 in 100 do."""
    ours, theirs = (pixels(pipe(generator=generator(), **arguments).images) for pipe in pipes)
    assert theirs.float().std() > 20, "a flat picture would prove nothing"
    measure(ours, theirs)
    assert (ours - theirs).abs().max() <= 1
    assert (ours != theirs).float().mean() < 0.01


CALLS = {
    "one": {"prompt": PROMPTS[0]},
    "not square, two prompts, two of each": {"prompt": PROMPTS, "height": 72, "width": 104, "num_images_per_prompt": 2},
    "negative prompts": {
        "prompt": PROMPTS,
        "negative_prompt": ["a red ball", ""],
        "height": 136,
        "width": 64,
        "guidance_scale": 5.0,
    },
    "a negative prompt": {"prompt": PROMPTS[1], "negative_prompt": "a horse", "height": 64, "width": 40, "guidance_scale": 12.0},
    "no guidance": {"prompt": PROMPTS, "guidance_scale": 1.0, "height": 40, "width": 88},
    "less than none": {"prompt": PROMPTS[1], "guidance_scale": 0.0, "negative_prompt": "a horse"},
    "states, rescaled": {
        "prompt_embeds": randn(2, 77, 48, seed=5),
        "negative_prompt_embeds": randn(2, 77, 48, seed=6),
        "guidance_rescale": 0.7,
    },
}
FIRST = ["PNDMScheduler", "DDIMScheduler", "LMSDiscreteScheduler"]
QUICK = ["one", "a negative prompt"]  # of the other samplers; the rest are slow tests


@pytest.mark.parametrize(
    ("kind", "sampler", "call"),
    [
        pytest.param(kind, sampler, call, marks=[] if sampler in FIRST or call in QUICK else pytest.mark.slow)
        for kind in ("v1", "v2")
        for sampler in SCHEDULERS
        for call in CALLS
        if (kind, sampler) != ("v2", "PNDMScheduler")
    ],
)
def test_pictures_are_diffusers(kind, sampler, call, written_by_diffusers, measure):
    assert_same_pictures(both(written_by_diffusers[kind], sampler), measure, num_inference_steps=8, **CALLS[call])


def test_pictures_of_a_whole_run_are_diffusers(kind, written_by_diffusers, measure):
    """50 steps of the folder's own sampler, at the folder's own size."""
    assert_same_pictures(both(written_by_diffusers[kind]), measure, prompt=PROMPTS[0])


def test_diffusers_draws_the_same_from_what_minisd_writes(kind, folders, measure):
    assert_same_pictures(both(folders[kind]), measure, prompt=PROMPTS, num_inference_steps=8)


def test_pictures_with_new_noise_at_every_step_are_diffusers(written_by_diffusers, measure):
    assert_same_pictures(both(written_by_diffusers["v1"], "DDIMScheduler"), measure, prompt=PROMPTS, num_inference_steps=8, eta=0.8)


def test_pictures_of_several_generators_are_diffusers(written_by_diffusers, measure):
    assert_same_pictures(
        both(written_by_diffusers["v1"]), measure, lambda: [seeded(1), seeded(2)], prompt=PROMPTS, num_inference_steps=8
    )

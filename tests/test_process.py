"""What belongs to the process does not reach a picture, and drawing leaves it as it was."""

import ast
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PROMPTS, randn, seeded, toy_model

from minisd import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from minisd.schedulers import SCHEDULERS

PACKAGE = Path(__file__).parents[1] / "minisd"
NOISE, WORDS = randn(1, 4, 8, 8), randn(1, 77, 48)
COMMANDS = ("lessons", "train", "second")  # they run in processes of their own, or in a notebook
FACTORIES = {
    "arange", "as_tensor", "cartesian_prod", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn",
    "randperm", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip


def unclear_factories(path: Path) -> list[str]:
    """Calls that leave the dtype or the device to the process. Fresh parameters do so on purpose, as those of torch.nn do."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    fresh = {inner for call in calls if ast.unparse(call.func) == "nn.Parameter" for inner in ast.walk(call)}
    return [
        f"{path.relative_to(PACKAGE)}:{call.lineno} {ast.unparse(call)}"
        for call in calls
        if ast.unparse(call.func).removeprefix("torch.") in FACTORIES and ast.unparse(call.func).startswith("torch.")
        if call not in fresh and not {"dtype", "device"} <= {keyword.arg for keyword in call.keywords}
    ]


def test_every_new_tensor_says_its_dtype_and_device():
    paths = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in COMMANDS]
    assert len(paths) > 50
    assert [call for path in paths for call in unclear_factories(path)] == []


def pictures(folder: Path) -> list[torch.Tensor]:
    """What every pipeline draws with a checkpoint, and where every sampler goes from one noise."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    more = {"num_inference_steps": 3, "output_type": "pt"}
    photo = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    results = [pipe(PROMPTS[0], generator=seeded(), **more).images]
    for kind, given in (
        (StableDiffusionImg2ImgPipeline, {"image": photo}),
        (StableDiffusionInpaintPipeline, {"image": photo, "mask_image": photo[..., 0]}),
    ):
        editing = kind.from_pipe(pipe)
        editing.set_progress_bar_config(disable=True)
        results.append(editing(PROMPTS[0], generator=seeded(), **given, **more).images)
    for sampler in SCHEDULERS.values():
        scheduler = sampler.from_config({"skip_prk_steps": True, **pipe.scheduler.config, "set_alpha_to_one": True})
        scheduler.set_timesteps(4)
        x = NOISE * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(toy_model(scheduler.scale_model_input(x, t), t), t, x, generator=seeded()).prev_sample
        results += [x, scheduler.add_noise(NOISE, NOISE, scheduler.timesteps[1:2])]
    return [*results, pipe.unet(NOISE, 981.0, WORDS).sample]


@pytest.fixture
def defaults():
    """Gives the process's defaults back."""
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64, "meta"], ids=str)
def test_pictures_do_not_depend_on_the_processs_defaults(folders, defaults, default):
    expected = pictures(folders["v1"])
    torch.set_default_device(default) if default == "meta" else torch.set_default_dtype(default)
    for i, (ours, theirs) in enumerate(zip(pictures(folders["v1"]), expected, strict=True)):
        assert torch.equal(ours, theirs), i


def random_states() -> list:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("grad", [False, True])
def test_drawing_leaves_the_process_as_it_was(folders, tmp_path, monkeypatch, grad):
    """A relative path is read at once: where the process goes later makes no difference."""
    monkeypatch.chdir(folders["v1"].parent)
    pipe = StableDiffusionPipeline.from_pretrained("v1")
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.chdir(tmp_path)
    with torch.set_grad_enabled(grad):
        before = random_states()
        expected = pipe(PROMPTS[0], num_inference_steps=2, generator=seeded(), output_type="latent").images
        steps = pipe.denoise(PROMPTS[0], num_inference_steps=2, generator=seeded())
        latents = [step.latents for step in steps if torch.is_grad_enabled() is grad]  # between the steps, too
        assert len(latents) == 3 and torch.equal(latents[-1], expected)
        assert torch.is_grad_enabled() is grad and random_states() == before
    assert not list(tmp_path.iterdir())

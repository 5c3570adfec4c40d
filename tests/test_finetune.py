"""Fine-tuning: what is learnt works in diffusers and peft, a killed run resumed equals an unbroken one, and errors come first."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import randn, small_pipeline
from PIL import Image

from minisd.finetune import learner, session
from minisd.finetune.settings import Settings
from minisd.train import loop

METHODS = {
    "lora": {"rank": 2},
    "lora, both networks": {"rank": 2, "train_text_encoder": True, "class_prompt": "a cat", "class_images": 2},
    "inversion": {"token": "<toy>", "init_word": "red ball", "vectors": 2},
    "full": {"train_text_encoder": True},
    "dreambooth": {"caption": ("a sks cat",), "class_prompt": "a cat", "class_images": 2},
    "controlnet": {},
}
X, T = randn(2, 4, 8, 8), 500


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Sheets of one picture in two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "STEPS", 2)
        patch.setattr(learner, "ROWS", 1)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Five pictures of several sizes, with what a ControlNet may see of them."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, (width, height) in enumerate([(64, 64), (100, 80), (48, 64), (64, 64), (70, 70)]):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray(255 - pixels).save(folder / f"{i}.condition.png")
        (folder / f"{i}.txt").write_text("a <toy> cat\n" if i else "a red ball and a <toy>\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small checkpoint that draws in two steps."""
    pipe, folder = small_pipeline("v1"), tmp_path_factory.mktemp("model")
    pipe.num_inference_steps = 2
    pipe.save_pretrained(folder)
    return folder


def settings_for(case: str, data: Path, model: Path, out: Path) -> Settings:
    more = {"steps": 4, "batch_size": 2, "learning_rate": 1e-2, **METHODS[case]}
    return Settings(data=data, out=out, model=str(model), method=case.split(",")[0], **more)


@pytest.fixture(scope="module")
def results(data, model, tmp_path_factory):
    """The folder of a short training by each method, made when it is asked for."""
    made: dict[str, Path] = {}

    def result(case: str) -> Path:
        if case not in made:
            made[case] = tmp_path_factory.mktemp("results") / "toy"
            session.run(settings_for(case, data, model, made[case]))
        return made[case]

    return result


def state(folder: Path) -> dict:
    return torch.load(folder / "training" / "state.pt", weights_only=True)


# Killed and resumed, shared and alone


@pytest.mark.parametrize("case", METHODS)
def test_killed_and_resumed_equals_unbroken_bit_for_bit(case, results, data, model, tmp_path, monkeypatch):
    unbroken, settings = results(case), settings_for(case, data, model, tmp_path / "toy")
    steps = []

    def killed(*arguments, **options):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return write(*arguments, **options)

    write = loop.write_state
    monkeypatch.setattr(loop, "write_state", killed)
    with pytest.raises(KeyboardInterrupt):
        session.run(settings, save_every=0)
    assert not list(settings.out.glob("*.*")) and state(settings.out)["step"] == 2
    session.run(settings)
    for name in ("model", "average"):
        a, b = state(unbroken)[name], state(settings.out)[name]
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    files = sorted(path.relative_to(unbroken) for path in unbroken.rglob("*.safetensors"))
    assert files and all((unbroken / file).read_bytes() == (settings.out / file).read_bytes() for file in files)
    before = (unbroken / "training" / "sheet.png").read_bytes()
    assert before == (settings.out / "training" / "sheet.png").read_bytes()

"""Fine-tuning, whole: killed and resumed equals unbroken, two processes equal one, and what is learnt is the same in diffusers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL, build, diffusers_tensors, distance, randn, small_tokenizer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from minisd import ControlNetModel, PNDMScheduler, StableDiffusionPipeline
from minisd.finetune import session
from minisd.finetune.learner import Learner
from minisd.finetune.settings import Settings
from minisd.train import loop

METHODS = {
    "lora": {"rank": 2, "min_snr": 5.0, "offset_noise": 0.1},
    "lora, both networks": {"rank": 2, "train_text_encoder": True, "class_prompt": ("a cat",), "class_images": 2},
    "inversion": {"token": "<toy>", "init_word": "red ball", "vectors": 2},
    "full": {"train_text_encoder": True, "gradient_checkpointing": True},
    "dreambooth": {"class_prompt": ("a cat",), "class_images": 2, "accumulate": 2},
    "controlnet": {},
}
DOWN, UP = ["CrossAttnDownBlock2D", "DownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]
X, T, PROMPTS = randn(2, 4, 8, 8), 500, ["a <toy> cat", "a red ball"]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Sheets of one picture in two steps. Float32 everywhere: in bfloat16, half batches round differently from whole ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "STEPS", 2)
        patch.setattr(Learner, "ROWS", 1)
        patch.setattr(loop, "has_bfloat16", lambda: False)
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
    """A checkpoint that is even smaller than the tests' usual one, and draws in two steps."""
    few = {
        "unet": {"block_out_channels": [16, 32], "layers_per_block": 1, "down_block_types": DOWN, "up_block_types": UP},
        "vae": {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1},
        "text_encoder": {"num_hidden_layers": 2},
    }
    settings = {part: SMALL["v1"][part] | changes for part, changes in few.items()}
    networks = {part: build(part, config, diffusers_tensors(part, config)) for part, config in settings.items()}
    scheduler = PNDMScheduler.from_config(SMALL["v1"]["scheduler"])
    pipe = StableDiffusionPipeline(**networks, tokenizer=small_tokenizer("v1"), scheduler=scheduler, num_inference_steps=2)
    folder = tmp_path_factory.mktemp("model")
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


SHARED = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_finetune import METHODS, Learner, loop, session, settings_for
from minisd.processes import join_processes
Learner.STEPS, Learner.ROWS, loop.has_bfloat16 = 2, 1, lambda: False
join_processes("gloo")
for case in METHODS:
    session.run(settings_for(case, Path({data!r}), Path({model!r}), Path({out!r}) / case / "toy"))
"""


def test_two_processes_learn_what_one_does_with_the_whole_batch(results, data, model, tmp_path):
    script = tmp_path / "shared.py"
    script.write_text(SHARED.format(tests=os.path.dirname(__file__), data=str(data), model=str(model), out=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(command, check=True, capture_output=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for case in METHODS:
        folders = results(case), tmp_path / case / "toy"
        alone, shared = (torch.cat([w.flatten() for w in state(folder)["model"].values()]) for folder in folders)
        # Adam turns a gradient that is only rounding, as that of the biases of keys, into a whole step: the mean is compared
        assert (alone - shared).abs().mean() < 1e-4 * alone.abs().mean(), case
        losses = [json.loads((folder / "training" / "log.jsonl").read_text())["loss"] for folder in folders]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3), case


# In diffusers


@pytest.fixture
def reference(model):
    pytest.importorskip("peft")
    return pytest.importorskip("diffusers").StableDiffusionPipeline.from_pretrained(model)


def predictions(pipe) -> list[torch.Tensor]:
    """Text states and the UNet's guess, of minisd's pipeline or of diffusers'."""
    texts = [pipe.maybe_convert_prompt(p, pipe.tokenizer) for p in PROMPTS] if hasattr(pipe, "maybe_convert_prompt") else PROMPTS
    ids = pipe.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipe.text_encoder(ids)[0]
        return [states, pipe.unet(X, T, encoder_hidden_states=states).sample]


def result_in(pipe, case: str, folder: Path):
    """A pipeline, minisd's or diffusers', with what was learnt."""
    if case.startswith("lora"):
        pipe.load_lora_weights(folder / "toy.safetensors")
    elif case == "inversion":
        pipe.load_textual_inversion(folder / "toy.safetensors")
    else:
        pipe = type(pipe).from_pretrained(folder / "model")
    return pipe


@pytest.mark.parametrize("case", [case for case in METHODS if case != "controlnet"])
def test_what_is_learnt_is_the_same_in_diffusers(case, results, model, reference, measure):
    ours = predictions(result_in(StableDiffusionPipeline.from_pretrained(model), case, results(case)))
    plain = predictions(StableDiffusionPipeline.from_pretrained(model))
    assert distance(plain[1], ours[1]) > 1e-4
    for mine, theirs in zip(ours, predictions(result_in(reference, case, results(case)))):
        assert measure(mine, theirs) < 1e-5


def test_a_learnt_controlnet_is_the_same_in_diffusers(results, measure):
    folder = results("controlnet") / "controlnet"
    theirs = pytest.importorskip("diffusers").ControlNetModel.from_pretrained(folder)
    given = (X, T, randn(2, 77, 48, seed=1), randn(2, 3, 64, 64, seed=2).sigmoid())
    with torch.no_grad():
        (ours, middle), (down, mid) = ControlNetModel.from_pretrained(folder)(*given), theirs(*given, return_dict=False)
    for mine, other in zip([*ours, middle], [*down, mid], strict=True):
        assert other.abs().max() > 1e-4 and measure(mine, other) < 1e-5


def test_what_peft_learns_is_the_same_here(model, reference, tmp_path, measure):
    """The other way round; `save_lora_weights` is what diffusers' training scripts call."""
    peft, training_utils = pytest.importorskip("peft"), pytest.importorskip("diffusers.utils")
    modules = ["to_k", "to_q", "to_v", "to_out.0"]
    reference.unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=modules))
    torch.manual_seed(0)
    for name, parameter in reference.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    layers = training_utils.convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(reference.unet))
    reference.save_lora_weights(tmp_path, unet_lora_layers=layers)
    pipe = StableDiffusionPipeline.from_pretrained(model)
    plain = predictions(pipe)
    pipe.load_lora_weights(tmp_path)
    ours = predictions(pipe)
    assert distance(plain[1], ours[1]) > 1e-3
    assert measure(ours[1], predictions(reference)[1]) < 1e-5


# The file of a LoRA


def test_a_learnt_lora_is_merged_switched_off_and_removed(results, model):
    pipe = StableDiffusionPipeline.from_pretrained(model)
    plain = predictions(pipe)
    pipe.load_lora_weights(results("lora") / "toy.safetensors", adapter_name="toy")
    beside = predictions(pipe)
    assert distance(plain[1], beside[1]) > 1e-4
    pipe.set_adapters("toy", 0.0)
    assert torch.equal(predictions(pipe)[1], plain[1])
    pipe.set_adapters("toy", 1.0)
    pipe.fuse_lora()
    assert distance(predictions(pipe)[1], beside[1]) < 1e-5
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert all(torch.equal(after, before) for after, before in zip(predictions(pipe), plain))


def test_files_hold_the_average_of_what_was_learnt(results):
    for case, names in {"lora": ["0.down.weight", "0.up.weight"], "inversion": ["rows"]}.items():
        file, average = results(case) / "toy.safetensors", state(results(case))["average"]
        tensors = list(load_file(file).values())
        assert all(any(torch.equal(average[name], tensor) for tensor in tensors) for name in names)
        with safe_open(file, "pt") as opened:
            assert '"method": "' + case in opened.metadata()["minisd.finetune"]
    lora = load_file(results("lora, both networks") / "toy.safetensors")
    assert {name.split("_")[1] for name in lora} == {"unet", "te"}
    assert {float(tensor) for name, tensor in lora.items() if name.endswith(".alpha")} == {2.0}


@pytest.mark.parametrize("case", METHODS)
def test_the_card_says_how_it_was_made_and_how_to_use_it(case, results):
    card = (results(case) / "README.md").read_text(encoding="utf-8")
    assert f"--method {case.split(',')[0]}" in card and "trained on 5 images" in card
    assert "| steps | 4 |" in card and "| learning rate | 0.01 |" in card and "python -m minisd.generate --model" in card
    use = {"lora": "load_lora_weights", "inversion": "load_textual_inversion", "controlnet": "ControlNetModel.from_pretrained"}
    assert use.get(case.split(",")[0], "StableDiffusionPipeline.from_pretrained") in card

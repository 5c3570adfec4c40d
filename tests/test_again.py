"""The command line that starts from a picture, and `--again`: the settings in a PNG as flags."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from minisd.flags import parse
from minisd.generate import main
from minisd.infotext import write_infotext
from minisd.schedulers.names import AUTOMATIC1111, SAMPLERS, SIGMAS

A1111 = """photo of a cat
Negative prompt: monochrome
Steps: 15, Sampler: DPM++ 2M, Schedule type: Automatic, CFG scale: 5, Seed: 235284042, Size: 512x400, Model hash: c0d1994c73, \
Model: other, Clip skip: 2"""
HERE = {
    "prompt": "a cat", "negative_prompt": "a dog", "model": "folder", "variant": "fp16", "sampler": "euler", "sigmas": "karras",
    "steps": 7, "guidance_scale": 3.5, "eta": 0.0, "seed": 11, "width": 128, "height": 72, "dtype": "float32", "version": "0.1.0",
    "torch": "2", "image": "house.png", "strength": 0.4,
}  # fmt: skip


@pytest.fixture
def png(tmp_path):
    """`png(chunk, text)`: a PNG with that text in it."""

    def write(chunk: str, text: str):
        info = PngInfo()
        info.add_text(chunk, text)
        Image.new("RGB", (8, 8)).save(tmp_path / "old.png", pnginfo=info)
        return str(tmp_path / "old.png")

    return write


@pytest.fixture
def house(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 60, 3), dtype=np.uint8))
    image.save(tmp_path / "house.png")
    mask = Image.new("L", (60, 64))
    mask.paste(255, (0, 0, 60, 20))
    mask.save(tmp_path / "mask.png")
    return tmp_path / "house.png"


def run(*words) -> int:
    return main([str(word) for word in words])


# Settings as flags


def test_what_minisd_wrote(png):
    args = parse(["--again", png("minisd", json.dumps(HERE))])
    for name in ("negative_prompt", "model", "variant", "sigmas", "steps", "guidance_scale", "seed", "width", "height", "strength"):
        assert getattr(args, name) == HERE[name], name
    assert args.prompts == ["a cat"] and args.sampler == ("euler", None) and str(args.image) == "house.png"


def test_flags_win(png):
    old = png("minisd", json.dumps(HERE))
    args = parse(["a bird", "--again", old, "--seed", "3", "--model", "tiny", "--sampler", "ddim", "--image", "other.png"])
    assert (args.prompts, args.seed, args.steps, str(args.image)) == (["a bird"], 3, 7, "other.png")
    assert (args.model, args.variant, args.sigmas) == ("tiny", None, None)  # what belongs to another model or sampler is dropped
    assert parse(["--prompt", "a bird", "--again", old]).prompts == []


def test_what_a1111_wrote(png):
    with pytest.warns(UserWarning, match="also sets Model hash: c0d1994c73, Model: other, which is ignored"):
        args = parse(["--again", png("parameters", A1111)])
    assert (args.prompts, args.negative_prompt) == (["photo of a cat"], "monochrome")
    assert (args.steps, args.guidance_scale, args.seed, args.width, args.height) == (15, 5.0, 235284042, 512, 400)
    assert args.sampler == ("dpm++2m", "karras") and args.noise == "cuda" and args.model == "tiny"
    assert args.clip_skip == 1 and args.prompt_weighting  # which count from 1 and are always on there


@pytest.mark.parametrize(
    ("line", "sampler", "noise", "note"),
    [
        ("Steps: 1, Sampler: Euler a, Seed: 1", ("euler-a", None), "cuda", None),
        ("Steps: 1, Sampler: DPM++ 2M Karras, Seed: 1, RNG: CPU", ("dpm++2m", "karras"), "cpu", None),
        ("Steps: 1, Sampler: DPM adaptive, Seed: 1", None, "cuda", "Sampler: DPM adaptive"),
        ("Steps: 1, Sampler: Euler, Schedule type: Align Your Steps, Seed: 1", None, "cuda", "Schedule type: Align Your Steps"),
        ("Steps: many, Sampler: DDIM, Seed: 1", ("ddim", None), "cuda", "Steps: many"),
        ("Steps: 1, Sampler: DDIM, Seed: 1, Denoising strength: 0.7", ("ddim", None), "cuda", "Denoising strength: 0.7"),
    ],
)
def test_what_cannot_be_honoured_is_named(png, line, sampler, noise, note):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        args = parse(["--again", png("parameters", f"a cat\n{line}")])
    assert (args.sampler, args.noise) == (sampler, noise)
    assert len(caught) == bool(note) and (note or "") in "".join(str(one.message) for one in caught)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("curve", [None, *SIGMAS])
def test_a_sampler_is_written_as_a1111_calls_it_and_read_back(png, name, curve):
    text = write_infotext({**HERE, "sampler": name, "sigmas": curve, "guidance_scale": 2.0})
    assert f"Sampler: {AUTOMATIC1111[name]}, " in text and (not curve or f"Schedule type: {curve.title()}" in text)
    with pytest.warns(UserWarning, match="also sets Model: folder, Version: minisd"):
        args = parse(["--again", png("parameters", text.replace("Denoising strength: 0.4, ", ""))])
    assert args.sampler == (name, curve) and args.noise == "cpu"


def test_a_decimal_comma_is_named(png):
    with pytest.warns(UserWarning, match="also sets CFG scale: 7,5, which is ignored"):
        args = parse(["--again", png("parameters", "a cat\nSteps: 9, Sampler: DDIM, CFG scale: 7,5, Seed: 1")])
    assert args.guidance_scale is None and args.seed == 1


OTHERS = {
    "ComfyUI": {"prompt": '{"3": {"class_type": "KSampler"}}', "workflow": '{"nodes": []}'},
    "NovelAI": {"Software": "NovelAI", "Description": "a cat", "Comment": '{"steps": 28, "sampler": "k_euler_ancestral"}'},
    "InvokeAI": {"invokeai_metadata": '{"positive_prompt": "a cat"}'},
    "Fooocus or SwarmUI": {"parameters": '{"prompt": "a cat", "steps": 30}', "fooocus_scheme": "fooocus"},
}


@pytest.mark.parametrize("program", OTHERS)
def test_pictures_of_other_programs_are_named(tmp_path, program):
    chunks = PngInfo()
    for name, text in OTHERS[program].items():
        chunks.add_text(name, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "old.png", pnginfo=chunks)
    with pytest.raises(
        ValueError, match=f"was made by {program}, whose settings .* are not supported; give the prompt and the settings"
    ):
        parse(["--again", str(tmp_path / "old.png")])
    chunks.add_text("parameters", "{red|blue} cat\nSteps: 9, Sampler: DDIM, Seed: 1")  # as some programs write beside their own
    Image.new("RGB", (8, 8)).save(tmp_path / "old.png", pnginfo=chunks)
    if program != "Fooocus or SwarmUI":
        assert parse(["--again", str(tmp_path / "old.png")]).steps == 9


def test_strength_counts_with_a_picture(png):
    text = "a cat\nSteps: 9, Sampler: DDIM, Seed: 1, Denoising strength: 0.7"
    assert parse(["--again", png("parameters", text), "--image", "house.png"]).strength == 0.7


def test_a_page_and_unknown_settings_are_noted(png):
    more = {**HERE, "grid": [["a", 1], ["b", 2]], "magic": 1}
    with pytest.warns(UserWarning) as notes:
        parse(["--again", png("minisd", json.dumps(more))])
    assert ["grid of 2 images" in str(notes[0].message), "also sets magic" in str(notes[1].message)] == [True, True]


@pytest.mark.parametrize(
    ("chunk", "text", "sentence"),
    [
        ("Title", "a cat", "does not contain its settings; --again needs a PNG"),
        ("minisd", "{", 'the settings in .* \\(chunk "minisd"\\) are damaged'),
        ("minisd", "[1]", "are damaged"),
    ],
)
def test_pictures_without_settings(png, chunk, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse(["--again", png(chunk, text)])


def test_again_of_no_picture(tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    assert run("--again", tmp_path / "text.png") == 1
    assert "is not a readable image" in capsys.readouterr().err
    assert run("--again", tmp_path / "nowhere.png") == 1
    assert "nowhere.png" in capsys.readouterr().err


# Drawing


def test_a_picture_is_fitted_drawn_and_drawn_again(house, tmp_path, capsys):
    flags = ["--steps", 3, "--strength", 0.7, "--seed", 5, "--out", tmp_path / "new.png", "--device", "cpu"]
    assert run("a cat", "--image", house, *flags) == 0
    assert "house.png was resized from 60×64 to 64×64; --width and --height choose another" in capsys.readouterr().err
    told = json.loads(Image.open(tmp_path / "new.png").text["minisd"])
    assert (told["image"], told["strength"], told["width"]) == (str(house), 0.7, 64)
    assert "Denoising strength: 0.7" in Image.open(tmp_path / "new.png").text["parameters"]
    assert run("--again", tmp_path / "new.png", "--out", tmp_path / "second.png", "--device", "cpu") == 0
    assert (tmp_path / "new.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_a_mask_and_its_rest(house, tmp_path):
    mask, out = tmp_path / "mask.png", tmp_path / "new.png"
    sizes = ["--width", 72, "--height", 64, "--steps", 2, "--out", out, "--device", "cpu", "--quiet"]
    assert run("a cat", "--image", house, "--mask", mask, "--paste", *sizes) == 0
    drawn, picture = (
        np.asarray(image) for image in (Image.open(out), Image.open(house).resize((72, 64), Image.Resampling.LANCZOS))
    )
    assert (drawn[24:] == picture[24:]).all() and (drawn[:16] != picture[:16]).mean() > 0.5


WRONG = {
    "a strength alone": (["--strength", "0.5"], "--strength needs --image"),
    "a mask alone": (["--mask", "house.png"], "--mask needs --image"),
    "paste alone": (["--image", "house.png", "--paste"], "--paste needs --mask"),
    "no such picture": (["--image", "nowhere.png"], "cannot read the image nowhere.png: No such file"),
    "no picture": (["--image", "text.png"], "text.png is not a readable image"),
    "too strong": (["--image", "house.png", "--strength", "2"], "strength must be from 0"),
    "no model for it": (
        ["--image", "house.png", "--image-guidance-scale", "2"],
        "tiny is for text to image, with 4 input channels",
    ),
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_one_sentence_and_writes_nothing(words, sentence, house, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    before = sorted(tmp_path.iterdir())
    assert run("a cat", *words, "--quiet", "--device", "cpu") == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and sentence in errors and errors.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


WRONG_SETTINGS = [
    {"prompt": 5}, {"dtype": "float64"}, {"sampler": ["x"]}, {"grid": 5}, {"noise": "mps"}, {"prompt_weighting": "no"},
    {"steps": True},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_SETTINGS)
def test_damaged_settings_are_named(png, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"are damaged: {name} is "):
        parse(["--again", png("minisd", json.dumps({**HERE, **wrong}))])


def test_settings_that_are_nested_too_deeply(png):
    with pytest.raises(ValueError, match="are damaged"):
        parse(["--again", png("minisd", "[" * 100_000)])

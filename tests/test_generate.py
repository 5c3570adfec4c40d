"""The command line: what it writes, where, and what it says when something is wrong."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import StableDiffusionPipeline
from minisd.generate import main, unknown_words


@pytest.fixture
def generate(folders, tmp_path, monkeypatch, capsys):
    """Runs the command line in an empty folder with a small model; gives the status, the paths, and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def run(*arguments, model=folders["v1"], steps=2):
        status = main([*arguments, "--model", str(model), *([] if steps is None else ["--steps", str(steps)])])
        out, err = capsys.readouterr()
        return status, out.split("\n")[:-1], err

    return run


def test_paths_go_to_standard_output_and_the_rest_to_standard_error(generate, tmp_path):
    status, paths, said = generate("a red ball", "a blue cat", "--seed", "3")
    assert (status, paths) == (0, ["a-red-ball-3.png", "a-blue-cat-4.png"])
    assert "seed 3" in said
    assert all(Image.open(tmp_path / path).size == (64, 64) for path in paths)


def test_picture_i_is_the_one_of_seed_plus_i_alone(generate, folders):
    _, paths, _ = generate("a red ball", "--seed", "7", "--num-images", "9")  # more than one batch
    pipe = StableDiffusionPipeline.from_pretrained(folders["v1"])
    for i in (0, 8):
        expected = pipe("a red ball", num_inference_steps=2, generator=torch.Generator().manual_seed(7 + i)).images[0]
        difference = np.abs(np.array(Image.open(paths[i])).astype(int) - np.array(expected))
        assert difference.max() <= 1


def test_a_random_seed_is_reported_and_another_each_time(generate):
    seeds = [re.search(r"seed (\d+)", generate("a cat")[2]).group(1) for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_nothing_is_overwritten(generate, tmp_path):
    for expected in ("picture.png", "picture-2.png", "picture-3.png"):
        _, paths, _ = generate("a cat", "--seed", "1", "--out", "picture.png")
        assert paths == [expected]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_picture_tells_how_to_repeat_it(generate):
    flags = [
        "--seed",
        "5",
        "--guidance-scale",
        "3",
        "--sampler",
        "ddim",
        "--eta",
        "0.5",
        "--negative-prompt",
        "a dog",
        "--width",
        "72",
    ]
    _, (path,), _ = generate("a red ball", *flags)
    chunks = Image.open(path).text
    facts = json.loads(chunks["minisd"])
    assert facts["torch"] == torch.__version__ and facts["dtype"] == "float32"
    again = ["--seed", str(facts["seed"]), "--guidance-scale", str(facts["guidance_scale"]), "--sampler", facts["sampler"]]
    again += ["--eta", str(facts["eta"]), "--negative-prompt", facts["negative_prompt"], "--steps", str(facts["steps"])]
    again += ["--width", str(facts["width"]), "--height", str(facts["height"])]
    _, (repeated,), _ = generate(facts["prompt"], *again, model=facts["model"], steps=None)
    assert repeated != path and np.array_equal(np.array(Image.open(path)), np.array(Image.open(repeated)))
    prompt, negative, line = chunks["parameters"].split("\n")
    assert (prompt, negative) == ("a red ball", "Negative prompt: a dog")
    assert "Steps: 2, Sampler: DDIM, CFG scale: 3.0, Seed: 5, Size: 72x64" in line


def test_what_was_loaded_otherwise_is_told_too(generate):
    _, (path,), _ = generate("a red ball", "--no-safety-checker")
    told = json.loads(Image.open(path).text["minisd"])
    assert told["no_safety_checker"] is True and "variant" not in told


def test_a_file_of_its_name_does_not_hide_the_built_in_model(generate, tmp_path):
    (tmp_path / "tiny").write_text("hello")
    assert generate("a red ball", model="tiny")[0] == 0


def test_flags_of_compvis_scripts_are_accepted_and_explained(generate):
    flags = ["--fixed_code", "--skip_save", "--laion400m", "--dpm", "--C", "4", "--f", "8", "--n_rows", "2", "--config", "x.yaml"]
    status, paths, said = generate("--prompt", "a red ball", "--plms", "--ddim_steps", "2", "--scale", "3", *flags, steps=None)
    assert status == 0 and len(paths) == 1
    assert said.count("has no effect: ") == 8


def test_a_grid_and_a_film(generate):
    _, paths, _ = generate(
        "a red ball", "a blue cat", "--num-images", "2", "--seed", "0", "--grid", "--gif", "--sampler", "ddim", steps=4
    )
    grid = Image.open(paths[-1])
    assert paths[-1] == "a-red-ball-0-grid.png" and grid.size == (128, 128)
    told = json.loads(grid.text["minisd"])
    assert told["grid"] == [["a red ball", 0], ["a red ball", 1], ["a blue cat", 2], ["a blue cat", 3]]
    assert (told["width"], told["height"]) == (64, 64)
    film = Image.open("a-red-ball-0.gif")
    assert film.n_frames == 5  # a guess for each step, and the picture
    assert film.size == (64, 64)


def test_prompts_from_a_file(generate, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ball\n\na blue cat\n")
    assert generate("--from-file", "prompts.txt", "--seed", "0")[1] == ["a-red-ball-0.png", "a-blue-cat-1.png"]


def test_flags_of_other_scripts_mean_the_same(generate):
    ours = ["--seed", "1", "--num-images", "2", "--guidance-scale", "2", "--height", "72", "--width", "80", "--sampler", "pndm"]
    compvis = ["--seed", "1", "--n_samples", "2", "--scale", "2", "--H", "72", "--W", "80", "--plms", "--outdir", "compvis"]
    diffusers = ["--seed", "1", "--num_images_per_prompt", "2", "--guidance_scale", "2", "--height", "72", "--width", "80"]
    pictures = [
        [np.array(Image.open(path)) for path in generate(*arguments)[1]]
        for arguments in (["a cat", *ours], ["--prompt", "a cat", *compvis], ["a cat", *diffusers, "--sampler", "pndm"])
    ]
    assert all(np.array_equal(pictures[0], others) for others in pictures[1:])
    assert generate("a cat", "--seed", "1", "--ddim_steps", "3", "--quiet", steps=None)[0] == 0
    more = ["--n_iter", "2", "--n_samples", "2", "--skip_grid", "--precision", "full"]
    assert generate("a dog", "--seed", "1", *more)[1] == [f"a-dog-{seed}.png" for seed in (1, 2, 3, 4)]


def test_flags_without_effect_are_accepted_and_named(generate):
    status, paths, said = generate("a cat", "--seed", "1", "--config", "v1-inference.yaml", "--C", "4", "--f", "8", "--n_rows", "2")
    assert status == 0 and len(paths) == 1
    assert [re.search(r"note: --(\w+) has no effect", line)[1] for line in said.splitlines() if "no effect" in line] == [
        "config", "C", "f", "n_rows",
    ]  # fmt: skip


def test_every_flat_picture_is_named(generate, folders, tmp_path):
    """More of them than are drawn at once: a warning that is the same twice is shown once."""
    pipe = StableDiffusionPipeline.from_pretrained(folders["v1"])
    pipe.vae.decoder.conv_out.weight.data.zero_()
    pipe.save_pretrained(tmp_path / "flat")
    _, paths, said = generate("a cat", "--seed", "1", "--num-images", "9", model=tmp_path / "flat")
    assert re.findall(r"note: (\S+) is a single colour; ", said) == paths and len(paths) == 9


def test_a_folder_is_loaded_as_told(generate, folders, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(folders["v1"])
    pipe.save_pretrained(tmp_path / "half")
    for file in (tmp_path / "half").rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert generate("a cat", "--seed", "1", model=tmp_path / "half")[0] == 1
    assert generate("a cat", "--seed", "1", "--variant", "fp16", "--no-safety-checker", model=tmp_path / "half")[0] == 0


def test_low_memory_is_half_precision_one_by_one_in_tiles(generate, tmp_path):
    settings = ("--seed", "1", "--steps", "2", "--num-images", "2", "--low-memory", "--height", "128", "--width", "72")
    status, paths, _ = generate("a cat", *settings)
    about = json.loads(Image.open(tmp_path / paths[0]).info["minisd"])
    assert status == 0 and len(paths) == 2 and about["dtype"] == "float16" and about["low_memory"] is True
    whole = np.array(Image.open(tmp_path / paths[0])).astype(int)
    generate("a cat", *settings[:4], "--height", "128", "--width", "72", "--dtype", "float16", "--out", "whole.png")
    plain = np.array(Image.open(tmp_path / "whole.png")).astype(int)
    assert 0 < abs(whole - plain).mean() < 10  # seams of tiles that are 64 pixels wide


def test_quiet_says_only_the_paths(generate):
    assert generate("a cat", "--seed", "1", "--quiet") == (0, ["a-cat-1.png"], "")


def test_processes_under_torchrun_share_the_prompts(generate, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append(generate("a cat", "a dog", "a bird", "--seed", "0")[1])
    assert shares == [["a-cat-0.png", "a-bird-2.png"], ["a-dog-1.png"]]
    assert generate("a lonely cat", "--seed", "0") == (0, [], "")  # the other process has it
    assert "several processes need a common --seed" in generate("a cat")[2]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "give a prompt"),
        (["a cat", "--height", "70"], "multiples of 8"),
        (["a cat", "--guidance-scale", "nan"], "guidance_scale must be a number"),
        (["a cat", "--num-images", "0"], "must be from 1 to 100000, not 0"),
        (["a cat", "--from-file", "missing.txt"], "cannot read prompts from missing.txt: No such file"),
        (["a cat", "--from-file", "."], "cannot read prompts from .: Is a directory"),
        (["a cat", "--from-file", sys.executable], "is not UTF-8 text"),
        (["a cat", "--eta", "1"], "has no eta; use DDIMScheduler"),
        (["a cat", "--eta", "2", "--sampler", "ddim"], "eta must be from 0 to 1"),
        (["a cat", "--seed", str(10**30)], "--seed must be from 0 to"),
        (["a cat", "--out", "cat.jpg"], "choose cat.png or a folder"),
        (["a cat", "--out", __file__], "is a file; choose a folder"),
        (["a cat", "--out", f"{__file__}/folder"], "Not a directory; choose another folder with --out"),
        (["a cat", "--out", f"{__file__}/new/cat.png"], "Not a directory; choose another folder with --out"),
        (["a cat \udcff"], "is not valid UTF-8 text"),
        (["a cat", "--tokenizer", "folder"], "--tokenizer works only with an original single file"),
        (["a cat", "--device", "mps"], "mps is not available here"),
        (["a cat", "--height", "64000000", "--width", "64000000"], "not enough memory"),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(generate, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    status, paths, said = generate(*arguments)
    assert status == 1 and not paths and not list(tmp_path.iterdir())
    assert sentence in said and "Traceback" not in said
    assert said.rstrip().split("\n")[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "0"], "the number of steps must be from 1 to 1000, not 0"),
        (["--steps", "1001"], "the number of steps must be from 1 to 1000, not 1001"),
        (["--height", "70"], "height and width must be multiples of 8; use 72×72 instead of 70×70"),
        (["--height", "64", "--width", "0"], "use 64×8 instead of 64×0"),
        (["--guidance-scale", "inf"], "guidance_scale must be a number, not inf"),
        (["--guidance-rescale", "2"], "guidance_rescale must be from 0 to 1, not 2.0"),
        (["--eta", "2"], "eta must be from 0 to 1"),
        (["--eta", "1", "--sampler", "euler"], "EulerDiscreteScheduler has no eta; use DDIMScheduler"),
        (["--clip-skip", "-1"], "clip_skip must be 0 or more, not -1"),
        (["--sampler", "ddim", "--karras"], "ddim does not support karras noise levels"),
        (["--sampler", "Euler a Karras"], "euler-a does not support karras noise levels"),
        (["--negative-prompt", "\udcff"], "is not valid UTF-8 text"),
        (["--image", "house.png", "--strength", "2"], "strength must be from 0 to 1, not 2.0"),
        (["--image", "house.png", "--strength", "0.1", "--steps", "5"], "a strength of 0.1 leaves none of 5 steps"),
        (["--image", "house.png", "--image-guidance-scale", "0.5"], "image_guidance_scale must be 1 or more, not 0.5"),
    ],
)
def test_what_no_model_could_draw_is_refused_before_one_is_loaded(generate, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.setattr("minisd.weights.load.load_pipeline", lambda *_, **__: pytest.fail("the model is loaded"))
    Image.new("RGB", (64, 64)).save(tmp_path / "house.png")
    status, paths, said = generate("a cat", *arguments, steps=None)
    assert status == 1 and not paths and sentence in said and said.startswith("error: ") and said.count("\n") == 1


def test_no_steps_and_no_model_are_explained(generate):
    assert "the number of steps must be from 1 to " in generate("a cat", steps=0)[2]
    status, _, said = generate("a cat", model="no/such/folder/anywhere")
    assert status == 1 and "no/such/folder/anywhere" in said


def test_a_long_prompt_is_drawn_and_what_was_left_out_is_said(generate):
    status, paths, said = generate("cat " * 10_000, "--seed", "1")
    assert status == 0 and len(paths) == 1
    assert "ignored: " in said and len(said) < 2000


def test_an_empty_prompt_is_allowed(generate):
    assert generate("", "--seed", "1")[1] == ["picture-1.png"]


def test_words_outside_the_world_are_named_with_the_nearest_inside():
    assert unknown_words("an astronaut riding a horse at night") == []
    (hint,) = unknown_words("a green drgon")
    assert '"drgon"' in hint and '"dragon"' in hint
    (hint,) = unknown_words("xylophone")
    assert "astronaut" in hint


def test_help_imports_nothing_heavy_and_unneeded():
    command = [sys.executable, "-X", "importtime", "-m", "minisd.generate", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in result.stderr.splitlines() if line.startswith("import time")
    }
    assert "minisd" in imported
    assert imported.isdisjoint({"diffusers", "transformers", "matplotlib", "scipy"})

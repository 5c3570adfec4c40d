"""The command line's adapters: --lora, <lora:name:0.8> in prompts, --embedding, and --again with them."""

import json
import shutil
import warnings

import pytest
import torch
from helpers import randn, small_pipeline
from loras import kohya, random_changes, write_lora
from PIL import Image

from minisd.adapters.prompt_tags import tags_of
from minisd.flags import parse
from minisd.generate import main


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the LoRAs "one" and "two.v2" and the word "easy"."""
    folder, pipe = tmp_path_factory.mktemp("adapters"), small_pipeline("v1")
    (folder / "more").mkdir()
    write_lora(folder / "one.safetensors", random_changes(pipe, "attn", 1), kohya)
    write_lora(folder / "more" / "two.v2.safetensors", random_changes(pipe, "attn", 2), kohya)
    for word in ("easy", "cat"):
        torch.save({"emb_params": randn(2, 48)}, folder / f"{word}.pt")
    return folder


@pytest.fixture
def generate(folders, files, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with the files; gives the status, pixels and chunks of its pictures, and what it said."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command line has one of its own

    def run(*arguments):
        status = main([*arguments, "--model", str(folders["v1"]), "--steps", "1", "--seed", "3"])
        out, said = capsys.readouterr()
        images = [Image.open(path) for path in out.split("\n")[:-1]]
        return status, [image.tobytes() for image in images], [image.info for image in images], said

    return run


def test_flags_add_up_and_are_recorded_and_drawn_again(generate, tmp_path):
    _, plain, _, _ = generate("a cat")
    _, one, _, _ = generate("a cat", "--lora", "one.safetensors:0.5")
    status, all_, (info,), _ = generate(
        "a cat", "--lora", "one.safetensors:0.5", "--lora", "more", "--embedding", "easy.pt", "--out", "x.png"
    )
    assert status == 0 and len({*plain, *one, *all_}) == 3
    settings = json.loads(info["minisd"])
    assert (settings["lora"], settings["embedding"]) == (["one.safetensors:0.5", "more"], ["easy.pt"])
    assert 'LoRA: "one.safetensors:0.5, more", Textual inversion: easy.pt' in info["parameters"]
    assert generate("--again", "x.png")[1] == all_
    assert parse(["--again", "x.png", "--lora", "other"]).lora == ["other"]
    assert generate("a cat", "--lora", "one.safetensors:0")[1] == plain


def test_prompts_name_loras(generate):
    _, (cat, ball), _, _ = generate("a cat", "a ball")
    _, pictures, infos, _ = generate("a <lora:one:0.5>cat", "a ball", "a ball <lora:two.v2>", "--lora-dir", ".")
    assert pictures[1] == ball and len({*pictures, cat}) == 4
    assert generate("a cat", "--lora", "one.safetensors:0.5")[1][0] == pictures[0]
    assert infos[0]["parameters"].startswith("a <lora:one:0.5>cat\n") and infos[0].get("minisd")
    assert json.loads(infos[0]["minisd"])["lora_dir"] == "."
    status, again, _, _ = generate("--again", "a-cat-3-2.png")
    assert status == 0 and again


def test_without_a_folder_a_tag_is_text(generate):
    said = generate("a cat <lora:one:0.5>")[3]
    assert "note: <lora:…> without --lora-dir, the folder of LoRAs, is read as text: 'a cat <lora:one:0.5>'" in said
    said = generate("a cat", "--negative-prompt", "<lora:one:1>", "--lora-dir", ".")[3]
    assert "note: <lora:…> in the negative prompt is read as text" in said
    said = generate("a cat <lora:one:1", "--lora-dir", ".")[3]
    assert "note: <lora:…> without a closing \">\" is read as text: 'a cat <lora:one:1'" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["<lora:three:1>", "--lora-dir", "."], "there is no LoRA 'three' in .; it has cat, easy, one, two.v2"),
        (["<lora:one:x>", "--lora-dir", "."], "<lora:one:x> is malformed; write <lora:name:scale>, for example <lora:one:0.8>"),
        (["<lora::1>", "--lora-dir", "."], "<lora::1> is malformed"),
        (["a", "--lora-dir", "none"], "--lora-dir none is not a folder"),
        (["a", "--lora", "none.safetensors:0.5"], 'file "none.safetensors" not found'),
        (["a", "--lora", "one.safetensors:nan"], "the scale of --lora must be a number, not nan"),
        (["a", "--lora", "easy.pt"], "easy.pt is not a LoRA: it contains emb_params"),
        (["a", "--embedding", "one.safetensors"], "one.safetensors is a LoRA; load it with load_lora_weights (--lora)"),
        (["a cat", "--embedding", "cat.pt"], "cat.pt: the tokenizer already has the word 'cat'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_sentence(generate, tmp_path, arguments, says):
    status, pictures, _, said = generate(*arguments)
    assert (status, pictures) == (1, []) and says in said and "Traceback" not in said
    assert not list(tmp_path.glob("*.png"))


def test_the_built_in_model_knows_an_added_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"<zorp>": randn(128)}, "learned_embeds.bin")
    assert main(["a <ZORP> on the beach", "--embedding", "learned_embeds.bin", "--steps", "1"]) == 0
    assert "zorp" not in capsys.readouterr().err.lower()


def test_damaged_settings_are_named(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("minisd", json.dumps({"lora": ["a", 3]}))
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(ValueError, match="are damaged: lora is"):
        parse(["--again", str(tmp_path / "x.png")])


def test_scales_of_one_lora_add_up():
    assert tags_of("<lora:a:0.5>cat<lora:a>") == ("cat", {"a": 1.5})

"""Textual inversion: the files of words, words of several vectors, and what a pipeline does with them."""

import base64
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import PROMPTS, distance, draw, randn, small_pipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import nn

from minisd import CheckpointError, CLIPTokenizer, StableDiffusionPipeline
from minisd.adapters.textual_inversion import set_table
from minisd.adapters.word_files import read_words
from minisd.config import SD1_TEXT
from minisd.weights.settings import config_json

SIZE = 566  # words of the small vocabulary
VECTORS = randn(3, 48, seed=7)


@pytest.fixture(scope="module")
def shared():
    return small_pipeline("v1")


@pytest.fixture
def pipe(shared):
    table = shared.text_encoder.token_embedding.weight.clone()
    yield shared
    shared.unload_textual_inversion()
    assert torch.equal(shared.text_encoder.token_embedding.weight, table)
    assert shared.text_encoder.config.vocab_size == SIZE == len(shared.tokenizer.vocab)


def ids(pipe, prompt: str) -> list[int]:
    row = pipe.tokenizer.encode(prompt)
    return row[1 : row.index(pipe.tokenizer.end_id)]


def png(file: Path):
    content = {"string_to_param": {"*": {"TORCHTENSOR": VECTORS.tolist()}}, "name": "easy"}
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(content).encode()).decode())
    Image.new("RGB", (4, 4)).save(file, pnginfo=info)


A1111 = {"string_to_token": {"*": 265}, "name": "easy", "step": 3}
LAYOUTS = {
    "diffusers, one vector": ("x.safetensors", lambda file: save_file({"<w>": VECTORS[0]}, file), "<w>", 1),
    "diffusers": ("x.safetensors", lambda file: save_file({"<w>": VECTORS}, file), "<w>", 3),
    "diffusers' pickle": ("learned_embeds.bin", lambda file: torch.save({"<w>": VECTORS[0]}, file), "<w>", 1),
    "a web interface": (
        "easy.pt",
        lambda file: torch.save({**A1111, "string_to_param": {"*": nn.Parameter(VECTORS)}}, file),
        "easy",
        3,
    ),
    "the first program": (
        "easy.pt",
        lambda file: torch.save({"string_to_param": nn.ParameterDict({"*": nn.Parameter(VECTORS)})}, file),
        "easy",
        3,
    ),
    "emb_params": ("easy.safetensors", lambda file: save_file({"emb_params": VECTORS}, file), "easy", 3),
    "a tensor": ("easy.pt", lambda file: torch.save(VECTORS, file), "easy", 3),
    "a picture": ("easy.png", png, "easy", 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(pipe, tmp_path, layout):
    name, write, word, count = LAYOUTS[layout]
    write(tmp_path / name)
    pipe.load_textual_inversion(tmp_path / name)
    assert ids(pipe, f"a {word} cat") == [*ids(pipe, "a"), *range(SIZE, SIZE + count), *ids(pipe, "cat")]
    assert torch.equal(pipe.text_encoder.token_embedding.weight[SIZE:], VECTORS[:count])


def test_as_in_diffusers(pipe, folders, tmp_path, measure):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.StableDiffusionPipeline.from_pretrained(folders["v1"])
    save_file({"<one>": VECTORS[0]}, tmp_path / "one.safetensors")
    torch.save({**A1111, "string_to_param": {"*": VECTORS}}, tmp_path / "easy.pt")
    for file in ("one.safetensors", "easy.pt"):
        pipe.load_textual_inversion(tmp_path / file)
        reference.load_textual_inversion(tmp_path / file)
    prompts = ["an easy <one>cat", "easy, horse, easy", "ball <ONE>"]
    texts = [reference.maybe_convert_prompt(prompt, reference.tokenizer) for prompt in prompts]
    theirs = reference.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    ours = pipe.tokenizer(prompts).input_ids
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        assert measure(pipe.text_encoder(ours)[0], reference.text_encoder(theirs)[0]) < 1e-5


def test_case_does_not_count_and_weighted_prompts_expand_too(pipe, tmp_path):
    save_file({"emb_params": VECTORS}, tmp_path / "Easy.safetensors")
    pipe.load_textual_inversion(tmp_path / "Easy.safetensors")
    assert ids(pipe, "EASY") == ids(pipe, "easy") == [SIZE, SIZE + 1, SIZE + 2]
    plain, weighted = (draw(pipe, "a cat", steps=1, negative_prompt="easy", prompt_weighting=on) for on in (False, True))
    assert distance(weighted, plain) < 1e-5
    assert distance(draw(pipe, "a cat", steps=1, negative_prompt="(easy:1.5)", prompt_weighting=True), plain) > 1e-4
    with pytest.warns(UserWarning, match="has 84 tokens, but only 75 fit; ignored: 'easyeasy_1easy_2"):
        pipe.tokenizer.encode("easy " * 28)


def test_words_are_saved_and_read_again(pipe, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_file({"emb_params": VECTORS}, tmp_path / "easy.safetensors")
    pipe.load_textual_inversion(tmp_path / "easy.safetensors")
    pipe.save_pretrained(tmp_path / "saved")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    prompt = "an easy cat"
    assert again.tokenizer.encode(prompt) == pipe.tokenizer.encode(prompt)
    assert torch.equal(again.encode_prompt([prompt]), pipe.encode_prompt([prompt]))
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path / "saved" / "tokenizer")
    assert theirs.convert_tokens_to_ids(["easy", "easy_1", "easy_2"]) == [SIZE, SIZE + 1, SIZE + 2]
    assert CLIPTokenizer.from_pretrained(tmp_path / "saved" / "tokenizer").encode(prompt) == pipe.tokenizer.encode(prompt)
    again.unload_textual_inversion("easy")
    assert torch.equal(again.text_encoder.token_embedding.weight, pipe.text_encoder.token_embedding.weight[:SIZE])
    assert config_json(replace(SD1_TEXT, vocab_size=49411))["eos_token_id"] == 49407


def test_one_of_several_is_unloaded(pipe, tmp_path):
    save_file({"<one>": VECTORS[:2], "<two>": VECTORS[2]}, tmp_path / "words.safetensors")
    other = StableDiffusionPipeline.from_pipe(pipe)
    pipe.load_textual_inversion(tmp_path / "words.safetensors")
    assert ids(other, "<one><two>") == [SIZE, SIZE + 1, SIZE + 2]
    states = other.encode_prompt(["a <two>"])
    other.unload_textual_inversion("<one>")
    assert ids(pipe, "<two>") == [SIZE] and torch.equal(pipe.encode_prompt(["a <two>"]), states)
    with pytest.raises(ValueError, match="'<one>' was never added; added words: '<two>'"):
        pipe.unload_textual_inversion(["<two>", "<one>"])
    pipe.unload_textual_inversion(["<two>"])
    assert torch.equal(pipe.encode_prompt(PROMPTS), small_pipeline("v1").encode_prompt(PROMPTS))


def test_added_words_follow_the_vocabulary_and_not_spare_rows_of_the_table(tmp_path):
    pipe = small_pipeline("v1")
    table = torch.cat([pipe.text_encoder.token_embedding.weight, VECTORS[:2]])
    set_table(pipe, table)
    save_file({"<w>": VECTORS[2]}, tmp_path / "w.safetensors")
    pipe.load_textual_inversion(tmp_path / "w.safetensors")
    assert ids(pipe, "<w>") == [SIZE]
    pipe.save_pretrained(tmp_path / "saved")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.encode_prompt(["<w>"]), pipe.encode_prompt(["<w>"]))
    pipe.unload_textual_inversion()
    assert torch.equal(pipe.text_encoder.token_embedding.weight, table)


def test_token_names_the_word(pipe, tmp_path):
    save_file({"<one>": VECTORS}, tmp_path / "words.safetensors")
    pipe.load_textual_inversion(tmp_path / "words.safetensors", token="mine")
    assert len(ids(pipe, "mine")) == 3 and len(ids(pipe, "<one>")) > 3
    torch.save({**A1111, "string_to_param": {"*": VECTORS[:1]}}, tmp_path / "other.pt")
    with pytest.warns(UserWarning, match="names its word 'easy'; it is loaded as 'other'"):
        assert list(read_words(tmp_path / "other.pt")) == ["other"]


WRONG = {
    "v2": ({"<w>": torch.ones(2, 1024)}, None, "its vectors have 1024 channels, as in Stable Diffusion 2, this model's have 48"),
    "XL": ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, None, "is a textual inversion for Stable Diffusion XL"),
    "NaN": ({"<w>": torch.full((2, 48), math.nan)}, None, "is damaged: '<w>' is not one or several vectors of finite numbers"),
    "nothing": ({"<w>": torch.ones(0, 48)}, None, "is damaged: '<w>'"),
    "integers": ({"<w>": torch.ones(2, 48, dtype=torch.int64)}, None, "is damaged: '<w>'"),
    "a LoRA": ({"unet.conv_in.lora_A.weight": torch.ones(2, 4)}, None, r"is a LoRA; load it with load_lora_weights \(--lora\)"),
    "a checkpoint": ({"model.diffusion_model.x": torch.ones(2, 4, 3, 3)}, None, "is not a textual inversion: it contains model"),
    "known": ({"cat": torch.ones(48)}, None, "already has the word 'cat'; choose another with token=…"),
    "known in capitals": ({"CAT": torch.ones(48)}, None, "already has the word 'CAT'"),
    "added": ({"<there>": torch.ones(48)}, None, "already has the word '<there>'"),
    "added in capitals": ({"<THERE>": torch.ones(48)}, None, "already has the word '<THERE>'"),
    "a continuation": ({"<there>_1": torch.ones(48)}, None, "'<there>_1' would become a part of an existing word"),
    "no word": ({" ": torch.ones(48)}, None, "' ' cannot be a word in a prompt"),
    "no token": ({"<w>": torch.ones(48)}, "", "'' cannot be a word in a prompt"),
    "a token for two": ({"<v>": torch.ones(48), "<w>": torch.ones(48)}, "x", "contains 2 words, .*; leave out token='x'"),
    "twice": ({"<v>": torch.ones(48), "<V>": torch.ones(48)}, None, "(?i)already has the word '<v>'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_fit_changes_nothing(pipe, tmp_path, case):
    tensors, token, says = WRONG[case]
    save_file({"<there>": torch.ones(48)}, tmp_path / "there.safetensors")
    pipe.load_textual_inversion(tmp_path / "there.safetensors")
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=says) as error:
        pipe.load_textual_inversion(tmp_path / "w.safetensors", token)
    assert "\n" not in str(error.value)
    assert len(pipe.text_encoder.token_embedding.weight) == SIZE + 1 == len(pipe.tokenizer.vocab)


def test_damaged_files(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    info = PngInfo()
    info.add_text("sd-ti-embedding", "{")
    Image.new("RGB", (4, 4)).save(tmp_path / "bad.png", pnginfo=info)
    torch.save({"string_to_param": {"*": print}}, tmp_path / "code.pt")
    torch.save({"a": 1}, tmp_path / "number.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    for file, says in {
        "plain.png": "is an image without a textual inversion",
        "bad.png": "its textual inversion .* cannot be read",
        "code.pt": "was refused, and no code in it was run: .* references .*print",
        "number.pt": "contains no textual inversion",
        "empty.pt": "it is empty",
    }.items():
        with pytest.raises(CheckpointError, match=says):
            read_words(tmp_path / file)


REAL = os.environ.get("MINISD_ADAPTERS")


@pytest.mark.skipif(not REAL, reason="MINISD_ADAPTERS names no folder of textual inversions for Stable Diffusion v1")
def test_real_files_are_read():
    files = [file for file in Path(str(REAL)).iterdir() if file.suffix in (".pt", ".bin") or "embed" in file.name]
    for file in files:
        if "vae" not in file.name:
            assert all(vectors.shape[-1] == 768 for vectors in read_words(file).values())

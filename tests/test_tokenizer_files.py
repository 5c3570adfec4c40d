"""What a tokenizer's files say beside its vocabulary: the ids are transformers', or a sentence refuses."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import END, START, small_tokenizer, small_vocabulary

from minisd import CheckpointError, CLIPTokenizer

N = len(small_vocabulary()[0])
ADDED, SPECIAL, CONFIG, WHOLE = "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"
CLIP = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
PROMPTS = [
    "a <toy> cat",
    "a <TOY> cat",
    "a<toy>cat",
    "a <Two>  <toy>",
    "a <pad> cat",
    "<|ENDOFTEXT|> cat <|endoftext|>",
    "! a cat !!",
]


def token(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": True, **flags}


def written(folder: Path, files: Mapping[str, Any]) -> Path:
    """The small tokenizer with some of its files replaced."""
    small_tokenizer("v1").save_pretrained(folder)
    for name, settings in files.items():
        (folder / name).write_text(json.dumps(settings))
    return folder


def whole(change: Callable[[dict], None] = lambda vocab: None, **settings: Any) -> dict[str, Any]:
    """A tokenizer.json with another vocabulary, or other settings."""
    vocab, merges = small_vocabulary()
    change(vocab)
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    model = {"type": "BPE", "vocab": vocab, "merges": [" ".join(merge) for merge in merges]}
    return {"version": "1.0", **parts, "added_tokens": [], "model": model, **settings}


def exchange(vocab: dict[str, int]):
    vocab["a</w>"], vocab["cat</w>"] = vocab["cat</w>"], vocab["a</w>"]


SAME: dict[str, dict[str, Any]] = {
    "additional in the map": {SPECIAL: {**CLIP, "additional_special_tokens": ["<toy>", "<Two>"]}, CONFIG: {}},
    "additional in the config": {CONFIG: {**CLIP, "additional_special_tokens": ["<toy>", "<Two>"]}},
    "extra in the config": {CONFIG: {**CLIP, "extra_special_tokens": {"image_token": "<toy>"}}},
    "another task": {SPECIAL: {**CLIP, "mask_token": "<toy>"}, CONFIG: {**CLIP, "image_token": "<Two>"}},
    "additional and added": {SPECIAL: {**CLIP, "additional_special_tokens": ["<Two>"]}, CONFIG: {}, ADDED: {"<toy>": N}},
    "additional are those added": {SPECIAL: {**CLIP, "additional_special_tokens": ["<toy>"]}, CONFIG: {}, ADDED: {"<toy>": N}},
    "added in another order": {ADDED: {"<toy>": N + 1, "<Two>": N}},
    "an added word pads": {SPECIAL: {**CLIP, "pad_token": "<pad>"}, CONFIG: {}, ADDED: {"<pad>": N, "<toy>": N + 1}},
    "a new word pads": {SPECIAL: {**CLIP, "pad_token": "<pad>"}, CONFIG: {}, ADDED: {"<toy>": N}},
    "the official v2's flags": {SPECIAL: {name: token(text) for name, text in CLIP.items()} | {"pad_token": "!"}},
    "the list of added words wins": {
        SPECIAL: {**CLIP, "pad_token": "!"}, ADDED: {"<Two>": N},
        CONFIG: {**CLIP, "added_tokens_decoder": {N: token("<toy>", special=False)}},
    },
    "tokenizer.json wins": {WHOLE: whole(exchange)},
    "tokenizer.json adds": {WHOLE: whole(added_tokens=[{"id": N, **token("<toy>", special=True)}])},
}  # fmt: skip


@pytest.mark.parametrize("files", SAME.values(), ids=SAME)
def test_the_ids_are_those_of_transformers(files, tmp_path):
    ours = CLIPTokenizer.from_pretrained(written(tmp_path / "tokenizer", files))
    theirs = pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    expected = theirs(PROMPTS, padding="max_length", max_length=77, truncation=True).input_ids
    assert ours(PROMPTS).input_ids.tolist() == expected
    ours.save_pretrained(tmp_path / "saved")
    for kind in (CLIPTokenizer, type(theirs)):
        again = kind.from_pretrained(tmp_path / "saved")
        assert (
            again(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids.tolist() == expected
        )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "start": ({SPECIAL: {**CLIP, "bos_token": "<s>"}}, "bos_token = '<s>' is not implemented, only '<|startoftext|>'"),
    "end": ({SPECIAL: {**CLIP, "eos_token": token("</s>")}}, "eos_token = '</s>' is not implemented"),
    "unknown": ({SPECIAL: {**CLIP, "unk_token": "!"}}, "unk_token = '!' is not implemented, only '<|endoftext|>'"),
    "padding": ({CONFIG: {**CLIP, "padding_side": "left"}}, "padding_side = 'left' is not implemented, only 'right'"),
    "truncation": ({CONFIG: {"truncation_side": "left"}}, "truncation_side = 'left' is not implemented"),
    "padding in tokenizer.json": ({WHOLE: whole(padding={"direction": "Left"})}, "padding_side = 'left' is not implemented"),
    "length": ({CONFIG: {"model_max_length": 20}}, "model_max_length = 20 is not implemented, only 77"),
    "typed special words": ({CONFIG: {"split_special_tokens": True}}, "split_special_tokens = True is not implemented"),
    "a gap": ({ADDED: {"<toy>": N + 7}}, f"the added word '<toy>' has id {N + 7} instead of {N}; correct"),
    "a place that is taken": ({ADDED: {"<toy>": 5}}, f"the added word '<toy>' has id 5 instead of {N}"),
    "a second number": ({ADDED: {"cat</w>": N}}, f"the added word 'cat</w>' has id {N} instead of "),
    "a list of numbers": ({CONFIG: {"additional_special_tokens": [5]}}, "extra_special_tokens = [5] is not an object, each"),
}


@pytest.mark.parametrize(("files", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_would_give_other_ids_is_refused_by_name(files, sentence, tmp_path):
    with pytest.raises(CheckpointError, match=re.escape(sentence)) as error:
        CLIPTokenizer.from_pretrained(written(tmp_path / "tokenizer", files))
    assert str(error.value).startswith(f"in {tmp_path / 'tokenizer'}")


def test_no_limit_is_no_other_length(tmp_path):
    settings = {CONFIG: {**CLIP, "model_max_length": 10**30}}
    assert CLIPTokenizer.from_pretrained(written(tmp_path / "tokenizer", settings)).model_max_length == 77

"""Damaged checkpoints by the hundred: each ends in a sentence or draws. `python tests/test_fuzz.py 10000` tries as many and counts;
`python tests/test_fuzz.py 2600 12600` begins at seed 2600.

A case is a seed: it says which file is harmed, and how.
"""

import json
import random
import re
import shutil
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import SMALL, build, diffusers_tensors, small_tokenizer

from minisd import CheckpointError, PNDMScheduler, StableDiffusionPipeline, UnsupportedConfig
from weights_convert.__main__ import main as convert

CASES = 300
LEVELS = {"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}
UNET = {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 16, "attention_head_dim": 2, "sample_size": 4,
}  # fmt: skip
VAE = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "sample_size": 8}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SETTINGS = {
    "unet": {**SMALL["v1"]["unet"], **UNET, **LEVELS},
    "vae": {**SMALL["v1"]["vae"], **VAE, **LEVELS},
    "text_encoder": {**SMALL["v1"]["text_encoder"], **TEXT},
}
VALUES = [
    None, True, False, -1, 0, 1, 3, 1.5, 2**20, 10**30, float("nan"), float("inf"), -1e-9, "", "x", "a/b", "../x", [], {}, [1],
    [[]],    ["x"], [None], {"a": 1}, [1, "x"], "\0", "é" * 60, [True, False], [8, 16], [0.5, 0.5], {"content": 5}, "F16", "relu",
]  # fmt: skip
PYTHONS_WORDS = re.compile(
    r"\w+Error|object (is|has|of)|NoneType|unhashable|\bint\(\)|argument|Traceback|not subscriptable|iterable"
)


def write_checkpoint(root: Path) -> dict[str, Path]:
    """A checkpoint of a few kilobytes, as a folder and as minisd's single file."""
    networks = {part: build(part, settings, diffusers_tensors(part, settings)) for part, settings in SETTINGS.items()}
    pipe = StableDiffusionPipeline(**networks, tokenizer=small_tokenizer("v1"), scheduler=PNDMScheduler())
    pipe.save_pretrained(root / "folder")
    with (root / "folder" / "tokenizer" / "added_tokens.json").open("w") as file:
        json.dump({"!</w>": pipe.tokenizer.vocab["!</w>"]}, file)
    convert([str(root / "folder"), str(root / "file.safetensors")])
    return {"folder": root / "folder", "file": root / "file.safetensors"}


# Harm


def harmed(value: object, rng: random.Random) -> object:
    """The JSON value with something in it replaced, left out or put in."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        kept = {key: inner for key, inner in value.items() if key != name}
        if rng.random() < 0.1:
            return kept
        return {**value, rng.choice([name, name, name, name, "_class_name", "x"]): harmed(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return [*value[:at], harmed(value[at], rng), *value[at + rng.randrange(2) :]]
    return rng.choice(VALUES)


def harm_json(path: Path, rng: random.Random):
    path.write_text(json.dumps(harmed(json.loads(path.read_text()), rng)))


def harm_header(path: Path, rng: random.Random):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    if rng.random() < 0.3 and "minisd" in header["__metadata__"]:
        about = json.loads(header["__metadata__"]["minisd"])
        file = rng.choice(list(about["files"]))
        if file.endswith(".json"):
            about["files"][file] = json.dumps(harmed(json.loads(about["files"][file]), rng))
        header["__metadata__"]["minisd"] = json.dumps(about if rng.random() < 0.8 else harmed(about, rng))
    else:
        header = harmed(header, rng)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def harm_bytes(path: Path, rng: random.Random):
    content = bytearray(path.read_bytes())
    at = rng.randrange(min(len(content), rng.choice([16, 4000, 10**9])))
    harm = rng.randrange(4)
    if harm == 0:
        del content[at:]
    elif harm == 1:
        content[at:at] = rng.randbytes(rng.randrange(1, 9))
    else:
        content[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
    path.write_bytes(content)


def leave_out(path: Path, rng: random.Random):
    path.unlink()


def make_folder(path: Path, rng: random.Random):
    path.unlink()
    path.mkdir()


def harm(source: Path, rng: random.Random):
    if source.is_file():
        return rng.choice([harm_header, harm_header, harm_bytes])(source, rng)
    path = rng.choice(sorted(path for path in source.rglob("*") if path.is_file()))
    of_content = harm_json if path.suffix == ".json" else harm_header if path.suffix == ".safetensors" else harm_bytes
    harms: list[Callable] = [of_content] * 6 + [harm_bytes] * 2 + [leave_out, make_folder]
    return rng.choice(harms)(path, rng)


# What comes of it


def outcome(sources: dict[str, Path], seed: int) -> tuple[str, str]:
    """ "sentence" or "drawn", or "other" and what that was."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = sources[rng.choice(["folder", "folder", "folder", "file"])]
        copy = Path(place) / source.name
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        harm(copy, rng)
        try:
            pipe = StableDiffusionPipeline.from_pretrained(copy)
            pipe.set_progress_bar_config(disable=True)
            size = 8 * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
            pipe("a red ball", size, size, num_inference_steps=1, generator=torch.Generator().manual_seed(0))
            return "drawn", ""
        except (CheckpointError, UnsupportedConfig, ValueError, FloatingPointError) as error:
            sentence = str(error)
            good = sentence and "\n" not in sentence and not PYTHONS_WORDS.search(sentence)
            return ("sentence", sentence) if good else ("other", f"{type(error).__name__}: {sentence}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            return "other", f"{type(error).__name__}: {error}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    return write_checkpoint(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("first", range(0, CASES, 100))
def test_a_damaged_checkpoint_ends_in_a_sentence_or_draws(sources, first):
    others = {
        seed: said for seed in range(first, first + 100) if (found := outcome(sources, seed))[0] == "other" for said in found[1:]
    }
    assert not others


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        checkpoint = write_checkpoint(Path(root))
        counts: Counter[str] = Counter()
        for seed in range(*map(int, sys.argv[1:])):
            kind, said = outcome(checkpoint, seed)
            counts[kind] += 1
            if kind == "other":
                print(seed, said)
    print(dict(counts))

"""Carries the second edition's trainings from one machine to another, through this repository.

    python .second/carry.py save runs2       # averaged weights of each training, in float16, and how far it is → .second
    python .second/carry.py restore runs2    # the states that `python -m minisd.second` reads and resumes

Optimisers are not carried; a resumed training starts with a new one. This folder goes when the second edition is finished.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import torch
from safetensors.torch import load_file, save_file

from minisd.config import TINY_TEXT
from minisd.second import clip, decoder, features, judge, unet, vae
from minisd.second.discriminator import Duel
from minisd.second.muon import muon
from minisd.tokenizer import CLIPTokenizer
from minisd.train.clip import CLIP
from minisd.train.loop import adamw
from minisd.train.state import read_state, write_state
from minisd.unet import UNet2DConditionModel
from minisd.vae import AutoencoderKL

HERE = Path(__file__).parent


def text_and_images(folder: Path) -> CLIP:
    vocabulary = CLIPTokenizer.from_pretrained(folder / "clip" / "tokenizer").vocab
    return CLIP(replace(TINY_TEXT, vocab_size=len(vocabulary)), clip.VISION)


PARTS = {  # the module of a training, its network, and its optimiser
    "features": (features, lambda folder: features.Features(), muon),
    "vae": (vae, lambda folder: AutoencoderKL(vae.VAE), muon),
    "clip": (clip, text_and_images, muon),
    "decoder": (decoder, lambda folder: Duel(decoder.decoding_half(AutoencoderKL(vae.VAE))), muon),
    "unet": (unet, lambda folder: UNet2DConditionModel(unet.UNET), adamw),
    "judge": (judge, lambda folder: judge.Detector(), adamw),
}


def save(folder: Path):
    steps = {}
    for part in PARTS:
        if (folder / part / "state.pt").exists():
            state = read_state(folder / part / "state.pt")
            save_file({name: tensor.half().contiguous() for name, tensor in state["average"].items()}, HERE / f"{part}.safetensors")
            steps[part] = state["step"]
    if "clip" in steps:
        copytree(folder / "clip" / "tokenizer", HERE / "tokenizer", dirs_exist_ok=True)
    (HERE / "steps.json").write_text(json.dumps(steps, indent=1) + "\n")
    print(steps)


def restore(folder: Path):
    steps = json.loads((HERE / "steps.json").read_text())
    if "clip" in steps:
        copytree(HERE / "tokenizer", folder / "clip" / "tokenizer", dirs_exist_ok=True)
    for part, step in steps.items():
        training, network, optimizer = PARTS[part]
        model = network(folder)
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(HERE / f"{part}.safetensors").items()})
        weights, new = model.state_dict(), optimizer(model, training.RECIPE).state_dict()
        (folder / part).mkdir(parents=True, exist_ok=True)
        state = {"step": step, "model": weights, "average": weights, "optimizer": new, "scaler": {}}
        write_state(folder / part / "state.pt", state)
    print(steps)


if __name__ == "__main__":
    torch.manual_seed(0)
    {"save": save, "restore": restore}[sys.argv[1]](Path(sys.argv[2]))

"""What the tests share: small relatives of both kinds of Stable Diffusion, weights on which mistakes show, measures, walks."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn

from minisd import AutoencoderKL, CLIPTextModel, CLIPTokenizer, StableDiffusionPipeline, UNet2DConditionModel
from minisd.schedulers import SCHEDULERS, Scheduler
from minisd.weights.fill import described, fill, from_diffusers
from minisd.weights.names import to_diffusers

DATA, REFERENCES = Path(__file__).parent / "data", Path(__file__).parent / "references"
OFFICIAL = json.loads((DATA / "configs.json").read_text())  # the JSON files of v1-4 and v2-1, as their repositories have them
NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ["a", "an", "the", "of", "astronaut", "horse", "photograph", "riding", "red", "ball", "blue", "cat", "painting", "squirrel"]

PROMPTS = ["a photograph of an astronaut riding a horse", "a blue cat!"]


def small_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A BPE in CLIP's form, in which every one of WORDS is a token: 256 bytes, the same at a word's end, merges, start and end."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = next((pair for pair in merges if pair in zip(pieces, pieces[1:])), None)
            if pair is None:
                merges.append(pair := (pieces[0], pieces[1]))
            at = list(zip(pieces, pieces[1:])).index(pair)
            pieces[at : at + 2] = ["".join(pair)]
    letters = sorted(ByteLevel.alphabet())  # "!" comes first and has the id 0, as in CLIP
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges] + [START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def small_tokenizer(kind: str) -> CLIPTokenizer:
    return CLIPTokenizer(*small_vocabulary(), pad={"v1": END, "v2": "!"}[kind])


# Small configurations have three levels and two layers a level: with fewer, several mistakes cannot be seen.
V1_UNET = {
    "sample_size": 8,
    "block_out_channels": [32, 64, 96],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "cross_attention_dim": 48,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
VAE = {
    "block_out_channels": [16, 32, 48, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "sample_size": 64,
}
V1_TEXT = {
    "vocab_size": len(small_vocabulary()[0]),
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
}
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "v1": {"unet": V1_UNET, "vae": VAE, "text_encoder": V1_TEXT, "scheduler": OFFICIAL["v1"]["scheduler"]},
    "v2": {
        "unet": {**V1_UNET, "attention_head_dim": [2, 4, 6], "use_linear_projection": True},
        "vae": VAE,
        "text_encoder": {**V1_TEXT, "hidden_act": "gelu"},
        "scheduler": OFFICIAL["v2"]["scheduler"],
    },
}


def random_tensors(shapes: Mapping[str, Tensor], seed: int, gain: float = 1.0) -> dict[str, Tensor]:
    """Weights for diffusers' names, unlike fresh ones: norms are not 1, biases are not 0. The names' order does not matter.

    A small `gain` keeps all features so quiet that the ε of a GroupNorm counts.
    """
    generator = seeded(seed)
    tensors = {}
    for name in sorted(shapes):
        noise = torch.randn(shapes[name].shape, generator=generator)
        if noise.ndim > 1:
            tensors[name] = noise.mul_(gain / math.sqrt(noise[0].numel()))
        else:
            tensors[name] = 1 + 0.3 * noise if name.endswith("weight") else 0.2 * gain * noise
    return tensors


def build(component: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """minisd's network for a config.json, with the tensors of a diffusers file."""
    model = described(NETWORKS[component], settings, component)
    return fill(model, from_diffusers(component, tensors, model, component))


def diffusers_tensors(component: str, settings: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Seeded weights of a network under diffusers' names, made without diffusers."""
    model = described(NETWORKS[component], settings, component)
    convolutions = component == "unet" and not settings.get("use_linear_projection")
    return random_tensors(to_diffusers(component, model.state_dict(), convolutions), seed)


def small_network(component: str, kind: str, seed: int = 0) -> nn.Module:
    settings = SMALL[kind][component]
    return build(component, settings, diffusers_tensors(component, settings, seed))


def small_pipeline(kind: str) -> StableDiffusionPipeline:
    """A whole Stable Diffusion with random weights; its pictures are coloured noise."""
    settings = SMALL[kind]["scheduler"]
    networks = {component: small_network(component, kind) for component in NETWORKS}
    scheduler = SCHEDULERS[settings["_class_name"]].from_config(settings)
    pipe = StableDiffusionPipeline(**networks, tokenizer=small_tokenizer(kind), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def reference(component: str, settings: Mapping[str, Any]) -> nn.Module:
    """The network as diffusers or transformers build it, without weights worth naming."""
    settings = {name: value for name, value in settings.items() if not name.startswith("_")}
    if component == "text_encoder":
        transformers = pytest.importorskip("transformers")
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))
    network = getattr(pytest.importorskip("diffusers"), NETWORKS[component].__name__)
    with torch.device("meta"):
        return network(**settings)


def pair(component: str, settings: Mapping[str, Any], seed: int = 0, gain: float = 1.0) -> tuple[nn.Module, nn.Module]:
    """The reference's network and minisd's, with the same random weights, which they share in memory."""
    theirs = reference(component, settings)
    tensors = random_tensors(theirs.state_dict(), seed, gain)
    theirs.load_state_dict(tensors, assign=True)
    config = theirs.config.to_dict() if component == "text_encoder" else dict(theirs.config)
    return theirs.eval().requires_grad_(False), build(component, config, tensors)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the reference's largest number."""
    assert ours.shape == theirs.shape
    theirs = theirs.double().cpu()
    return float((ours.double().cpu() - theirs).abs().max() / theirs.abs().max())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def toy_model(x: Tensor, t: Tensor | float) -> Tensor:
    """Stands for a UNet: depends on x and t, neither linearly."""
    return torch.tanh(0.9 * x + float(t) / 1000)


def trajectory(scheduler: Scheduler, x: Tensor, model: Callable = toy_model) -> Iterator[Tensor]:
    """The latents after every step, from noise x."""
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        yield x


def begun(sampler: type[Scheduler], n: int, **settings) -> Scheduler:
    scheduler = sampler(**settings)
    scheduler.set_timesteps(n)
    return scheduler


def draw(pipe: StableDiffusionPipeline, prompt: str | list[str] = PROMPTS[0], steps: int = 4, **more) -> Tensor:
    """The latents of a short run."""
    return pipe(prompt, num_inference_steps=steps, output_type="latent", **{"generator": seeded(), **more}).images


class Watched:
    """Keeps what the UNet is given, call by call: latents, time, context."""

    def __init__(self, pipe: StableDiffusionPipeline):
        self.calls: list[tuple] = []
        pipe.unet.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, module, args, kwargs, output):
        self.calls.append((*args, kwargs["encoder_hidden_states"]))

    @property
    def context(self) -> torch.Tensor:
        return self.calls[0][2]

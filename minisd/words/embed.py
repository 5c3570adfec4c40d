"""Prompts with more than plain text → the text states that the UNet attends to."""

from copy import copy
from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from ..clip import CLIPTextModel
from ..request import Request, check_prompts, whole
from ..tokenizer import CLIPTokenizer
from .chunks import Tokens, framed, weighted_tokens
from .emphasis import warn_of_unread

if TYPE_CHECKING:
    from ..pipeline import StableDiffusionPipeline


def embed(
    pipe: "StableDiffusionPipeline",
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
    clip_skip: int | None = None,
    prompt_weighting: bool = False,
    **unknown: Any,
) -> tuple[Tensor, Tensor]:
    """The text states of the prompts and of the negative prompts, both (B, T, D).

    `prompt_embeds` and `negative_prompt_embeds` (B, T, D) replace the texts. `clip_skip` omits that many of the text encoder's last
    layers for the prompts. With `prompt_weighting`, as in web interfaces, brackets set weights, a prompt may have more than 75
    tokens, and `clip_skip` also applies to the negative prompts.

    Raises TypeError or ValueError for invalid or contradictory arguments.
    """
    if unknown:
        near = get_close_matches(min(unknown), {*signature(Request.of).parameters, *signature(embed).parameters}, 1)
        raise TypeError(f"unknown argument {min(unknown)}{'; did you mean ' + near[0] + '?' if near else ''}")
    check_clip_skip(clip_skip, pipe.text_encoder)
    check_embeds(prompt, prompt_embeds, "prompt", pipe.text_encoder)
    check_embeds(negative_prompt, negative_prompt_embeds, "negative_prompt", pipe.text_encoder)
    if prompt_embeds is not None:
        prompt = [""] * len(prompt_embeds)
        negative_prompt = [negative_prompt] * len(prompt) if isinstance(negative_prompt, str) else negative_prompt
    texts = check_prompts(prompt, negative_prompt)
    if prompt_weighting:
        warn_of_unread([*texts[0], *texts[1]])

    read = weighted_tokens if prompt_weighting else one_chunk
    rows = [[read(pipe.tokenizer, text) for text in side] for side in texts]
    given = [prompt_embeds, negative_prompt_embeds]
    longest = max([len(row) for side in rows for row in side] + [embeds.shape[1] for embeds in given if embeds is not None])
    blank = framed(pipe.tokenizer, [])
    skips = (clip_skip or 0, clip_skip or 0 if prompt_weighting else 0)  # as in diffusers, or as in web interfaces
    states = [
        encode(pipe.text_encoder, [row + blank * ((longest - len(row)) // len(blank)) for row in side], skip)
        if embeds is None
        else embeds.to(pipe.device, pipe.text_encoder.final_norm.weight.dtype)
        for side, embeds, skip in zip(rows, given, skips)
    ]
    if states[0].shape != states[1].shape:
        ours, theirs = (tuple(each.shape) for each in states)
        raise ValueError(f"the states of the prompts {ours} and of the negative prompts {theirs} must have the same shape")
    return states[0], states[1]


def one_chunk(tokenizer: CLIPTokenizer, prompt: str) -> Tokens:
    return [(token, 1.0) for token in tokenizer.encode(prompt)]


def encode(text_encoder: CLIPTextModel, rows: list[Tokens], clip_skip: int) -> Tensor:
    """Rows of k · 77 tokens → their states (B, k · 77, D): each chunk is encoded separately and its states are weighted.

    As in AUTOMATIC1111's web interface, weighting preserves the mean of a chunk's states.
    """
    tokens = torch.tensor(rows, dtype=torch.float32, device=text_encoder.final_norm.weight.device)  # (B, k · 77, 2)
    ids, weights = rearrange(tokens, "B (k T) two -> two (B k) T", T=77)
    plain = without_last_layers(text_encoder, clip_skip)(ids.long()).last_hidden_state  # (B · k, 77, D)
    states = plain.float() * weights[..., None].to(plain.device)
    states *= plain.float().mean(dim=(1, 2), keepdim=True) / states.mean(dim=(1, 2), keepdim=True)
    return rearrange(states.to(plain.dtype), "(B k) T D -> B (k T) D", B=len(rows))


def without_last_layers(text_encoder: CLIPTextModel, number: int) -> CLIPTextModel:
    """A text encoder with the same weights but without its last `number` layers; the final norm stays."""
    shorter = copy(text_encoder)
    shorter._modules = {**text_encoder._modules, "blocks": text_encoder.blocks[: len(text_encoder.blocks) - number]}
    return shorter


def check_clip_skip(clip_skip: Any, text_encoder: CLIPTextModel):
    """Raise TypeError or ValueError unless at least one layer of the text encoder remains."""
    if clip_skip is not None:
        clip_skip, layers = whole("clip_skip", clip_skip), len(text_encoder.blocks)
        if not 0 <= clip_skip < layers:
            raise ValueError(f"clip_skip must be from 0 to {layers - 1} for this text encoder of {layers} layers, not {clip_skip}")


def check_embeds(text: Any, embeds: Any, name: str, text_encoder: CLIPTextModel):
    """Raise TypeError or ValueError unless the states fit and the text is not given too."""
    if embeds is None:
        return
    if text is not None:
        raise ValueError(f"give either {name} or {name}_embeds")
    width = text_encoder.config.hidden_size
    if not isinstance(embeds, Tensor) or embeds.dim() != 3 or embeds.shape[2] != width or not len(embeds) or embeds.is_meta:
        found = f"{tuple(embeds.shape)} on {embeds.device}" if isinstance(embeds, Tensor) else embeds
        raise ValueError(f"{name}_embeds must be a tensor of shape (prompts, tokens, {width}), not {found}"[:200])

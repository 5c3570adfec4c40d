"""Adapters on the command line: `--lora`, `--lora-dir` with `<lora:name:0.8>` in prompts, and `--embedding`."""

import argparse
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..pipeline import StableDiffusionPipeline
from ..request import real
from ..weights.pickles import is_pickle
from ..weights.safetensors import read_header
from . import lora_file, word_files
from .adapter_files import find_adapter
from .prompt_tags import lora_files, tags_of

if TYPE_CHECKING:
    from ..flags import Order


@dataclass
class Adapters:
    """The adapters that the flags select: LoRA files and the scales of `--lora`, by adapter name, and the words in each file."""

    loras: dict[str, Path] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    words: dict[Path, list[str]] = field(default_factory=dict)

    def load(self, pipe: StableDiffusionPipeline):
        for path in self.words:
            pipe.load_textual_inversion(path)
        for name, path in self.loras.items():
            pipe.load_lora_weights(path, adapter_name=name)

    def without_words(self, prompt: str) -> str:
        """Remove the words added by `--embedding` from a prompt, ignoring case."""
        for word in (word for words in self.words.values() for word in words):
            prompt = re.sub(re.escape(word), "", prompt, flags=re.IGNORECASE)
        return prompt

    def batches(self, pipe: StableDiffusionPipeline, orders: Sequence["Order"], size: int) -> Iterator[list["Order"]]:
        """Batches of at most `size` orders with the same LoRAs, which are fused into the weights first."""
        for _, group in groupby(orders, lambda order: order.loras):
            alike = list(group)
            scales = {**self.scales, **alike[0].loras}
            if self.loras:
                pipe.unfuse_lora()
                pipe.set_adapters(list(scales), list(scales.values()))
                pipe.fuse_lora()
            for first in range(0, len(alike), size):
                yield alike[first : first + size]


def find_adapters(args: argparse.Namespace, orders: Sequence["Order"]) -> tuple[Adapters, list["Order"]]:
    """Find and check the files before a model is loaded. Also returns the orders with the tags removed from their texts."""
    found = Adapters()
    for given in args.lora or ():
        source, scale = source_and_scale(given)
        name = f"--lora {len(found.loras) + 1}"
        found.loras[name], found.scales[name] = find_adapter(source, lora_file.USUAL, companions=(lora_file.CONFIG,)), scale
    for source in args.embedding or ():
        path = find_adapter(source, word_files.USUAL)
        found.words[path] = list(word_files.read_words(path))
    if args.lora_dir:
        read = [tags_of(order.prompt) for order in orders]
        found.loras |= lora_files(args.lora_dir, dict.fromkeys(name for _, scales in read for name in scales))
        orders = [replace(order, text=text, loras=scales) for order, (text, scales) in zip(orders, read)]
    if tagged := next((text for text in (*(order.text for order in orders), args.negative_prompt) if "<lora:" in text), None):
        why = "without --lora-dir, the folder of LoRAs,"
        if args.lora_dir:
            why = "in the negative prompt" if tagged == args.negative_prompt else 'without a closing ">"'
        warnings.warn(f"<lora:…> {why} is read as text: {tagged!r:.60}", stacklevel=1)
    for path in found.loras.values():
        if not is_pickle(path):
            read_header(path)
    return found, list(orders)


def source_and_scale(given: str) -> tuple[str, float]:
    """Split FILE or FILE:SCALE; the default scale is 1. Raises ValueError if the scale is not a number."""
    source, colon, number = given.rpartition(":")
    try:
        scale = float(number)
    except ValueError:
        return given, 1.0
    return (source, real("the scale of --lora", scale)) if colon and not Path(given).exists() else (given, 1.0)

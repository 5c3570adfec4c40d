"""A pipeline's methods for LoRA and textual inversion: a leaf. The work is in `minisd.adapters`, imported when it is called for."""

import os
from collections.abc import Sequence
from typing import Any


class Adaptable:
    """Small files change a pipeline while it is loaded, and can be taken off again."""

    def load_lora_weights(self: Any, source: str | os.PathLike, scale: float = 1.0, adapter_name: str | None = None, **where: Any):
        """Put a LoRA beside the weights: a file, a folder, or an id on the Hub. Several add up.

        `scale` is its strength. `weight_name` and `subfolder` say which file of a folder or an id it is; the options for ids are
        those of `from_pretrained`. Words that were learnt with it are added as by `load_textual_inversion`.
        Raises CheckpointError for a file that is damaged, no LoRA, or for another model, and ValueError for a name that is taken;
        then nothing has changed.
        """
        from .adapters.pipeline_loras import load_lora

        load_lora(self, source, scale, adapter_name, **where)

    def set_adapters(self: Any, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None):
        """Give LoRAs other scales, by default 1. Those that are not named are switched off."""
        from .adapters.pipeline_loras import set_adapters

        set_adapters(self, adapter_names, adapter_weights)

    def fuse_lora(self: Any, lora_scale: float = 1.0):
        """Add the LoRAs to the weights: as fast as without them, and `save_pretrained` writes the sum."""
        from .adapters.pipeline_loras import fuse_loras

        fuse_loras(self, lora_scale)

    def unfuse_lora(self: Any):
        """Undo `fuse_lora`, bit for bit: the LoRAs stand beside the weights again."""
        from .adapters.pipeline_loras import unfuse_loras

        unfuse_loras(self)

    def unload_lora_weights(self: Any):
        """Remove all LoRAs, which brings back the weights, bit for bit. Words that came with them stay.

        As in diffusers, LoRAs that are fused stay in the weights for good; call `unfuse_lora` before to undo that.
        """
        from .adapters.pipeline_loras import unload_loras

        unload_loras(self)

    def load_textual_inversion(self: Any, source: str | os.PathLike, token: str | None = None, **where: Any):
        """Add the words of a file, a folder, or an id on the Hub; `token` is another name for the word of a file that has one.

        A word of several vectors is one word in a prompt. Files of web interfaces are called as their word.
        `weight_name`, `subfolder` and the options for ids as in `load_lora_weights`.
        Raises CheckpointError for a file that is damaged, no textual inversion, or for another model, and ValueError for a word
        that is known; then nothing has changed.
        """
        from .adapters.textual_inversion import load_words

        load_words(self, source, token, **where)

    def unload_textual_inversion(self: Any, tokens: str | Sequence[str] | None = None):
        """Remove added words, by default all of them."""
        from .adapters.textual_inversion import remove_words

        remove_words(self, tokens)

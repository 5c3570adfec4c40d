"""A pipeline's methods for LoRA and textual inversion. The work is in `minisd.adapters`, which they import when called."""

import os
from collections.abc import Sequence
from typing import Any


class Adaptable:
    """Loads and removes small files that change a pipeline."""

    def load_lora_weights(self: Any, source: str | os.PathLike, scale: float = 1.0, adapter_name: str | None = None, **where: Any):
        """Add a LoRA from a file, a folder or an id on the Hub. The effects of several LoRAs add up.

        `scale` is its strength. `weight_name` and `subfolder` select the file in a folder or id; the options for ids are those of
        `from_pretrained`. Words that were trained with the LoRA are added too, as by `load_textual_inversion`.
        Raises CheckpointError for a file that is damaged, not a LoRA, or for another model, and ValueError if the name is taken.
        After an error, the pipeline is unchanged.
        """
        from .adapters.pipeline_loras import load_lora

        load_lora(self, source, scale, adapter_name, **where)

    def set_adapters(self: Any, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None):
        """Set the scales of the named LoRAs, by default 1, and switch off all others. Raises ValueError for unknown names."""
        from .adapters.pipeline_loras import set_adapters

        set_adapters(self, adapter_names, adapter_weights)

    def fuse_lora(self: Any, lora_scale: float = 1.0):
        """Add the LoRAs to the weights: inference is as fast as without them, and `save_pretrained` writes the sum."""
        from .adapters.pipeline_loras import fuse_loras

        fuse_loras(self, lora_scale)

    def unfuse_lora(self: Any):
        """Undo `fuse_lora` and restore the weights bit for bit; the LoRAs stay loaded."""
        from .adapters.pipeline_loras import unfuse_loras

        unfuse_loras(self)

    def unload_lora_weights(self: Any):
        """Remove all LoRAs, which restores the original weights bit for bit. Words that came with them stay.

        As in diffusers, fused LoRAs stay in the weights permanently; call `unfuse_lora` first to avoid that.
        """
        from .adapters.pipeline_loras import unload_loras

        unload_loras(self)

    def load_textual_inversion(self: Any, source: str | os.PathLike, token: str | None = None, **where: Any):
        """Add the words in a file, a folder or an id on the Hub. `token` renames the word of a file with a single word.

        A word with several vectors is still one word in a prompt. For files of web interfaces, the file name is the word.
        `weight_name`, `subfolder` and the options for ids are those of `load_lora_weights`.
        Raises CheckpointError for a file that is damaged, not a textual inversion, or for another model, and ValueError for a word
        that the tokenizer already has. After an error, the pipeline is unchanged.
        """
        from .adapters.textual_inversion import load_words

        load_words(self, source, token, **where)

    def unload_textual_inversion(self: Any, tokens: str | Sequence[str] | None = None):
        """Remove added words, by default all. Raises ValueError for a word that was never added."""
        from .adapters.textual_inversion import remove_words

        remove_words(self, tokens)

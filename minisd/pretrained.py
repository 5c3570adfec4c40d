"""`from_pretrained` and `save_pretrained`: a leaf. Everything about files is in `minisd.weights`, imported when it is called."""

import os
from typing import Any, ClassVar, Self


class Pretrained:
    """A component (network, tokenizer or sampler) that can be loaded from a checkpoint and saved as a folder of one."""

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, subfolder: str = "", **options) -> Self:
        """Load from a folder, or from an id on the Hub.

        Options for ids: `revision`, `cache_dir`, `token`, `local_files_only`, and `force_download`, which fetches again what the
        cache has. Options for networks: `dtype` (or `torch_dtype`), float32 if not given, to which weights are cast on the way in;
        `variant="fp16"` takes the files in half precision.
        Raises CheckpointError or UnsupportedConfig; then nothing is loaded.
        """
        from .weights.load import load_component

        return load_component(cls, source, subfolder, **options)

    @classmethod
    def from_single_file(cls, path: str | os.PathLike, **options) -> Self:
        """Load a network from a .safetensors file: one that holds it alone, as VAEs are published, or a whole checkpoint.

        `path` may also be an address on the Hub. `dtype` and the options for ids as in `from_pretrained`.
        """
        from .weights.load import load_network_file

        return load_network_file(cls, path, **options)

    def save_pretrained(self: Any, folder: str | os.PathLike, variant: str | None = None):
        """Write a folder that minisd and diffusers load, or replace the files of one that was written so before.

        `variant="fp16"` goes into the names of weights, and those of other variants stay; it casts nothing.
        """
        from .weights.save import save_component

        save_component(self, folder, variant)


class PretrainedPipeline:
    """A pipeline that can be loaded from a checkpoint with all its parts, and saved as one."""

    unet_channels: ClassVar[tuple[int, ...]] = (4,)  # input channels of the UNets that it draws with
    not_in_checkpoints: ClassVar[tuple[str, ...]] = ()  # parts that must be given by keyword

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options) -> Self:
        """Load the built-in model ("tiny"), a diffusers folder, an id on the Hub, or what `from_single_file` reads.

        `dtype` (or `torch_dtype`), float32 if not given, is what weights are cast to on the way in. `variant="fp16"` takes the
        files in half precision. Options for ids: `revision`, `cache_dir`, `token`, `local_files_only`, and `force_download`, which
        fetches again what the cache has. Any part can be replaced by keyword, as in `vae=…`; `scheduler=DDIMScheduler`, the class,
        takes over the checkpoint's settings. A checkpoint's safety checker is loaded too; `safety_checker=None` leaves it out.
        `use_safetensors=True`, `low_cpu_mem_usage`, `feature_extractor` and `requires_safety_checker` are accepted and change
        nothing.

        Raises CheckpointError or UnsupportedConfig with what to do, and TypeError for an unknown keyword; then nothing is loaded.
        """
        from .weights.load import load_pipeline

        return load_pipeline(cls, source, **options)

    @classmethod
    def from_single_file(cls, path: str | os.PathLike, **options) -> Self:
        """Load a .safetensors file that holds all parts: minisd's own, or one in the layout in which v1 and v2 were published.

        `path` may also be an address on the Hub, "https://huggingface.co/owner/name/blob/main/x.safetensors". Networks that are
        given by keyword, as in `vae=…`, need not be in the file.

        The published layout has no vocabulary: `tokenizer` names a folder or an id on the Hub that has one; without it, CLIP's is
        taken from the Hub or its cache, as `cache_dir`, `token` and `local_files_only` say. `prediction_type` ("epsilon" or
        "v_prediction") overrides what is known or guessed. Where a file holds the UNet twice, as trained and averaged (EMA), this
        takes the first; `weights_convert --averaged` takes the other. `dtype` and parts as in `from_pretrained`.

        Raises as `from_pretrained` does; then nothing is loaded.
        """
        from .weights.load import load_single_file

        return load_single_file(cls, path, **options)

    def save_pretrained(self, folder: str | os.PathLike, variant: str | None = None):
        """Write a folder that minisd and diffusers load, as the `save_pretrained` of a network does."""
        from .weights.save import save_pipeline

        save_pipeline(self, folder, variant)

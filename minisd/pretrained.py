"""`from_pretrained` and `save_pretrained`. Everything about files is in `minisd.weights`, which they import when called."""

import os
from typing import Any, ClassVar, Self


class Pretrained:
    """A component (network, tokenizer or sampler) that can be loaded from a checkpoint and saved as a folder of one."""

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, subfolder: str = "", **options) -> Self:
        """Load from a folder, or from an id on the Hub.

        Options for ids: `revision`, `cache_dir`, `token`, `local_files_only`, and `force_download`, which ignores the cache.
        Options for networks: `dtype` (or `torch_dtype`), default float32, to which weights are cast while loading, and
        `variant="fp16"`, which selects the files in half precision. Raises CheckpointError or UnsupportedConfig.
        """
        from .weights.load import load_component

        return load_component(cls, source, subfolder, **options)

    @classmethod
    def from_single_file(cls, path: str | os.PathLike, **options) -> Self:
        """Load a network from a .safetensors file that holds only this network, as VAEs are published, or a whole checkpoint.

        `path` may also be a URL on the Hub. `dtype` and the options for ids are those of `from_pretrained`.
        """
        from .weights.load import load_network_file

        return load_network_file(cls, path, **options)

    def save_pretrained(self: Any, folder: str | os.PathLike, variant: str | None = None):
        """Write a folder that minisd and diffusers can load, or replace the files of an earlier one.

        `variant="fp16"` changes the names of weight files but casts nothing; files of other variants stay.
        """
        from .weights.save import save_component

        save_component(self, folder, variant)


class PretrainedPipeline:
    """A pipeline that can be loaded from a checkpoint with all its components, and saved as one."""

    unet_channels: ClassVar[tuple[int, ...]] = (4,)  # supported numbers of UNet input channels
    not_in_checkpoints: ClassVar[tuple[str, ...]] = ()  # components that must be given by keyword

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options) -> Self:
        """Load the built-in model ("tiny"), a diffusers folder, an id on the Hub, or any file that `from_single_file` reads.

        Weights are cast to `dtype` (or `torch_dtype`), default float32, while loading. `variant="fp16"` selects the files in half
        precision. Options for ids: `revision`, `cache_dir`, `token`, `local_files_only`, and `force_download`, which ignores the
        cache. Keywords such as `vae=…` replace components; a class, as in `scheduler=DDIMScheduler`, takes over the checkpoint's
        settings. The checkpoint's safety checker is loaded too; `safety_checker=None` omits it. `use_safetensors=True`,
        `low_cpu_mem_usage`, `feature_extractor` and `requires_safety_checker` are accepted for compatibility and have no effect.

        Raises CheckpointError or UnsupportedConfig, with a remedy, and TypeError for an unknown keyword.
        """
        from .weights.load import load_pipeline

        return load_pipeline(cls, source, **options)

    @classmethod
    def from_single_file(cls, path: str | os.PathLike, **options) -> Self:
        """Load a .safetensors file that holds all networks, in minisd's layout or in the original layout of v1 and v2.

        `path` may also be a URL on the Hub, "https://huggingface.co/owner/name/blob/main/x.safetensors". The file may lack networks
        that are given by keyword, as in `vae=…`.

        The original layout has no vocabulary: `tokenizer` names a folder or an id on the Hub that has one. By default, CLIP's
        vocabulary comes from the Hub or its cache, subject to `cache_dir`, `token` and `local_files_only`. `prediction_type`
        ("epsilon" or "v_prediction") overrides the known or guessed one. If a file holds the UNet twice, as trained and averaged
        (EMA), the first is loaded; `weights_convert --averaged` selects the other. `dtype` and components are as in
        `from_pretrained`.

        Raises the same errors as `from_pretrained`.
        """
        from .weights.load import load_single_file

        return load_single_file(cls, path, **options)

    def save_pretrained(self, folder: str | os.PathLike, variant: str | None = None):
        """Write a folder that minisd and diffusers can load; see the `save_pretrained` of a network."""
        from .weights.save import save_pipeline

        save_pipeline(self, folder, variant)

"""Configurations that can be read like those of diffusers: `config.in_channels`, `config["in_channels"]`, `dict(config)`."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any


class AsMapping(Mapping[str, Any]):
    """A dataclass that is also a mapping from its fields' names to their values."""

    def __getitem__(self, name: str) -> Any:
        return vars(self)[name]

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))  # type: ignore[arg-type]  # every subclass is a dataclass

    def __len__(self) -> int:
        return len(fields(self))  # type: ignore[arg-type]

"""Checks settings from JSON files and callers: their types, their ranges, and that minisd implements them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from ..config import UnsupportedConfig

Settings = Mapping[str, Any]

LARGEST = 2**20
WHOLE, POSITIVE = (1, LARGEST), (1e-6, LARGEST)
FROM_0, SHARE = (0, LARGEST), (0, 1)
RANGES = {  # of numbers whose range is not the default
    "num_hidden_layers": (1, 1000), "layers_per_block": (1, 100), "guidance_scale": (-1000, 1000), "beta_start": SHARE,
    "beta_end": SHARE, "trained_betas": SHARE, "steps_offset": FROM_0, "disable_corrector": FROM_0, "id": FROM_0, "vocab": FROM_0,
    "added_tokens.json": FROM_0,
}  # fmt: skip
NAMES = {bool: "true or false", str: "a string", dict: "an object", NoneType: "null"}


@contextmanager
def named(where: str, kind: type[ValueError] = UnsupportedConfig) -> Iterator[None]:
    """Add the file's name to errors raised in this context, and raise them as `kind`."""
    try:
        yield
    except UnsupportedConfig as error:
        raise kind(f"{where}: {error}") from error


def check(name: str, value: Any, kind: Any) -> Any:
    """The value, if it has this type, such as `tuple[int, ...] | None`; lists become tuples. Raises UnsupportedConfig otherwise."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not fits(value, kind, name):
        raise UnsupportedConfig(f"{name} = {value!r:.50} is not {in_words(kind, name)}")
    return tuple(value) if isinstance(value, list) else value


def get(settings: Settings, name: str, kind: Any, default: Any) -> Any:
    """A setting, checked, or the default if it is missing."""
    return check(name, settings[name], kind) if name in settings else default


def checked(kind: type, settings: Settings) -> dict[str, Any]:
    """The settings that are fields of a dataclass, each checked against the type of its field."""
    return {field.name: check(field.name, settings[field.name], field.type) for field in fields(kind) if field.name in settings}


def fits(value: Any, kind: Any, name: str) -> bool:
    args = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(fits(value, arg, name) for arg in args)
    if get_origin(kind) is tuple:
        right_length = args[-1] is ... or len(args) == len(value) if isinstance(value, (list, tuple)) else False
        return right_length and all(fits(item, args[0], name) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(fits(item, args[1], name) for item in value.values())
    if kind in (int, float):
        low, high = limits(kind, name)
        return type(value) in (int, kind) and low <= value <= high
    return isinstance(value, kind)


def limits(kind: type, name: str) -> tuple[float, float]:
    return RANGES.get(name, WHOLE if kind is int else POSITIVE)


def in_words(kind: Any, name: str) -> str:
    """A type in the words of an error message."""
    args = get_args(kind)
    if get_origin(kind) is UnionType:
        return " or ".join(in_words(arg, name) for arg in args)
    if get_origin(kind) is tuple:
        return (
            f"a list, each {in_words(args[0], name)}"
            if args[-1] is ...
            else f"a list of {len(args)}, each {in_words(args[0], name)}"
        )
    if get_origin(kind) is dict:
        return f"an object, each value {in_words(args[1], name)}"
    if kind in (int, float):
        low, high = limits(kind, name)
        return f"a {'whole ' if kind is int else ''}number from {low:,} to {high:,}"
    return NAMES[kind]


# What is not implemented


def refuse_unless(settings: Settings, implemented: Settings):
    """Raise UnsupportedConfig if a setting, or its value for any level, is not the single implemented value."""
    for name, value in implemented.items():
        given = settings.get(name, value)
        if given != value and not (isinstance(given, list | tuple) and given and all(item == value for item in given)):
            raise UnsupportedConfig(f"{name} = {given!r:.50} is not implemented, only {value!r}")


def refuse_unknown(settings: Settings, known: Iterable[str]):
    """Raise UnsupportedConfig for an unknown setting that is enabled."""
    for name in settings.keys() - set(known):
        value = settings[name]
        if not name.startswith("_") and value not in (None, False, "default"):
            raise UnsupportedConfig(f"{name} = {value!r:.50} is not implemented")


def refuse_blocks(found: Iterable[str], implemented: Iterable[str]):
    """Raise UnsupportedConfig for block types that are not implemented."""
    for block in set(found) - set(implemented):
        raise UnsupportedConfig(f"a {block} is not implemented")


def refuse_uneven(widths: Iterable[int], parts: int, what: str):
    """Raise UnsupportedConfig if a width is not divisible by the number of heads or groups."""
    for width in widths:
        if width % parts:
            raise UnsupportedConfig(f"a width of {width} cannot be divided into {parts} {what}")


def single(name: str, values: int | tuple[int, ...]) -> int:
    """The value of a setting that must be the same at all levels."""
    first, *others = values if isinstance(values, tuple) else (values,)
    if any(other != first for other in others):
        raise UnsupportedConfig(f"{name} = {[first, *others]!r} is not implemented, only one value for all levels")
    return first


def required(settings: Settings, name: str, kind: Any) -> Any:
    """A setting, checked. Raises UnsupportedConfig if it is missing."""
    if name not in settings:
        raise UnsupportedConfig(f"{name} is missing")
    return check(name, settings[name], kind)

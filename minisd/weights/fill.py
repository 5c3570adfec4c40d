"""Builds empty networks on the meta device and fills them with the tensors of a file, strictly and without copying.

An empty network also lists the contents of its file: the names and shapes that follow from a configuration.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..clip import CLIPTextModel
from ..config import CLIPTextConfig, UNetConfig, VAEConfig
from ..controlnet import ControlNetConfig, ControlNetModel
from ..fast.speed_up import speed_up
from ..guided_unet import GuidedUNet, GuidedUNetConfig
from ..safety_checker import SafetyCheckerConfig, StableDiffusionSafetyChecker
from ..taesd import AutoencoderTiny, TAESDConfig
from ..unet import UNet2DConditionModel
from ..vae import AutoencoderKL
from .compare import Spell, arranged, compare
from .errors import CheckpointError
from .names import Place, diffusers_name, diffusers_places
from .safetensors import header_of
from .settings import read_config
from .vetting import Settings, named

N = TypeVar("N", bound=nn.Module)


class NetworkKind(NamedTuple):
    """A network class and how it is saved; `weights` is the stem of its weight file in a diffusers folder."""

    network: type[nn.Module]
    config: type
    weights: str


# By the name of the component in a pipeline, which is also the name of its folder.
NETWORKS = {
    "unet": NetworkKind(UNet2DConditionModel, UNetConfig, "diffusion_pytorch_model"),
    "vae": NetworkKind(AutoencoderKL, VAEConfig, "diffusion_pytorch_model"),
    "text_encoder": NetworkKind(CLIPTextModel, CLIPTextConfig, "model"),
    "safety_checker": NetworkKind(StableDiffusionSafetyChecker, SafetyCheckerConfig, "model"),
}
ALONE = {  # never part of a checkpoint
    "controlnet": NetworkKind(ControlNetModel, ControlNetConfig, "diffusion_pytorch_model"),
    "taesd": NetworkKind(AutoencoderTiny, TAESDConfig, "diffusion_pytorch_model"),
}
KINDS = NETWORKS | ALONE


def part_of(network: type[nn.Module]) -> str:
    """The name in KINDS of a network class or of its base class."""
    return next(part for part, kind in KINDS.items() if issubclass(network, kind.network))


class Unfilled(TorchFunctionMode):
    """Networks built in this context are on the meta device, with shapes but without values; initialisation is skipped."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.empty:
            return function(*args, **{**kwargs, "device": "meta"})
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def unfilled(network: type[N], config: Any) -> N:
    with Unfilled():
        return network(config)


def described(network: type[N], settings: Settings, where: str) -> N:
    """The empty network that a config.json describes. Raises UnsupportedConfig, naming the file."""
    with named(where):
        config: Any = read_config(KINDS[part_of(network)].config, settings)
        kind: Any = GuidedUNet if isinstance(config, GuidedUNetConfig) else network
        return unfilled(kind, config)


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def fitted(
    tensors: Mapping[str, Tensor], places: Mapping[str, Place], unexpected: list[str], network: nn.Module, spell: Spell, where: str
) -> dict[str, Tensor]:
    """The tensors by the network's names. Raises CheckpointError unless all are present with the right shapes and dtypes."""
    shapes = shapes_of(network)
    findings = compare(header_of(tensors), places, unexpected, shapes, spell)
    if findings.refused:
        raise CheckpointError(f"{where} does not fit the network: {findings}")
    findings.warn(where)
    return arranged(tensors, places, shapes)


def from_diffusers(part: str, tensors: Mapping[str, Tensor], network: nn.Module, where: str) -> dict[str, Tensor]:
    """The tensors of a diffusers component ("unet", "vae", …) by the network's names, checked."""
    places, repeated = diffusers_places(part, tensors)
    return fitted(tensors, places, repeated, network, partial(diffusers_name, part), where)


def fill(network: N, tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> N:
    """Assign checked tensors to a network, cast to `dtype`; tensors without a cast share their memory. Empties the dict."""
    modules = dict(network.named_modules())
    for name in list(tensors):
        tensor = tensors.pop(name)  # one at a time, so that the weights never exist twice
        module, _, parameter = name.rpartition(".")
        setattr(modules[module], parameter, nn.Parameter(tensor.to(dtype or tensor.dtype), requires_grad=False))
    speed_up(network)
    return network.eval()


def load_strictly(network: N, tensors: Mapping[str, Tensor], where: str) -> N:
    """Fill a network with tensors under its own names. Raises CheckpointError unless they match exactly."""
    places = {name: Place(name) for name in tensors}
    return fill(network, fitted(tensors, places, [], network, str, where))

"""Networks that wait in main memory and visit the GPU only to compute: one network at a time, or one layer at a time."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

HOOKS, DEVICE = "offload_hooks", "offload_device"  # what an offloaded network stores, besides its modules


def computes_on(network: nn.Module, weight: Tensor) -> torch.device:
    """The device on which a network computes: that of its weight, unless it is offloaded and the weight only waits there."""
    return vars(network).get(DEVICE, weight.device)


def refuse_to_move(networks: Iterable[nn.Module], device: torch.device):
    """Raise ValueError if any network is offloaded and would leave main memory for another device."""
    if device.type != "cpu" and any(DEVICE in vars(network) for network in networks):
        raise ValueError(f'the networks are offloaded and visit the GPU by themselves; leave out .to("{device}")')


def gpu(gpu_id: int | None, device: str | torch.device | None) -> torch.device:
    """The GPU that the arguments of an offloading method name; by default the first. Raises ValueError if there is none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    chosen = torch.device(device) if device else found
    if chosen is None or chosen.type == "cpu":
        raise ValueError("offloading moves networks between main memory and a GPU, and there is no GPU here; leave it out")
    if None not in (gpu_id, chosen.index):
        raise ValueError(f"gpu_id={gpu_id} and device={str(device)!r} both choose a GPU; give one of them")
    return torch.device(chosen.type, gpu_id or chosen.index or 0)


def by_network(groups: Sequence[Sequence[nn.Module]], device: torch.device):
    """Move a group of networks to the device when one of them computes, and all other groups away."""

    def fetch(group: Sequence[nn.Module]):
        if next(group[0].parameters()).device != device:
            for network in (network for other in groups if other is not group for network in other):
                network.to("cpu")
            for network in group:
                network.to(device)

    for group in groups:
        for network in group:
            hooks = start(network, device)
            for module in (network, *network.children()):  # the parts of a VAE compute without a call of the VAE
                hooks.append(module.register_forward_pre_hook(lambda *_, group=group: fetch(group)))


def by_layer(networks: Iterable[nn.Module], device: torch.device):
    """Copy the weights of a layer to the device when it computes, and drop the copy afterwards.

    Embeddings, whose weights other modules read directly, come with the module around them, and LoRAs with their layer.
    """
    for network in networks:
        hooks = start(network, device)
        layers = {module for module in network.modules() if module._parameters and not isinstance(module, nn.Embedding)}
        layers.add(network)
        for layer in layers:
            waiting: list[tuple[nn.Module, Any]] = []

            def fetch(layer: nn.Module, *_: Any, layers=layers, waiting=waiting):
                for module in with_parts(layer, layers):
                    weights: dict[str, Any] = module._parameters
                    waiting.append((module, weights))
                    module._parameters = {name: p if p is None else p.to(device) for name, p in weights.items()}

            def drop(*_: Any, waiting=waiting):
                while waiting:
                    module, parameters = waiting.pop()
                    module._parameters = parameters

            hooks += [layer.register_forward_pre_hook(fetch), layer.register_forward_hook(drop, always_call=True)]


def with_parts(module: nn.Module, layers: set[nn.Module]) -> Iterator[nn.Module]:
    """A module and everything below it, except layers with hooks of their own."""
    yield module
    for child in module.children():
        if child not in layers:
            yield from with_parts(child, layers)


def start(network: nn.Module, device: torch.device) -> list:
    """Move a network to main memory and return the list for its hooks, which replace earlier ones. Its inputs move too."""
    for hook in vars(network).get(HOOKS, ()):
        hook.remove()
    network.to("cpu")

    def moved(network: nn.Module, inputs: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        on = [x.to(device) if isinstance(x, Tensor) else x for x in inputs]
        return tuple(on), {name: x.to(device) if isinstance(x, Tensor) else x for name, x in named.items()}

    vars(network)[DEVICE] = device
    vars(network)[HOOKS] = hooks = [network.register_forward_pre_hook(moved, with_kwargs=True)]
    return hooks

"""Offloading: where the networks are while a pipeline draws, and that it draws the same. Most tests pretend that there is a GPU."""

import pytest
import torch
from helpers import PROMPTS, distance, draw, small_pipeline
from test_controlnet import HINT, controlnet
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minisd import StableDiffusionControlNetPipeline, StableDiffusionImg2ImgPipeline
from minisd.adapters.lora import LoRA, attach, layers_of, loras_of
from minisd.fast import offload

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
METHODS = ["enable_model_cpu_offload", "enable_sequential_cpu_offload"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def flat(value) -> list:
    return [inner for one in value for inner in flat(one)] if isinstance(value, list | tuple) else [value]


def is_device(value) -> bool:
    return isinstance(value, torch.device) or value in ("cpu", "cuda") if not isinstance(value, Tensor) else False


def place(tensor: Tensor) -> torch.device:
    return vars(tensor).get("place", CPU)


class PretendGPU(TorchFunctionMode):
    """A tensor that moves to the GPU stays, but says that it is there. An operation on tensors in both places fails."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function == Tensor.device.__get__:
            return place(args[0])
        named = kwargs or {}
        if function is torch.device:
            return function(*args, **named)
        given = [value for value in flat([*args, *named.values()]) if isinstance(value, Tensor)]
        devices = [torch.device(value) for value in (*args, *named.values()) if is_device(value)]
        args = [CPU if is_device(value) else value for value in args]
        result = function(*args, **{name: CPU if is_device(value) else value for name, value in named.items()})
        moves = function.__name__ in ("to", "cpu", "copy_", "as_tensor")
        places = {place(tensor) for tensor in given if tensor.ndim} or {place(tensor) for tensor in given} or {CPU}
        assert moves or len(places) == 1, f"{function.__name__} of tensors on {places}"
        there = devices[0] if devices else CPU if function.__name__ == "cpu" else place(given[-1]) if moves else places.pop()
        there = torch.device("cuda", 0) if there.type == "cuda" else CPU
        if isinstance(result, Tensor) and place(result) != there:
            result = result.view_as(result) if any(result is tensor for tensor in given) else result
        for tensor in flat([result]):
            if isinstance(tensor, Tensor):
                tensor.place = there
        return result


def move(network: nn.Module, device) -> nn.Module:
    """`network.to(device)`, which would move into the tensors that are there."""
    for module in network.modules():
        module._parameters = {name: p if p is None else p.to(device) for name, p in module._parameters.items()}
    return network


@pytest.fixture
def pretend(monkeypatch):
    monkeypatch.setattr(nn.Module, "to", move)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda"))
    with PretendGPU():
        yield


def on_gpu(network: nn.Module) -> int:
    """The numbers of a network that are on the GPU."""
    return sum(p.numel() for p in network.parameters() if p.device == GPU)


def watch(pipe) -> dict[str, set[tuple[str, ...]]]:
    """By the name of a module: the networks with weights on the GPU whenever it computes."""
    seen: dict[str, set[tuple[str, ...]]] = {}
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    inside = {"text_encoder": pipe.text_encoder.final_norm, "unet": pipe.unet.conv_in, "decoder": pipe.vae.decoder.conv_in}
    inside["encoder"] = pipe.vae.encoder.conv_in
    for name, module in inside.items():
        seen[name] = set()
        module.register_forward_hook(
            lambda *_, name=name: seen[name].add(tuple(part for part, network in networks.items() if on_gpu(network)))
        )
    return seen


@pytest.mark.parametrize("method", METHODS)
def test_offloaded_networks_draw_the_same(pretend, method):
    pipe = small_pipeline("v1")
    expected = draw(pipe, steps=2), pipe.decode(torch.ones(1, 4, 8, 8))
    getattr(pipe, method)()
    assert pipe.device == GPU
    latents = draw(pipe, steps=2)
    assert latents.device == GPU and distance(latents, expected[0]) < 1e-5
    assert distance(pipe.decode(torch.ones(1, 4, 8, 8).to(GPU)), expected[1]) < 3e-5  # the sums of all layers, in another order


def test_one_network_at_a_time_is_on_the_gpu(pretend):
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(small_pipeline("v1"))
    pipe.enable_model_cpu_offload()
    seen = watch(pipe)
    for _ in range(2):
        pipe(PROMPTS[0], image=HINT, num_inference_steps=2)
    assert seen == {"text_encoder": {("text_encoder",)}, "unet": {("unet",)}, "encoder": {("vae",)}, "decoder": {("vae",)}}
    assert on_gpu(pipe.vae) == sum(p.numel() for p in pipe.vae.parameters())


def test_one_layer_at_a_time_is_on_the_gpu(pretend):
    pipe = small_pipeline("v1")
    pipe.enable_sequential_cpu_offload()
    seen = []
    watched = [pipe.text_encoder.final_norm, pipe.unet.mid_block.resnet_1.conv1, pipe.vae.decoder.mid_block.resnet_1.conv1]
    for layer in watched:
        layer.register_forward_pre_hook(lambda *_: seen.append(sum(on_gpu(network) for network in pipe.networks)))
    pipe(PROMPTS[0], num_inference_steps=1)
    numbers = [sum(p.numel() for p in layer.parameters()) for layer in watched]
    embeddings = sum(p.numel() for m in pipe.text_encoder.modules() if isinstance(m, nn.Embedding) for p in m.parameters())
    assert seen[-2:] == numbers[1:] and set(seen[:-2]) == {numbers[0] + embeddings}
    assert not any(on_gpu(network) for network in pipe.networks)


def test_a_layer_whose_call_fails_leaves_the_gpu_too(pretend):
    pipe = small_pipeline("v1")
    pipe.enable_sequential_cpu_offload()
    with pytest.raises(RuntimeError):
        pipe.unet(torch.ones(1, 3, 8, 8).to(GPU), 1, encoder_hidden_states=torch.ones(1, 77, 48).to(GPU))
    assert on_gpu(pipe.unet) == 0


def test_a_controlnet_stays_beside_the_unet(pretend):
    pipe = StableDiffusionControlNetPipeline.from_pipe(small_pipeline("v1"), controlnet=controlnet("v1"))
    expected = draw(pipe, steps=2, image=HINT)
    for method in METHODS:
        getattr(pipe, method)()
        assert distance(draw(pipe, steps=2, image=HINT), expected) < 1e-5
        assert (on_gpu(pipe.unet) > 0) == (on_gpu(pipe.controlnet) > 0) == (method == METHODS[0])


@pytest.mark.parametrize("method", METHODS)
def test_loras_of_offloaded_networks(pretend, method):
    """Some are loaded before offloading begins and some after; fused, they stay in main memory."""
    pipe, whole = small_pipeline("v1"), small_pipeline("v1")
    for one in (whole, pipe):
        for number, layer in enumerate(layer for name, layer in layers_of(one.unet).items() if "mid_block" in name):
            torch.manual_seed(number)
            attach(layer, lora := LoRA(layer, 2))
            nn.init.constant_(lora.up.weight, 0.01)
            if one is pipe and number == 5:
                getattr(pipe, method)()
    assert len(loras_of(pipe.unet)) > 10
    expected = draw(whole, steps=1)
    assert distance(draw(pipe, steps=1), expected) < 1e-5
    pipe.fuse_lora()
    assert (draw(pipe, steps=1).cpu() - expected).abs().max() < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_words_with_weights_and_fewer_layers(pretend, method):
    pipe = small_pipeline("v1")
    words = {"prompt_weighting": True, "clip_skip": 1}
    expected = draw(pipe, steps=1, **words)
    getattr(pipe, method)()
    assert distance(draw(pipe, steps=1, **words), expected) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_second_choice_replaces_the_first(pretend, method):
    pipe = small_pipeline("v1")
    for name in (*METHODS, method):
        getattr(pipe, name)()
    draw(pipe, steps=1)
    assert (on_gpu(pipe.unet) > 0) == (method == METHODS[0])


@pytest.mark.parametrize("method", METHODS)
def test_an_offloaded_pipeline_is_saved_and_cast_but_not_moved(pretend, tmp_path, method):
    pipe = small_pipeline("v1")
    weights = {name: p.clone() for name, p in pipe.unet.state_dict().items()}
    getattr(pipe, method)()
    draw(pipe, steps=1)
    with pytest.raises(ValueError, match=r'offloaded and visit the GPU by themselves; leave out .to\("cuda:0"\)'):
        pipe.to(GPU, torch.float16)
    assert pipe.to("cpu") is pipe
    pipe.save_pretrained(tmp_path / "saved")
    saved = type(pipe).from_pretrained(tmp_path / "saved").unet.state_dict()
    assert saved.keys() == weights.keys() and all(torch.equal(saved[name].cpu(), weights[name]) for name in weights)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_gpu_there_is_nothing_to_offload_to(monkeypatch, method):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    pipe = small_pipeline("v1")
    for arguments in ({}, {"device": "cpu"}):
        with pytest.raises(ValueError, match="there is no GPU here; leave it out"):
            getattr(pipe, method)(**arguments)
    with pytest.raises(ValueError, match="gpu_id=1 and device='cuda:2' both choose a GPU"):
        getattr(pipe, method)(1, "cuda:2")


def test_which_gpu(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda"))
    chosen = [offload.gpu(*arguments) for arguments in ((None, None), (1, None), (None, "cuda:2"), (3, "cuda"))]
    assert [device.index for device in chosen] == [0, 1, 2, 3]


@needs_cuda
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_holds_less_and_draws_the_same(method):
    pipe = small_pipeline("v1").to("cuda")
    expected = draw(pipe)
    whole = torch.cuda.memory_allocated()
    getattr(pipe, method)()
    assert torch.cuda.memory_allocated() < whole / 2
    assert (draw(pipe) - expected).abs().max() < 1e-2
    torch.cuda.empty_cache()
    pipe.vae.decode(torch.ones(1, 4, 8, 8, device="cuda"))
    assert on_gpu(pipe.unet) == on_gpu(pipe.text_encoder) == 0
    assert (on_gpu(pipe.vae) > 0) == (method == METHODS[0])

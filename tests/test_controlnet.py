"""ControlNet: the network and its files against diffusers, the steered UNet, the pipeline, and the command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PROMPTS, SMALL, distance, draw, randn, random_tensors, seeded, small_pipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from minisd import CheckpointError, ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline, UnsupportedConfig
from minisd.config import SD1_UNET, SD2_BASE_UNET
from minisd.controlnet import ControlNetConfig, SteeredUNet
from minisd.generate import main
from minisd.weights.fill import described, fill, from_diffusers, shapes_of, unfilled
from minisd.weights.names import diffusers_name, to_diffusers
from minisd.weights.original_names import original_name, original_places
from minisd.weights.settings import config_json, read_config

X, T = randn(2, 4, 8, 8), 500
HINT = torch.rand(1, 3, 64, 64, generator=seeded(5))
PIXELS = Image.fromarray((255 * HINT[0].permute(1, 2, 0)).byte().numpy())


def settings_of(kind: str) -> dict:
    unet = {name: value for name, value in SMALL[kind]["unet"].items() if name not in ("up_block_types", "sample_size")}
    return {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": [4, 8, 12, 16], **unet}


def tensors_of(kind: str, seed: int) -> dict[str, Tensor]:
    """Random weights under diffusers' names, whose zero convolutions are not zero."""
    empty = described(ControlNetModel, settings_of(kind), "")
    return random_tensors(to_diffusers("controlnet", empty.state_dict(), convolutions=kind == "v1"), seed)


def controlnet(kind: str, seed: int = 0) -> ControlNetModel:
    empty = described(ControlNetModel, settings_of(kind), "")
    return fill(empty, from_diffusers("controlnet", tensors_of(kind, seed), empty, ""))


def reference(kind: str, seed: int = 0):
    diffusers = pytest.importorskip("diffusers")
    settings = {name: value for name, value in settings_of(kind).items() if not name.startswith("_")}
    with torch.device("meta"):
        net = diffusers.ControlNetModel(**settings)
    net.load_state_dict(tensors_of(kind, seed), assign=True)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pipe():
    return StableDiffusionControlNetPipeline.from_pipe(small_pipeline("v1"), controlnet=controlnet("v1"))


# The network


def test_as_in_diffusers(kind, measure):
    context = randn(2, 77, 48)
    ours = controlnet(kind)(X, T, context, HINT.expand(2, -1, -1, -1), 0.7)
    theirs = reference(kind)(X, T, context, HINT.expand(2, -1, -1, -1), 0.7)
    for one, other in zip([*ours[0], ours[1]], [*theirs[0], theirs[1]], strict=True):
        assert measure(one, other) < 1e-5


@pytest.mark.parametrize("unet", [SD1_UNET, SD2_BASE_UNET], ids=["v1", "v2"])
def test_the_real_ones_have_diffusers_shapes_and_round_trip(unet):
    diffusers = pytest.importorskip("diffusers")
    config = ControlNetConfig(**vars(unet))
    settings = config_json(config)
    assert vars(read_config(ControlNetConfig, settings)) == vars(config) | {"sample_size": 64}
    with torch.device("meta"):
        theirs = diffusers.ControlNetModel(**{name: value for name, value in settings.items() if not name.startswith("_")})
    ours = shapes_of(unfilled(ControlNetModel, config))
    squeezed = {name: tuple(t.shape[:2] if "proj_" in name and t.ndim == 4 else t.shape) for name, t in theirs.state_dict().items()}
    assert {diffusers_name("controlnet", name): shape for name, shape in ours.items()} == squeezed
    places, unexpected = original_places([original_name(f"controlnet.{name}", "v1") for name in ours], "v1")
    assert {name.removeprefix("controlnet.") for name in places} == ours.keys() and not unexpected


def test_original_names_are_those_that_were_published():
    names = {
        "hint.0.weight": "input_hint_block.0.weight",
        "hint.7.bias": "input_hint_block.14.bias",
        "conv_in.weight": "input_blocks.0.0.weight",
        "zero_convs.11.weight": "zero_convs.11.0.weight",
        "zero_convs.1.bias": "zero_convs.1.0.bias",
        "mid_zero_conv.weight": "middle_block_out.0.weight",
        "mid_block.resnet_1.conv1.weight": "middle_block.0.in_layers.2.weight",
        "down_blocks.0.attentions.0.block.attn2.to_k.weight": "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
    }
    for native, original in names.items():
        assert original_name(f"controlnet.{native}", "v1") == f"control_model.{original}"


def test_a_new_one_has_the_unets_weights_and_changes_nothing(kind):
    unet = small_pipeline(kind).unet
    net = ControlNetModel.from_unet(unet)
    assert torch.equal(net.mid_block.resnet_1.conv1.weight, unet.mid_block.resnet_1.conv1.weight)
    down, middle = net(X, T, randn(2, 77, 48), HINT.expand(2, -1, -1, -1))
    assert not any(output.any() for output in (*down, middle))
    middle.sum().backward()
    assert net.mid_zero_conv.weight.grad.any()  # it can learn
    compiled = ControlNetModel.from_unet(torch.compile(unet, backend="eager"))
    assert torch.equal(compiled.conv_in.weight, unet.conv_in.weight)


# Files


def test_saved_folders_load_in_both(kind, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    net = controlnet(kind)
    net.save_pretrained(tmp_path / "ours")
    again = ControlNetModel.from_pretrained(tmp_path / "ours")
    assert again.config == net.config
    assert all(map(torch.equal, again.state_dict().values(), net.state_dict().values()))
    theirs = diffusers.ControlNetModel.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    half = ControlNetModel.from_pretrained(tmp_path / "theirs", dtype=torch.float16)
    assert torch.equal(half.conv_in.weight, net.conv_in.weight.half())


@pytest.mark.parametrize("prefix", ["control_model.", ""])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_single_files(small_presets, tmp_path, prefix, suffix):
    from minisd.weights.generations import GENERATIONS

    config = ControlNetConfig(**vars(GENERATIONS["v1"].configs(4)["unet"]))
    weights = random_tensors(unfilled(ControlNetModel, config).state_dict(), 0)
    tensors = {original_name(f"controlnet.{name}", "v1").replace("control_model.", prefix): t for name, t in weights.items()}
    file = tmp_path / f"control.{suffix}"
    save_file(tensors, file) if suffix == "safetensors" else torch.save({"state_dict": tensors}, file)
    net = ControlNetModel.from_single_file(file)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


def test_files_that_do_not_fit(small_presets, tmp_path):
    save_file({"control_model.zero_convs.0.0.weight": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="does not fit a ControlNetModel of Stable Diffusion: it lacks"):
        ControlNetModel.from_single_file(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"is a ControlNet, .* load it with ControlNetModel.from_single_file \(--control\)"):
        StableDiffusionPipeline.from_pretrained(tmp_path / "x.safetensors")
    for change, says in {
        "bgr": (
            {"controlnet_conditioning_channel_order": "bgr"},
            "controlnet_conditioning_channel_order = 'bgr' is not implemented",
        ),
        "widths": ({"conditioning_embedding_out_channels": [4, 8]}, "conditioning_embedding_out_channels = .* is not a list of 4"),
        "a block": ({"down_block_types": ["X"] * 3}, "a X is not implemented"),
    }.values():
        with pytest.raises(UnsupportedConfig, match=says):
            read_config(ControlNetConfig, settings_of("v1") | change)


# The pipeline


def test_pipelines_as_in_diffusers(pipe, folders, measure):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.StableDiffusionControlNetPipeline.from_pretrained(folders["v1"], controlnet=reference("v1"))
    theirs.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 4, "latents": X, "negative_prompt": ["red"] * 2, "output_type": "latent"}
    for control in (
        {"controlnet_conditioning_scale": 0.8},
        {"control_guidance_start": 0.3, "control_guidance_end": 0.8},
    ):
        ours = pipe(PROMPTS, PIXELS, **given, **control).images
        assert measure(ours, theirs(PROMPTS, PIXELS, **given, **control).images) < 1e-4


def test_several_controlnets_as_in_diffusers(folders, measure):
    diffusers = pytest.importorskip("diffusers")
    nets = [controlnet("v1", seed) for seed in (1, 2)]
    pipe = StableDiffusionControlNetPipeline.from_pretrained(folders["v1"], controlnet=nets)
    theirs = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        folders["v1"], controlnet=[reference("v1", seed) for seed in (1, 2)]
    )
    for each in (pipe, theirs):
        each.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 2, "latents": X[:1], "output_type": "latent", "controlnet_conditioning_scale": [0.5, 1.0]}
    images = [PIXELS, PIXELS.rotate(90)]
    assert measure(pipe(PROMPTS[0], images, **given).images, theirs(PROMPTS[0], images, **given).images) < 1e-4
    pipe.unet.half()
    with pytest.raises(
        ValueError, match=r"the ControlNet is in torch.float32 on cpu but the UNet in torch.float16 on cpu; call pipe.to"
    ):
        pipe(PROMPTS[0], images)
    assert {p.dtype for net in pipe.to(torch.float64).controlnets for p in net.parameters()} == {torch.float64}
    with pytest.raises(ValueError, match="2 ControlNets need a list of 2 images"):
        pipe(PROMPTS[0], PIXELS)
    with pytest.raises(ValueError, match="controlnet_conditioning_scale must be one number, or a list of 2, one per ControlNet"):
        pipe(PROMPTS[0], images, controlnet_conditioning_scale=[1.0])
    with pytest.raises(ValueError, match="the images of several ControlNets must have the same size"):
        pipe(PROMPTS[0], [PIXELS, PIXELS.resize((32, 32))])


def test_without_strength_it_draws_from_text(pipe):
    plain = StableDiffusionPipeline.from_pipe(pipe)
    assert isinstance(plain.unet, SteeredUNet) and not isinstance(plain, StableDiffusionControlNetPipeline)
    expected = draw(plain)
    assert torch.equal(draw(pipe, image=PIXELS, controlnet_conditioning_scale=0.0), expected)
    assert distance(draw(pipe, image=PIXELS), expected) > 0.01
    trained = StableDiffusionControlNetPipeline.from_pipe(plain, controlnet=ControlNetModel.from_unet(plain.unet))
    assert torch.equal(draw(trained, image=PIXELS), expected)  # a new one changes nothing


def test_each_image_has_its_own_noise_and_control(pipe):
    images = [PIXELS, PIXELS.rotate(90)]
    both = draw(pipe, PROMPTS, image=images, generator=[seeded(1), seeded(2)], num_images_per_prompt=1)
    alone = draw(pipe, PROMPTS[1], image=images[1], generator=seeded(2))
    assert distance(both[1:], alone) < 1e-5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image": "x.png"}, "open files with Image.open"),
        ({"image": PIXELS.resize((60, 64))}, "multiples of 8"),
        ({"image": [PIXELS] * 3}, "3 control images for 1 prompts"),
        ({"height": 64}, "height is not an argument here: it follows from the image"),
        ({"control_guidance_start": 0.6, "control_guidance_end": 0.5}, "0.6 is not less than 0.5"),
        ({"control_guidance_end": 2}, "control_guidance_end must be from 0 to 1, not 2"),
        ({"controlnet_conditioning_scale": math.nan}, "controlnet_conditioning_scale must be a number, not nan"),
    ],
)
def test_wrong_arguments_are_named(pipe, given, says):
    with pytest.raises((ValueError, TypeError), match=says):
        pipe("a cat", **{"image": PIXELS, **given})


def test_parts_that_do_not_fit(pipe, folders, tmp_path):
    with pytest.raises(TypeError, match="StableDiffusionControlNetPipeline needs controlnet=…, which checkpoints do not contain"):
        StableDiffusionControlNetPipeline.from_pretrained(folders["v1"])
    with pytest.raises(TypeError, match="unknown argument controlnet"):
        StableDiffusionPipeline.from_pretrained(folders["v1"], controlnet=pipe.controlnet)
    other = unfilled(ControlNetModel, ControlNetConfig(**{**vars(pipe.controlnet.config), "cross_attention_dim": 64}))
    with pytest.raises(
        ValueError, match="this ControlNet is for another base model: its cross_attention_dim is 64, the UNet's is 48"
    ):
        StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=other)
    nine = ControlNetConfig(**{**vars(pipe.controlnet.config), "in_channels": 9})
    with pytest.raises(ValueError, match="its in_channels is 9, the UNet's is 4"):
        StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=unfilled(ControlNetModel, nine))
    with pytest.raises(UnsupportedConfig, match="in_channels = 9 is not implemented"):
        read_config(ControlNetConfig, config_json(nine))
    for wrong in (3, [], [pipe.controlnet, None]):
        with pytest.raises(TypeError, match="controlnet must be a ControlNetModel or a list of them"):
            StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=wrong)
    with pytest.raises(NotImplementedError, match=r"controlnet.save_pretrained\(a\)"):
        pipe.save_pretrained(tmp_path / "x")


def test_networks_that_are_replaced_or_compiled(pipe):
    expected = draw(pipe, image=PIXELS, steps=1)
    other = StableDiffusionControlNetPipeline.from_pipe(
        small_pipeline("v1"), controlnet=torch.compile(pipe.controlnet, backend="eager")
    )
    other.unet = small_pipeline("v1").unet
    assert distance(draw(other, image=PIXELS, steps=1), expected) < 1e-5


# The command


def test_the_command(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    controlnet("v1").save_pretrained("edges")
    PIXELS.resize((60, 64)).save("edges.png")
    ask = ["a cat", "--model", str(folders["v1"]), "--steps", "2", "--seed", "1", "--num-images", "2"]
    control = ["--control", "edges", "--control-image", "edges.png"]
    assert main([*ask, "--out", "plain"]) == 0
    assert main([*ask, "--out", "steered", *control, "--control-scale", "0.9"]) == 0
    said = capsys.readouterr().err
    assert "note: edges.png was resized from 60×64 to 64×64" in said
    drawn = [np.array(Image.open(next(Path(folder).glob("*-1.png")))) for folder in ("plain", "steered")]
    assert drawn[0].shape == drawn[1].shape and (drawn[0] != drawn[1]).any()
    file = next(Path("steered").glob("*-1.png"))
    recorded = json.loads(Image.open(file).info["minisd"])
    assert (recorded["control"], recorded["control_image"], recorded["control_scale"]) == (["edges"], ["edges.png"], [0.9])
    assert main(["--again", str(file), "--out", "again.png"]) == 0
    assert np.abs(np.array(Image.open("again.png")).astype(int) - drawn[1]).max() <= 1
    for wrong, says in {
        "image": (["--control", "edges"], "give one --control-image per --control"),
        "scale": ([*control, *control, "--control-scale", "1"], "give one --control-image per --control"),
        "from a picture": ([*control, "--image", "edges.png"], "--control cannot be combined with --image; leave"),
        "strength": ([*control, "--strength", "0.5"], "--control cannot be combined with --strength"),
        "paste": ([*control, "--paste"], "--control cannot be combined with --paste"),
        "missing": (["--control", "edges", "--control-image", "x.png"], "x.png: No such file|cannot read the image"),
        "no net": (["--control", "none.safetensors", "--control-image", "edges.png"], "not found; check its name"),
    }.values():
        capsys.readouterr()
        assert main([*ask, *wrong]) == 1
        assert any(part in capsys.readouterr().err for part in says.split("|"))
    assert load_file("edges/diffusion_pytorch_model.safetensors")

"""Folders on disk: whatever does not fit is refused in a sentence that names it, and nothing is half-loaded or half-written."""

import pytest
import torch
from helpers import NETWORKS, OFFICIAL, SMALL, build, diffusers_tensors, randn, small_network, small_pipeline
from safetensors.torch import load_file, save_file

from minisd import AutoencoderKL, CheckpointError, StableDiffusionPipeline, UNet2DConditionModel
from minisd.weights.fill import described, from_diffusers, shapes_of
from minisd.weights.names import to_diffusers
from minisd.weights.writing import new_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


# There and back


@pytest.mark.parametrize("component", NETWORKS)
def test_a_network_is_saved_and_loaded(component, kind, tmp_path):
    model = small_network(component, kind)
    model.save_pretrained(tmp_path / component)
    for loaded in (
        NETWORKS[component].from_pretrained(tmp_path / component),
        NETWORKS[component].from_pretrained(str(tmp_path), subfolder=component),
    ):
        assert loaded.config == model.config and not loaded.training
        for (name, tensor), (other, expected) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
            assert name == other and torch.equal(tensor, expected)


@pytest.mark.parametrize("component", NETWORKS)
def test_what_is_written_has_the_names_and_shapes_of_diffusers(component, kind, tmp_path):
    small_network(component, kind).save_pretrained(tmp_path / "part")
    (file,) = (tmp_path / "part").glob("*.safetensors")
    assert file.name == ("model.safetensors" if component == "text_encoder" else WEIGHTS)
    written, expected = load_file(file), diffusers_tensors(component, SMALL[kind][component])
    assert {name: tensor.shape for name, tensor in written.items()} == {name: tensor.shape for name, tensor in expected.items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in written.items())


@pytest.mark.parametrize("component", NETWORKS)
def test_every_official_name_goes_there_and_back(component, kind):
    """And is another name here: the map is one-to-one. Names that are minisd's already stay as they are."""
    model = described(NETWORKS[component], OFFICIAL[kind][component], component)
    ours = model.state_dict()
    theirs = to_diffusers(component, ours, convolutions=kind == "v1")
    assert len(theirs) == len(ours)
    for tensors in (theirs, ours):
        native = from_diffusers(component, tensors, model, component)
        assert {name: tuple(tensor.shape) for name, tensor in native.items()} == shapes_of(model)


def test_weights_are_not_copied(folder):
    """The file's tensors themselves are the model's: loading takes no second copy and initialises nothing."""
    tensors = diffusers_tensors("unet", SMALL["v2"]["unet"])
    model = build("unet", SMALL["v2"]["unet"], tensors)
    assert model.conv_in.weight.data_ptr() == tensors["conv_in.weight"].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_cast_on_the_way_in(folder, dtype):
    model = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype)
    whole = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.equal(model.conv_in.weight, whole.conv_in.weight.to(dtype))


def test_the_half_precision_variant_is_another_file(folder):
    tensors = {name: tensor.half() for name, tensor in load_file(folder / "vae" / WEIGHTS).items()}
    save_file(tensors, folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    stored = AutoencoderKL.from_pretrained(folder, "vae", variant="fp16", torch_dtype=torch.float16).quant_conv.weight
    assert torch.equal(stored, tensors["quant_conv.weight"])
    cast = AutoencoderKL.from_pretrained(folder, "vae", variant="fp16").quant_conv.weight  # float32, as nothing else was asked for
    assert cast.dtype == torch.float32 and torch.equal(cast, stored.float())
    assert not torch.equal(cast, AutoencoderKL.from_pretrained(folder, "vae").quant_conv.weight)


def test_a_whole_pipeline_is_saved_and_loaded(kind, tmp_path):
    pipe = small_pipeline(kind)
    pipe.num_inference_steps, pipe.guidance_scale = 7, 3.5
    pipe.save_pretrained(tmp_path / "out")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert (again.num_inference_steps, again.guidance_scale) == (7, 3.5)
    assert type(again.scheduler) is type(pipe.scheduler) and again.scheduler.config == pipe.scheduler.config
    again.set_progress_bar_config(disable=True)
    pictures = [p("a cat", generator=torch.Generator().manual_seed(0), output_type="pt").images for p in (pipe, again)]
    assert torch.equal(*pictures)


# Writing


def test_a_folder_with_something_in_it_is_never_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"out contains mine\.txt, which save_pretrained did not write; choose a new folder"):
        small_pipeline("v1").save_pretrained(tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_a_file_of_that_name_is_never_overwritten(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CheckpointError, match="out is a file; choose a folder"):
        small_network("vae", "v1").save_pretrained(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_an_empty_folder_is_filled_and_parents_are_made(tmp_path):
    (tmp_path / "out").mkdir()
    small_network("vae", "v1").save_pretrained(tmp_path / "out")
    small_network("vae", "v1").save_pretrained(tmp_path / "new" / "deep" / "out")
    assert AutoencoderKL.from_pretrained(tmp_path / "new" / "deep" / "out").encode(randn(1, 3, 8, 8))


def test_nothing_half_written_remains(tmp_path):
    with pytest.raises(OSError, match="No space"), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("written")
        raise OSError("No space left on device")
    assert list(tmp_path.iterdir()) == []

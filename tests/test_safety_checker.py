"""The safety checker beside the reference's: the tower, what it is shown, what it decides, and what becomes of the picture."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers import distance, randn, random_tensors, small_pipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from minisd import StableDiffusionPipeline, StableDiffusionSafetyChecker
from minisd.config import CLIPVisionConfig, UnsupportedConfig
from minisd.safety_checker import SafetyCheckerConfig, decide, preprocess
from minisd.weights.fill import fill, from_diffusers
from minisd.weights.names import to_diffusers
from minisd.weights.settings import config_json, read_config

SMALL = SafetyCheckerConfig(CLIPVisionConfig(64, 128, 3, 4, image_size=28, patch_size=7), projection_dim=24)
ON_DISK = "vision_model.vision_model."  # of the tensors' names in the official files


def reference(config: SafetyCheckerConfig) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("diffusers.pipelines.stable_diffusion.safety_checker")
    clip = transformers.CLIPConfig(projection_dim=config.projection_dim, vision_config=asdict(config.vision))
    return module.StableDiffusionSafetyChecker(clip).eval().requires_grad_(False)


def small_checker(seed: int = 0) -> StableDiffusionSafetyChecker:
    checker = StableDiffusionSafetyChecker(SMALL)
    tensors = random_tensors(to_diffusers("safety_checker", checker.state_dict()), seed)
    return fill(checker, from_diffusers("safety_checker", tensors, checker, "safety checker"))


@pytest.fixture
def pair() -> tuple[torch.nn.Module, StableDiffusionSafetyChecker]:
    """The reference's checker and minisd's, with the same weights, which they share in memory."""
    theirs = reference(SMALL)
    theirs.load_state_dict(random_tensors(theirs.state_dict(), seed=0), assign=True)
    with torch.device("meta"):
        ours = StableDiffusionSafetyChecker(SMALL)
    return theirs, fill(ours, from_diffusers("safety_checker", theirs.state_dict(), ours, "safety checker"))


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)) for _ in sizes]
    return [picture.resize(size, Image.Resampling.BICUBIC) for picture, size in zip(small, sizes)]


def cosines(checker: StableDiffusionSafetyChecker, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
    """Of each picture with the three directions of special care, and with the seventeen concepts."""
    embeds = checker.visual_projection(checker.vision(preprocess(images, SMALL.vision.image_size)))
    return tuple(
        torch.cosine_similarity(embeds[:, None], directions, dim=-1)
        for directions in (checker.special_care_embeds, checker.concept_embeds)
    )


def test_the_vision_tower(pair, measure):
    theirs, ours = pair
    pixels = randn(3, 3, 28, 28)
    assert measure(ours.vision(pixels), theirs.vision_model(pixels)[1]) < 1e-5


@pytest.mark.slow
def test_the_vision_tower_of_the_official_size(measure):
    theirs = reference(SafetyCheckerConfig())
    theirs.load_state_dict(random_tensors(theirs.state_dict(), seed=0), assign=True)
    with torch.device("meta"):
        ours = StableDiffusionSafetyChecker(SafetyCheckerConfig())
    fill(ours, from_diffusers("safety_checker", theirs.state_dict(), ours, "safety checker"))
    pixels = randn(1, 3, 224, 224)
    assert measure(ours.vision(pixels), theirs.vision_model(pixels)[1]) < 1e-4


def test_the_official_tensors_are_all_there_is():
    with torch.device("meta"):
        ours, theirs = StableDiffusionSafetyChecker(SafetyCheckerConfig()), reference(SafetyCheckerConfig())
        official = {name.replace("vision_model.", ON_DISK, 1): tensor for name, tensor in theirs.state_dict().items()}
        official[ON_DISK + "embeddings.position_ids"] = torch.empty(1, 257, dtype=torch.int64)
    assert len(official) == 397 and sum(p.numel() for p in ours.parameters()) == 303_981_588
    native = from_diffusers("safety_checker", official, ours, "safety checker")
    assert {name: t.shape for name, t in native.items()} == {name: t.shape for name, t in ours.state_dict().items()}
    assert to_diffusers("safety_checker", native).keys() == official.keys() - {ON_DISK + "embeddings.position_ids"}
    assert from_diffusers("safety_checker", native, ours, "safety checker").keys() == native.keys()


@pytest.mark.parametrize("size", [(28, 28), (512, 512), (300, 200), (199, 333), (20, 31), (768, 512)])
@pytest.mark.parametrize("target", [28, 224])
def test_pictures_are_prepared_as_the_reference_prepares_them(size, target):
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = clip.CLIPImageProcessorPil(size={"shortest_edge": target}, crop_size={"height": target, "width": target})
    images = pictures(size, size)
    theirs = processor(images, return_tensors="pt").pixel_values
    assert torch.equal(preprocess(images, target), theirs)


def test_every_brightness_is_prepared_alike():
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    processor = clip.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    assert torch.equal(preprocess([image], 16), processor([image], return_tensors="pt").pixel_values)


def told_one_by_one(special: np.ndarray, concepts: np.ndarray) -> bool:
    """The decision as a loop over numbers, as the official checker takes it."""
    adjustment = 0.0
    for above in special:
        if round(above + adjustment, 3) > 0:
            adjustment = 0.01
    return any(round(above + adjustment, 3) > 0 for above in concepts)


@pytest.mark.parametrize(
    ("special", "concept", "hidden"),
    [
        (-1.0, 0.00049, False),
        (-1.0, 0.0005, False),  # exactly half a thousandth rounds to 0, the even neighbour
        (-1.0, 0.00051, True),
        (0.00049, -0.0094, False),
        (0.00051, -0.0094, True),
        (0.00051, -0.0096, False),
        (1.0, -0.011, False),  # special care alone hides nothing
    ],
)
def test_where_the_thresholds_are(special, concept, hidden):
    margins = torch.full((1, 3), -1.0), torch.full((1, 17), -1.0)
    margins[0][0, 1], margins[1][0, 16] = special, concept
    assert decide(*margins).tolist() == [hidden] == [told_one_by_one(*(m[0].numpy() for m in margins))]


def test_the_decision_beside_a_plain_loop():
    rng = np.random.default_rng(0)
    margins = rng.choice([-0.0105, -0.01, -0.0095, -0.0005, 0, 0.0005, 0.001], (20_000, 20)) - rng.choice(
        [0, 1e-6, 0.02], (20_000, 20)
    )
    margins = np.where(rng.random(margins.shape) < 0.8, -0.1, margins).astype(np.float32)
    flags = decide(torch.from_numpy(margins[:, :3]), torch.from_numpy(margins[:, 3:])).tolist()
    assert flags == [told_one_by_one(row[:3], row[3:]) for row in margins]
    assert 0.1 < np.mean(flags) < 0.9


@pytest.mark.parametrize("special", [-0.02, -0.0006, 0.0004, 0.0006])
@pytest.mark.parametrize("concept", [-0.02, -0.0106, -0.0096, -0.0094, -0.0004, 0.0004, 0.0006, 0.02])
def test_flags_beside_the_reference(pair, special, concept):
    """Thresholds that the first picture exceeds by so much, in one direction of each kind, and the second by what comes."""
    theirs, ours = pair
    images = pictures((64, 48), (64, 64))
    care, concepts = cosines(ours, images)
    ours.special_care_thresholds[:], ours.concept_thresholds[:] = 2, 2
    ours.special_care_thresholds[2] = care[0, 2] - special
    ours.concept_thresholds[5] = concepts[0, 5] - concept
    pixels = preprocess(images, SMALL.vision.image_size)
    _, flags = theirs(clip_input=pixels, images=torch.ones(2, 3, 8, 8))
    assert ours(images) == flags
    assert flags[0] == (concept + 0.01 * (special > 0.0005) > 0.0005)


@pytest.mark.parametrize("prefix", ["vision_model.", ON_DISK])
def test_a_folder_of_the_reference_is_read(pair, prefix, tmp_path):
    theirs, ours = pair
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {name.replace("vision_model.", prefix, 1): t for name, t in load_file(file).items()}
    save_file({**tensors, ON_DISK + "embeddings.position_ids": torch.arange(17)[None]}, file, metadata={"format": "pt"})
    read = StableDiffusionSafetyChecker.from_pretrained(tmp_path)
    assert read.config == SMALL
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_a_folder_is_written_for_the_reference(pair, tmp_path):
    theirs, ours = pair
    ours.save_pretrained(tmp_path / "safety_checker")
    read, report = type(theirs).from_pretrained(tmp_path / "safety_checker", output_loading_info=True)
    assert not any(report.values())
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_another_tower_is_refused():
    settings = config_json(SMALL)
    settings["vision_config"]["hidden_act"] = "gelu"
    with pytest.raises(UnsupportedConfig, match="hidden_act = 'gelu' is not implemented"):
        read_config(SafetyCheckerConfig, settings)


def test_a_tower_that_overflows_hides_nothing_in_silence():
    checker = small_checker().half()
    checker.visual_projection.weight.mul_(60_000)
    with pytest.raises(FloatingPointError, match="the safety checker: float16 overflows above 65,504"):
        checker(pictures((64, 64)))


def test_a_damaged_concept_is_said():
    checker = small_checker()
    checker.concept_embeds[4, 0] = np.nan
    with pytest.raises(FloatingPointError, match="the safety checker: the weights are damaged"):
        checker(pictures((64, 64)))


def one_of_two(images: list[Image.Image]) -> StableDiffusionSafetyChecker:
    """A checker that flags the second of two pictures and not the first."""
    checker = small_checker()
    _, concepts = cosines(checker, images)
    best = int((concepts[1] - concepts[0]).argmax())
    checker.special_care_thresholds[:], checker.concept_thresholds[:] = 2, 2
    checker.concept_thresholds[best] = concepts[:, best].mean()
    assert concepts[1, best] - concepts[0, best] > 0.01
    return checker


CALL = {"num_inference_steps": 2, "guidance_scale": 1.0, "num_images_per_prompt": 2}


def drawn(pipe, **settings):
    return pipe("a cat", generator=torch.Generator().manual_seed(0), **CALL, **settings)


def test_a_flagged_picture_is_black_and_the_other_untouched():
    pipe = small_pipeline("v1")
    free = drawn(pipe)
    assert free.nsfw_content_detected is None
    pipe.safety_checker = one_of_two(free.images)
    with pytest.warns(UserWarning, match="the safety checker blacked out image 1; try another seed or prompt"):
        checked = drawn(pipe)
    assert checked.nsfw_content_detected == [False, True]
    assert checked.images[0] == free.images[0]
    assert checked.images[1] == Image.new("RGB", free.images[1].size, "black")


@pytest.mark.filterwarnings("ignore:the safety checker blacked out")
@pytest.mark.parametrize("output_type", ["np", "pt"])
def test_arrays_are_checked_too(output_type):
    pipe = small_pipeline("v1")
    pipe.safety_checker = one_of_two(drawn(pipe).images)
    first, second = (checked := drawn(pipe, output_type=output_type)).images
    assert checked.nsfw_content_detected == [False, True]
    assert first.max() > 0 and second.min() == second.max() == 0


def test_latents_are_no_pictures():
    pipe = small_pipeline("v1")
    pipe.safety_checker = small_checker()
    assert drawn(pipe, output_type="latent").nsfw_content_detected is None


@pytest.mark.filterwarnings("ignore:the safety checker blacked out")
def test_a_checkpoint_brings_its_checker_along(tmp_path):
    pipe = small_pipeline("v1")
    pipe.safety_checker = one_of_two(drawn(pipe).images)
    pipe.save_pretrained(tmp_path / "model")
    half = StableDiffusionPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float16)
    assert half.safety_checker.concept_embeds.dtype == torch.float16
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert drawn(loaded).nsfw_content_detected == [False, True]
    free = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    assert free.safety_checker is None


@pytest.mark.filterwarnings("ignore:the safety checker blacked out")
def test_the_reference_hides_the_same_picture(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    pipe = small_pipeline("v1")
    pipe.safety_checker = one_of_two(drawn(pipe).images)
    pipe.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    theirs.set_progress_bar_config(disable=True)
    expected, ours = drawn(theirs), drawn(pipe)
    assert ours.nsfw_content_detected == expected.nsfw_content_detected == [False, True]
    for picture, reference_picture in zip(ours.images, expected.images):
        assert np.abs(np.asarray(picture, int) - np.asarray(reference_picture, int)).max() <= 1


def test_the_checker_moves_with_the_pipeline():
    pipe = small_pipeline("v1")
    pipe.safety_checker = small_checker()
    assert pipe.to(torch.bfloat16).safety_checker.concept_embeds.dtype == torch.bfloat16
    assert distance(pipe.safety_checker.concept_embeds, small_checker().concept_embeds) < 2**-7

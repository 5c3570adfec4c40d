"""Starting from a picture: formulas, what reaches the UNet, how pipelines share parts and are loaded, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import PROMPTS, SMALL, build, diffusers_tensors, randn, seeded, small_pipeline
from originals import write_original
from PIL import Image

import minisd
from minisd import (
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
)
from minisd.editing.inpaint import keep_rest
from minisd.editing.pix2pix import guide_twice
from minisd.tasks import OtherTask

PICTURE = Image.fromarray((127 + 60 * randn(64, 64, 3)).clamp(0, 255).byte().numpy())
MASK = Image.new("L", (64, 64))
MASK.paste(255, (16, 8, 48, 40))
EDITING = (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionInstructPix2PixPipeline)
SHORT = {"num_inference_steps": 3, "output_type": "latent"}


@pytest.fixture(scope="module")
def text_to_image() -> StableDiffusionPipeline:
    pipe = small_pipeline("v1")
    pipe.scheduler = DDIMScheduler()
    return pipe


def with_channels(pipe: StableDiffusionPipeline, channels: int) -> dict:
    settings = SMALL["v1"]["unet"] | {"in_channels": channels}
    return pipe.components | {"unet": build("unet", settings, diffusers_tensors("unet", settings))}


@pytest.fixture(scope="module")
def pipes(text_to_image) -> dict[str, StableDiffusionPipeline]:
    made = {
        "img2img": StableDiffusionImg2ImgPipeline.from_pipe(text_to_image),
        "inpaint 4": StableDiffusionInpaintPipeline(**text_to_image.components),
        "inpaint 9": StableDiffusionInpaintPipeline(**with_channels(text_to_image, 9)),
        "pix2pix": StableDiffusionInstructPix2PixPipeline(**with_channels(text_to_image, 8)),
    }
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    return made


def given(name: str, **more) -> dict:
    masks = {"mask_image": MASK} if name.startswith("inpaint") else {}
    return {"prompt": PROMPTS[0], "image": PICTURE, **masks, **more}


NAMES = ["img2img", "inpaint 4", "inpaint 9", "pix2pix"]


# What happens


def test_the_formula_of_two_guidances():
    t, i, u = randn(3, 4, 8, 8).unsqueeze(1)
    eps = torch.cat([t, i, u])
    assert torch.allclose(guide_twice(eps, 7.0, 1.5), u + 1.5 * (i - u) + 7.0 * (t - i), atol=1e-5)
    assert torch.allclose(guide_twice(eps, 1.0, 1.0), t, atol=1e-6)


def test_after_a_step_the_rest_is_as_noisy_as_the_next_timestep_asks_and_clean_at_the_end():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(2)
    clean, noise, mask = randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2), torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    step, x = keep_rest(scheduler, scheduler.step, clean, noise, mask), noise
    for t, alpha in zip(scheduler.timesteps, (scheduler.alphas_cumprod[scheduler.timesteps[1]], torch.tensor(1.0))):
        x, x0 = step(randn(1, 4, 8, 8, seed=3), t, x)
        expected = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        assert torch.allclose(x[..., :4], expected[..., :4], atol=1e-6)
        assert not torch.allclose(x[..., 4:], expected[..., 4:], atol=1e-2)
        assert torch.equal(x0[..., :4], clean[..., :4])


@pytest.mark.parametrize(("strength", "steps"), [(0.05, 1), (0.24, 4), (0.5, 10), (0.999, 19), (1.0, 20)])
def test_strength_is_the_share_of_steps(pipes, strength, steps):
    stream = pipes["img2img"].denoise(PROMPTS[0], PICTURE, strength, num_inference_steps=20, guidance_scale=1.0)
    seen = [(step.index, int(step.timestep)) for step in stream]
    assert [index for index, _ in seen] == list(range(steps))
    assert seen[0][1] == 951 - 50 * (20 - steps)


def test_an_unchanged_picture_comes_back_from_weak_noise(pipes):
    """At little strength, latents stay near the picture's; at full strength they do not."""
    pipe = pipes["img2img"]
    clean = pipe.encode(minisd.editing.pictures.read_pictures(PICTURE), seeded())
    near, far = (
        (
            pipe(**given("img2img"), strength=s, num_inference_steps=20, output_type="latent", generator=seeded()).images - clean
        ).abs()
        for s in (0.05, 1.0)
    )
    assert near.mean() < 0.3 * far.mean()


def test_what_a_trained_unet_sees(pipes):
    """Noisy latents, the mask, and the picture without its white part; nothing of what is behind the mask."""
    calls = []
    hook = pipes["inpaint 9"].unet.register_forward_hook(lambda _, args, __: calls.append(args[0]))
    try:
        pipes["inpaint 9"](**given("inpaint 9"), **SHORT, generator=seeded())
        hidden = PICTURE.copy()
        hidden.paste((255, 0, 255), (16, 8, 48, 40))
        pipes["inpaint 9"](**given("inpaint 9", image=hidden), **SHORT, generator=seeded())
    finally:
        hook.remove()
    x = calls[0]
    assert x.shape == (2, 9, 8, 8)
    expected = torch.zeros(8, 8)
    expected[1:5, 2:6] = 1
    assert torch.equal(x[0, 4], expected) and torch.equal(x[0], x[1])
    assert all(torch.equal(one, other) for one, other in zip(calls[:3], calls[3:]))


def test_what_an_instructed_unet_sees(pipes):
    calls, pipe = [], pipes["pix2pix"]
    hook = pipe.unet.register_forward_hook(lambda _, args, __: calls.append(args[0]))
    try:
        pipe(**given("pix2pix"), **SHORT)
    finally:
        hook.remove()
    mode = pipe.gaussian(minisd.editing.pictures.read_pictures(PICTURE)).mode()
    assert torch.allclose(calls[0][:, 4:], torch.cat([mode, mode, torch.zeros_like(mode)]), atol=1e-6)


def test_pasted_pixels_are_exactly_the_pictures(pipes):
    for name in ("inpaint 4", "inpaint 9"):
        image = pipes[name](**given(name), num_inference_steps=2, paste=True, generator=seeded()).images[0]
        drawn, picture, white = (np.asarray(x) for x in (image, PICTURE, MASK))
        assert (drawn[white == 0] == picture[white == 0]).all()
        assert (drawn[white > 0] != picture[white > 0]).mean() > 0.5


def test_an_image_does_not_depend_on_its_batch(pipes):
    """As long as every image has its own generator and picture."""
    for name in NAMES:
        one = pipes[name](**given(name), **SHORT, generator=[seeded(2)]).images
        two = given(name) | {"prompt": [PROMPTS[1], PROMPTS[0]], "image": [PICTURE.rotate(90), PICTURE]}
        both = pipes[name](**two, **SHORT, generator=[seeded(1), seeded(2)]).images
        assert torch.allclose(both[1:], one, atol=1e-4)


def test_a_picture_for_each_prompt(pipes):
    """With several images of each prompt, each prompt keeps its picture."""
    pictures = [PICTURE, PICTURE.rotate(180)]
    settings = {"num_images_per_prompt": 2, **SHORT, "strength": 0.7, "generator": [seeded(i) for i in range(4)]}
    four = pipes["img2img"](PROMPTS, pictures, **settings).images
    settings |= {"num_images_per_prompt": 1, "generator": [seeded(2)]}
    assert torch.allclose(four[2:3], pipes["img2img"](PROMPTS[1], pictures[1], **settings).images, atol=1e-4)


# Watching


@pytest.mark.parametrize("name", ["text", *NAMES])
def test_a_callback_sees_and_changes_latents(pipes, text_to_image, name):
    pipe = text_to_image if name == "text" else pipes[name]
    arguments = {"prompt": PROMPTS[0]} if name == "text" else given(name)
    seen = []

    def watch(who, index, timestep, tensors):
        seen.append((who is pipe, index, int(timestep), list(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])} if index == 2 else tensors

    strength = {} if name in ("text", "pix2pix") else {"strength": 1.0}
    latents = pipe(**arguments, **SHORT, **strength, callback_on_step_end=watch).images
    assert [(right, index, names) for right, index, _, names in seen] == [(True, i, ["latents"]) for i in range(3)]
    assert (latents == 0).all()


def test_latents_that_a_callback_returns_are_gone_on_from(text_to_image):
    plain = [step.latents for step in text_to_image.denoise(PROMPTS[0], num_inference_steps=3, generator=seeded())]
    other = randn(*plain[0].shape, seed=9)
    changed = text_to_image(
        PROMPTS[0], **SHORT, generator=seeded(), callback_on_step_end=lambda *a: {"latents": other} if a[1] == 0 else None
    ).images
    stream = text_to_image.denoise(PROMPTS[0], num_inference_steps=3, generator=seeded())
    next(stream)
    stream.send(other)
    assert torch.equal(changed, next(stream).latents)
    assert not torch.allclose(changed, plain[-1], atol=1e-2)


# Parts and files


@pytest.mark.parametrize("kind", EDITING[:2])
def test_pipelines_share_parts(kind, text_to_image):
    pipe = kind.from_pipe(text_to_image, scheduler=PNDMScheduler(), guidance_scale=3.0)
    assert pipe.unet is text_to_image.unet and pipe.guidance_scale == 3.0 and isinstance(pipe.scheduler, PNDMScheduler)
    back = StableDiffusionPipeline.from_pipe(pipe)
    assert type(back) is StableDiffusionPipeline and back.vae is text_to_image.vae and back.guidance_scale == 3.0


@pytest.mark.parametrize("kind", EDITING[:2])
def test_the_built_in_model(kind):
    pipe = kind.from_pretrained("tiny")
    assert type(pipe) is kind and pipe.guidance_scale == 2.0


CHANNELS = {8: EDITING[2], 9: EDITING[1]}


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_folder_of_another_task(pipes, channels, tmp_path):
    """As saved here, and as diffusers names it."""
    pipe = pipes["pix2pix" if channels == 8 else "inpaint 9"]
    pipe.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == CHANNELS[channels].__name__
    loaded = CHANNELS[channels].from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.unet.conv_in.weight, pipe.unet.conv_in.weight)
    with pytest.raises(OtherTask, match=f"with {channels} input channels instead of 4; load it with {CHANNELS[channels].__name__}"):
        StableDiffusionPipeline.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("generation", ["v1", "v2"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_single_file_of_another_task(channels, generation, tmp_path, small_presets, text_to_image):
    path = write_original(tmp_path / "file.safetensors", generation, in_channels=channels)
    kind, parts = CHANNELS[channels], {"tokenizer": text_to_image.tokenizer, "prediction_type": "epsilon"}
    assert kind.from_single_file(path, **parts).unet.config.in_channels == channels
    assert type(kind.from_pretrained(path, **parts)) is kind
    for other in {StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, *EDITING} - {kind}:
        with pytest.raises(OtherTask, match=rf"file.safetensors is for .*; load it with {kind.__name__}"):
            other.from_single_file(path, **parts)


def test_a_text_to_image_checkpoint_for_instructions():
    with pytest.raises(
        OtherTask, match="for text to image, with 4 input channels instead of 8; load it with StableDiffusionPipeline"
    ):
        StableDiffusionInstructPix2PixPipeline.from_pretrained("tiny")


def test_a_unet_of_another_task_in_memory(pipes):
    with pytest.raises(OtherTask, match="this UNet is for inpainting"):
        StableDiffusionPipeline.from_pipe(pipes["inpaint 9"])


# What is refused, in one sentence, before the text encoder runs

WRONG = {
    "strength": ("img2img", {"strength": 1.5}, ValueError, "strength must be from 0 to 1, not 1.5"),
    "no number": ("img2img", {"strength": "0.5"}, ValueError, "strength must be"),
    "no step": ("img2img", {"strength": 0.1, "num_inference_steps": 5}, ValueError, "leaves none of 5 steps; use at least 0.2"),
    "a size": ("img2img", {"image": Image.new("RGB", (50, 70))}, ValueError, "use 72×48 instead of 70×50"),
    "a path": ("img2img", {"image": "cat.png"}, TypeError, "open files with Image.open"),
    "too many": ("img2img", {"image": [PICTURE] * 3}, ValueError, "3 pictures for 1 prompts: give one, or one per"),
    "a mask's size": ("inpaint 4", {"mask_image": Image.new("L", (64, 72))}, ValueError, "the mask is 64×72, the image 64×64"),
    "another size": ("inpaint 9", {"height": 512, "width": 512}, ValueError, "resize it and its mask to 512×512 first"),
    "masks": ("inpaint 4", {"mask_image": [MASK] * 3}, ValueError, "3 masks for 1 prompts"),
    "weak inpainting": ("inpaint 4", {"strength": 0.01, "num_inference_steps": 9}, ValueError, "leaves none of 9 steps"),
    "latents": ("img2img", {"latents": randn(1, 4, 8, 8)}, TypeError, "latents is not an argument here"),
    "latents to inpaint": ("inpaint 4", {"latents": randn(1, 4, 8, 8)}, TypeError, "latents is not an argument here"),
    "a height": ("img2img", {"height": 64}, TypeError, "height is not an argument here"),
    "less contrast": ("pix2pix", {"guidance_rescale": 0.5}, TypeError, "guidance_rescale is not an argument here"),
    "image scale": ("pix2pix", {"image_guidance_scale": 0.5}, ValueError, "image_guidance_scale must be 1 or more, not 0.5"),
    "output": ("pix2pix", {"output_type": "jpg"}, ValueError, 'output_type must be "pil", "np", "pt" or "latent"'),
    "callback": ("inpaint 9", {"callback_on_step_end": 3}, TypeError, "callback_on_step_end must be a function"),
    "callback's tensors": (
        "img2img", {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, ValueError, r'must be \["latents"\], not'
    ),
    "prompt": ("img2img", {"prompt": 3}, TypeError, "prompt must be a string"),
    "generators": ("inpaint 9", {"generator": [seeded()] * 2}, ValueError, "2 generators for a batch of 1"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "wrong", "error", "sentence"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(pipes, name, wrong, error, sentence, monkeypatch):
    monkeypatch.setattr(pipes[name].text_encoder, "forward", None)
    with pytest.raises(error, match=sentence) as info:
        pipes[name](**given(name) | wrong)
    assert "\n" not in str(info.value)


def test_the_core_does_not_import_editing():
    import subprocess
    import sys

    program = "import sys, minisd, minisd.generate; print([m for m in sys.modules if m.startswith('minisd.editing')])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_requests_hold_what_they_were_given(text_to_image):
    from minisd.editing.image_request import ImageRequest

    request = ImageRequest.with_image(text_to_image, PROMPTS[0], PICTURE, 0.5, num_inference_steps=9)
    assert (request.height, request.width, request.first_step) == (64, 64, 5)
    assert replace(request, strength=1.0).first_step == 0

"""The programs of the blog post "Stable Diffusion with Diffusers" (2022), in short: only what they import and load is changed.

Each test is one of its programs; `model` stands for "CompVis/stable-diffusion-v1-4" and `clip` for "openai/clip-vit-large-patch14".
"""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm.auto import tqdm

import minisd
from minisd import LMSDiscreteScheduler, StableDiffusionPipeline, image_grid

PROMPT = "a photograph of an astronaut riding a horse"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def model(folders) -> str:
    return str(folders["v1"])


@pytest.fixture(scope="module")
def clip(folders, tmp_path_factory) -> str:
    """A repository of the text tower alone: tokenizer and weights side by side, in no subfolder."""
    folder = tmp_path_factory.mktemp("clip") / "clip"
    shutil.copytree(folders["v1"] / "text_encoder", folder)
    shutil.copytree(folders["v1"] / "tokenizer", folder, dirs_exist_ok=True)
    return str(folder)


def loaded(model: str, **more) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(model, **more)
    pipe.to(DEVICE)
    return pipe


def test_one_call_is_a_picture(model, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(model)
    pipe.to(DEVICE)
    image = pipe(PROMPT).images[0]
    image.save(tmp_path / "astronaut_rides_horse.png")
    assert Image.open(tmp_path / "astronaut_rides_horse.png").size == (64, 64)


def test_half_precision(model):
    pipe = StableDiffusionPipeline.from_pretrained(model, revision="fp16", torch_dtype=torch.float16)
    pipe.to(DEVICE)
    assert pipe(PROMPT, num_inference_steps=5).images[0].size == (64, 64)


def test_a_seed_repeats_a_picture(model):
    pipe, images = loaded(model), []
    for _ in range(2):
        generator = torch.Generator("cpu").manual_seed(1024)
        images.append(pipe(PROMPT, guidance_scale=7.5, generator=generator, num_inference_steps=5).images[0])
    assert np.array_equal(*images)


def test_fewer_steps(model):
    generator = torch.Generator(DEVICE).manual_seed(1024)
    image = loaded(model)(PROMPT, guidance_scale=7.5, num_inference_steps=15, generator=generator).images[0]
    assert image.size == (64, 64)


def test_a_grid_of_several_pictures(model):
    num_images = 3
    prompt = [PROMPT] * num_images
    images = loaded(model)(prompt, num_inference_steps=5).images
    grid = image_grid(images, rows=1, cols=3)
    assert grid.size == (192, 64) and not np.array_equal(images[0], images[1])


def test_two_rows_of_four(model):
    pipe, num_cols, num_rows, all_images = loaded(model), 4, 2, []
    for _ in range(num_rows):
        all_images.extend(pipe([PROMPT] * num_cols, num_inference_steps=2).images)
    assert image_grid(all_images, rows=num_rows, cols=num_cols).size == (256, 128)


def test_landscape(model):
    image = loaded(model)(PROMPT, height=64, width=96, num_inference_steps=5).images[0]
    assert image.size == (96, 64)


def the_loop_written_out(library, model: str, clip: str) -> list[Image.Image]:
    """The post's own pipeline, a hundred K-LMS steps long; `library` has what its import lines name."""
    vae = library.AutoencoderKL.from_pretrained(model, subfolder="vae")
    tokenizer = library.CLIPTokenizer.from_pretrained(clip)
    text_encoder = library.CLIPTextModel.from_pretrained(clip)
    unet = library.UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    scheduler = library.LMSDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    vae.to(DEVICE)
    text_encoder.to(DEVICE)
    unet.to(DEVICE)

    prompt = [PROMPT]
    height, width = 64, 64  # 512 × 512 in the post
    num_inference_steps, guidance_scale = 100, 7.5
    generator = torch.manual_seed(0)
    batch_size = len(prompt)

    text_input = tokenizer(
        prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        text_embeddings = text_encoder(text_input.input_ids.to(DEVICE))[0]
    max_length = text_input.input_ids.shape[-1]
    uncond_input = tokenizer([""] * batch_size, padding="max_length", max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        uncond_embeddings = text_encoder(uncond_input.input_ids.to(DEVICE))[0]
    text_embeddings = torch.cat([uncond_embeddings, text_embeddings])

    latents = torch.randn((batch_size, unet.in_channels, height // 8, width // 8), generator=generator)
    latents = latents.to(DEVICE)
    scheduler.set_timesteps(num_inference_steps)
    latents = latents * scheduler.init_noise_sigma

    for t in tqdm(scheduler.timesteps):
        latent_model_input = torch.cat([latents] * 2)
        latent_model_input = scheduler.scale_model_input(latent_model_input, timestep=t)
        with torch.no_grad():
            noise_pred = unet(latent_model_input, t, encoder_hidden_states=text_embeddings).sample
        noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
        noise_pred = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
        latents = scheduler.step(noise_pred, t, latents).prev_sample

    latents = 1 / 0.18215 * latents
    with torch.no_grad():
        image = vae.decode(latents).sample
    image = (image / 2 + 0.5).clamp(0, 1)
    image = image.detach().cpu().permute(0, 2, 3, 1).numpy()
    images = (image * 255).round().astype("uint8")
    return [Image.fromarray(image) for image in images]


def assert_nearly_equal(ours: Image.Image, theirs: Image.Image):
    difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_the_loop_written_out_draws_what_the_pipeline_draws(model, clip):
    pipe = loaded(model)
    pipe.scheduler = LMSDiscreteScheduler.from_config(pipe.scheduler.config)
    expected = pipe(PROMPT, num_inference_steps=100, generator=torch.manual_seed(0)).images[0]
    assert_nearly_equal(the_loop_written_out(minisd, model, clip)[0], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_loop_written_out_draws_what_diffusers_draws(model, clip):
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    names = {name: getattr(diffusers, name) for name in ("AutoencoderKL", "UNet2DConditionModel", "LMSDiscreteScheduler")}
    names |= {name: getattr(transformers, name) for name in ("CLIPTextModel", "CLIPTokenizer")}
    pictures = [the_loop_written_out(library, model, clip)[0] for library in (minisd, SimpleNamespace(**names))]
    assert_nearly_equal(*pictures)

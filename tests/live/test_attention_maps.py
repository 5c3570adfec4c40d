"""The maps of `attention_maps` are the probabilities that the networks compute, and recording them changes no picture."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_pipeline
from PIL import Image

from minisd import StableDiffusionPipeline
from minisd.attention_maps import attention_maps, cross_attentions
from minisd.explain import explain
from minisd.generate import main
from minisd.layers import attention

STEPS = 3


@pytest.fixture(scope="module", params=["tiny", "v1", "v2"])
def pipe(request):
    pipe = StableDiffusionPipeline.from_pretrained("tiny") if request.param == "tiny" else small_pipeline(request.param)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents_of(pipe, **settings) -> torch.Tensor:
    settings |= {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    return pipe("a red house", generator=torch.Generator().manual_seed(0), **settings).images


def test_recording_changes_no_picture(pipe):
    plain = latents_of(pipe)
    with attention_maps(pipe) as maps:
        recorded = latents_of(pipe)
    torch.testing.assert_close(recorded, plain, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(latents_of(pipe), plain, atol=0, rtol=0)  # the hooks are gone
    assert len(maps.steps) >= STEPS


def test_rows_sum_to_one_and_maps_have_the_levels_sizes(pipe):
    side = pipe.unet.config.sample_size
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    with attention_maps(pipe) as maps:
        latents_of(pipe, height=(side + 1) * factor, width=(side + 3) * factor)
    for step in range(len(maps.steps)):
        for level in maps.levels:
            rows, here = maps.rows(step, level), maps.at(step, level)
            torch.testing.assert_close(rows.sum(dim=-1), torch.ones(rows.shape[:-1]), atol=1e-5, rtol=0)
            assert here.shape == (2, 77, -(-(side + 1) // 2**level), -(-(side + 3) // 2**level))


def test_plain_path_is_the_fused_one(pipe):
    """One layer by hand: the recorded output is `attention`, written out, and `Attention.forward`, fused."""
    level, layer = cross_attentions(pipe.unet)[0]
    x, context = torch.randn(2, 30, layer.to_q.in_features), torch.randn(2, 77, layer.to_k.in_features)
    with torch.no_grad():
        fused = layer(x, context)
        with attention_maps(pipe) as maps:
            maps.begin(torch.zeros(2, 4, 5, 6))
            recorded = layer(x, context)
        projected = layer.to_q(x), layer.to_k(context), layer.to_v(context)
        q, k, v = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in projected)
        by_hand = layer.to_out(attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(recorded, fused, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_hand, fused, atol=1e-5, rtol=1e-5)
    assert maps.rows(0, level).shape == (2, 30, 77)


def test_a_factor_of_one_changes_nothing_and_of_zero_changes_the_picture(pipe):
    plain = latents_of(pipe)
    with attention_maps(pipe, torch.ones(77)):
        torch.testing.assert_close(latents_of(pipe), plain, atol=2e-4, rtol=2e-4)
    muted = torch.ones(2, 77)
    muted[1, 2] = 0
    with attention_maps(pipe, muted):
        assert (latents_of(pipe) - plain).abs().max() > 1e-4


def record_in(file: Path) -> dict:
    return json.loads(re.search(r'<script id="record"[^>]*>(.*?)</script>', file.read_text(encoding="utf-8"), re.S)[1])


def test_explain_writes_one_file_that_fetches_nothing(pipe, tmp_path):
    """Tokens, film, guesses, word maps, guidance and settings, for each kind of model."""
    file, settings = tmp_path / "a.html", {"num_inference_steps": STEPS, "guidance_scale": 3.0, "guidance_rescale": 0.5}
    image = explain(pipe, "a </script> house", file, generator=torch.Generator().manual_seed(5), **settings)
    assert not re.search(r'(src|href)="http', file.read_text(encoding="utf-8"))
    record = record_in(file)

    calls = len(latent_steps(pipe, "a </script> house", 5, **settings))
    assert len(record["steps"]) == calls and image.width == pipe.unet.config.sample_size * 8
    ids = [token["id"] for token in record["tokens"]]
    assert pipe.tokenizer("a </script> house").input_ids[0, : len(ids)].tolist() == ids
    texts = [token["text"] for token in record["tokens"]]
    assert (texts[0], texts[-1]) == ("start", "end") and all(texts)
    assert record["settings"]["seed"] == "5" and record["settings"]["guidance scale"] == "3.0"
    assert record["predicts"] == ("v" if pipe.scheduler.config.prediction_type == "v_prediction" else "ε")
    for step in record["steps"]:
        assert all(Image.open(io.BytesIO(base64.b64decode(step[name].split(",")[1]))).width == image.width for name in ("x", "x0"))
        assert [level["level"] for level in step["maps"]] == sorted({level for level, _ in cross_attentions(pipe.unet)})


def latent_steps(pipe, prompt: str, seed: int, **settings) -> list:
    return list(pipe.denoise(prompt, generator=torch.Generator().manual_seed(seed), **settings))


def test_explain_shows_what_the_unet_computed(pipe, tmp_path):
    """The maps and the predictions' lengths and angle, against those of a UNet that is called by hand."""
    settings = {"num_inference_steps": 1, "guidance_scale": 3.0}
    explain(pipe, "a red house", tmp_path / "a.html", generator=torch.Generator().manual_seed(0), **settings)
    (step,) = record_in(tmp_path / "a.html")["steps"]

    x = torch.randn(1, 4, *[pipe.unet.config.sample_size] * 2, generator=torch.Generator().manual_seed(0))
    context = pipe.encode_words([[""], ["a red house"]], 1)
    with attention_maps(pipe) as maps, torch.no_grad():
        uncond, cond = pipe.unet(x.repeat(2, 1, 1, 1), torch.tensor(step["t"]), encoder_hidden_states=context).sample
    guided, angle = uncond + 3 * (cond - uncond), torch.cosine_similarity(uncond.flatten(), cond.flatten(), dim=0).acos().rad2deg()
    shown = [step["guidance"][name] for name in ("without", "with", "guided", "angle")]
    assert shown == pytest.approx([float(value) for value in (uncond.norm(), cond.norm(), guided.norm(), angle)], rel=2e-3)
    for shown in [*step["maps"], step["guidance"]["difference"]]:
        values = shown["unit"] * torch.frombuffer(bytearray(base64.b64decode(shown["data"])), dtype=torch.uint8).float()
        difference = (cond - uncond).abs().mean(dim=0, keepdim=True)
        ours = maps.at(0, shown["level"])[-1, : len(values) // shown["h"] // shown["w"]] if "level" in shown else difference
        torch.testing.assert_close(values.view(ours.shape), ours, atol=0.51 * shown["unit"] + 1e-5, rtol=1e-3)


def test_explain_without_guidance(pipe, tmp_path):
    explain(pipe, "", tmp_path / "a.html", num_inference_steps=1, guidance_scale=1.0)
    record = record_in(tmp_path / "a.html")
    assert record["steps"][0]["guidance"] is None and [token["text"] for token in record["tokens"]] == ["start", "end"]


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (["a", "b"], {}, "one image from one prompt"),
        ("a", {"num_images_per_prompt": 2}, "one image from one prompt"),
        ("a", {"prompt_weighting": True}, "leave out prompt_weighting"),
    ],
    ids=["prompts", "images", "weighting"],
)
def test_explain_refuses(pipe, tmp_path, prompt, settings, message):
    with pytest.raises(ValueError, match=message):
        explain(pipe, prompt, tmp_path / "a.html", **settings)
    assert not (tmp_path / "a.html").exists()


def test_the_command_explains_each_picture(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", str(folders["v2"]), "--steps", "2", "--seed", "3", "--explain"]
    assert main(["a red ball", "a blue cat", *arguments]) == 0
    names = ["a-red-ball-3.png", "a-red-ball-3.html", "a-blue-cat-4.png", "a-blue-cat-4.html"]
    assert capsys.readouterr().out.split() == names
    for prompt, (png, page) in zip(["a red ball", "a blue cat"], [names[:2], names[2:]]):
        record = record_in(Path(page))
        assert record["prompt"] == prompt and record["settings"]["steps"] == "2"
        shown = Image.open(io.BytesIO(base64.b64decode(record["picture"].split(",")[1])))
        assert np.array_equal(np.asarray(shown), np.asarray(Image.open(png).convert("RGB")))


def test_the_command_says_what_it_cannot_explain(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["a (red) ball", "--prompt-weighting", "--explain", "--model", str(folders["v1"])]) == 1
    assert "leave out --prompt-weighting" in capsys.readouterr().err and not list(tmp_path.iterdir())

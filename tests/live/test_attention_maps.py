"""The maps of `attention_maps` are the probabilities that the networks compute, and recording them changes no picture."""

import json
import re

import pytest
import torch
from helpers import small_pipeline

from minisd import StableDiffusionPipeline
from minisd.attention_maps import attention_maps, cross_attentions
from minisd.explain import explain
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


def test_explain_writes_one_file_that_fetches_nothing(pipe, tmp_path):
    file = tmp_path / "a.html"
    image = explain(pipe, "a </script> house", file, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0))
    text = file.read_text(encoding="utf-8")
    record = json.loads(re.search(r'<script id="record"[^>]*>(.*?)</script>', text, re.S)[1])
    assert len(record["steps"]) >= STEPS and image.width > 0
    assert len(record["steps"][0]["maps"]) == len({level for level, _ in cross_attentions(pipe.unet)})
    assert not re.search(r'(src|href)="http', text)

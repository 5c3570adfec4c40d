"""CLIP's text transformer: transformers beside it, and what tells v1's from v2's."""

import json
import math

import pytest
import torch
from helpers import OFFICIAL, SMALL, V1_TEXT, build, diffusers_tensors, distance, pair, randn, small_network
from safetensors.torch import save_file
from torch import nn

from minisd import CLIPTextModel
from minisd.clip import quick_gelu
from minisd.layers import attention
from minisd.train.clip import end_token_state

# Ids below the vocabulary's last, which is the end token and the highest.
VOCABULARY = V1_TEXT["vocab_size"]


def some_ids(rows: int = 2, tokens: int = 77, vocabulary: int = VOCABULARY, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(0, vocabulary - 2, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    ids[:, tokens // 3 :] = vocabulary - 1
    return ids


@pytest.mark.parametrize("gain", [1.0, 3.0])
@pytest.mark.parametrize(
    "change",
    [{}, {"num_attention_heads": 2}, {"num_hidden_layers": 2}, {"intermediate_size": 64, "hidden_size": 40}],
    ids=lambda change: "-".join(f"{name}={value}" for name, value in change.items()) or "small",
)
def test_parity_with_transformers(kind, change, gain, measure):
    theirs, ours = pair("text_encoder", {**SMALL[kind]["text_encoder"], **change}, gain=gain)
    ids = some_ids()
    expected, output = theirs(ids), ours(ids)
    assert measure(output.last_hidden_state, expected.last_hidden_state) <= 1e-5
    assert torch.equal(output[0], output.last_hidden_state)


def test_parity_of_the_end_tokens_state():
    settings = {**V1_TEXT, "eos_token_id": VOCABULARY - 1, "bos_token_id": VOCABULARY - 2}
    theirs, ours = pair("text_encoder", settings)
    ids = some_ids()
    assert distance(end_token_state(ours(ids).last_hidden_state, ids), theirs(ids).pooler_output) <= 1e-5


def test_parity_at_the_official_configuration(kind, measure):
    theirs, ours = pair("text_encoder", OFFICIAL[kind]["text_encoder"])
    ids = some_ids(rows=1, vocabulary=49408)
    assert measure(ours(ids).last_hidden_state, theirs(ids).last_hidden_state) <= 1e-4


def test_quick_gelu_and_gelu_by_hand():
    x = randn(100).double()
    torch.testing.assert_close(quick_gelu(x), x / (1 + torch.exp(-1.702 * x)))
    exact = torch.tensor([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()]).double()
    assert 1e-3 < (quick_gelu(x) - exact).abs().max() < 0.03  # near enough to be mistaken for each other


def test_v1_has_quick_gelu_and_v2_the_exact_one():
    block = small_network("text_encoder", "v1").blocks[0], small_network("text_encoder", "v2").blocks[0]
    x = randn(100)
    assert torch.equal(block[0].activation(x), quick_gelu(x))
    assert torch.equal(block[1].activation(x), nn.functional.gelu(x, approximate="none"))


def test_a_whole_layer_by_hand():
    """x + attention of the normed x, then x + the perceptron of the normed x; nobody sees the future."""
    model = small_network("text_encoder", "v1")
    block, x = model.blocks[1], randn(1, 5, 48)
    layer = block.attn
    q, k, v = (to(block.norm1(x)).view(1, 5, 4, 12).transpose(1, 2) for to in (layer.to_q, layer.to_k, layer.to_v))
    y = x + layer.to_out(attention(q, k, v, causal=True).transpose(1, 2).reshape(1, 5, 48))
    expected = y + block.fc2(quick_gelu(block.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x, causal=True), expected, rtol=1e-5, atol=1e-5)


def test_v2_skips_the_last_layer_but_not_the_last_norm():
    """SD 2 takes OpenCLIP's penultimate layer. A model of one layer less, with the last layer's weights left out, is that."""
    theirs, _ = pair("text_encoder", {**SMALL["v2"]["text_encoder"], "num_hidden_layers": 4})
    tensors = {name: tensor for name, tensor in theirs.state_dict().items() if "layers.3." not in name}
    ours = build("text_encoder", {**SMALL["v2"]["text_encoder"], "num_hidden_layers": 3}, tensors)
    penultimate = theirs(some_ids(), output_hidden_states=True).hidden_states[-2]
    norm = nn.LayerNorm(48)
    norm.load_state_dict({name.split(".")[-1]: tensor for name, tensor in tensors.items() if "final_layer_norm" in name})
    assert distance(ours(some_ids()).last_hidden_state, norm(penultimate).detach()) <= 1e-5


@pytest.mark.parametrize("place", [0, 1, 40, 76])
def test_a_token_is_seen_from_its_place_on(place, kind):
    model, ids = small_network("text_encoder", kind), some_ids(rows=1)
    before = model(ids).last_hidden_state
    ids[0, place] = 3
    after = model(ids).last_hidden_state
    assert torch.equal(before[:, :place], after[:, :place])
    assert all((before[0, i] != after[0, i]).any() for i in range(place, 77))


def test_padding_is_seen_too():
    """No mask hides the padding: v1's end tokens and v2's zeros give different states behind the prompt."""
    model, ids = small_network("text_encoder", "v1"), some_ids(rows=1)
    zeros = ids.clone()
    zeros[0, 30:] = 0
    assert not torch.allclose(model(ids).last_hidden_state[0, 30:], model(zeros).last_hidden_state[0, 30:])


def test_positions_count():
    model = small_network("text_encoder", "v1")
    states = model(torch.full((1, 77), 5)).last_hidden_state[0]
    assert not torch.allclose(states[0], states[1])


def test_shorter_texts_are_taken():
    model, ids = small_network("text_encoder", "v1"), some_ids(rows=1)
    torch.testing.assert_close(model(ids[:, :20]).last_hidden_state, model(ids).last_hidden_state[:, :20], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_both_spellings_of_the_names_are_read(prefix, tmp_path):
    """Both are in circulation, and older files hold the numbers 0 to 76 besides."""
    model = small_network("text_encoder", "v1")
    model.save_pretrained(tmp_path / "ours")
    tensors = diffusers_tensors("text_encoder", V1_TEXT)
    renamed = {name.replace("text_model.", prefix): tensor for name, tensor in tensors.items()}
    renamed[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    save_file(renamed, tmp_path / "ours" / "model.safetensors")
    loaded = CLIPTextModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(loaded(some_ids()).last_hidden_state, model(some_ids()).last_hidden_state)


def test_the_text_half_of_a_whole_clip_is_read(tmp_path):
    """As `openai/clip-vit-large-patch14` is published: one file with a text and a vision tower."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config=V1_TEXT, vision_config=vision, projection_dim=16))
    clip.eval().save_pretrained(tmp_path / "clip")
    assert "vision_config" in json.loads((tmp_path / "clip" / "config.json").read_text())
    ours = CLIPTextModel.from_pretrained(tmp_path / "clip")
    assert distance(ours(some_ids()).last_hidden_state, clip.text_model(some_ids()).last_hidden_state.detach()) <= 1e-5

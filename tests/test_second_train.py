"""The trainings of the second edition: true twins, resumed equals unbroken, and losses that do what the papers say."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from minisd.config import CLIPTextConfig, CLIPVisionConfig, VAEConfig
from minisd.second import clip, decoder, features, unet, vae
from minisd.second.captions import phrase
from minisd.second.discriminator import Discriminator, Duel, adaptive_weight, to_deceive, to_tell
from minisd.second.features import Features
from minisd.second.muon import muon, orthogonal
from minisd.second.picture_book import Request, Scene, Thing, is_held_out
from minisd.second.pictures import rendered
from minisd.second.twins import RESPECTS, is_true, mentions, picture, scene_and_twin, truth_of
from minisd.second.words import learn_tokenizer
from minisd.train.loop import Recipe, train
from minisd.vae import AutoencoderKL

RECIPE = Recipe(steps=4, batch_size=2, learning_rate=1e-3, warmup=1, bfloat16=False)
SMALL_VAE = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, sample_size=64)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return rendered(tmp_path_factory.mktemp("pictures") / "twins.uint8", 16, picture)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def differences(a: Request, b: Request) -> list[str]:
    return [
        name for name in ("kinds", "colors", "sizes", "looks", "relation", "place", "style") if getattr(a, name) != getattr(b, name)
    ]


@pytest.mark.parametrize("respect", RESPECTS)
def test_twins_differ_in_one_respect_and_neither_caption_is_true_of_the_other(respect):
    changes = {"color": ["colors"], "kind": ["kinds"], "size": ["sizes"], "swapped colors": ["colors"]}
    for i in range(20):
        scene, twin, _ = scene_and_twin(i, respect)
        assert not is_held_out(twin) and not is_held_out(scene)
        a, b = mentions(scene, twin, respect, random.Random(i))
        assert is_true(a, scene) and is_true(b, twin) and not is_true(a, twin) and not is_true(b, scene)
        if respect != "order":
            assert differences(a, b) == changes.get(respect, [respect])


def test_next_to_is_true_of_what_stands_to_the_left_but_not_of_what_stands_above():
    cat, box = Thing("cat", "red", 0.3, 0.6, 0.2), Thing("box", "blue", 0.7, 0.6, 0.2)
    beside = Scene((box, cat), "next", "beach", "book", 0)
    assert is_true(Request(("cat", "box"), relation="left"), beside) and not is_true(
        Request(("box", "cat"), relation="left"), beside
    )
    assert is_true(Request(("cat", "box"), relation="next"), replace(beside, things=(cat, box), relation="left"))
    assert not is_true(Request(("cat", "box"), relation="next"), replace(beside, relation="above"))


def test_a_caption_that_is_true_of_another_picture_is_no_negative():
    scenes = [Scene((Thing("cat", color, 0.5, 0.6, 0.3),), "", "beach", "book", 0) for color in ("red", "blue")]
    requests = [Request(("cat",)), Request(("cat",), ("blue",))]
    truth = torch.tensor(truth_of(requests, scenes))
    assert truth.tolist() == [[True, False], [True, True]]
    assert clip.masked(torch.zeros(2, 2), truth).tolist() == [[0.0, 0.0], [-torch.inf, 0.0]]


def test_missing_pictures_are_appended_and_half_ones_drawn_again(tmp_path, pictures):
    file = tmp_path / "twins.uint8"
    file.write_bytes(pictures[:5].tobytes() + b"half")
    assert np.array_equal(rendered(file, 8, picture), pictures[:8])
    assert file.stat().st_size == pictures[:8].size


def small_clip(pictures, monkeypatch):
    monkeypatch.setattr(clip, "VISION", CLIPVisionConfig(32, 64, 2, 2, image_size=32, patch_size=8))
    tokenizer = learn_tokenizer(captions=300)
    model = clip.CLIP(CLIPTextConfig(len(tokenizer.vocab), 32, 64, 2, 2), clip.VISION)
    return model, clip.loss_with(pictures, tokenizer, RECIPE)


def small_duel(pictures, monkeypatch):
    monkeypatch.setattr(decoder, "ADVERSARIAL_FROM", 1)
    model = Duel(decoder.decoding_half(AutoencoderKL(SMALL_VAE)))
    return model, decoder.loss_with(pictures[:, :64, :64], Features().requires_grad_(False), RECIPE)


def small_vae(pictures, monkeypatch):
    return AutoencoderKL(SMALL_VAE), vae.loss_with(pictures, Features().requires_grad_(False), RECIPE)


def small_features(pictures, monkeypatch):
    return Features(), features.loss_with(pictures, RECIPE)


KINDS = {"clip": small_clip, "features": small_features, "vae": small_vae, "decoder": small_duel}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(kind, pictures, monkeypatch, tmp_path):
    torch.manual_seed(0)
    model, loss = KINDS[kind](pictures, monkeypatch)
    unbroken = train(tmp_path / "a", copy.deepcopy(model), RECIPE, loss, optimizer_of=muon)

    def killed_late(model, step):
        if step == 3:
            raise KeyboardInterrupt
        return loss(model, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", copy.deepcopy(model), RECIPE, killed_late, save_every=0, optimizer_of=muon)
    resumed = train(tmp_path / "b", model, RECIPE, loss, optimizer_of=muon)
    assert torch.equal(weights(unbroken), weights(resumed))


def test_neither_of_the_two_networks_learns_from_the_others_loss():
    torch.manual_seed(0)
    discriminator, x, y = Discriminator(), torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64, requires_grad=True)
    to_deceive(discriminator, y).backward()
    assert y.grad.abs().sum() > 0 and all(p.grad is None for p in discriminator.parameters())
    y.grad = None
    to_tell(discriminator, y, x).backward()
    assert y.grad is None and all(p.grad is not None for p in discriminator.parameters())


def test_the_discriminator_sees_patches_of_34_pixels():
    x = torch.zeros(1, 3, 128, 128, requires_grad=True)
    layers = torch.nn.Sequential(*(layer for layer in Discriminator().layers if not isinstance(layer, torch.nn.GroupNorm)))
    layers(x)[0, 0, 15, 15].backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    assert seen.any(dim=0).sum() == seen.any(dim=1).sum() == 34


def test_the_adaptive_weight_makes_both_losses_pull_equally():
    last = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = (3 * last).sum(), last.square().sum()
    weight = adaptive_weight(reconstruction, adversarial, last)
    assert float(weight) == pytest.approx(18**0.5 / 20**0.5, rel=1e-4)


def test_features_of_the_same_picture_have_no_distance():
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    eyes = Features()
    assert eyes.distance(x, x) == 0 < eyes.distance(x.flip(-1), x)


def test_orthogonalised_matrices_keep_their_directions_and_have_singular_values_near_1():
    torch.manual_seed(0)
    for shape in ((8, 20), (20, 8)):
        matrix = torch.randn(shape)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonal(matrix)
        assert ((u.T @ found @ v.T).diagonal() - 1).abs().max() < 0.35
        assert torch.allclose(u.T @ found @ v.T, (u.T @ found @ v.T).diagonal().diag(), atol=1e-3)


def test_latents_are_appended_where_they_are_missing(tmp_path):
    torch.manual_seed(0)
    model = AutoencoderKL(replace(SMALL_VAE, sample_size=128)).eval()
    whole = unet.cached_latents(model, tmp_path / "a", 6)
    unet.cached_latents(model, tmp_path / "b", 3)
    assert torch.allclose(unet.cached_latents(model, tmp_path / "b", 6), whole, atol=1e-2)
    assert whole.shape == (6, 4, 16, 16) and whole.dtype == torch.float16


def test_every_word_of_a_caption_is_one_token():
    tokenizer = learn_tokenizer(captions=4000)
    scene, twin, respect = scene_and_twin(0)
    caption = phrase(mentions(scene, twin, respect, random.Random(0))[0], random.Random(0))
    assert len(tokenizer.vocab) <= 1000
    assert tokenizer.bpe.encode(caption).tokens == [word + "</w>" for word in caption.replace(",", " ,").split()]

"""LoRA: the formula, every layout of files, what a pipeline does with several, and files that do not fit."""

import copy
import json
import math
import os
from pathlib import Path

import pytest
import torch
from helpers import PROMPTS, distance, draw, randn, small_pipeline
from loras import (
    ALPHA,
    RANK,
    bare_peft,
    compvis,
    kohya,
    lora_layers,
    merge,
    peft,
    processors,
    random_changes,
    write_lora,
    write_numbered,
)
from safetensors.torch import load_file, save_file
from torch import nn

from minisd import CheckpointError, StableDiffusionPipeline
from minisd.adapters.lora import LoRA, attach, detach, layers_of
from minisd.adapters.lora_names import parsed, place_of, spellings

X, T = randn(2, 4, 8, 8), 500


@pytest.fixture(scope="module")
def shared():
    """A pipeline that every test leaves as it was."""
    return small_pipeline("v1")


@pytest.fixture
def pipe(shared):
    before = {
        part: {name: t.clone() for name, t in getattr(shared, part).state_dict().items()} for part in ("unet", "text_encoder")
    }
    yield shared
    shared.unload_lora_weights()
    shared.unload_textual_inversion()
    for part, tensors in before.items():
        after = getattr(shared, part).state_dict()
        assert after.keys() == tensors.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())


def predictions(pipe) -> tuple[torch.Tensor, torch.Tensor]:
    """What the LoRAs of a pipeline change: text states, and the UNet's guess."""
    states = pipe.text_encoder(pipe.tokenizer(PROMPTS).input_ids)[0]
    return states, pipe.unet(X, T, encoder_hidden_states=states).sample


def merged(kind: str, changes, factor: float) -> StableDiffusionPipeline:
    pipe = small_pipeline(kind)
    merge(pipe, changes, factor)
    return pipe


# One layer


@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 7), nn.Conv2d(5, 7, 1), nn.Conv2d(5, 7, 3, padding=1), nn.Conv2d(5, 7, 3, stride=2)], ids=str
)
def test_a_lora_is_the_product_of_its_matrices(layer):
    lora = LoRA(layer, rank=2, alpha=3.0)
    x = randn(4, 5, 9, 9) if isinstance(layer, nn.Conv2d) else randn(4, 5)
    with torch.no_grad():
        plain = layer(x)
        attach(layer, lora)
        assert torch.equal(layer(x), plain)  # a new one changes nothing
        nn.init.normal_(lora.up.weight)
        lora.scale = 0.5
        product = torch.einsum("or,r...->o...", lora.up.weight.flatten(1), lora.down.weight)
        changed = copy.deepcopy(layer)
        detach(changed)
        changed.weight += 0.5 * 3.0 / 2 * product.view_as(layer.weight)
        assert distance(layer(x), changed(x)) < 1e-6
        lora.scale = 0.0
        assert torch.equal(layer(x), plain)
    detach(layer)
    assert type(layer) in (nn.Linear, nn.Conv2d)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_a_lora_trains_beside_frozen_weights():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).requires_grad_(False)
    for layer in layers_of(network).values():
        attach(layer, LoRA(layer, rank=2))
    trained = [p for p in network.parameters() if p.requires_grad]
    assert len(trained) == 4
    losses = []
    for _ in range(30):
        loss = (network(randn(16, 4)) - 1).square().mean()
        for parameter, slope in zip(trained, torch.autograd.grad(loss, trained)):
            parameter.data -= 0.3 * slope
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert len(layers_of(network)) == 2


def test_every_layer_has_names_of_its_own(kind):
    pipe = small_pipeline(kind)
    found = spellings({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    assert all(len(places) == 1 for places in found.values())
    for part in ("unet", "text_encoder"):
        for path in layers_of(getattr(pipe, part)):
            for spell in (kohya, compvis, lora_layers, peft, bare_peft, *([processors] if "attn" in path else [])):
                assert place_of(parsed(spell(part, path).format("up")), found) == (part, path)


# Layouts, against diffusers where it reads them


LAYOUTS = {
    "kohya": (kohya, "", ALPHA),
    "diffusers, processors": (processors, "attn", None),
    "diffusers": (lora_layers, "attn", None),
    "peft": (peft, "", None),
}


@pytest.fixture(scope="module")
def reference(folders):
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    return diffusers.StableDiffusionPipeline.from_pretrained(folders["v1"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_as_in_diffusers(pipe, reference, layout, tmp_path, measure):
    spell, only, alpha = LAYOUTS[layout]
    changes = random_changes(pipe, only)
    file = write_lora(tmp_path / "lora.safetensors", changes, spell, alpha)
    plain = predictions(pipe)
    pipe.load_lora_weights(file)
    reference.load_lora_weights(file)
    try:
        ids = pipe.tokenizer(PROMPTS).input_ids
        with torch.no_grad():
            states = reference.text_encoder(ids)[0]
            eps = reference.unet(X, T, encoder_hidden_states=states).sample
    finally:
        reference.unload_lora_weights()
    for ours, theirs, before in zip(predictions(pipe), (states, eps), plain):
        assert distance(before, theirs) > 0.01
        assert measure(ours, theirs) < 1e-5


# Layouts, against the formula


def formula(pipe, changes, factor: float, file: Path, **options):
    """The LoRA beside the weights computes what the sum of both computes."""
    pipe.load_lora_weights(file, **options)
    for ours, theirs in zip(predictions(pipe), predictions(merged("v1", changes, factor))):
        assert distance(ours, theirs) < 1e-5


@pytest.mark.parametrize("scale", [1.0, -0.7])
def test_kohyas_with_compvis_names(pipe, tmp_path, scale):
    """diffusers reads these for Stable Diffusion XL only."""
    changes = random_changes(pipe)
    formula(pipe, changes, scale * ALPHA / RANK, write_lora(tmp_path / "lora.safetensors", changes, compvis, ALPHA), scale=scale)


@pytest.mark.parametrize("where", ["beside", "in the header"])
def test_peft_says_alpha_outside_the_tensors(pipe, tmp_path, where):
    changes = {place: sides for place, sides in random_changes(pipe, "attn").items() if place[0] == "unet"}
    settings = {"lora_alpha": 6, "use_rslora": True, "alpha_pattern": {"attn2.to_q": 1.5}}
    if where == "beside":
        write_lora(tmp_path / "adapter_model.safetensors", changes, bare_peft)
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    else:
        note = json.dumps({f"unet.{name}": value for name, value in settings.items()})
        write_lora(tmp_path / "pytorch_lora_weights.safetensors", changes, peft, notes={"lora_adapter_metadata": note})
    other = merged("v1", {place: sides for place, sides in changes.items() if "attn2.to_q" not in place[1]}, 6 / math.sqrt(RANK))
    merge(other, {place: sides for place, sides in changes.items() if "attn2.to_q" in place[1]}, 1.5 / math.sqrt(RANK))
    pipe.load_lora_weights(tmp_path)
    assert distance(predictions(pipe)[1], predictions(other)[1]) < 1e-5


def test_cloneofsimos_count_the_layers_of_diffusers_and_bring_words(pipe, tmp_path):
    """The first of the UNet's are the first level's, the text encoder's begin with k and v; the middle comes last."""
    changes = random_changes(pipe)
    block = "down_blocks.0.attentions.0.block"
    numbers = {("unet", f"{block}.attn1.to_{layer}"): i for i, layer in enumerate(("q", "k", "v", "out"))}
    numbers |= {("unet", f"{block}.ff.proj_in"): 4, ("unet", f"{block}.attn2.to_q"): 5}
    numbers |= {("unet", f"up_blocks.2.attentions.2.block.{layer}"): n for layer, n in (("ff.proj_in", 85), ("attn2.to_out", 89))}
    numbers |= {("unet", "mid_block.attention.block.attn1.to_q"): 90, ("unet", "mid_block.attention.block.attn2.to_out"): 98}
    numbers |= {("text_encoder", f"blocks.1.attn.to_{layer}"): 4 + i for i, layer in enumerate(("k", "v", "q", "out"))}
    changes = {place: changes[place] for place in numbers}
    classes = {"unet": ["GEGLU", "CrossAttention", "Attention"], "text_encoder": ["CLIPAttention"]}
    file = write_numbered(tmp_path / "lora.safetensors", changes, numbers, classes)
    formula(pipe, changes, 1.0, file)
    assert pipe.tokenizer("a <s1> cat").input_ids[0, 2] == 566
    pipe.unload_lora_weights()
    pipe.load_lora_weights(file)  # the word is there already, with the same vector


def test_attentions_come_before_resnet_blocks_in_cloneofsimos_order():
    from minisd.adapters.lora_by_number import numbered_layers

    pipe = small_pipeline("v1")
    paths = numbered_layers("unet", pipe.unet, {"unet": '["ResnetBlock2D", "GEGLU", "CrossAttention"]'}, "x")
    assert paths[18:21] == [f"down_blocks.0.resnets.0.{layer}" for layer in ("conv1", "time_emb_proj", "conv2")]
    assert paths[-1] == "mid_block.resnet_2.conv2"


def test_a_damaged_note_is_named(pipe, tmp_path):
    changes = {place: sides for place, sides in random_changes(pipe, "attn2.to_q").items() if place[0] == "unet"}
    for note, says in {
        '{"unet.lora_alpha": "4"}': "unet.lora_alpha = '4' is not a number",
        '{"unet.alpha_pattern": {"(": 4}}': r"alpha_pattern '\(' is not a valid pattern",
        "[": "is not valid JSON",
    }.items():
        file = write_lora(tmp_path / "lora.safetensors", changes, peft, notes={"lora_adapter_metadata": note})
        with pytest.raises(CheckpointError, match=says):
            pipe.load_lora_weights(file)


# What a pipeline does


def kohya_file(pipe, folder: Path, only: str = "attn", seed: int = 0) -> Path:
    return write_lora(folder / f"{seed}.safetensors", random_changes(pipe, only, seed), kohya, ALPHA)


def test_several_add_up_and_come_off_bit_for_bit(pipe, tmp_path):
    one, two = (random_changes(pipe, only, seed) for only, seed in (("attn", 1), ("conv", 2)))
    plain = predictions(pipe)
    pipe.load_lora_weights(write_lora(tmp_path / "1.safetensors", one, kohya, ALPHA), 0.5)
    alone = predictions(pipe)
    pipe.load_lora_weights(write_lora(tmp_path / "2.safetensors", two, kohya), adapter_name="second")
    both = small_pipeline("v1")
    merge(both, one, 0.5 * ALPHA / RANK)
    merge(both, two, 1.0)
    for ours, theirs in zip(predictions(pipe), predictions(both)):
        assert distance(ours, theirs) < 1e-5
    pipe.set_adapters(["default_0", "second"], [0.5, 0.0])
    assert all(map(torch.equal, predictions(pipe), alone))
    pipe.set_adapters("default_0", 0.5)
    assert all(map(torch.equal, predictions(pipe), alone))
    pipe.set_adapters([])
    assert all(map(torch.equal, predictions(pipe), plain))


def test_fusing_and_back(pipe, tmp_path):
    plain, names = predictions(pipe), set(pipe.unet.state_dict())
    pipe.load_lora_weights(kohya_file(pipe, tmp_path, seed=1), 0.5)
    beside = predictions(pipe)
    pipe.fuse_lora()
    assert set(pipe.unet.state_dict()) == names
    pipe.load_lora_weights(kohya_file(pipe, tmp_path, seed=2))
    both = predictions(pipe)
    pipe.fuse_lora(0.7)
    pipe.unfuse_lora()
    for ours, theirs in zip(predictions(pipe), both):
        assert distance(ours, theirs) < 1e-5
    pipe.set_adapters("default_0", 0.5)
    assert all(map(torch.equal, predictions(pipe), beside))
    pipe.unload_lora_weights()
    assert all(map(torch.equal, predictions(pipe), plain))


def test_a_fused_lora_is_saved_and_stays(tmp_path):
    pipe = small_pipeline("v1")
    pipe.load_lora_weights(kohya_file(pipe, tmp_path))
    for part in (pipe, pipe.unet, pipe.text_encoder):
        with pytest.raises(CheckpointError, match="'default_0' is not part of the weights; fuse it with fuse_lora"):
            part.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    fused = predictions(pipe)
    pipe.save_pretrained(tmp_path / "out")
    assert all(map(torch.equal, predictions(StableDiffusionPipeline.from_pretrained(tmp_path / "out")), fused))
    with pytest.raises(ValueError, match="there is no LoRA to fuse"):
        pipe.fuse_lora()


def test_a_fused_lora_has_no_scale_to_set(pipe, tmp_path):
    pipe.load_lora_weights(kohya_file(pipe, tmp_path))
    pipe.fuse_lora()
    try:
        with pytest.raises(ValueError, match="adapter 'default_0' is fused into the weights; call unfuse_lora"):
            pipe.set_adapters("default_0", 0.5)
    finally:
        pipe.unfuse_lora()


def test_a_layer_of_another_class_is_refused_before_anything_changes(tmp_path):
    pipe = small_pipeline("v1")
    pipe.unet.mid_block.attention.proj_in.__class__ = type("Quantized", (nn.Linear,), {})
    with pytest.raises(CheckpointError, match="this model has no layer for lora_unet_mid_block_attentions_0_proj_in"):
        pipe.load_lora_weights(kohya_file(small_pipeline("v1"), tmp_path, only="mid_block.attention"))
    assert not any(isinstance(module, LoRA) for module in pipe.unet.modules())


def test_a_lora_moves_with_its_layer_and_is_shared_with_it(pipe, tmp_path):
    pipe.load_lora_weights(kohya_file(pipe, tmp_path), adapter_name="one")
    other = StableDiffusionPipeline.from_pipe(pipe)
    with pytest.raises(ValueError, match="adapter 'one' already exists"):
        other.load_lora_weights(kohya_file(pipe, tmp_path), adapter_name="one")
    copied = copy.deepcopy(pipe.unet).to(torch.float64)
    assert {p.dtype for p in copied.parameters()} == {torch.float64}
    other.unload_lora_weights()
    assert not any(isinstance(module, LoRA) for module in pipe.unet.modules())


def test_a_compiled_network_notices_a_lora():
    network, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Conv1d(2, 2, 1)).requires_grad_(False), randn(2, 4)
    compiled = torch.compile(network, backend="eager")
    plain = compiled(x)
    lora = LoRA(network[0], rank=2)
    nn.init.ones_(lora.up.weight)
    attach(network[0], lora)
    assert distance(compiled(x), plain) > 0.01
    assert torch.equal(compiled(x), network(x))
    detach(network[0])
    assert torch.equal(compiled(x), plain)


def test_lcm_lora_takes_every_layer_and_draws(pipe, tmp_path):
    from minisd import LCMScheduler

    pipe.load_lora_weights(kohya_file(pipe, tmp_path, only=""))
    fast = StableDiffusionPipeline.from_pipe(pipe, scheduler=LCMScheduler.from_config(pipe.scheduler.config))
    assert draw(fast, steps=2, guidance_scale=1).isfinite().all()


def test_pickles_of_tensors_are_read(pipe, tmp_path):
    torch.save(load_file(kohya_file(pipe, tmp_path)), tmp_path / "pytorch_lora_weights.bin")
    before = predictions(pipe)
    pipe.load_lora_weights(tmp_path, weight_name="0.safetensors", adapter_name="a")
    pipe.load_lora_weights(tmp_path, -1.0)  # the pickle is the usual name
    assert distance(predictions(pipe)[1], before[1]) < 1e-5


def test_ids_on_the_hub_are_found_in_the_cache(pipe, tmp_path):
    snapshot = tmp_path / "models--somebody--lora" / "snapshots" / "0123"
    (snapshot / "sub").mkdir(parents=True)
    (tmp_path / "models--somebody--lora" / "refs").mkdir()
    (tmp_path / "models--somebody--lora" / "refs" / "main").write_text("0123")
    kohya_file(pipe, tmp_path).rename(snapshot / "sub" / "mine.safetensors")
    hub = {"cache_dir": tmp_path, "local_files_only": True}
    with pytest.raises(CheckpointError, match=r"somebody/lora has no pytorch_lora_weights.safetensors and .*weight_name"):
        pipe.load_lora_weights("somebody/lora", **hub)
    pipe.load_lora_weights("somebody/lora", weight_name="mine.safetensors", subfolder="sub", **hub)
    assert any(isinstance(module, LoRA) for module in pipe.unet.modules())


# Files that do not fit


def wrong(change):
    """A file of one pair, changed."""

    def write(file: Path):
        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
        tensors = {f"{name}.lora_down.weight": torch.ones(3, 48), f"{name}.lora_up.weight": torch.ones(32, 3)}
        save_file(change(tensors, name), file)

    return write


WRONG = {
    "no LoRA": (lambda t, n: {"model.diffusion_model.x": torch.ones(2)}, "is not a LoRA: it contains model.diffusion_model.x"),
    "a word": (lambda t, n: {"emb_params": torch.ones(1, 48)}, r"load_textual_inversion \(--embedding\)"),
    "DoRA": (lambda t, n: t | {f"{n}.dora_scale": torch.ones(1)}, "is a DoRA, which minisd does not implement"),
    "LoHa": (lambda t, n: {f"{n}.hada_w1_a": torch.ones(1)}, "is a LoHa, which"),
    "LoKr": (lambda t, n: {f"{n}.lokr_w1": torch.ones(1)}, "is a LoKr, which"),
    "no up": (lambda t, n: {f"{n}.lora_down.weight": torch.ones(3, 48)}, "to_k.lora_down.weight without the matrix up"),
    "no down": (lambda t, n: {f"{n}.lora_up.weight": torch.ones(32, 3)}, "to_k.lora_up.weight without the matrix down"),
    "no pair": (lambda t, n: t | {"lora_unet_conv_in.alpha": torch.tensor(1.0)}, "lora_unet_conv_in.alpha without the matrix"),
    "ranks": (lambda t, n: t | {f"{n}.lora_up.weight": torch.ones(32, 4)}, "has rank 3, but .*to_k.lora_up.weight has 4"),
    "rank 0": (lambda t, n: t | {f"{n}.lora_down.weight": torch.ones(0, 48)}, r"has \(0, 48\) instead of \(1, 48\)"),
    "shape": (lambda t, n: t | {f"{n}.lora_up.weight": torch.ones(31, 3)}, r"has \(31, 3\) instead of \(32, 3\)"),
    "NaN": (lambda t, n: t | {f"{n}.lora_up.weight": torch.full((32, 3), math.nan)}, "is damaged: .* contains NaN or infinity"),
    "alpha": (lambda t, n: t | {f"{n}.alpha": torch.ones(2)}, "alpha must be one number, not 2"),
    "infinite alpha": (lambda t, n: t | {f"{n}.alpha": torch.tensor(math.inf)}, "alpha contains NaN or infinity"),
    "integers": (lambda t, n: t | {f"{n}.lora_up.weight": torch.ones(32, 3, dtype=torch.int32)}, "is stored as I32"),
    "v2": (lambda t, n: t | {f"{n}.lora_down.weight": torch.ones(3, 1024)}, "is a LoRA for Stable Diffusion 2: its text"),
    "XL": (lambda t, n: t | {f"{n}.lora_down.weight": torch.ones(3, 2048)}, "is a LoRA for Stable Diffusion XL"),
    "a layer": (lambda t, n: t | {f"{n}_x.alpha": torch.tensor(1.0)}, "this model has no layer for lora_unet_.*_to_k_x.alpha"),
    "a tensor": (lambda t, n: t | {"more": torch.ones(1)}, "this model has no layer for more"),
    "twice": (lambda t, n: t | {f"{n}.lora_A.weight": torch.ones(3, 48)}, "is ambiguous: .* are for the same layer"),
    "numbered": (lambda t, n: {"unet:99:up": torch.ones(1, 1)}, "this model has no layer for unet:99:up"),
    "peft alone": (lambda t, n: {"base_model.model.conv_in.lora_A.weight": torch.ones(1)}, "needs adapter_config.json in the same"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_fit_changes_nothing(pipe, tmp_path, case):
    change, says = WRONG[case]
    file = tmp_path / "lora.safetensors"
    wrong(change)(file)
    with pytest.raises(CheckpointError, match=says) as error:
        pipe.load_lora_weights(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert not any(isinstance(module, LoRA) for module in pipe.unet.modules())


def test_files_that_are_not_there(pipe, tmp_path):
    file = kohya_file(pipe, tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="is damaged or not a safetensors file: it has"):
        pipe.load_lora_weights(tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r'file ".*none.safetensors" not found'):
        pipe.load_lora_weights(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"has no pytorch_lora_weights.safetensors and no .*; choose a file with weight_name"):
        pipe.load_lora_weights(tmp_path)
    with pytest.raises(CheckpointError, match="is not fully cached"):
        pipe.load_lora_weights("somebody/lora", local_files_only=True)
    with pytest.raises(TypeError, match="unknown argument prefix; valid arguments are weight_name, subfolder, revision"):
        pipe.load_lora_weights(file, prefix="unet")
    with pytest.raises(ValueError, match="scale must be a number, not 'x'"):
        pipe.load_lora_weights(file, "x")
    with pytest.raises(ValueError, match="there is no adapter 'x'; loaded: none"):
        pipe.set_adapters("x")
    with pytest.raises(CheckpointError, match=r"is a LoRA, which changes a checkpoint .*load_lora_weights \(--lora\)"):
        StableDiffusionPipeline.from_pretrained(file)


# Real files


REAL = os.environ.get("MINISD_ADAPTERS")


@pytest.mark.skipif(not REAL, reason="MINISD_ADAPTERS names no folder of LoRAs for Stable Diffusion v1")
def test_real_files_fit_version_1():
    from minisd.adapters.lora_file import read_lora
    from minisd.clip import CLIPTextModel
    from minisd.config import SD1_TEXT, SD1_UNET
    from minisd.unet import UNet2DConditionModel
    from minisd.weights.fill import unfilled

    networks = {"unet": unfilled(UNet2DConditionModel, SD1_UNET), "text_encoder": unfilled(CLIPTextModel, SD1_TEXT)}
    for file in Path(str(REAL)).glob("*lora*.safetensors"):
        assert len(read_lora(file, networks, "real", 1.0).loras) >= 128

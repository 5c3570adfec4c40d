"""What diffusers computed (make_references.py says how), replayed with minisd alone, on every device and in every precision."""

import json

import pytest
import torch
from helpers import REFERENCES, small_network, small_pipeline, small_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from minisd.schedulers import SCHEDULERS

# The largest difference that passes, as a share of the output's largest number. In float32 another order of adding leaves some
# 1e-6, and a mistake is far above 1e-4. Half precisions round every number of every layer, by 2⁻¹¹ or 2⁻⁸ at most. Such errors are
# as often up as down and grow with the root of the number of layers, some fifty in a row: 3 to 6 roundings were measured, 10 pass.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 10 * 2**-11, torch.bfloat16: 10 * 2**-8}

# A pipeline asks the UNet in each of ten steps. Guidance of 5, five times one answer less four times the other, makes √(5² + 4²) =
# 6.4 roundings of one, and samplers extrapolate. On a CPU, 5 to 15 roundings were measured in the latents, and up to 22 from noise
# that is a fraction of a rounding away, to stand for another device's order of adding: 40 pass. The pictures are noise too, of a
# deviation of 72 steps of 8 bits, and as large a share of that is about 1 step in float16 and 8 in bfloat16, on average over all
# pixels. Measured were at most 0.3 and 2.5, and 0.4 and 3.6 from other noise.
LATENTS = {torch.float32: 1e-4, torch.float16: 40 * 2**-11, torch.bfloat16: 40 * 2**-8}
PIXELS = {torch.float32: 0.01, torch.float16: 1, torch.bfloat16: 8}
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))


@pytest.fixture(params=["cpu", CUDA])
def device(request, monkeypatch) -> str:
    """A device, computing in the precision it is asked for: convolutions in TF32 would have ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


@pytest.fixture(params=TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture
def stored(kind) -> dict[str, Tensor]:
    return load_file(REFERENCES / f"{kind}.safetensors")


@pytest.fixture
def call(kind) -> dict:
    with safe_open(REFERENCES / f"{kind}.safetensors", "pt") as file:
        return json.loads(file.metadata()["call"])


def test_tokens(kind, stored, call):
    assert torch.equal(small_tokenizer(kind)(call["prompt"]).input_ids, stored["ids"])


def test_text_encoder(kind, stored, device, dtype, measure):
    model = small_network("text_encoder", kind).to(device, dtype)
    assert measure(model(stored["ids"].to(device)).last_hidden_state, stored["context"]) <= TOLERANCE[dtype]


def test_unet(kind, stored, device, dtype, measure):
    model = small_network("unet", kind).to(device, dtype)
    latents, context = stored["latents"].to(device, dtype), stored["context"].repeat(2, 1, 1).to(device, dtype)
    assert measure(model(latents, stored["times"].to(device), context).sample, stored["eps"]) <= TOLERANCE[dtype]


def test_vae(kind, stored, device, dtype, measure):
    model = small_network("vae", kind).to(device, dtype)
    gaussian = model.encode(stored["picture"].to(device, dtype)).latent_dist
    assert measure(torch.cat([gaussian.mean, gaussian.logvar], dim=1), stored["moments"]) <= TOLERANCE[dtype]
    assert measure(model.decode(stored["latents"][:1, :, :5, :4].to(device, dtype)).sample, stored["decoded"]) <= TOLERANCE[dtype]


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_pipeline(kind, sampler, stored, call, device, dtype, measure):
    if f"{sampler}.latents" not in stored:
        pytest.skip("diffusers' PNDM blends a v-model's v, where the mathematics wants ε: there is no reference")
    pipe = small_pipeline(kind).to(device, dtype)
    pipe.scheduler = SCHEDULERS[sampler].from_config(pipe.scheduler.config)
    latents, pixels = (
        pipe(**call, generator=torch.Generator().manual_seed(0), output_type=form).images for form in ("latent", "np")
    )
    assert measure(latents, stored[f"{sampler}.latents"]) <= LATENTS[dtype]
    difference = (torch.from_numpy(255 * pixels).round() - stored[f"{sampler}.picture"].float()).abs()
    assert difference.mean() < PIXELS[dtype] and (dtype != torch.float32 or difference.max() <= 1)


def test_the_stored_pictures_are_no_flat_ones(stored):
    for name, tensor in stored.items():
        assert tensor.float().std() > 0.01 and tensor.isfinite().all(), name

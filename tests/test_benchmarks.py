"""The benchmarks of tests/benchmarks run and compute what they say, on the tiny configuration; their figures are not tested."""

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minisd import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from minisd.config import TINY_TEXT, TINY_UNET, TINY_VAE

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # they are scripts, and import each other so

import gpu  # noqa: E402
import peers  # noqa: E402
import programs  # noqa: E402


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for module in (gpu, programs):
        monkeypatch.setattr(module, "PATIENCE", 1e-9)
    monkeypatch.setattr(gpu, "STEPS", 1)


@pytest.fixture
def tiny():
    return gpu.Model(torch.device("cpu"), TINY_TEXT, TINY_UNET, TINY_VAE)


def test_gpu_measures_every_row(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: None)  # Inductor takes a minute
    monkeypatch.setattr(gpu, "find_spec", lambda module: None)  # no diffusers
    table = list(gpu.lines(gpu.rows(tiny, str(tmp_path), [torch.float32], [2]), budget=600))
    assert [line.split("|")[1].strip() for line in table] == [
        "first image in 1 steps, minisd, the whole process",
        "guided step",
        "guided step, channels last",
        "VAE decode",
        "guided step, difference from float32",
        "VAE decode, difference from float32",
        "images in 1 steps, batch of 2",
        "guided step, torch.compile",
        "guided step, torch.compile, channels last",
    ]
    assert not [line for line in table if "failed" in line or "not measured" in line]
    assert (tmp_path / "cat.png").exists()
    assert sum("| 0.0e+00 |" in line for line in table) == 2  # float32 does not differ from float32


def test_gpu_measures_diffusers_on_the_same_checkpoint(tiny, tmp_path):
    pytest.importorskip("diffusers")
    table = gpu.rows(tiny, str(tmp_path), [torch.float32], [])
    measures = {name: measure for name, _, measure in table if "diffusers" in name}
    assert list(measures) == ["first image in 1 steps, diffusers, the whole process", "guided step, diffusers"]
    with torch.no_grad():
        assert measures["guided step, diffusers"]()[0].endswith("it/s")


def test_gpu_finds_the_difference_of_half_precision(tiny):
    with torch.no_grad():
        assert 1e-4 < float(gpu.difference(tiny, torch.bfloat16, "unet")[0]) < 0.1


def test_gpu_compiles_the_network(tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network))
    gpu.speed(tiny, torch.float32, compiled=True)
    assert [type(network).__name__ for network in compiled] == ["UNet2DConditionModel"]


def test_gpu_says_what_it_does_not_measure(tiny):
    def out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert list(gpu.lines([("decode", torch.float16, out_of_memory)], 60)) == [
        "| decode | float16 | failed: CUDA out of memory |  |"
    ]
    assert list(gpu.lines([("decode", torch.float16, out_of_memory)], -1)) == [
        "| decode | float16 | not measured: no time left |  |"
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_without_a_gpu_ends_with_a_sentence():
    result = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("This benchmark needs a GPU that PyTorch can use") and result.stderr.count("\n") == 1


SIDE = 16  # of the latents
UNET = replace(TINY_UNET, cross_attention_dim=768)  # the width of the text states in programs.py
STEP, DECODE = programs.Work("step", "unet", SIDE, batch=2), programs.Work("decode", "vae", SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    UNet2DConditionModel(UNET).save_pretrained(folder / "float32" / "unet")
    AutoencoderKL(TINY_VAE).save_pretrained(folder / "float32" / "vae")
    return folder


@pytest.mark.parametrize("work", [STEP, DECODE], ids=lambda work: work.name)
def test_peers_compute_the_same(work, folder, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(torch, "compile", lambda call: call)  # Inductor takes a minute
    outputs = [peer.measure(folder, work, "float32", 1)[1] for peer in programs.PEERS[:4]]
    assert outputs[0].shape == {"step": (2, 4, SIDE, SIDE), "decode": (1, 3, 8 * SIDE, 8 * SIDE)}[work.name]
    for output in outputs[1:]:
        assert np.abs(output - outputs[0]).max() < 1e-5 * np.abs(outputs[0]).max()


def test_the_loop_is_the_same_in_minisd_and_diffusers(tmp_path):
    pytest.importorskip("diffusers")
    StableDiffusionPipeline.from_pretrained("tiny").save_pretrained(tmp_path / "float32")
    loop = programs.Work("loop", "loop", SIDE, steps=2)
    ours, theirs = (peer.measure(tmp_path, loop, "float32", 1)[1] for peer in (programs.MINISD, programs.DIFFUSERS))
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("work", [STEP, DECODE], ids=lambda work: work.name)
def test_openvino_computes_the_same(work, folder):
    pytest.importorskip("openvino")
    programs.convert(str(folder))
    ours, theirs = (peer.measure(folder, work, "float32", 1)[1] for peer in (programs.MINISD, programs.OPENVINO))
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(ours).max()


def test_a_guided_step_at_full_size_has_1_6_trillion_operations():
    assert programs.operations(peers.WORKS[0]) == pytest.approx(1.607e12, rel=1e-3)


@pytest.fixture
def children(monkeypatch):
    """Stands for the processes: minisd takes 1 s, 2 s, …; diffusers 4 s; a compiled network fails. Returns the calls."""
    calls, times = [], itertools.count(1)

    def child(call):
        calls.append(call)
        if "torch.compile" in call:
            raise peers.Failed("no compiler")
        if call.startswith("measure('minisd'"):
            return {"seconds": next(times), "megabytes": 100}
        standard = {"measure": {"seconds": 4, "megabytes": 200}, "threads": 1, "product": 2e9, "difference": 1e-6}
        return standard[call.split("(")[0]]

    monkeypatch.setattr(peers, "child", child)
    return calls


def test_programs_take_turns_at_going_first_and_are_compared_turn_by_turn(children):
    found, products = peers.in_turns(STEP, [programs.MINISD, programs.DIFFUSERS], Path("folder"), turns=3)
    order = [call.split("'")[1] for call in children if call.startswith("measure")]
    assert order == ["minisd", "diffusers", "diffusers", "minisd", "minisd", "diffusers"]
    line = peers.line(STEP, programs.MINISD, found[programs.MINISD], found[programs.DIFFUSERS], 10**9, products)
    assert line == "| step | minisd | 2.00 s | 0.50 | 0.25 | 100 MB | 0 | 25% | 1e-06 |"


def test_a_program_that_is_missing_or_fails_has_the_reason_in_its_line(children):
    absent = programs.Peer("absent", programs.in_diffusers, "no_such_module", "its-package")
    found, products = peers.in_turns(STEP, [programs.DIFFUSERS, programs.PEERS[3], absent], Path("folder"), turns=2)
    lines = [peers.line(STEP, peer, figures, found[programs.DIFFUSERS], 10**9, products) for peer, figures in found.items()]
    assert "failed: no compiler" in lines[1] and "not installed (`pip install its-package`)" in lines[2]
    assert not any("absent" in call for call in children)
    assert {line.count("|") for line in lines} == {10}


def test_a_process_that_fails_ends_with_the_last_line_of_its_error():
    with pytest.raises(peers.Failed, match="ZeroDivisionError"):
        peers.child("1 / 0")
    assert peers.child("Work('x', 'unet', 8).side") == 8

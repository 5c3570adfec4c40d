"""Fixtures of all tests. No test reaches the network."""

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the Hub's client

import pytest
import torch
from helpers import distance, small_pipeline
from originals import small_presets  # noqa: F401


def pytest_terminal_summary(terminalreporter, config):
    """With -v (the project's own options have a -q), the distances to the reference that this run measured."""
    shares = {report.nodeid: dict(report.user_properties).get("share") for report in terminalreporter.getreports("passed")}
    measured = {name: share for name, share in shares.items() if share is not None}
    if measured and config.get_verbosity() >= 0:
        terminalreporter.section("largest difference from the reference, as a share of its largest number")
        for name, share in measured.items():
            terminalreporter.line(f"{share:.1e}  {name}")


@pytest.fixture
def measure(record_property):
    """`measure(ours, theirs)` is their distance, listed at the end of a run with -v; of several in a test, the largest is."""
    shares = [0.0]

    def measured(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        shares.append(distance(ours, theirs))
        record_property("share", max(shares))
        return shares[-1]

    return measured


@pytest.fixture(params=["v1", "v2"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Small random checkpoints in the diffusers layout, written by minisd: the folder of "v1" and that of "v2"."""
    root = tmp_path_factory.mktemp("checkpoints")
    for kind in ("v1", "v2"):
        small_pipeline(kind).save_pretrained(root / kind)
    return {kind: root / kind for kind in ("v1", "v2")}


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """A checkpoint to do harm to."""
    return shutil.copytree(folders["v1"], tmp_path / "checkpoint")

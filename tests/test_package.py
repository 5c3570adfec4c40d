"""What is installed: the wheel has the built-in model, and no more than it should."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_contains_the_built_in_model(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    model = ROOT / "minisd" / "tiny" / "model"
    files = {str(path.relative_to(ROOT)) for path in model.rglob("*") if path.is_file()}
    assert f"{model.relative_to(ROOT)}/unet/diffusion_pytorch_model.safetensors" in files
    assert files <= names
    assert {"minisd/lessons/umbrella.safetensors", "minisd/tiny/judge.safetensors"} <= names
    assert {"minisd/lessons/controlnet/config.json", "minisd/lessons/controlnet/diffusion_pytorch_model.safetensors"} <= names
    assert {"minisd/py.typed", "weights_convert/__init__.py", "minisd/train/__main__.py"} <= names
    assert not any(name.startswith(("tests", "docs", "notebooks", "runs")) for name in names)


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size <= 25_000_000


def test_the_model_is_small():
    """The LoRA of four steps, which has its own limit, is not part of the model."""
    files = [path for path in (ROOT / "minisd" / "tiny").rglob("*.safetensors") if "lora" not in path.name]
    assert sum(path.stat().st_size for path in files) <= 20_000_000

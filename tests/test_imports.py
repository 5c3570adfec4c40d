"""Which way imports point: networks never see a scheduler, a scheduler never sees a network, and nothing leans on the reference."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOREIGN = {"diffusers", "transformers", "scipy", "matplotlib"}

# What each module of the core may import from minisd. What is not here stands on the core: the core never imports it.
ALLOWED = {
    "config": set(),
    "noise": set(),
    "schedule": set(),
    "image": set(),
    "faults": set(),
    "layers": set(),
    "hub": set(),
    "checkpoint": {"config", "hub"},
    "tokenizer": {"checkpoint"},
    "clip": {"config", "layers", "checkpoint", "noise"},
    "unet": {"config", "layers", "checkpoint", "noise"},
    "vae": {"config", "layers", "checkpoint", "noise"},
    "schedulers": {"config", "schedule", "noise", "checkpoint"},
    "safety_checker": {"config", "faults", "checkpoint", "clip"},
    "parts": {"config", "checkpoint", "tokenizer", "clip", "unet", "vae", "schedulers", "safety_checker"},
    "pipeline": {
        "config", "noise", "schedule", "image", "faults", "hub", "checkpoint", "tokenizer", "clip", "unet", "vae",
        "schedulers", "safety_checker", "parts",
    },
}  # fmt: skip


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """The modules that a file imports, in full; with `everywhere` off only those that importing the file imports."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {inner for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for inner in ast.walk(f)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and (everywhere or node not in late):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (everywhere or node not in late):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += [node.module] if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def of_minisd(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("minisd.")}


def files_of(module: str) -> list[Path]:
    path = ROOT / "minisd" / module
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("module", ALLOWED)
def test_arrows_of_the_core(module):
    for path in files_of(module):
        assert of_minisd(path) - {module} <= ALLOWED[module], path.name


def test_only_checkpoint_and_hub_use_weights_convert():
    users = {
        path.stem for module in ALLOWED for path in files_of(module) if any("weights_convert" in name for name in imports(path))
    }
    assert users == {"checkpoint", "hub"}


def test_weights_convert_imports_nothing_of_minisd():
    for path in (ROOT / "weights_convert").rglob("*.py"):
        assert not any(name.split(".")[0] == "minisd" for name in imports(path)), path.name


def test_the_reference_is_never_imported():
    for path in [*(ROOT / "minisd").rglob("*.py"), *(ROOT / "weights_convert").rglob("*.py")]:
        plots = {"matplotlib"} if path.parent.name == "lessons" else set()  # what the notebooks draw with
        assert {name.split(".")[0] for name in imports(path, everywhere=False)} & FOREIGN <= plots, path.name


def test_only_the_lessons_import_the_lessons():
    for path in (ROOT / "minisd").rglob("*.py"):
        if path.parent.name != "lessons":
            assert not any("lessons" in name for name in imports(path)), path.name


def test_importing_minisd_loads_none_of_the_reference():
    program = f"import sys, minisd; print(*sorted(set(sys.modules) & {FOREIGN}))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""

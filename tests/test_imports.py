"""Which way imports point: the rooms of docs/rooms.py, and nothing leans on the reference."""

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from rooms import LATE, ROOMS, arrows, imports, room_of  # noqa: E402

FOREIGN = {"diffusers", "transformers", "peft", "scipy", "matplotlib"}
PACKAGES = ("minisd", "weights_convert")


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    assert {other for one, other in arrows(late=False) if one == room} <= ROOMS[room][1]


def test_rooms_have_no_circles():
    list(TopologicalSorter({room: allowed for room, (_, allowed) in ROOMS.items()}).static_order())  # raises CycleError


def test_only_leaves_import_late():
    assert arrows() - arrows(late=False) <= LATE


def test_every_module_has_a_room():
    modules = {path.stem for path in (ROOT / "minisd").glob("*.py")} | {
        path.parent.name for path in (ROOT / "minisd").glob("*/__init__.py")
    }
    assert modules - {"__init__"} == {module for listed, _ in ROOMS.values() for module in listed}


def test_networks_and_samplers_import_no_more_than_torch_einops_and_numpy():
    """They can be read, and copied, without any file about files."""
    for room in ("config", "numerics", "networks", "samplers"):
        for module in ROOMS[room][0]:
            path = ROOT / "minisd" / module
            for file in [*path.glob("*.py")] or [path.with_suffix(".py")]:
                outside = {name.split(".")[0] for name in imports(file, late=False)} - {"minisd"} - set(sys.stdlib_module_names)
                assert outside <= {"torch", "einops", "numpy", "PIL"}, file.name


def test_minisd_imports_nothing_of_weights_convert():
    for path in (ROOT / "minisd").rglob("*.py"):
        assert not any(name.split(".")[0] == "weights_convert" for name in imports(path)), path.name


def test_the_reference_is_never_imported():
    for path in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        plots = {"matplotlib"} if path.parent.name == "lessons" else set()  # what the notebooks draw with
        assert {name.split(".")[0] for name in imports(path, late=False)} & FOREIGN <= plots, path.name


def test_importing_minisd_loads_none_of_the_reference_and_no_file_about_files():
    program = f"import sys, minisd; print(*sorted(m for m in sys.modules if m in {FOREIGN} or m.startswith('minisd.weights.')))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["minisd.weights.errors"]
    assert room_of("minisd.weights.errors") == "weights"

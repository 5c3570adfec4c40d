"""Groups of modules ("rooms") and the imports between them: `python docs/rooms.py` prints them, and a test checks them."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The modules of each room, and the rooms that they may import. Imports never form a cycle.
ROOMS: dict[str, tuple[list[str], set[str]]] = {
    "config": (["config", "tasks", "as_mapping"], set()),
    "pretrained": (["pretrained", "adaptable"], set()),
    "numerics": (["schedule", "noise", "cuda_noise", "numerics", "image", "sheet"], set()),
    "networks": (
        ["layers", "clip", "clip_vision", "unet", "guided_unet", "controlnet", "vae", "taesd", "compiled"],
        {"config", "pretrained", "numerics"},
    ),
    "samplers": (["schedulers"], {"config", "pretrained", "numerics"}),
    "tokenizer": (["tokenizer", "phrases"], {"pretrained"}),
    "fast": (["fast"], {"config", "networks"}),
    "safety": (["safety_checker"], {"config", "pretrained", "numerics", "networks"}),
    "foreign": (["foreign", "switches"], {"config", "networks", "samplers", "safety", "fast"}),
    "pipeline": (
        ["pipeline", "components", "request"],
        {"config", "pretrained", "numerics", "networks", "samplers", "tokenizer", "safety", "foreign", "fast"},
    ),
    "words": (["words"], {"networks", "pipeline", "tokenizer"}),
    "few steps": (["consistency"], {"networks", "pipeline"}),
    "editing": (["editing"], {"config", "numerics", "networks", "samplers", "pipeline", "system"}),
    "weights": (["weights"], {"config", "pretrained", "networks", "numerics", "samplers", "tokenizer", "safety", "fast", "system"}),
    "adapters": (["adapters"], {"networks", "tokenizer", "pipeline", "weights", "fast", "system"}),
    "command": (
        ["flags", "generate", "again", "infotext", "image_files"],
        {"config", "numerics", "samplers", "pipeline", "fast", "tiny", "processes", "system"},
    ),
    "explain": (["attention_maps", "explain"], {"numerics", "networks", "pipeline", "system"}),
    "tiny": (["tiny"], set()),
    "processes": (["processes"], set()),
    "system": (["disk", "exit_status", "open_image"], set()),
    "evaluate": (
        ["evaluate"],
        {"config", "numerics", "networks", "pipeline", "samplers", "tiny", "weights", "processes", "system"},
    ),
    "train": (
        ["train", "second"],
        {
            "config",
            "numerics",
            "networks",
            "samplers",
            "tokenizer",
            "pipeline",
            "adapters",
            "weights",
            "tiny",
            "evaluate",
            "processes",
            "system",
        },
    ),
    "finetune": (
        ["finetune"],
        {
            "config",
            "numerics",
            "networks",
            "samplers",
            "pipeline",
            "adapters",
            "editing",
            "weights",
            "train",
            "processes",
            "system",
        },
    ),
    "lessons": (["lessons"], {"config", "numerics", "networks", "samplers", "tokenizer", "pipeline", "tiny", "evaluate", "train"}),
}
LATE = {
    ("pretrained", "weights"),
    ("pretrained", "adapters"),
    ("weights", "adapters"),
    ("pipeline", "words"),
    ("samplers", "weights"),
    ("weights", "few steps"),
    ("command", "tiny"),
    ("command", "editing"),
    ("command", "explain"),
    ("command", "adapters"),
}  # imported when a function is called


def imports(path: Path, late: bool = True) -> set[str]:
    """The full names of the modules that a file imports; without `late`, imports inside functions are left out."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {inner for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for inner in ast.walk(f)}
    typing_only = {inner for node in ast.walk(tree) if is_type_checking(node) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if node in typing_only or (node in inside and not late):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += [node.module] if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def files_of(module: str) -> list[Path]:
    path = ROOT / "minisd" / module
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def room_of(name: str) -> str | None:
    """The room of a module or name in minisd, such as "minisd.weights.find.resolve"."""
    parts = name.split(".")
    return next(
        (room for room, (modules, _) in ROOMS.items() if parts[0] == "minisd" and len(parts) > 1 and parts[1] in modules), None
    )


def arrows(late: bool = True) -> set[tuple[str, str]]:
    """Pairs of rooms: the first imports the second."""
    found = set()
    for room, (modules, _) in ROOMS.items():
        for path in (path for module in modules for path in files_of(module)):
            found |= {(room, other) for name in imports(path, late) if (other := room_of(name)) not in (None, room)}
    return found


if __name__ == "__main__":
    for room, (modules, _) in ROOMS.items():
        print(
            f"{room:<11}{' '.join(modules)} → {' '.join(sorted(other for one, other in arrows(late=False) if one == room)) or '–'}"
        )

"""Plots the log of a training run; needs matplotlib, from the extra "train"."""

import json
import math
from pathlib import Path

COLUMNS = 4


def curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """All values in a log.jsonl, as lists of (step, value) by name."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    return {name: [(line["step"], line[name]) for line in lines if name in line] for name in names}


def plot(log: Path, to: Path):
    """Draw every curve of a log.jsonl into one PNG."""
    from matplotlib.figure import Figure

    drawn = curves(log)
    rows = math.ceil(len(drawn) / COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.6 * rows), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, drawn.items()):
        axes.plot(*zip(*points), color="#1f5aa6", linewidth=1)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(drawn) :]:
        axes.set_axis_off()
    figure.savefig(to, dpi=80)


def run(folder: Path):
    """Write a log.png next to the log.jsonl of each training run in `folder`."""
    for log in sorted(folder.glob("*/log.jsonl")):
        plot(log, log.with_suffix(".png"))
        print(log.with_suffix(".png"))

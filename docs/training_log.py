"""The duration and the final figures of each training: `python docs/training_log.py runs > docs/tiny_model/training.md`.

It reads the logs of `python -m minisd.train`: a line of JSON every 50 steps, and from time to time a line of figures on fresh
pictures.
"""

import json
import sys
from pathlib import Path

from tables import table

FIGURES = {  # what each training's log measures on fresh pictures
    "clip": {"test_first": "right caption ranked first of 512: {:.0%}", "test_before_twin": "above its twin: {:.0%}"},
    "vae": {"sheet_psnr": "PSNR {:.1f} dB"},
    "decoder": {"sheet_psnr": "PSNR {:.1f} dB"},
    "unet": {"loss": "loss {:.3f}"},
    "judge": {"all_right": "everything right in {:.0%} of renders"},
}


def summary(log: Path) -> tuple[int, float, dict[str, float]]:
    """Steps, hours, and the last value of everything."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps, hours, before = 0, 0.0, 0
    for line in lines:
        if "steps_per_second" in line:
            steps = line["step"]
            hours += (steps - before) / line["steps_per_second"] / 3600
            before = steps
    return steps, hours, {name: value for line in lines for name, value in line.items()}


def main(folder: Path) -> str:
    rows = []
    for part, shown in FIGURES.items():
        if (log := folder / part / "log.jsonl").exists():
            steps, hours, last = summary(log)
            ends = ", ".join(text.format(last[name]) for name, text in shown.items() if name in last)
            rows.append([f"`{part}`", f"{steps:,}", f"{hours:.1f}", ends])
    return table(["training", "steps", "hours", "at the end"], rows, "steps, hours")


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))

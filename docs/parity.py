"""The distances to the reference, as measured by the tests: `python docs/parity.py [OPTION …] > docs/parity_figures.md`.

The options are pytest's. By default, tests that need many gigabytes are left out; `-m ""` includes them.
"""

import platform
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import torch
from tables import table

ROOT = Path(__file__).parents[1]
MEASURED = re.compile(r"^(\d\.\de[-+]\d\d)  tests/(\w+)\.py::test_(\w+)(?:\[(?:.*?(b?float16))?.*\])?$", re.MULTILINE)
VERSIONS = "import torch, diffusers, transformers as t; print(torch.__version__, diffusers.__version__, t.__version__)"


def measured(output: str) -> str:
    """One row for each test and precision: the number of its cases, and the largest distance among them."""
    cases: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for distance, file, test, half in MEASURED.findall(output):
        number = "8 bits" if file == "test_pipeline_parity" else half or "float32"
        cases[file, test, number].append(float(distance))
    rows = [
        [
            f"[`{file}.py`](../tests/{file}.py)",
            test.replace("_", " "),
            number,
            len(found),
            f"{max(found):.0e}" if any(found) else "0",
        ]
        for (file, test, number), found in cases.items()
    ]
    return table(["file", "test", "precision", "cases", "largest difference"], rows, "cases, largest difference")


def main(options: list[str]):
    python, libraries = sys.executable, subprocess.run([sys.executable, "-c", VERSIONS], capture_output=True, text=True, check=True)
    pytest = subprocess.run(
        [python, "-m", "pytest", "-v", *(options or ["-m", "not slow"])], cwd=ROOT, capture_output=True, text=True
    )
    if pytest.returncode:
        sys.exit(pytest.stdout)
    torch_version, diffusers, transformers = libraries.stdout.split()[-3:]
    print(f"torch {torch_version}, diffusers {diffusers}, transformers {transformers}, {platform.machine()}, CUDA: ", end="")
    print(f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}.\n\n{measured(pytest.stdout)}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Build the notebooks from their sources: `python notebooks/build.py [NN …]`, all of them if no number is given.

src/NN_name.py (jupytext's py:percent) → NN_name.ipynb with its outputs. Each runs in a fresh kernel: on the CPU, on one thread,
offline, so that the same source gives the same notebook. What would differ from run to run (times, versions) is left out, and
pictures are stored in few colours.
"""

import base64
import io
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
SURROUNDINGS = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def sources() -> list[Path]:
    return sorted((FOLDER / "src").glob("*.py"))


def read(source: Path) -> NotebookNode:
    """A notebook as its source has it, without outputs."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def run(notebook: NotebookNode, **environment: str):
    """Fill in the outputs. Raises nbclient's CellExecutionError if a cell fails."""
    language = notebook.metadata["language_info"]
    client = NotebookClient(
        notebook, timeout=1800, coalesce_streams=True, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute(env={**os.environ, **SURROUNDINGS, **environment})
    notebook.metadata["language_info"] = language  # the kernel has put its version there


def tidy(notebook: NotebookNode):
    """Make pictures small, and tell the documentation's builder, which reads it from the cell, what is to be seen in them."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
                cell.metadata["mystnb"] = {"image": {"alt": output.metadata["image/png"]["alt"]}}


def smaller(png: str) -> str:
    """A PNG in base64, in 256 colours; where that is more than 80 KB (noise is), in 64, in half the resolution, or both."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    attempts = []
    for scale, colors in ((1, 256), (1, 64), (2, 256), (2, 64)):
        attempts.append(encode(image.reduce(scale), colors))
        if len(attempts[-1]) <= 80_000:
            break
    return base64.b64encode(min(attempts, key=len)).decode()


def encode(image: Image.Image, colors: int) -> bytes:
    file = io.BytesIO()
    image.quantize(colors, kmeans=1, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def main(numbers: list[str]):
    for source in sources():
        if numbers and source.name[:2] not in numbers:
            continue
        notebook = read(source)
        began = time.perf_counter()
        run(notebook)
        seconds = time.perf_counter() - began
        tidy(notebook)
        path = FOLDER / f"{source.stem}.ipynb"
        nbformat.write(notebook, path)
        print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Build the notebooks from their sources: `python notebooks/build.py [NN …]`, or all of them without arguments.

src/NN_name.py (jupytext's py:percent) → NN_name.ipynb with outputs. Each runs in a fresh kernel on one CPU thread, offline, so
the same source always gives the same notebook. Times and versions are left out, and pictures are stored in few colours.
"""

import base64
import io
import os
import sys
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import numpy as np
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
PROJECT = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Repository")  # on GitHub; Colab opens notebooks from there
INSTALL = """# Colab starts without minisd: fetch it and install what is missing. The PyTorch that is there stays.
import importlib.util

if importlib.util.find_spec("minisd") is None:
    !git clone --quiet --depth 1 {repository} /tmp/minisd
    %pip install --quiet /tmp/minisd
    %cd -q /tmp/minisd/notebooks"""
SURROUNDINGS = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def sources() -> list[Path]:
    return sorted((FOLDER / "src").glob("*.py"))


def read(source: Path, repository: str | None = REPOSITORY) -> NotebookNode:
    """The notebook of a source file, without outputs; with a repository, also a link to Colab and the cell that installs there."""
    notebook = jupytext.read(source, fmt="py:percent")
    if repository:
        page = f"{repository.removeprefix('https://github.com/')}/blob/main/notebooks/{source.stem}.ipynb"
        notebook.cells[0].source += f"\n\n[Open in Colab](https://colab.research.google.com/github/{page})"
        install = nbformat.v4.new_code_cell(INSTALL.format(repository=repository), metadata={"tags": ["remove-cell"]})
        notebook.cells.insert(1, install)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def run(notebook: NotebookNode, **environment: str):
    """Run a notebook and store its outputs in it. Raises nbclient's CellExecutionError if a cell fails."""
    language = notebook.metadata["language_info"]
    client = NotebookClient(
        notebook, timeout=1800, coalesce_streams=True, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute(env={**os.environ, **SURROUNDINGS, **environment})
    notebook.metadata["language_info"] = language  # the kernel has added its version


def tidy(notebook: NotebookNode):
    """Shrink the pictures, tell the documentation's builder what they show, and fold the outputs below a prediction."""
    predicting = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            predicting = "> **Predict.**" in cell.source
        for output in cell.get("outputs", []):
            if predicting:
                cell.metadata |= {"tags": ["hide-output"], "jupyter": {"outputs_hidden": True}}
            if "image/png" in output.get("data", {}):
                image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
                output.data["image/png"] = base64.b64encode(smaller(image)).decode()
                kind = "sheet" if is_transparent(image) else "plot"
                cell.metadata["mystnb"] = {"image": {"alt": output.metadata["image/png"]["alt"], "classes": kind}}


def is_transparent(image: Image.Image) -> bool:
    return image.getextrema()[-1][0] < 255


def smaller(image: Image.Image) -> bytes:
    """A PNG in 256 colours; if that exceeds 60 KB (noise does), in fewer colours, at half the resolution, or both."""
    attempts = []
    for scale, colors in ((1, 256), (1, 64), (2, 256), (2, 64), (2, 32)):
        attempts.append(encode(image.reduce(scale), colors))
        if len(attempts[-1]) <= 60_000:
            break
    return min(attempts, key=len)


def encode(image: Image.Image, colors: int) -> bytes:
    """A PNG with a palette. The text on a transparent page has one colour, so 16 entries of it in rising opacity are enough."""
    file = io.BytesIO()
    if not is_transparent(image):
        few_colors(image.convert("RGB"), colors).save(file, "PNG", optimize=True)
        return file.getvalue()
    pixels = np.array(image)
    opacity, opaque = pixels[..., 3], pixels[..., 3] == 255
    found, counts = np.unique(pixels[(opacity > 0) & ~opaque][:, :3], axis=0, return_counts=True)
    text = found[counts.argmax()]  # the edges of pictures are half transparent, too, but in many colours
    pixels[~opaque, :3] = 255
    few = few_colors(Image.fromarray(pixels[..., :3]), colors - 16)
    image = Image.fromarray(np.where(opaque, np.array(few), colors - 16 + opacity // 16).astype(np.uint8), "P")
    palette = (few.getpalette() + [0] * 768)[: 3 * (colors - 16)]
    image.putpalette(palette + [int(channel) for channel in text] * 16)
    image.save(file, "PNG", optimize=True, transparency=bytes([255] * (colors - 16) + [17 * step for step in range(16)]))
    return file.getvalue()


def few_colors(image: Image.Image, colors: int) -> Image.Image:
    """The colours of a sixteenth of the pixels, which takes a twentieth of the time; what is nearly white becomes white."""
    part = image.resize((image.width // 4, image.height // 4), Image.Resampling.NEAREST)
    chosen = part.quantize(colors, kmeans=1, dither=Image.Dither.NONE)
    palette = np.reshape(chosen.getpalette(), (-1, 3))
    palette[palette.min(axis=1) >= 248] = 255
    chosen.putpalette(palette.flatten().tolist())
    return image.quantize(palette=chosen, dither=Image.Dither.NONE)


def build(source: Path) -> str:
    """Build one notebook, and return its name, its seconds and its size."""
    notebook = read(source)
    began = time.perf_counter()
    run(notebook)
    seconds = time.perf_counter() - began
    tidy(notebook)
    path = FOLDER / f"{source.stem}.ipynb"
    nbformat.write(notebook, path)
    return f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1000:.0f} KB"


def main(numbers: list[str]):
    """One notebook per core at a time."""
    chosen = [source for source in sources() if not numbers or source.name[:2] in numbers]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for line in pool.map(build, chosen):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

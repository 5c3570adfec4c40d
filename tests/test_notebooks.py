"""The notebooks: stored as their sources say, small, with words for every figure, and every one of them runs."""

import importlib.util
import io
import re
from pathlib import Path
from unittest.mock import Mock, call

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from PIL import Image

from minisd.lessons.exercise import NOT_YET

FOLDER = Path(__file__).parents[1] / "notebooks"
SPEC = importlib.util.spec_from_file_location("build_notebooks", FOLDER / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)

DRAWS = re.compile(r"\b(show\w*|you_are_here)\(")
CHECK = re.compile(r"(?P<exercise>lesson\.\w+)\.check\((?P<attempt>\w+)\)")


@pytest.fixture(params=build.sources(), ids=lambda path: path.stem[:2])
def source(request) -> Path:
    return request.param


@pytest.fixture
def stored(source) -> NotebookNode:
    return nbformat.read(FOLDER / f"{source.stem}.ipynb", as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell: NotebookNode) -> list[NotebookNode]:
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def printed(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_every_notebook_has_a_source_and_a_number_of_its_own():
    names = [path.stem for path in build.sources()]
    assert names == sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    assert len({name[:2] for name in names}) == len(names)


def test_source_and_notebook_agree(source, stored):
    nbformat.validate(stored)
    expected = build.read(source)
    assert [(cell.id, cell.cell_type, cell.source) for cell in stored.cells] == [
        (cell.id, cell.cell_type, cell.source) for cell in expected.cells
    ], "run `make notebooks`"
    assert stored.metadata == expected.metadata


def test_the_stored_notebook_is_whole_and_says_nothing_of_when_it_ran(source, stored):
    assert (FOLDER / f"{source.stem}.ipynb").stat().st_size <= 600_000
    assert [cell.execution_count for cell in code_cells(stored)] == list(range(1, len(code_cells(stored)) + 1))
    for cell in code_cells(stored):
        assert "execution" not in cell.metadata
        assert {output.output_type for output in cell.outputs} <= {"stream", "display_data"}, cell.source  # no error, no bare repr
        assert not any(output.get("name") == "stderr" for output in cell.outputs), cell.source


def test_with_a_repository_a_notebook_opens_in_colab_and_installs_minisd_there(source, monkeypatch):
    notebook = build.read(source, "https://github.com/someone/minisd")
    link = f"https://colab.research.google.com/github/someone/minisd/blob/main/notebooks/{source.name[:-3]}.ipynb"
    assert notebook.cells[0].source.endswith(f"[Open in Colab]({link})")
    assert [cell.source for cell in notebook.cells[2:]] == [cell.source for cell in build.read(source, None).cells[1:]]

    shell, program = Mock(), TransformerManager().transform_cell(notebook.cells[1].source)
    exec(program, {"get_ipython": lambda: shell})
    assert shell.mock_calls == []  # minisd is there
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(program, {"get_ipython": lambda: shell})
    assert shell.mock_calls == [
        call.system("git clone --quiet --depth 1 https://github.com/someone/minisd /tmp/minisd"),
        call.run_line_magic("pip", "install --quiet /tmp/minisd"),  # no --upgrade: a PyTorch that is new enough stays
        call.run_line_magic("cd", "-q /tmp/minisd/notebooks"),  # two notebooks read files of the repository
    ]


def test_outputs_below_a_prediction_are_folded(stored):
    predicting = False
    for cell in stored.cells:
        if cell.cell_type == "markdown":
            predicting = "> **Predict.**" in cell.source
        else:
            folded = predicting and bool(cell.outputs)
            assert ("hide-output" in cell.metadata.get("tags", [])) == folded == bool(cell.metadata.get("jupyter")), cell.source


def test_cells_are_short(stored):
    for cell in code_cells(stored):
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= 12, cell.source


def test_every_figure_is_stored_with_words(stored):
    for cell in code_cells(stored):
        assert len(pictures(cell)) == bool(DRAWS.search(cell.source)), cell.source
        for picture in pictures(cell):
            alt = picture.metadata["image/png"]["alt"]
            assert len(alt) >= 40 and alt.endswith("."), alt
            assert cell.metadata["mystnb"]["image"]["alt"] == alt


def test_the_notebook_has_the_parts_that_all_have(stored):
    first, text = stored.cells[0].source, "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    assert re.match(r"# \d\d · .+\n\n\*\*.+\?\*\*\n\n\*.*\bminutes\b.*\bYou need\b", first)
    assert "you_are_here(" in stored.cells[1].source
    assert "> **Predict.**" in text
    assert "## In Stable Diffusion 1.5 this is …" in text
    exercises = re.findall(r"^### Exercise (\d) · ", text, re.MULTILINE)
    assert exercises == [str(i + 1) for i in range(len(exercises))] and 1 <= len(exercises) <= 3
    assert len([cell for cell in code_cells(stored) if CHECK.fullmatch(cell.source)]) == len(exercises)


def test_it_runs_and_its_exercises_tell_right_from_wrong(source):
    """As it stands, with every exercise unfilled; then each check again, with the right answer and with every known mistake."""
    notebook = build.read(source)
    checks = [cell for cell in notebook.cells if CHECK.fullmatch(cell.source)]
    right, wrong = [], []
    for cell in checks:
        exercise, attempt = CHECK.fullmatch(cell.source).groups()
        right.append(nbformat.v4.new_code_cell(f"{attempt} = {exercise}.answer\n{cell.source}"))
        wrong.append(
            nbformat.v4.new_code_cell(f"for hint, {attempt} in {exercise}.mistakes.items():\n    {cell.source}\n    print(hint)")
        )
    notebook.cells += right + wrong
    build.run(notebook, MINISD_FAST="1")

    for cell in checks:
        assert printed(cell) == f"{NOT_YET}\n", cell.source
    for cell in right:
        assert printed(cell) == "✓\n", cell.source
    for cell in wrong:
        lines = printed(cell).splitlines()
        assert lines, f"{cell.source}\nknows no mistakes"
        assert [verdict.removeprefix("✗ hint: ") for verdict in lines[::2]] == lines[1::2]


def test_titles_keep_their_colour_beside_blurred_edges():
    """The edges of enlarged pictures are half transparent, too. Once they were more than the pixels of the titles."""
    page = np.zeros((40, 40, 4), np.uint8)
    page[:20, :30] = [[[10 + i, 200, 10 + j, 255] for j in range(30)] for i in range(20)]
    page[20, :30] = [[10 + j, 200, 40, 128] for j in range(30)]
    page[30, :10] = [115, 124, 133, 100]
    stored = Image.open(io.BytesIO(build.encode(Image.fromarray(page), 64))).convert("RGBA")
    assert stored.getpixel((5, 30))[:3] == (115, 124, 133)

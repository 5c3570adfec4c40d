"""The documentation and the README: what they say is there is there, and what they say can be run is run.

Programs in Python run as they stand, and so do commands that take seconds. Of trainings and evaluations the command line is parsed.
Where a page names official weights, small random ones in the same layout stand in for them.
"""

import ast
import html
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from fontTools.ttLib import TTFont
from helpers import begun, distance, randn, small_network, small_pipeline, toy_model, trajectory
from loras import kohya, random_changes, write_lora
from originals import averaged, original_tensors, write_original
from PIL import Image

from minisd import ControlNetModel
from minisd.evaluate.__main__ import parser as evaluation
from minisd.evaluate.curves import parser as curves
from minisd.finetune.__main__ import parser as finetuning
from minisd.finetune.__main__ import settings_of
from minisd.generate import main as generate
from minisd.schedule import add_noise
from minisd.train.__main__ import parser as training
from weights_convert.__main__ import main as convert

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path[:0] = [str(DOCS), str(DOCS / "extensions"), str(DOCS / "examples")]
modules = ("tables", "sizes", "reading", "repository", "dpm_solver")
tables, sizes, reading, repository, dpm_solver = map(importlib.import_module, modules)

PAGES = [ROOT / "README.md", ROOT / "notebooks" / "README.md", *sorted(DOCS.glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks" / "src").glob("*.py"))

PROGRAM = re.compile(r"^```(\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
FORMULA = re.compile(r"^\$\$(?:.+?)\$\$\n\n(?P<below>.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)
CREDIT = re.compile(r"(?P<paper>[^,]+ \d{4})(?:, (?P<place>.+))? · \[`[\w.]+`\]\((?P<file>\S+)\)")
CITED = re.compile(r"[A-Z][\w-]+ (?:et al\.|& [A-Z]\w+) (?:18|19|20)\d\d")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def on_pages(piece: str):
    """The test is done for every page in which this stands."""
    pages = [page for page in PAGES if piece in read(page)]
    return pytest.mark.parametrize("page", pages, ids=lambda path: path.relative_to(ROOT).as_posix())


# The pages as they are written


def test_no_page_is_left_to_be_filled():
    for page in [*PAGES, *DOCS.glob("*/*.md")]:
        assert "To be filled" not in read(page) and "Not measured" not in read(page), page


@on_pages("](")
def test_links_lead_to_files_and_names_that_are_there(page):
    """Where a link's text is a name in the code, the file behind it defines that name."""
    for link in LINK.finditer(PROGRAM.sub("", read(page))):
        if link["target"].startswith("https://"):
            continue
        file = (page.parent / link["target"]).resolve()
        assert file.exists() and file.is_relative_to(ROOT), link[0]
        name = re.fullmatch(r"`([\w.]+)`", link["text"])
        if name and file.suffix == ".py" and not name[1].endswith(".py"):
            assert repository.line_of(file, name[1]), f"{name[1]} is not defined in {link['target']}"


def test_the_words_for_a_figure_are_on_one_line():
    """MyST drops line ends in them and joins two words."""
    for page in [*PAGES, *DOCS.glob("*/*.md")]:
        assert not re.search(r"!\[[^\]]*\n", read(page)), page


def test_the_tests_that_pages_and_notebooks_name_are_there():
    texts = [read(page) for page in [*PAGES, *ROOT.glob("notebooks/src/*.py")]]
    defined = {name for file in ROOT.glob("tests/*.py") for name in re.findall(r"^def (test_\w+)", read(file), re.MULTILINE)}
    named = {name for text in texts for name in re.findall(r"`(test_\w+)`", text)}
    assert named and named <= defined


@on_pages("\n$$")
def test_a_formula_stands_above_its_paper_and_its_code(page):
    """Below each, a line has paper, equation and the name in the code; and the code's file cites the same paper and equation."""
    for formula in FORMULA.finditer(read(page)):
        credit = CREDIT.fullmatch(in_one_line(formula["below"]))
        assert credit, f"{formula[0]}\nhas no paper and no code below it"
        code = in_one_line(read(page.parent / credit["file"]))
        assert credit["paper"] in code and (credit["place"] or "").removeprefix("eq. ") in code, credit[0]


def test_every_module_is_in_the_reference():
    """But for commands, which `--help` describes, and the helpers of single lessons."""
    described = set(re.findall(r"automodule:: ([\w.]+)", "".join(read(page) for page in DOCS.glob("api/*.md"))))
    files = [*ROOT.glob("minisd/**/*.py"), *ROOT.glob("weights_convert/*.py")]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if not path.stem.startswith(("__", "lesson_"))
    }
    training = {module for module in modules if module.startswith("minisd.second.")}  # described when it replaces minisd.tiny
    assert modules - training == described - {"weights_convert"}


def test_docstrings_have_lines_of_their_own_only_where_they_are_indented():
    """The pages join the lines of a paragraph, and show what is indented as it is."""
    for file in [*ROOT.glob("minisd/**/*.py"), *ROOT.glob("weights_convert/*.py")]:
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    *full, _ = paragraph.splitlines() or [""]
                    assert all(line.startswith("    ") or len(line) >= 70 for line in full), f"{file}: {paragraph}"


def test_symbols_have_their_names_in_the_code():
    rows = re.findall(r"^\| \$[^|]* \| ([^|]*) \| \[[^|]*\]\((.+?)\) \|$", read(DOCS / "glossary.md"), re.MULTILINE)
    assert len(rows) > 15
    for names, file in rows:
        nodes = list(ast.walk(ast.parse(read(DOCS / file))))
        known = {getattr(node, field, None) for node in nodes for field in ("id", "arg", "attr", "name")}
        assert set(re.findall(r"`(\w+)`", names)) <= known, (names, file)


def test_every_cited_paper_is_among_the_sources():
    """By its name with a year, and by its link."""
    files = [file for folder in ("minisd", "weights_convert", "notebooks/src", "docs") for file in (ROOT / folder).rglob("*.*")]
    texts = [read(file) for file in files if file.suffix in (".py", ".md") and file.name != "sources.md"]
    everything = in_one_line(re.sub(r"^# ?", "", "\n".join(texts), flags=re.MULTILINE))
    sources = read(DOCS / "sources.md")
    names = set(re.findall(r"^\* \*\*(.+?)\.\*\*", sources, re.MULTILINE))
    assert set(CITED.findall(everything)) - names == set(), "docs/sources.md lacks them"
    links = set(re.findall(r"https://(?:arxiv\.org/abs|doi\.org)/[\w./]+", everything))
    assert {link for link in links if link not in sources} == set(), "docs/sources.md lacks them"


@on_pages("<!-- table:")
def test_tables_are_the_codes_own(page):
    assert tables.filled(read(page)) == read(page), "run `python docs/tables.py`"


def test_official_files_are_accounted_for_to_a_few_bytes():
    """By names, shapes and dtypes alone; one tensor more would take 60 bytes at least."""
    lengths = {name: sizes.length(tensors) for name, tensors in sizes.files().items()}
    official = {file.name: file.size for file in tables.official.OFFICIAL if not file.name.endswith(".ckpt")}
    assert official.keys() <= lengths.keys()
    assert max(abs(size - lengths[name]) for name, size in official.items()) <= 6


def test_the_model_has_as_many_lines_as_is_said():
    assert 1150 < sum(map(reading.lines, reading.reading_list())) <= 1200  # "about 1,200" in the README and in reading.md


# The site


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """As `make docs` builds it; a warning is an error."""
    importlib.import_module("matplotlib.font_manager")  # its first import on a machine looks for fonts, and says so
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-c", "docs", "-d", str(folder / "doctrees")]
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(folder / "html")], cwd=ROOT, capture_output=True, text=True
    )
    assert (build.returncode, build.stderr) == (0, "")
    return folder / "html"


class Tags(HTMLParser):
    """What a page is called by, leads to, and is made of; and the words for its pictures."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.assets, self.images = set(), [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if "id" in found else set()
        if "href" in found:
            (self.links if tag == "a" else self.assets).append(found["href"])
        if "src" in found:
            self.assets.append(found["src"])
        if tag == "img":
            self.images.append(found)


@cache
def tags(page: Path) -> Tags:
    parsed = Tags()
    parsed.feed(read(page))
    return parsed


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not [asset for asset in tags(page).assets if re.match(r"(\w+:)?//", asset)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(\w+:)?//", read(sheet)), sheet


def test_links_within_the_site_arrive(site):
    for page in [*site.glob("docs/**/*.html"), *site.glob("notebooks/*.html")]:
        for link in tags(page).links:
            if not re.match(r"\w+:", link):
                path, _, anchor = link.partition("#")
                there = (page.parent / path).resolve() if path else page
                assert there.is_file(), f"{page}: {link}"
                assert not anchor or anchor in tags(there).ids, f"{page}: {link}"


def test_every_notebook_is_a_page_whose_pictures_have_words(site):
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        page = site / "notebooks" / f"{notebook.stem}.html"
        assert tags(page).images and all(len(image.get("alt") or "") >= 40 for image in tags(page).images), page
        assert f"notebooks/{page.name}" in read(site / "docs" / "index.html")


def test_formulas_are_mathml(site):
    page = read(site / "docs" / "samplers.html")
    assert page.count('display="block"') == len(FORMULA.findall(read(DOCS / "samplers.md")))


def test_the_font_has_every_sign_of_the_formulas(site):
    font = TTFont(site / "_static" / "math.woff2")
    assert "MATH" in font and "Open Font License" in font["name"].getDebugName(13) and "STIX" in font["name"].getDebugName(0)
    formulas = [formula for page in site.rglob("*.html") for formula in re.findall("<math.*?</math>", read(page), re.DOTALL)]
    signs = set("".join(html.unescape(re.sub("<.*?>", "", formula)) for formula in formulas)) - set("\n")
    assert signs >= set("ϵ∑αβ") and {ord(sign) for sign in signs} - font.getBestCmap().keys() - {0xFE00} == set()


def test_roots_reserve_the_width_that_they_have(site):
    """Chromium reserves the widest form's; in the font of the pages all forms are as wide as the plain one."""
    font = TTFont(site / "_static" / "math.woff2")
    variants = font["MATH"].table.MathVariants
    signs = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(font.getBestCmap()[ord("√")])]
    taller, parts = signs.MathGlyphVariantRecord, signs.GlyphAssembly.PartRecords
    names = [record.VariantGlyph for record in taller] + [part.glyph for part in parts]
    assert len(names) > 3 and len({font["hmtx"][name][0] for name in names}) == 1


def test_no_figure_is_a_white_slab_in_the_dark(site):
    """A figure on a white page is a "plot", which minisd.css inverts; sheets of pictures have a transparent or a dark page."""
    kinds = set()
    for page in [*site.glob("docs/**/*.html"), *site.glob("notebooks/*.html")]:
        for image in tags(page).images:
            if image["src"].endswith(".png"):
                corner = Image.open(page.parent / image["src"]).convert("RGBA").getpixel((0, 0))
                assert corner != (255, 255, 255, 255) or image.get("class") == "plot", f"{page}: {image['src']}"
                kinds.add(image.get("class"))
    assert kinds >= {"plot", "sheet"}


# The programs


@pytest.fixture
def stand_ins(folders, tmp_path, monkeypatch, small_presets) -> dict[str, Path]:
    """What stands in for what the pages name; programs run in a folder of their own, which has the rest of it."""
    folder = shutil.copytree(folders["v1"], tmp_path / "folder")
    for weights in list(folder.glob("*/*.safetensors")):
        shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
    write_original(tmp_path / "v1-5-pruned-emaonly.safetensors", "v1")
    torch.save({"state_dict": averaged(original_tensors("v1"))}, tmp_path / "v1-5-pruned.ckpt")
    write_lora(tmp_path / "crayons.safetensors", random_changes(small_pipeline("v1"), "attn"), kohya)
    torch.save({"emb_params": randn(2, 48)}, tmp_path / "easynegative.pt")
    ControlNetModel.from_unet(small_network("unet", "v1")).save_pretrained(tmp_path / "control")
    Image.new("RGB", (64, 64)).save(tmp_path / "edges.png")
    monkeypatch.setattr("minisd.weights.load.VOCABULARY", str(folder))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command line has one of its own
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders["v1"], tmp_path / "my-world" / "model")
    few_steps = ("SimianLuo/LCM_Dreamshaper_v7", "stabilityai/sd-turbo")
    stand_ins = dict.fromkeys(("CompVis/stable-diffusion-v1-4", "path/to/a/diffusers/folder", "my-model", *few_steps), folder)
    return stand_ins | {"lllyasviel/control_v11p_sd15_canny": tmp_path / "control"}


def programs(text: str, language: str, stand_ins: dict[str, Path]) -> list[str]:
    found = [code for kind, code in PROGRAM.findall(text) if kind == language]
    for name, path in stand_ins.items():
        found = [code.replace(name, str(path)) for code in found]
    return found


@on_pages("```python")
def test_programs_run(page, stand_ins):
    """Those of a page one after the other, as a reader would run them."""
    names = {"__name__": "__main__"}
    for code in programs(read(page), "python", stand_ins):
        exec(compile(code, page.name, "exec"), names)


@on_pages("```bash")
def test_commands_are_run_or_accepted(page, stand_ins, capsys):
    check_commands(programs(read(page), "bash", stand_ins))


@pytest.mark.parametrize("source", [path for path in NOTEBOOKS if "# ```bash" in read(path)], ids=lambda path: path.stem)
def test_commands_in_notebooks_are_accepted(source, stand_ins, capsys):
    text = re.sub(r"^# ?", "", read(source), flags=re.MULTILINE)
    check_commands(programs(text, "bash", stand_ins))


def check_commands(programs: list[str]):
    for line in "".join(programs).replace("\\\n", "").splitlines():
        if words := shlex.split(line.partition(" > ")[0], comments=True):
            check_command([words[0].removeprefix(".venv/bin/"), *words[1:]])


def check_command(words: list[str]):
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", read(ROOT / "Makefile"), re.MULTILINE)
        case ["export", setting]:
            assert setting == "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
        case ["python3", "-m", "venv", ".venv"] | ["jupyter", "lab", "notebooks"]:
            pass
        case ["pip", "install", "-c", "constraints.txt", "-e", what, *_]:
            extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
            assert what == "." or what.strip(".[]") in extras
        case ["pip", "install", *packages]:
            programs = read(ROOT / "tests" / "benchmarks" / "programs.py")
            assert all(f'"{package}"' in programs for package in packages)
        case ["python", "-m", "minisd.generate", "--help"]:
            with pytest.raises(SystemExit, match="0"):
                generate(["--help"])
        case ["python", "-m", "minisd.generate", *arguments]:
            assert generate([*arguments, "--steps", "2", "--quiet"]) == 0
        case ["python", "-m", "weights_convert", *arguments]:
            assert convert(arguments) == 0
        case ["python", "-m", "minisd.train", *arguments]:
            training().parse_args(arguments)
        case ["python", "-m", "minisd.finetune", *arguments]:
            settings_of(finetuning().parse_args(arguments)).check()
        case ["python", "-m", "minisd.evaluate", *arguments]:
            evaluation().parse_args(arguments)
        case ["python", "-m", "minisd.evaluate.curves", *arguments]:
            curves().parse_args(arguments)
        case ["python", "-m", "pytest", *arguments]:
            assert all((ROOT / word).exists() for word in arguments if word.startswith("tests"))
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case _:
            pytest.fail(f"nobody checks {shlex.join(words)}")


# The worked example of docs/changing.md

Sampler = dpm_solver.DPMSolverMultistepScheduler


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_worked_example_finds_the_picture(prediction):
    """A model that knows it guesses it at every step, and the last latents are the picture with the little noise of t = 0."""
    scheduler, x0, x = begun(Sampler, 10, prediction_type=prediction), randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8)
    for t in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[t]
        eps = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
        model_output = eps if prediction == "epsilon" else alpha**0.5 * eps - (1 - alpha) ** 0.5 * x0
        x, guess = scheduler.step(model_output, t, x)
        assert distance(guess, x0) <= 1e-3
    assert distance(x, add_noise(x0, eps, scheduler.alphas_cumprod[0])) <= 1e-4


def test_the_worked_example_is_of_second_order():
    """For normal data of standard deviation s both the denoiser and its flow are formulas; from t = 961 to 201, all grids meet."""
    s, start, errors = 0.5, randn(1, 4, 8, 8), []
    alphas = Sampler().alphas_cumprod.double()
    spread = (alphas * s**2 + 1 - alphas) ** 0.5
    for n in (25, 50, 100):
        scheduler, x = begun(Sampler, n), start
        for t in scheduler.timesteps:
            if 201 < t <= 961:
                x = scheduler.step((1 - alphas[t]) ** 0.5 * x / spread[t] ** 2, t, x).prev_sample
        errors.append((x - start * spread[201] / spread[961]).abs().mean())
    assert [float((a / b).log2()) for a, b in zip(errors, errors[1:])] == pytest.approx([2, 2], abs=0.2)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_worked_example_is_diffusers(prediction, measure):
    diffusers = pytest.importorskip("diffusers")
    ours = begun(Sampler, 20, prediction_type=prediction)
    theirs = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
        algorithm_type="dpmsolver++", solver_type="midpoint", lower_order_final=False, final_sigmas_type="sigma_min",
    )  # fmt: skip
    theirs.set_timesteps(timesteps=ours.timesteps.tolist())
    for a, b in zip(trajectory(ours, randn(1, 4, 8, 8)), trajectory(theirs, randn(1, 4, 8, 8)), strict=True):
        assert measure(a, b) <= 1e-5


def test_the_worked_example_begins_again():
    scheduler, ends = Sampler(), []
    for _ in range(2):
        scheduler.set_timesteps(5)
        *_, x = trajectory(scheduler, randn(1, 4, 8, 8), toy_model)
        ends.append(x)
    assert torch.equal(*ends)

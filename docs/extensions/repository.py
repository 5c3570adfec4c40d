"""Links to files of the repository: each source file has a page of its own, named after its path with ".html" appended.

A link whose text is a name, such as [`guide`](../minisd/pipeline.py), goes to the line that defines it.
"""

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[2]
SHOWN = ["minisd/**/*.py", "weights_convert/*.py", "tests/**/*.py", "notebooks/**/*.py", "docs/*.py", "docs/extensions/*.py"]
SHOWN += ["Makefile", "pyproject.toml", "constraints.txt", "LICENSE"]


def files() -> list[Path]:
    return sorted({path for pattern in SHOWN for path in ROOT.glob(pattern)})


@cache
def definitions(path: Path) -> dict[str, int]:
    """The line of every function, class, method and constant of a Python file, by name: "guide", "Scheduler.step"."""
    found: dict[str, int] = {}

    def visit(body: list[ast.stmt], prefix: str):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[prefix + node.name] = node.lineno
                visit(node.body if isinstance(node, ast.ClassDef) else [], f"{prefix}{node.name}.")
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                for name in ast.walk(target) if target else ():
                    if isinstance(name, ast.Name):
                        found.setdefault(prefix + name.id, node.lineno)

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def line_of(path: Path, name: str) -> int | None:
    """The line that defines a name, which may start with packages and modules: "schedule.add_noise"."""
    if path.suffix != ".py":
        return None
    parts = name.split(".")
    names = (".".join(parts[i:]) for i in range(len(parts)))
    return next((definitions(path)[name] for name in names if name in definitions(path)), None)


class LinksToFiles(SphinxTransform):
    """Link to a file's page where MyST would offer a download, or does not find the file because it is a package."""

    default_priority = 500

    def apply(self):
        links = [*self.document.findall(addnodes.download_reference), *self.document.findall(addnodes.pending_xref)]
        for link in links:
            path = ROOT / self.env.relfn2path(link["reftarget"], self.env.docname)[0]
            if path.is_dir():
                path = path / "__init__.py"
            if link.get("reftype") != "myst" or link.get("refdomain") or path not in files():
                continue
            line = line_of(path, link.astext())
            page = os.path.relpath(path, (ROOT / self.env.docname).parent).replace(os.sep, "/") + ".html"
            uri = page + (f"#L-{line}" if line else "")
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, str], str]]:
    formatter = HtmlFormatter(linenos="inline", lineanchors="L")
    for path in files():
        try:
            lexer = get_lexer_for_filename(path.name)
        except ClassNotFound:
            lexer = get_lexer_for_filename("plain.txt")
        name = path.relative_to(ROOT).as_posix()
        code = highlight(path.read_text(encoding="utf-8"), lexer, formatter)
        yield name, {"title": name, "body": f"<h1>{name}</h1>\n{code}"}, "page.html"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """For sphinx.ext.linkcode: the link from an API entry to the line that defines it."""
    module = ROOT / info["module"].replace(".", "/")
    path = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    line = line_of(path, info["fullname"])
    return f"../../{path.relative_to(ROOT).as_posix()}.html#L-{line}" if line else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(LinksToFiles)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

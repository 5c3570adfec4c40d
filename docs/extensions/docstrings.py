"""Convert minisd's docstrings, plain sentences with `code` in them, to reStructuredText."""

import re
from collections.abc import Sequence

from sphinx.application import Sphinx

CODE_OR_SPECIAL = re.compile(r"`([^`]+)`|([\\*|_])")


def escape(line: str) -> str:
    return CODE_OR_SPECIAL.sub(lambda found: f"``{found[1]}``" if found[1] else "\\" + found[2], line)


def to_restructuredtext(app, what, name, object, options, lines: list[str]):
    """Treat an indented block as code or a plain-text formula, and everything else as sentences."""
    result: list[str] = []
    for before, line in zip(["", *lines], lines):
        indented = line.startswith("    ")
        if indented and not before.startswith("    "):
            result += ["::", ""]
        result.append(line if indented else escape(line))
    lines[:] = result


def skip_fields(app, what: str, name: str, object, skip: bool, options: Sequence[str]) -> bool | None:
    """Skip the fields of named tuples: their generated docstrings say nothing."""
    return True if type(object).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", to_restructuredtext)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

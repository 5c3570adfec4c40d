"""`python docs/reading.py` counts the non-blank lines of the reading list: the files between a prompt and its image."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def reading_list() -> list[Path]:
    """The files of the first table in reading.md."""
    table = (HERE / "reading.md").read_text(encoding="utf-8").split("## The model")[1].split("\n## ")[0]
    return [(HERE / path).resolve() for path in dict.fromkeys(re.findall(r"\[`[\w/]+\.py`\]\(([\w./]+)\)", table))]


def lines(file: Path) -> int:
    return sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    for file in reading_list():
        print(f"{lines(file):5}  {file.relative_to(HERE.parent)}")
    print(f"{sum(map(lines, reading_list())):5}  non-blank lines")

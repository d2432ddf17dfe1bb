"""The pages of the documentation as their blocks of code, and the files that the blocks name."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [
    path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in ("architecture.md", "benchmarks.md")
]
ROWS = 60  # of a file that a page shows with three rows: enough to hold some out

_BLOCK = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """One block of code: `bash` and `python` are executed, `text` is not, a block with a title is a file."""

    language: str
    title: str | None
    text: str

    def commands(self) -> Iterator[list[str]]:
        """Yield the commands of a block, each as its words, without the prompt and comments."""
        for line in self.text.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, in their order."""
    return [Block(found["language"], found["title"], found["text"]) for found in _BLOCK.finditer(page.read_text())]


def training_overrides(words: list[str]) -> list[str] | None:
    """Return the overrides of a command that trains, checks or submits; None for another one."""
    for start in (["python", "train.py"], ["finetune", "train"], ["finetune", "check"], ["finetune", "submit"]):
        if words[:2] == start:
            return words[2:]
    if words[0] == "torchrun" and "train.py" in words:
        return words[words.index("train.py") + 1 :]
    return None


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows, and pairs.csv, which many pages use."""
    for block in [*blocks_of(ROOT / "docs/data/pairs.md"), *blocks_of(page)]:
        if block.title is not None:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_with_more_rows(block))


def _with_more_rows(block: Block) -> str:
    """Return the text of a file; the rows of a data file are repeated, each time with a number after every text."""
    lines = block.text.splitlines()
    if block.language == "json":
        shown = [json.loads(line) for line in lines]
        rows = [json.dumps(_numbered(row, number)) for number in range(ROWS // len(shown)) for row in shown]
        return "\n".join(rows) + "\n"
    if block.language != "csv":
        return block.text
    header, shown = lines[0], lines[1:]
    is_class = header.endswith(("label", "score", "grade"))
    numbered = [_numbered_row(row, number, is_class) for number in range(ROWS // len(shown)) for row in shown]
    return "\n".join([header, *numbered]) + "\n"


def _numbered(value: object, number: int) -> object:
    if isinstance(value, dict):
        return {key: _numbered(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item, number) for item in value]
    return f"{value} ({number})" if isinstance(value, str) else value


def _numbered_row(row: str, number: int, keeps_last: bool) -> str:
    import csv
    import io

    cells = next(csv.reader([row]))
    last = cells.pop() if keeps_last else None
    cells = [f"{cell} ({number})" for cell in cells]
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow([*cells, *([] if last is None else [last])])
    return written.getvalue()

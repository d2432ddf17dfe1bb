"""The page with every config key, made from the comments in `conf/`; a hook of MkDocs (mkdocs.yml)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONF = Path(__file__).resolve().parents[2] / "conf"
PAGE = "reference/config.md"
_INTRODUCTION = """# Config keys

Every key of every group, with its default; made from the comments in `conf/`. `GROUP=FILE` selects a file, as in
`loss=cosent`, and `GROUP.KEY=VALUE` sets a key, as in `loss.temperature=0.02`. Keys of the groups `callbacks` and
`evaluation` also have the name of their file in front: `callbacks.evaluate.every_n_steps`.
"""
# A key with its value, and the comment behind it; nested keys are indented.
_ENTRY = re.compile(r"^(?P<indent> *)(?P<key>[\w.@/]+):(?: (?P<value>.*?))?(?: +# (?P<comment>.*))?$")
_CONTINUATION = re.compile(r"^ {8,}# (?P<comment>.*)$")
_NO_KEYS = ("defaults", "_target_")


def on_files(files: Any, config: Any) -> Any:
    """Add the page to those of the site; called by MkDocs."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Return the page as Markdown."""
    parts = [_INTRODUCTION, "## The root\n", *_file(CONF / "train.yaml", "train")]
    for group in sorted(path for path in CONF.iterdir() if path.is_dir() and any(path.rglob("*.yaml"))):
        for path in sorted(group.rglob("*.yaml")):
            if path == min(group.rglob("*.yaml")):
                parts.append(f"\n## {group.name}\n")
            name = path.relative_to(CONF).with_suffix("").as_posix()
            folder, _, file = name.rpartition("/")
            parts += _file(path, f"{folder}={file}")
    return "\n".join(parts) + "\n"


def _file(path: Path, title: str) -> Iterator[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line.lstrip("# ") for line in _head(lines)]
    yield f"### {title}\n"
    examples = [line for line in head if re.match(r"(python train\.py|finetune )", line)]
    text = " ".join(line for line in head if line not in examples and not line.startswith("@package"))
    yield f"{_escape(text)}\n"
    if examples:
        yield "\n".join(["```text", *examples, "```\n"])
    rows = list(_rows(lines[len(head) :]))
    if rows:
        yield "\n".join(["| key | default | |", "|---|---|---|", *rows]) + "\n"


def _head(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _rows(lines: list[str]) -> Iterator[str]:
    """Yield a row of the table for each key; the keys of a mapping follow it with a dot."""
    entries: list[list[str]] = []  # key, value, comment
    parents: list[tuple[int, str]] = []  # indentation and name of the mappings around a line
    for line in lines:
        entry, continuation = _ENTRY.match(line), _CONTINUATION.match(line)
        if continuation and entries:
            entries[-1][2] += " " + continuation["comment"]
        elif entry:
            indent = len(entry["indent"])
            parents = [parent for parent in parents if parent[0] < indent]
            key = ".".join([*(name for _, name in parents), entry["key"]])
            parents.append((indent, entry["key"]))
            if key.split(".")[-1] not in _NO_KEYS:
                entries.append([key, entry["value"] or "", entry["comment"] or ""])
    for key, value, comment in entries:
        if value or comment:
            yield f"| `{key}` | {_code(value)} | {_escape(comment)} |"


def _code(value: str) -> str:
    return f"`{value}`".replace("|", "\\|") if value else ""


def _escape(text: str) -> str:
    return re.sub(r"(?<!`)([|<>*_\[\]])", r"\\\1", text)

"""What is said about exports: `export.json` for programs, and a section of the model card for people."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import finetune
from finetune.console import format_size
from finetune.evaluation.bootstrap import Change
from finetune.evaluation.metric_names import format_change, format_value
from finetune.formats.measure import Difference, Speed
from finetune.report.report_data import change_data
from finetune.runs.atomic import read_mapping, to_json, write_text_atomically
from finetune.runs.environment import describe_machine

EXPORT_FILE = "export.json"
_PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf")
_START, _END = "<!-- exports: written by finetune export -->", "<!-- end of exports -->"
_OPENVINO = (
    "\nOpenVINO was measured in fp32. On processors that are made for bf16 it computes in bf16 unless it is loaded with"
    ' `model_kwargs={"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}`.'
)
_SECTION = re.compile(rf"\n?{re.escape(_START)}.*?{re.escape(_END)}\n?", re.DOTALL)


@dataclass(frozen=True)
class FormatResult:
    """One exported format: its files relative to the folder, their size, and what was measured against the original.

    `changes` are of the headline metric of each evaluation, by (evaluation, metric), from the original to the export.
    """

    format: str
    folder: Path
    files: list[str]
    bytes: int
    difference: Difference
    speed: Speed
    changes: Mapping[tuple[str, str], Change]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "files": self.files,
            "bytes": self.bytes,
            "difference": asdict(self.difference),
            "speed": asdict(self.speed),
            "metrics": [
                {"evaluation": evaluation, "metric": metric} | change_data(change)
                for (evaluation, metric), change in self.changes.items()
            ],
        }


@dataclass(frozen=True)
class Original:
    """The model that was exported: its digest, what it is called, the size of its weights, and its speed."""

    digest: str
    name: str
    bytes: int
    speed: Speed


def read_export(folder: Path) -> dict[str, Any]:
    """Return the content of export.json; empty if there is none, or it is damaged."""
    return read_mapping(folder / EXPORT_FILE)


def write_export(folder: Path, original: Original, results: list[FormatResult]) -> None:
    """Add these formats to export.json and to the card in a folder; those of another model are dropped.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    formats = {}
    before = read_export(folder)
    if before.get("model") == original.digest:
        formats = {name: each for name, each in before.get("formats", {}).items() if _is_there(folder, each)}
    formats |= {result.format: result.to_dict() for result in results}
    content = {
        "model": original.digest,
        "name": original.name,
        "original": {"bytes": original.bytes, "speed": asdict(original.speed)},
        "formats": formats,
        "machine": describe_machine(),
        "packages": {"finetune": finetune.__version__, "python": platform.python_version()} | _versions(),
    }
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {original.name}\n"
    plain = _SECTION.sub("\n", text).rstrip("\n")
    write_text_atomically(folder / EXPORT_FILE, to_json(content, indent=1) + "\n")
    write_text_atomically(card, f"{plain}\n\n{_START}\n{section(content)}\n{_END}\n")


def _is_there(folder: Path, described: Mapping[str, Any]) -> bool:
    return all((folder / name).is_file() for name in described.get("files", [""]))


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def section(content: Mapping[str, Any]) -> str:
    """Return the section of the card about the exports that export.json describes."""
    original = content["original"]
    rows = [_row("this model", original["bytes"], original["speed"], "", "")]
    metrics = []
    for name, described in content["formats"].items():
        difference = described["difference"]
        cosine = "" if difference["min_cosine"] is None else f"{difference['min_cosine']:.5f}"
        rows.append(_row(name, described["bytes"], described["speed"], f"{difference['largest']:.1e}", cosine))
        metrics += [_metric_row(name, change) for change in described["metrics"]]
    machine = content["machine"]
    lines = [
        "## Exports\n",
        f"Measured on {machine['cpu'] or machine['platform']} with {machine['cpu_usable']} cores. One item is the"
        " median of single calls. The difference is the largest of any value of an embedding, and the"
        " cosine the smallest, between this model and the export.\n",
        "| format | size | one item | throughput | difference | cosine |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
    ]
    if metrics:
        head = ["\n| format | evaluation | metric | this model | export | 95 % interval of the change |"]
        lines += [*head, "|---|---|---|---:|---:|---:|", *metrics]
    if any(name.startswith("openvino") for name in content["formats"]):
        lines.append(_OPENVINO)
    return "\n".join(lines)


def _row(name: str, size: int, speed: Mapping[str, float], difference: str, cosine: str) -> str:
    cells = (
        name,
        format_size(size),
        f"{speed['milliseconds']:.1f} ms",
        f"{speed['items_per_second']:,.0f}/s",
        difference,
        cosine,
    )
    return f"| {' | '.join(cells)} |"


def _metric_row(name: str, change: Mapping[str, Any]) -> str:
    interval = "-"
    if change["low"] is not None:
        interval = f"{format_change(change['low'])} to {format_change(change['high'])}"
    values = f"{format_value(change['before'])} | {format_value(change['after'])}"
    return f"| {name} | {change['evaluation']} | {change['metric']} | {values} | {interval} |"

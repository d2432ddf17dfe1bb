"""`finetune export`: write a model in other formats, and show what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import signals
from finetune.cli.errors import exit_code_of
from finetune.console import console, say

if TYPE_CHECKING:
    from rich.table import Table

    from finetune.evaluation.bootstrap import Change
    from finetune.formats.export import ExportResult
    from finetune.formats.measure import Speed


def main(model: str, formats: Sequence[str], out: Path | None, *, max_loss: float, evaluation: bool) -> int:
    """Export a model; returns the exit code."""
    return exit_code_of(lambda: _export(model, formats, out, max_loss=max_loss, evaluation=evaluation))


def _export(model: str, formats: Sequence[str], out: Path | None, *, max_loss: float, evaluation: bool) -> int:
    from finetune.formats.targets import target_of

    for name in formats:  # before torch is loaded
        target_of(name)
    signals.raise_on_interrupt()
    from finetune.formats.export import export_model

    result = export_model(model, formats, out, max_loss=max_loss, evaluation=evaluation)
    console.print(_table(result))
    for exported in result.formats.values():
        for (evaluation_name, metric), change in exported.changes.items():
            say(f"{exported.format}: {evaluation_name} {metric} {_change(change)}")
    for exported in result.formats.values():
        for name in exported.files:
            say(f"{exported.format}: {exported.folder / name}")
    return 0


def _change(change: Change) -> str:
    from finetune.evaluation.metric_names import format_change, format_value

    means = f"{format_value(change.mean_before)} -> {format_value(change.mean_after)}"
    interval = f"{format_change(change.low)} to {format_change(change.high)}"
    return f"{means} ({format_change(change.change)}, 95 % interval {interval})"


def _table(result: ExportResult) -> Table:
    from rich.table import Table

    from finetune.console import format_size

    table = Table(title=f"{result.original.name}, on this machine's CPU", title_justify="left")
    table.add_column("format", no_wrap=True)
    for column in ("size", "one item", "items/s", "difference", "cosine"):
        table.add_column(column, justify="right", no_wrap=True)
    original = result.original
    table.add_row("the model", format_size(original.bytes), *_speed(original.speed))
    for exported in result.formats.values():
        difference = exported.difference
        table.add_row(
            exported.format,
            format_size(exported.bytes),
            *_speed(exported.speed),
            f"{difference.largest:.1e}",
            f"{difference.min_cosine:.5f}",
        )
    return table


def _speed(speed: Speed) -> tuple[str, str]:
    return f"{speed.milliseconds:.1f} ms", f"{speed.items_per_second:,.0f}"

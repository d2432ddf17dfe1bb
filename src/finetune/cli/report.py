"""`finetune report`: write and open a run's report, or compare several runs; needs no torch and no model."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune.console import console, say
from finetune.errors import FinetuneError
from finetune.report import terminal
from finetune.report.comparison import comparison_page
from finetune.report.write import read_report, write_report
from finetune.runs.atomic import to_json, write_text_atomically
from finetune.runs.compare import compare_reports
from finetune.runs.record import Record, read_run
from finetune.runs.registry import OUTPUTS, find_run
from finetune.runs.selection import RunQuery, select

_LONGEST = 80  # characters of a run's name in a file name


def report(names: Sequence[str], root: Path | None, *, show: bool | None, as_json: bool) -> None:
    """Write and show the report of a run, by default of the newest run that has one; several runs are compared.

    `show`: whether to open it in a browser; None: only if there is a screen.

    Raises:
        FinetuneError: a run is missing, it has no report, or the report cannot be written.
    """
    folder = root or OUTPUTS
    records = [read_run(find_run(name, folder)) for name in names]
    if not records:
        records.append(_newest(folder))
    is_comparison = len(records) > 1
    if as_json:
        content = compare_reports(records) if is_comparison else read_report(records[0].run)
        sys.stdout.write(to_json(content, indent=1, ascii_only=True) + "\n")
        return
    page = _write_comparison(records) if is_comparison else _write_report(records[0])
    say(f"report: {page}")
    if show is None:
        show = _has_screen()
    if show:
        _open(page)


def _newest(folder: Path) -> Record:
    records = select(folder, RunQuery()).records
    reported = [record for record in records if record.run.report_data_path.is_file()]
    if not reported:
        advice = "It is written at the end of a run." if records else "Train one: finetune train data.path=pairs.csv"
        raise FinetuneError(f"no run in {folder} has a report yet.", advice)
    if records[0] is not reported[0]:
        say(f"{records[0].name} is newer and has no report: it is {records[0].state}.")
    return reported[0]


def _write_report(record: Record) -> Path:
    write_report(record.run)
    say(record.name, style="bold")
    for line in terminal.headlines(read_report(record.run)):
        say(line)
    return record.run.report_page_path


def _write_comparison(records: Sequence[Record]) -> Path:
    facts = compare_reports(records)
    for table in terminal.comparison(facts):
        console.print(table)
    for line in (*facts["warnings"], *facts["notes"]):
        say(line)
    names = "_".join(re.sub(r"[^\w.+=-]+", "-", record.run.name)[:_LONGEST] for record in records[:2])
    if len(records) > 2:
        names += f"_and_{len(records) - 2}_more"
    page = records[0].run.path.parent / f"compared_{names}.html"
    write_text_atomically(page, comparison_page(records))
    return page


def _has_screen() -> bool:
    # Without a screen a text browser would open in the terminal.
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.stdout.isatty() and bool(screen)


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        say("No browser was found; open the file in one.")

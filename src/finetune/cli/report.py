"""`finetune report`: a run's report made anew and opened, or several runs compared; without torch or a model."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune.console import console, say
from finetune.errors import FinetuneError
from finetune.report import terminal
from finetune.report.comparison import compared, comparison_page
from finetune.report.write import read_report, write_report
from finetune.runs.atomic import to_json, write_text_atomically
from finetune.runs.record import Record, read
from finetune.runs.registry import OUTPUTS, find
from finetune.runs.selection import RunQuery, select

_LONGEST = 80  # characters of a run's name in that of a file


def report(names: Sequence[str], root: Path | None, *, show: bool | None, as_json: bool) -> None:
    """Make and show the report of the run that is named, else of the newest that has one; of several a comparison.

    `show` says whether a browser opens it; None: where somebody sits at a screen.

    Raises:
        FinetuneError: there is no such run, it has no report, the system refuses.
    """
    folder = root or OUTPUTS
    records = [read(find(name, folder)) for name in names] or [_newest(folder)]
    if as_json:
        content = read_report(records[0].run) if len(records) == 1 else compared(records)
        sys.stdout.write(to_json(content, indent=1, ascii_only=True) + "\n")
        return
    page = _one(records[0]) if len(records) == 1 else _several(records)
    say(f"report: {page}")
    if show or (show is None and _somebody_looks()):
        _open(page)


def _newest(folder: Path) -> Record:
    records = select(folder, RunQuery()).records
    reported = [record for record in records if record.run.report_data_path.is_file()]
    if not reported:
        raise FinetuneError(f"no run in {folder} has a report yet.", "It is written at the end of a run.")
    if records[0] is not reported[0]:
        say(f"{records[0].name} is newer and has no report: it is {records[0].state}.")
    return reported[0]


def _one(record: Record) -> Path:
    write_report(record.run)
    say(record.name, style="bold")
    for line in terminal.headlines(read_report(record.run)):
        say(line)
    return record.run.report_page_path


def _several(records: Sequence[Record]) -> Path:
    facts = compared(records)
    for table in terminal.comparison(facts):
        console.print(table)
    for line in (*facts["warnings"], *facts["notes"]):
        say(line)
    names = "_".join(re.sub(r"[^\w.+=-]+", "-", record.run.name)[:_LONGEST] for record in records[:2])
    more = f"_and_{len(records) - 2}_more" if len(records) > 2 else ""
    page = records[0].run.path.parent / f"compared_{names}{more}.html"
    write_text_atomically(page, comparison_page(records))
    return page


def _somebody_looks() -> bool:
    # Without a screen a browser of characters would take the terminal.
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.stdout.isatty() and bool(screen)


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        say("No browser was found; open the file in one.")

"""Makes report.html and report.md in a run directory, at a run's end and whenever they are wanted anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from finetune.console import say
from finetune.errors import FinetuneError
from finetune.report.markdown import report_markdown
from finetune.report.page import report_page
from finetune.runs.atomic import read_mapping, write_text_atomically
from finetune.runs.directory import RunDirectory

_log = logging.getLogger("finetune")


def write_report(run: RunDirectory) -> None:
    """Write both, from the run's report.json and metrics.jsonl.

    Raises:
        FinetuneError: there is no report.json, or it is damaged.
        RunError: the system refuses.
    """
    report = read_report(run)
    try:
        texts = report_markdown(report), report_page(report, run.read_metrics())
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        _log.debug("the report could not be made", exc_info=True)
        what = f"the report of {run.path} cannot be made of its report.json: {type(error).__name__}: {error}."
        raise FinetuneError(what, "The file is damaged, or of another version of finetune.") from error
    write_text_atomically(run.report_path, texts[0])
    write_text_atomically(run.report_page_path, texts[1])


def read_report(run: RunDirectory) -> Mapping[str, Any]:
    """Return the content of report.json.

    Raises:
        FinetuneError: there is none, or it is none of a run.
    """
    report = read_mapping(run.report_data_path)
    if missing := {"run", "model_path", "evaluations", "data", "notes", "cost", "again"} - set(report):
        there = run.report_data_path.is_file()
        what = f"has a report.json without {', '.join(sorted(missing))}" if there else "has no report.json yet"
        raise FinetuneError(f"the run {run.path} {what}.", "It is written at the end of a run: `finetune runs show`.")
    return report


def try_to_write_report(run: RunDirectory) -> bool:
    """Write both if that can be done: a run whose model is saved does not fail by its report."""
    try:
        write_report(run)
    except Exception as error:  # whatever it is, it is told, and report.json is there to try again
        reason = error.what if isinstance(error, FinetuneError) else f"{type(error).__name__}: {error}"
        say(f"The report could not be made: {reason} Try again with `finetune report`.", style="yellow")
        _log.debug("the report could not be made", exc_info=True)
        return False
    return True

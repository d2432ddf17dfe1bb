"""Writing report.html and report.md of a run directory, at the end of a run and by `finetune report`."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from typing import Any

from finetune.console import say
from finetune.errors import FinetuneError
from finetune.report.markdown import report_markdown
from finetune.report.page import report_page
from finetune.runs.atomic import read_mapping, write_text_atomically
from finetune.runs.directory import RunDirectory

_log = logging.getLogger("finetune")
_REQUIRED_KEYS = {"run", "model_path", "evaluations", "data", "notes", "cost", "again"}


def write_report(run: RunDirectory) -> None:
    """Write report.html and report.md, from the run's report.json and metrics.jsonl.

    Raises:
        FinetuneError: there is no report.json, or it is damaged.
        RunError: the operating system refuses.
    """
    report = read_report(run)
    try:
        markdown = report_markdown(report)
        page = report_page(report, run.read_metrics())
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        _log.debug("rendering the report failed", exc_info=True)
        what = f"the report of {run.path} cannot be rendered from report.json: {type(error).__name__}: {error}."
        raise FinetuneError(what, "The file is damaged, or from another version of finetune.") from error
    write_text_atomically(run.report_path, markdown)
    write_text_atomically(run.report_page_path, page)


def read_report(run: RunDirectory) -> Mapping[str, Any]:
    """Return the content of report.json.

    Raises:
        FinetuneError: there is none, or it is not a report.
    """
    report = read_mapping(run.report_data_path)
    missing = _REQUIRED_KEYS - set(report)
    if not missing:
        return report
    shown = f"finetune runs show {shlex.quote(str(run.path))}"
    what = "has no report.json yet"
    if run.report_data_path.is_file():
        what = f"has a report.json without {', '.join(sorted(missing))}"
    raise FinetuneError(f"the run {run.path} {what}.", f"It is written at the end of a run: `{shown}`.")


def try_to_write_report(run: RunDirectory) -> bool:
    """Write report.html and report.md, and return whether that succeeded; a failure must not fail the finished run."""
    try:
        write_report(run)
    except Exception as error:  # any error is reported, and report.json is kept for another attempt
        reason = error.what if isinstance(error, FinetuneError) else f"{type(error).__name__}: {error}"
        say(f"The report could not be written: {reason} Try again with `finetune report`.", style="yellow")
        _log.debug("writing the report failed", exc_info=True)
        return False
    return True

"""`finetune doctor`: print the findings as lines, as JSON, or as a bug report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.cli.errors import exit_code_of
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.doctor.finding import Finding

_MARKS = {"fine": ("ok", "green"), "doubtful": ("!", "yellow"), "wrong": ("x", "bold red")}


def main(run: str | None, root: Path | None, *, as_json: bool, report: bool, network: bool) -> int:
    """Run `finetune doctor`; returns the exit code: 1 if a finding is wrong, 2 for a mistake in the arguments."""
    return exit_code_of(lambda: _examine(run, root or Path("outputs"), as_json, report, network))


def _examine(name: str | None, root: Path, as_json: bool, report: bool, network: bool) -> int:
    from finetune.doctor.diagnose import diagnose

    if as_json and report:
        raise FinetuneError("--json cannot be combined with --report.", "Give only one of them.")
    if name is not None and not report:
        raise FinetuneError(f"{name}: a run is only used by --report.", f"finetune doctor --report {name}")
    findings = diagnose(root, network=network)
    if as_json:
        found = list(findings)
        print(json.dumps([each.facts() for each in found], indent=2))
    elif report:
        found = list(findings)
        print(_issue_report(found, name, root))
    else:
        found = _print(findings)
    return int(any(each.state == "wrong" for each in found))


def _issue_report(found: list[Finding], name: str | None, root: Path) -> str:
    from finetune.doctor.issue_report import issue_report
    from finetune.runs.record import read_run
    from finetune.runs.registry import find_run

    record = None if name is None else read_run(find_run(name, root))
    return issue_report(found, record)


def _print(findings: Iterable[Finding]) -> list[Finding]:
    """Print each finding as soon as it is known, and return all."""
    from rich.text import Text

    from finetune.console import console

    found = []
    for topic, group in groupby(findings, key=lambda each: each.topic):
        console.print(Text(topic, style="bold"))
        for each in group:
            found.append(each)
            mark, style = _MARKS[each.state]
            console.print(Text.assemble((f"  {mark:<3}", style), f"{each.name}: {each.text}"))
            if each.advice:
                console.print(Text(f"       {each.advice}"))
    counts = {state: sum(each.state == state for each in found) for state in _MARKS}
    console.print(f"{counts['fine']} fine, {counts['doubtful']} doubtful, {counts['wrong']} wrong")
    return found

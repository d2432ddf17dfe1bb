"""What a bug report should contain, without secrets and names of persons."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from finetune.config.commands import hide_secrets
from finetune.doctor.finding import Finding
from finetune.doctor.redact import redact
from finetune.runs.record import Record

_LOG_LINES = 40


def issue_report(findings: Sequence[Finding], record: Record | None) -> str:
    """Return a bug report as Markdown: the environment, and if there is a run how it was started and how it ended."""
    parts = ["## What happened\n\n(please describe it)\n"]
    if record is not None:
        parts.append(_run(record))
    lines = [f"{each.state:<9} {each.topic}: {each.name}: {each.text}" for each in findings]
    parts.append(f"## Environment\n\n```text\n{platform.platform()}\n" + "\n".join(lines) + "\n```\n")
    return redact("\n".join(parts))


def _run(record: Record) -> str:
    run = record.run
    overrides = run.overrides_path.read_text(errors="replace").strip() if run.overrides_path.is_file() else ""
    shown = "\n".join(hide_secrets(overrides.splitlines()))
    log = run.log_path.read_text(errors="replace").splitlines() if run.log_path.is_file() else []
    tail = "\n".join(log[-_LOG_LINES:])
    head = f"{record.state} ({record.status.get('cause') or 'no cause'}) at step {record.step}: {record.reason}"
    return f"## The run\n\n{head}\n\n```yaml\n{shown}\n```\n\n```text\n{tail}\n```\n"

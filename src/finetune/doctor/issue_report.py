"""What a bug report should contain, without secrets and names of persons."""

from __future__ import annotations

import getpass
import platform
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from finetune.config.commands import hide_secrets
from finetune.doctor.finding import Finding
from finetune.runs.record import Record

_LOG_LINES = 40
# What looks like a credential: of the Hugging Face hub, W&B, GitHub, OpenAI or AWS; of a URL; behind such a name.
_CREDENTIAL = re.compile(
    r"\b(?:hf_|wandb_|ghp_|github_pat_|sk-|AKIA)[A-Za-z0-9_-]{16,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_NAMED = re.compile(
    r"((?:api_?key|access_?key|token|secret|password|passwd|credentials)[\"']?\s*[=:]\s*)\S+", re.IGNORECASE
)


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


def redact(text: str) -> str:
    """Return a text without credentials, and with the home folder, the user and the machine replaced."""
    text = _NAMED.sub(r"\1(hidden)", _CREDENTIAL.sub("(hidden)", text))
    text = text.replace(str(Path.home()), "~")
    for word, name in ((_user(), "USER"), (socket.gethostname(), "HOST")):
        if len(word) > 3:  # a short one occurs in other words
            text = re.sub(rf"\b{re.escape(word)}\b", name, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""

"""Run directories like those of real runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from finetune.runs.directory import RunDirectory

CONFIG = {
    "model": {"_target_": "finetune.models.text.TextEncoder", "name": "org/MiniLM"},
    "loss": {"_target_": "finetune.losses.infonce.InfoNCE", "temperature": 0.05},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-4},
    "data": {"limit": None},
    "seed": 42,
}


def make_run(
    root: Path,
    name: str,
    state: str = "finished",
    *,
    days: float = 0,
    config: dict[str, Any] | None = None,
    losses: list[float] | None = None,
    score: float | None = None,
    **status: Any,
) -> RunDirectory:
    """Create the run directory `root/<experiment>/<run>` of a run started `days` ago."""
    path = root / name
    path.mkdir(parents=True)
    run = RunDirectory(path)
    started = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    facts = {"state": state, "reason": "", "time": started, "started_at": started, "host": "elsewhere", "step": 3}
    run.config_path.write_text(yaml.safe_dump(CONFIG | (config or {}) | {"name": path.name}))
    run.overrides_path.write_text("[]\n")
    run.data_path.write_text('{"fingerprint": "f"}')
    run.environment_path.write_text(json.dumps({"command": "python train.py", "cpu": "a", "packages": {"torch": "2"}}))
    run.status_path.write_text(json.dumps(facts | status))
    run.log_path.write_text("".join(f"line {i}\n" for i in range(1, 31)))
    for step, loss in enumerate(losses or [3.0, 2.0, 1.0], start=1):
        run.append_metrics({"step": step, "loss": loss, "seconds/data": 0.1})
    if score is not None:
        run.append_metrics({"step": 3, "retrieval/before/nDCG@10": 0.2})
        run.append_metrics({"step": 3, "retrieval/after/nDCG@10": score})
        run.report_data_path.write_text(json.dumps(_report(path.name, score)))
    return run


def _report(name: str, score: float) -> dict[str, Any]:
    """Return a minimal report.json of a run that was evaluated before and after."""
    change = {"change": score - 0.2, "low": 0.0, "high": 0.1, "certain": False, "won": 1, "lost": 0, "tied": 2}
    row = {"metric": "nDCG@10", "before": 0.2, "after": score} | change
    found = {"headline": "better", "metric": "nDCG@10", "metrics": [row], "baselines": {}, "notes": []}
    evaluations = {"retrieval": found | {"judgments": "held out", "counts": {"queries": 3}}}
    facts = {"data": {}, "notes": [], "cost": {}, "again": {}}
    return {"run": name, "model_path": "model", "evaluations": evaluations} | facts


_LIVES = """
import sys
from pathlib import Path
from finetune.runs.directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
with run.lock():
    run.write_status("running", step=7, eta_seconds=90)
    print("here", flush=True)
    for line in sys.stdin:
        with run.log_path.open("a") as log:
            log.write(line)
    run.write_status("finished")
"""


@contextmanager
def living(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the lock and copies its input to the log; at the end of that it finishes the run."""
    command = [sys.executable, "-c", _LIVES, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()

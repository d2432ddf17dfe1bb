"""`python -m finetune.runner.slurm_epilog RUN CODE`: the end of a job's script, when the run's processes have ended.

Queues the job again if the cluster stopped its run, and writes down what became of a run that could not do so itself.
In a process of its own, which no signal to the run reaches: a requeue ends all that belongs to the job, and what asked
for it among them.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from finetune.errors import RunError
from finetune.ranks import how_it_ended
from finetune.runner.slurm_job import facts_here, is_at_work, stop_reason
from finetune.runs.directory import RunDirectory
from finetune.runs.jobs import call_slurm
from finetune.runs.lock import is_locked

_TOLD = (signal.SIGTERM, signal.SIGUSR1)  # by which a run ends that had not begun to listen


def main(path: str, code: str) -> int:
    """Do what is to be done when the processes of the run at `path` ended with `code`, and return it."""
    run = RunDirectory(Path(path))
    if run.path.is_dir():
        _write_down(run, int(code))
        if run.read_status().get("will_resume"):
            _queue_again(run)
    return int(code)


def _write_down(run: RunDirectory, code: int) -> None:
    status = run.read_status()
    is_over = status.get("state") in ("finished", "failed", "interrupted")
    if is_over or is_locked(run.lock_path):
        return
    number = code - 128
    stop = stop_reason(has_moved=False)
    if stop is not None and (number in _TOLD or stop.cause == "cancelled" or stop.will_resume):
        before = "Stopped before it began." if status.get("state") == "pending" else "Stopped at once."
        run.write_status("interrupted", f"{before} {stop.what}", cause=stop.cause, will_resume=stop.will_resume)
        return
    run.write_status("failed", f"{_end(code)}; what its processes said is in {run.ranks}.", cause="killed")


def _end(code: int) -> str:
    return f"It {how_it_ended(128 - code if 128 < code < 128 + signal.NSIG else code)}"


def _queue_again(run: RunDirectory) -> None:
    # What SLURM has ended already it has also queued again, or not: it is not asked twice.
    if not is_at_work(facts_here()):
        return
    try:
        call_slurm(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])
    except RunError as error:
        status = run.read_status()
        reason = f"{status['reason']} It could not: {error.what}"
        run.write_status("interrupted", reason, cause=status["cause"], will_resume=False)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

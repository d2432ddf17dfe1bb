"""`python -m finetune.runner.slurm_epilog RUN CODE`: the last command of a job's script, after the run's processes.

It requeues the job if the cluster stopped its run, and writes the status of a run that could not do so itself. It is a
process of its own, which no signal to the run reaches: a requeue ends all processes of the job, this one included.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from finetune.errors import RunError
from finetune.ranks import describe_exit
from finetune.runner.slurm_job import is_active, job_facts, stop_reason
from finetune.runs.directory import RunDirectory
from finetune.runs.jobs import call_slurm, current_job_id, will_resume
from finetune.runs.lock import is_locked

_STOPS = (signal.SIGTERM, signal.SIGUSR1)  # they end a run that has not installed its handlers yet


def main(path: str, code: str) -> int:
    """Write how the run at `path` ended, whose processes had exit code `code`, requeue it, and return `code`."""
    run = RunDirectory(Path(path))
    # A run that ended may have been submitted again in the meantime: its status is then that of the other job.
    if run.path.is_dir() and run.read_job().get("id") == current_job_id():
        _write_status(run, int(code))
        if will_resume(run.read_status()):
            _requeue(run)
    return int(code)


def _write_status(run: RunDirectory, code: int) -> None:
    status = run.read_status()
    is_over = status.get("state") in ("finished", "failed", "interrupted")
    if is_over or is_locked(run.lock_path):
        return
    number = code - 128
    stop = stop_reason(has_progressed=False)
    if stop is not None and (number in _STOPS or stop.cause == "cancelled" or stop.will_resume):
        when = "Stopped at once."
        if status.get("state") == "pending":
            when = "Stopped before it started."
        run.write_status("interrupted", f"{when} {stop.what}", cause=stop.cause, will_resume=stop.will_resume)
        return
    if 128 < code < 128 + signal.NSIG:
        code = -number  # a shell's exit code for a signal
    run.write_status(
        "failed", f"It {describe_exit(code)}; the output of its processes is in {run.ranks}.", cause="killed"
    )


def _requeue(run: RunDirectory) -> None:
    # A job that SLURM has ended it has requeued already, or will not.
    if not is_active(job_facts()):
        return
    try:
        call_slurm(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])
    except RunError as error:
        status = run.read_status()
        reason = f"{status['reason']} It could not: {error.what}"
        run.write_status("interrupted", reason, cause=status["cause"], will_resume=False)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The sbatch script of one run, or of an array of runs that need the same of the cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config.command_line import Arguments, key_of, run_overrides
from finetune.config.quoting import quoted
from finetune.preflight.slurm import ResourceRequest, SlurmSettings
from finetune.runs.jobs import MARK, ONCE, QUEUED_AGAIN

_DECIDED = ("resume=auto", "resume=never")  # when the job was submitted

_BODY = """
export {mark}={again}
# srun does not take these over, and libraries would use all cores that they see.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}}"
cd {folder} || exit 1
[ -d "$run" ] || exit 1  # it was removed while it waited
mkdir -p "$run/ranks"
exec >>"$run/ranks/script.log" 2>&1
# A signal is for the processes, which save and end; this script waits for them.
trap : TERM
# Of several, the first one says and writes what ended any of them: it is given time to.
srun --output="${{run//%/%%}}/ranks/%t.log" --open-mode=append --kill-on-bad-exit=0 --wait=120 \\
    {python} -m finetune.runner{flags} "$@"
code=$?
trap '' TERM
exec {python} -m finetune.runner.slurm_epilog "$run" "$code"
"""


@dataclass(frozen=True)
class Task:
    """One run of a job: its directory, and the overrides that its processes get."""

    run: Path
    overrides: Sequence[str]

    @property
    def words(self) -> list[str]:
        """What stands behind `python -m finetune.runner` for it."""
        kept = [text for text in run_overrides(self.overrides) if key_of(text) not in ("resume", "hydra.run.dir")]
        chosen = [text for text in self.overrides if key_of(text) == "resume" and text not in _DECIDED]
        # Whatever a file says: the run is there, and a job that is queued again resumes it.
        resume = chosen[-1:] or ["resume=auto"]
        return [*kept, *resume, f"hydra.run.dir={quoted(str(self.run.absolute()))}"]


def script(
    tasks: Sequence[Task],
    settings: SlurmSettings,
    shape: ResourceRequest,
    arguments: Arguments,
    parallel: int | None = None,
) -> str:
    """Return the script of a job; of an array job where `parallel` says how many tasks may run at once."""
    options = _options(settings, shape)
    if parallel is not None:
        options["array"] = f"0-{len(tasks) - 1}%{parallel}"
    body = _BODY.format(
        mark=MARK,
        again=shlex.quote(QUEUED_AGAIN if settings.requeue else ONCE),
        folder=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
        flags="".join(f" {shlex.quote(word)}" for word in arguments.where()),
    )
    return "\n".join(["#!/bin/bash", *_directives(options), "", *_chosen(tasks, parallel is not None)]) + body


def _options(settings: SlurmSettings, shape: ResourceRequest) -> dict[str, object]:
    """What sbatch is told; a later word of `options` stands for an earlier one of ours."""
    return {
        "job-name": "finetune",
        "nodes": shape.nodes,
        "ntasks-per-node": shape.processes,
        "cpus-per-task": settings.cpus_per_process,
        "gpus-per-node": shape.gpus * shape.processes or None,
        "time": settings.time,
        "mem": settings.memory,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "requeue" if settings.requeue else "no-requeue": True,
        "signal": f"USR1@{settings.save_seconds}",
        # What the script says goes into the run's own folder, see below.
        "output": "/dev/null",
    } | settings.options


def _directives(options: dict[str, object]) -> Iterator[str]:
    for name, value in options.items():
        if value is True:
            yield f"#SBATCH --{name}"
        elif value is not None and value is not False:
            yield f"#SBATCH --{name}={shlex.quote(str(value))}"


def _chosen(tasks: Sequence[Task], is_array: bool) -> Iterator[str]:
    """Lines that set `run` and the arguments, of an array for the task that this is."""
    if not is_array:
        yield from _set(tasks[0], "")
        return
    yield 'case "$SLURM_ARRAY_TASK_ID" in'
    for number, task in enumerate(tasks):
        yield f"{number})"
        yield from _set(task, "    ")
        yield "    ;;"
    yield "esac"


def _set(task: Task, indent: str) -> Iterator[str]:
    yield f"{indent}run={shlex.quote(str(task.run.absolute()))}"
    yield f"{indent}set -- {shlex.join(task.words)}"

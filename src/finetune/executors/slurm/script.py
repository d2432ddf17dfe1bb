"""The sbatch script of one run, or of an array of runs that need the same resources."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.config.command_line import Arguments
from finetune.config.quoting import quoted
from finetune.executors.base import RunRequest
from finetune.preflight.slurm import ResourceRequest, SlurmSettings
from finetune.runs.jobs import MARK, ONCE, QUEUED_AGAIN

_BODY = """
export {mark}={requeue}
# srun does not inherit these, and libraries would use all cores that they see.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}}"
cd {folder} || exit 1
[ -d "$run" ] || exit 1  # it was removed while the job was pending
mkdir -p "$run/ranks"
exec >>"$run/ranks/script.log" 2>&1
# A signal is meant for the processes, which save and exit; this script waits for them.
trap : TERM
# The first process reports why any of several ended: it gets the time to do so.
srun --output="${{run//%/%%}}/ranks/%t.log" --open-mode=append --kill-on-bad-exit=0 --wait=120 \\
    {python} -m finetune.runner{flags} "$@"
code=$?
trap '' TERM
exec {python} -m finetune.runner.slurm_epilog "$run" "$code"
"""


def script(
    requests: Sequence[RunRequest],
    settings: SlurmSettings,
    resources: ResourceRequest,
    arguments: Arguments,
    parallel: int | None = None,
) -> str:
    """Return the script of a job; of an array job where `parallel` says how many tasks may run at once."""
    options = options_of(settings, resources)
    selection = _set_run(requests[0], "")
    if parallel is not None:
        options["array"] = f"0-{len(requests) - 1}%{parallel}"
        selection = _select_task(requests)
    body = _BODY.format(
        mark=MARK,
        requeue=shlex.quote(QUEUED_AGAIN if settings.requeue else ONCE),
        folder=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
        flags="".join(f" {shlex.quote(word)}" for word in arguments.where()),
    )
    return "\n".join(["#!/bin/bash", *directives(options), "", *selection]) + body


def options_of(settings: SlurmSettings, resources: ResourceRequest) -> dict[str, object]:
    """Return the options of sbatch; those of the config's `options` override ours."""
    return {
        "job-name": "finetune",
        "nodes": resources.nodes,
        "ntasks-per-node": resources.processes,
        "cpus-per-task": settings.cpus_per_process,
        "gpus-per-node": resources.gpus * resources.processes or None,
        "time": settings.time,
        "mem": settings.memory,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "requeue" if settings.requeue else "no-requeue": True,
        "signal": f"USR1@{settings.save_seconds}",
        # The script's output goes into the run's own directory, see below.
        "output": "/dev/null",
    } | settings.options


def directives(options: dict[str, object]) -> Iterator[str]:
    """Yield the lines of a script that set these options of sbatch."""
    for name, value in options.items():
        if value is True:
            yield f"#SBATCH --{name}"
        elif value is not None and value is not False:
            yield f"#SBATCH --{name}={shlex.quote(str(value))}"


def _select_task(requests: Sequence[RunRequest]) -> Iterator[str]:
    """Yield lines that set `run` and the arguments of the array's task that the script is executed for."""
    yield 'case "$SLURM_ARRAY_TASK_ID" in'
    for number, request in enumerate(requests):
        yield f"{number})"
        yield from _set_run(request, "    ")
        yield "    ;;"
    yield "esac"


def _set_run(request: RunRequest, indent: str) -> Iterator[str]:
    path = str(request.path.absolute())
    words = [*request.overrides_to_resume(), f"hydra.run.dir={quoted(path)}"]
    yield f"{indent}run={shlex.quote(path)}"
    yield f"{indent}set -- {shlex.join(words)}"

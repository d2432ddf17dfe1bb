"""`finetune submit`: one run, checked here as any run is, and handed over to the cluster."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.console import complain, say
from finetune.errors import FinetuneError
from finetune.launch.arguments import Arguments, is_of_the_cluster, of_the_run, parse
from finetune.launch.claim import find_run, no_new_folders_left_of_a_failure
from finetune.launch.resume import LAUNCHER, named_folder
from finetune.launch.slurm.sbatch import cancel, check_possible, submit
from finetune.launch.slurm.script import Task, script
from finetune.launch.slurm.settings import settings_of, shape_of
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory
from finetune.runs.environment import write_changes
from finetune.runs.jobs import write_job
from finetune.runs.record import read

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(argv: Sequence[str]) -> int:
    """Do what `finetune submit` was told and return the exit code."""
    from finetune.launch.entry import answered

    return answered(lambda: _do(parse(argv)))


def _do(arguments: Arguments) -> int:
    from finetune.launch.entry import show

    arguments = replace(arguments, overrides=[LAUNCHER, *arguments.overrides])
    if arguments.show:
        return show(arguments)
    if arguments.multirun:
        from finetune.launch.sweep import sweep

        return sweep(replace(arguments, overrides=[*arguments.overrides, "hydra.launcher.wait=false"]))
    return _submit(arguments)


def _submit(arguments: Arguments) -> int:
    from finetune.launch.encoders import fetch
    from finetune.launch.entry import check_run

    checked = check_run(arguments)
    if checked is None:
        return 0
    arguments, cfg, dataset = checked
    settings, overrides = settings_of(cfg), of_the_run(arguments.overrides)
    assert settings is not None

    def text(run: Path) -> str:
        return script([Task(run, overrides)], settings, shape_of(cfg, settings), arguments)

    if cfg.dry_run:
        say(text(place(cfg)))
        return 0
    check_possible(text(place(cfg)))
    fetch(cfg)  # a machine of the cluster may have no network
    asked = [each for each in arguments.overrides if is_of_the_cluster(each) and each != LAUNCHER]
    with no_new_folders_left_of_a_failure(place(cfg).parent):
        run, goes_on = find_run(cfg, overrides, dataset, arguments)
        with pending([(run, goes_on)]):
            write_changes(run.path)
            job_id = hand_over(text(run.path), [run], asked)
    say(f"job {job_id} is in the queue; run directory: {run.path}")
    named = shlex.quote(str(run.path))
    say(f"`finetune runs show {named}` shows its state, `finetune runs cancel {named}` ends it.")
    return 0


def hand_over(text: str, runs: Sequence[RunDirectory], asked: Sequence[str], *, is_array: bool = False) -> str:
    """Submit the job that these runs are, note it in each of them, and return its id.

    Raises:
        FinetuneError: SLURM does not take it, or the disk is full; nothing is in the queue.
    """
    job_id = submit(text)
    try:
        for number, run in enumerate(runs):
            write_job(run, f"{job_id}_{number}" if is_array else job_id, asked)
    except BaseException:
        try:
            cancel([job_id])
        except FinetuneError as error:  # what went wrong first is what is raised
            complain(error)
        raise
    return job_id


@contextmanager
def pending(runs: Sequence[tuple[RunDirectory, bool]]) -> Iterator[None]:
    """Say of runs that they wait; those that were not there before are gone again if what is inside fails.

    Raises:
        FinetuneError: one of them is in the queue already, or a process works on it.
    """
    waiting: list[tuple[RunDirectory, bool, dict[str, Any]]] = []
    try:
        for run, goes_on in runs:
            before = run.read_status() if goes_on else {}
            if goes_on:
                _check_free(run)
            with run.lock():
                waiting.append((run, goes_on, before))
                run.write_status("pending")
        yield
    except BaseException:
        for run, was_there, before in waiting:
            if before:
                write_json_atomically(run.status_path, before)
            elif not was_there:  # a status that cannot be read does not make a run a new one
                shutil.rmtree(run.path, ignore_errors=True)
        raise


def _check_free(run: RunDirectory) -> None:
    record = read(run.path)
    if record.is_a_job:
        what = f"The run {run.path} is {record.state} as job {record.job}."
        raise FinetuneError(
            what, f"`finetune runs cancel {shlex.quote(str(run.path))}` ends it; then it can be submitted again."
        )


def place(cfg: DictConfig) -> Path:
    """Return where a run will be, as far as that can be said before it has its directory."""
    return named_folder(cfg) or Path(cfg.output_root) / str(cfg.experiment) / "NAME"

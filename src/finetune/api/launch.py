"""Checks a config and starts its run as a process of its own, or as a job of a SLURM cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.errors import CheckFailed, FinetuneError, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from finetune.api.run_handle import RunHandle
    from finetune.config.command_line import Arguments
    from finetune.executors.base import Executor
    from finetune.preflight.check import CheckedRun

_one_at_a_time = threading.Lock()  # Hydra's state belongs to the whole process


@dataclass(frozen=True)
class CheckResult:
    """What a check found: everything that is wrong, notes about what may be unexpected, and facts about the data.

    `problems` have a config key, a sentence and advice. If there are any, `notes` and `facts` are empty.
    """

    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check(overrides: Sequence[str], *, config_dir: Path | None = None, config_name: str = "train") -> CheckResult:
    """Check the config of a run and its data, as `finetune check` does; prints nothing, starts nothing.

    `config_dir` and `config_name` are the flags of the command line. A user's mistake is never raised, it is one of the
    result's problems; so is that this process is already running finetune. During the call the streams, warnings
    filters, logging and environment of the process are changed for all its threads.
    """
    try:
        with _isolated():
            checked = _check(_arguments(overrides, config_dir, config_name))
            notes = list(checked.notes)
            for name in checked.missing_models:
                notes.append(f"{name} is not on this machine; a run would download it from the hub.")
            return CheckResult([], notes, dict(checked.dataset.facts))
    except CheckFailed as failed:
        return CheckResult(failed.problems)
    except FinetuneError as error:
        return CheckResult([Problem("check", error.what, error.advice)])


def start(overrides: Sequence[str], *, config_dir: Path | None = None, config_name: str = "train") -> RunHandle:
    """Check a run, create its directory, start it as a process of its own, and return without waiting for it.

    With `hydra/launcher=slurm` among the overrides the run becomes a job of the cluster. Either way it continues when
    this program ends. An unfinished run of the same `name`, or the one that `resume` names, is resumed. During the call
    the streams, warnings filters, logging and environment of the process are changed for all its threads.

    Raises:
        CheckFailed: with everything that is wrong; nothing was started.
        FinetuneError: the run cannot be started: its directory belongs to something else or is in use, a model cannot
            be downloaded, the cluster refuses the job, or this process is already running finetune.
    """
    from finetune.api.run_handle import RunHandle

    with _isolated():
        checked = _check(_arguments(overrides, config_dir, config_name))
        for key in ("check", "dry_run"):
            if checked.cfg[key]:
                what = f"with {key}=true nothing is started."
                raise CheckFailed([Problem(key, what, "Leave it out; finetune.api.check only checks.")])
        executor, path = _submit(checked)
        return RunHandle(path, executor)


@contextmanager
def _isolated() -> Iterator[None]:
    """Restore the process afterwards: Hydra's state, signals, environment, logging; one thread at a time.

    Raises:
        FinetuneError: this process is already running finetune.
    """
    from finetune.runner.process_state import preserve_process_state

    with _one_at_a_time, preserve_process_state():
        # Imported inside: the imports change some of the state too.
        import warnings

        from finetune import library_settings
        from finetune.config import resolvers
        from finetune.console import be_quiet

        be_quiet()
        warnings.simplefilter("ignore")
        library_settings.apply()
        resolvers.reset_moment()
        yield


def _arguments(overrides: Sequence[str], config_dir: Path | None, config_name: str) -> Arguments:
    from finetune.config.command_line import Arguments

    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise TypeError(f"overrides must be a list of texts such as ['data.path=pairs.csv'], not {overrides!r}")
    return Arguments(list(overrides), config_dir=config_dir, config_name=config_name)


def _check(arguments: Arguments) -> CheckedRun:
    from finetune.preflight.check import check_run, check_single_run, is_for_cluster

    check_single_run(arguments, is_a_job=is_for_cluster(arguments))
    return check_run(arguments)


def _submit(checked: CheckedRun) -> tuple[Executor, Path]:
    """Submit a run to the executor of its config, and return that and the run directory."""
    from finetune.executors.single_run import submit_local, submit_slurm
    from finetune.preflight.check import is_for_cluster
    from finetune.preflight.resume import expected_folder
    from finetune.preflight.slurm import slurm_settings

    settings = slurm_settings(checked.cfg)
    if settings is not None and is_for_cluster(checked.arguments):
        return submit_slurm(checked, settings, expected_folder(checked.cfg).absolute(), report=lambda _line: None)
    return submit_local(checked)

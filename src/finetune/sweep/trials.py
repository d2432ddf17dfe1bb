"""The trials of a sweep: the run that each of them is, whether that exists already, and how it ended."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.differences import NOT_COMPARED
from finetune.config.renames import former_targets
from finetune.config.values import has_slurm_launcher
from finetune.errors import FinetuneError, Problem
from finetune.executors.base import RunRequest
from finetune.runner.run_setup import check_same_run, resolved
from finetune.runs.directory import RunDirectory
from finetune.runs.record import read_run

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset

PRUNED = "pruned"  # the reason in the status of a run that was stopped because others were better
_MAX_NAME = 80  # characters of the overrides in a directory's name


@dataclass(frozen=True)
class Trial:
    """One trial: all its overrides, those that vary in the sweep, its run directory, its processes on each machine."""

    overrides: list[str]
    own_overrides: list[str]
    run: Path
    processes: int = 1

    @property
    def request(self) -> RunRequest:
        """The trial as an executor takes it."""
        return RunRequest(self.run, self.overrides, self.processes)


@dataclass(frozen=True)
class TrialResult:
    """A trial that ended: `state` and `reason` as in its status, and the metric and value to rank it by, if any."""

    trial: Trial
    state: str
    reason: str
    metric: str
    value: float | None

    def summary(self) -> str:
        """Return how it ended, in a few words."""
        if self.reason == PRUNED:
            return PRUNED
        if self.state != "finished":
            return f"{self.state}: {self.reason}" if self.reason else self.state
        if self.value is None:
            return f"finished, without {self.metric}" if self.metric else "not evaluated"
        return f"{self.metric} {self.value:.4f}"

    @property
    def is_failure(self) -> bool:
        """Whether it neither finished nor was pruned."""
        return self.state != "finished" and self.reason != PRUNED


def directory_of(cfg: DictConfig, own_overrides: Sequence[str], fingerprint: str) -> Path:
    """Return the run directory of a trial: the one of its name, or one whose name follows from its config and data.

    So the same trial is found again by the same command, by a larger grid, and by a search that draws it twice.
    """
    folder = Path(cfg.output_root) / str(cfg.experiment)
    if cfg.name is not None:
        return folder / str(cfg.name)
    compared = {key: value for key, value in resolved(cfg).items() if key not in NOT_COMPARED}
    digest = digest_of([former_targets(compared), fingerprint])  # as in earlier versions, whose runs are found
    # The rest of the name differs if another sweep varied other keys.
    if folder.is_dir():
        for existing in folder.glob(f"*_{digest}"):
            return existing
    return folder / f"{_slug(own_overrides)}_{digest}"


def digest_of(content: object) -> str:
    """Return ten hexadecimal characters that depend on the content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]


def check_directory(cfg: DictConfig, path: Path, dataset: Dataset) -> list[Problem]:
    """Check that what exists at the run directory of a trial is that trial, and that no process works on it."""
    if not path.exists():
        return []
    run = RunDirectory(path)
    try:
        if check_same_run(cfg, run, dataset) != "finished":
            _check_not_in_use(run, is_for_a_cluster=has_slurm_launcher(cfg))
    except FinetuneError as error:
        return [Problem(path.name, error.what, error.advice)]
    return []


def _check_not_in_use(run: RunDirectory, *, is_for_a_cluster: bool) -> None:
    record = read_run(run.path)
    if not record.has_active_job:
        with run.lock():
            pass
    elif not is_for_a_cluster:
        what = f"it is {record.state} as job {record.job} of a cluster."
        raise FinetuneError(what, f"`finetune runs cancel {shlex.quote(str(run.path))}` cancels it.")


def is_finished(path: Path) -> bool:
    """Return whether the run directory exists and its run finished."""
    return path.is_dir() and RunDirectory(path).read_status().get("state") == "finished"


def _slug(own_overrides: Sequence[str]) -> str:
    """Return the overrides as a part of a file name; of a path only its last part."""
    short = [re.sub(r"=.*/(?=[^/]+$)", "=", text) for text in own_overrides]
    return re.sub(r"[^\w.+=-]+", "-", "_".join(short), flags=re.ASCII).strip("-._")[:_MAX_NAME] or "point"

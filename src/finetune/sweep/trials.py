"""The points of a sweep: the run that each of them is, whether it is there already, how it ended."""

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
from finetune.config.values import has_own_launcher
from finetune.errors import FinetuneError, Problem
from finetune.runner.run_setup import check_same_run, resolved
from finetune.runs.directory import RunDirectory
from finetune.runs.record import read_run

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset

PRUNED = "pruned"  # the reason of a run that was stopped because others were better
_LONGEST = 80  # characters of what varies in a folder's name


@dataclass(frozen=True)
class Trial:
    """One point: all its overrides, those of them that are its own, and where its run is or will be."""

    overrides: list[str]
    mine: list[str]
    run: Path
    processes: int = 1


@dataclass(frozen=True)
class TrialResult:
    """A point that ended: `state` and `reason` as in its status, the metric that ranks it, `None` without a value."""

    point: Trial
    state: str
    reason: str
    metric: str
    value: float | None

    def said(self) -> str:
        """Return how it went, in a few words."""
        if self.reason == PRUNED:
            return PRUNED
        if self.state != "finished":
            return f"{self.state}: {self.reason}" if self.reason else self.state
        if self.value is None:
            return f"finished, without {self.metric}" if self.metric else "not evaluated"
        return f"{self.metric} {self.value:.4f}"

    @property
    def is_failure(self) -> bool:
        """Whether it did not come to the end that it was meant to come to."""
        return self.state != "finished" and self.reason != PRUNED


def folder_of(cfg: DictConfig, mine: Sequence[str], fingerprint: str) -> Path:
    """Return where the run of a point is: the folder of its name, or one that its config and data decide.

    So the same point is found again by the same command, by a larger grid, and by a search that draws it twice.
    """
    folder = Path(cfg.output_root) / str(cfg.experiment)
    if cfg.name is not None:
        return folder / str(cfg.name)
    same = {key: value for key, value in resolved(cfg).items() if key not in NOT_COMPARED}
    digest = digest_of([same, fingerprint])
    # What varies in a sweep may not be what varied in another.
    found = next(folder.glob(f"*_{digest}"), None) if folder.is_dir() else None
    return found or folder / f"{_words(mine)}_{digest}"


def digest_of(content: object) -> str:
    """Return ten characters that are others for other content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]


def check_folder(cfg: DictConfig, run: Path, dataset: Dataset) -> list[Problem]:
    """Look whether what stands where a point is to run is that point, and nobody is at it."""
    if not run.exists():
        return []
    directory = RunDirectory(run)
    try:
        if check_same_run(cfg, directory, dataset) != "finished":
            _check_free(directory, is_for_a_cluster=has_own_launcher(cfg))
    except FinetuneError as error:
        return [Problem(run.name, error.what, error.advice)]
    return []


def _check_free(run: RunDirectory, *, is_for_a_cluster: bool) -> None:
    record = read_run(run.path)
    if not record.has_active_job:
        with run.lock():
            pass
    elif not is_for_a_cluster:
        what = f"it is {record.state} as job {record.job} of a cluster."
        raise FinetuneError(what, f"`finetune runs cancel {shlex.quote(str(run.path))}` ends it.")


def is_finished(run: Path) -> bool:
    """Return whether the run is there and went to its end."""
    return run.is_dir() and RunDirectory(run).read_status().get("state") == "finished"


def _words(mine: Sequence[str]) -> str:
    # A path is known by its last part.
    short = (re.sub(r"=.*/(?=[^/]+$)", "=", text) for text in mine)
    return re.sub(r"[^\w.+=-]+", "-", "_".join(short), flags=re.ASCII).strip("-._")[:_LONGEST] or "point"

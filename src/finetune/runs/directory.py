"""The run directory: plain files that hold everything known about a run.

config.yaml  overrides.yaml  data.json  environment.json  status.json  metrics.jsonl  run.log  lock  trackers.json
checkpoints/  model/  report.html  report.md  report.json  diverged.json  job.json  ranks/
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from finetune.errors import FinetuneError, RunError
from finetune.runs import metrics_file
from finetune.runs.atomic import explain, explained, read_mapping, sync_folder, write_json_atomically
from finetune.runs.checkpoints import Checkpoints
from finetune.runs.failure_causes import Cause
from finetune.runs.lock import HeldLock, hold_lock, is_locked

_TRACKERS = threading.Lock()

State = Literal["pending", "created", "validating", "running", "finished", "failed", "interrupted"]
# The stage that the last process of the run reached.
Stage = Literal["preparing", "training", "trained"]
START_OF_OUTPUT = "== The process starts here. ==\n"  # in the output of a process
_LAST_LINES, _LAST_BYTES, _LONGEST_LINE = 20, 2**15, 500  # of that output; a line in characters
_ALIVE = ("created", "validating", "running")


# Writes the first files of a run into a draft of its directory; the string is the final name of the directory.
WriteFirstFiles = Callable[["RunDirectory", str], None]


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run: the paths of its files, and reading and writing those that change during the run."""

    path: Path

    @classmethod
    def create(
        cls, parent: Path, name: str | None, stem: str, write_files: WriteFirstFiles | None = None
    ) -> RunDirectory:
        """Create a new run directory: `parent/name`, or without a name one named after the time and `stem`.

        The directory is created atomically with everything that `write_files` writes into it. Two processes never get
        the same directory: `-2` is appended to a generated name that is taken.

        Raises:
            FinetuneError: `parent/name` exists already.
            RunError: the operating system refuses.
        """
        _make_parents(parent)
        draft = cls(parent / f".{os.getpid()}-{threading.get_ident()}-{secrets.token_hex(4)}.new")
        try:
            with explained(f"create a run directory in {parent}"):
                draft.path.mkdir()
                (draft.path / "lock").touch()  # so that it is not empty, see _publish
            if name is not None:
                if not _publish(draft, parent / name, write_files):
                    what = f"the run {parent / name} exists already."
                    raise FinetuneError(what, "Choose another name=, or resume the existing run.")
                return cls(parent / name)
            generated = f"{datetime.now().strftime('%Y-%m-%d_%H-%M-%S')}_{_slug(stem)}"
            path, attempt = parent / generated, 1
            while not _publish(draft, path, write_files):
                attempt += 1
                path = parent / f"{generated}-{attempt}"
            return cls(path)
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Return the run directory at `path`.

        Raises:
            FinetuneError: it does not exist.
        """
        if not path.is_dir():
            raise FinetuneError(f"there is no run directory {path}.", "Check the spelling and output_root.")
        return cls(path)

    @property
    def name(self) -> str:  # noqa: D102
        return self.path.name

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def overrides_path(self) -> Path:
        """The overrides of the command line."""
        return self.path / "overrides.yaml"

    @property
    def data_path(self) -> Path:
        """The fingerprint of the data, which must not change when the run is resumed."""
        return self.path / "data.json"

    @property
    def status_path(self) -> Path:
        """The current state, see `write_status`."""
        return self.path / "status.json"

    @property
    def metrics_path(self) -> Path:
        """The logged metrics, one JSON object per line, see `append_metrics`."""
        return self.path / "metrics.jsonl"

    @property
    def environment_path(self) -> Path:
        """Versions, machine, git state."""
        return self.path / "environment.json"

    @property
    def log_path(self) -> Path:
        """The terminal output, and the log records of libraries."""
        return self.path / "run.log"

    @property
    def lock_path(self) -> Path:
        """The lock file, locked by the process that works on the run for as long as it lives."""
        return self.path / "lock"

    @property
    def trackers_path(self) -> Path:
        """The id of this run in each experiment tracker, with which a resumed run continues the same entry."""
        return self.path / "trackers.json"

    @property
    def job_path(self) -> Path:
        """The cluster job of the run, if it was submitted as one."""
        return self.path / "job.json"

    @property
    def ranks(self) -> Path:
        """Folder with the output of each process of a job, and of those of several that do not print."""
        return self.path / "ranks"

    def rank_output(self, rank: int) -> Path:
        """File with the output of one process; of the first one, unless the run is a job, only where it crashed."""
        return self.ranks / f"{rank}.log"

    def last_output(self, rank: int) -> list[str]:
        """Return the last 20 lines of that file; if the process crashed, the first 20 of faulthandler's report.

        What an earlier process wrote, before the run was resumed, is not returned.
        """
        try:
            with self.rank_output(rank).open("rb") as file:
                file.seek(-min(_LAST_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = text.rpartition(START_OF_OUTPUT)[2].splitlines()
        lines = [line for line in lines if line and not line.startswith("Extension modules:")]
        crashes = [number for number, line in enumerate(lines) if line.startswith("Fatal Python error")]
        start = crashes[-1] if crashes else -_LAST_LINES
        return [line[:_LONGEST_LINE] for line in lines[start:][:_LAST_LINES]]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def saved(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.path)

    @property
    def last_checkpoint(self) -> Path:
        """A link to the newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def diverged_path(self) -> Path:
        """The batch with a non-finite loss, if there was one."""
        return self.path / "diverged.json"

    @property
    def model(self) -> Path:
        """Folder of the exported model."""
        return self.path / "model"

    @property
    def report_page_path(self) -> Path:
        """The report as an HTML page."""
        return self.path / "report.html"

    @property
    def report_path(self) -> Path:
        """The report as Markdown."""
        return self.path / "report.md"

    @property
    def report_data_path(self) -> Path:
        """The report as JSON, from which the page and the Markdown are rendered."""
        return self.path / "report.json"

    def lock(self) -> AbstractContextManager[HeldLock]:
        """Lock the run for this process inside the `with` block.

        Raises:
            RunError: another process holds the lock.
        """
        return hold_lock(self.lock_path, f"the run {self.path}")

    def write_status(
        self,
        state: State,
        reason: str = "",
        step: int | None = None,
        eta_seconds: float | None = None,
        cause: Cause | None = None,
        stage: Stage | None = None,
        **facts: object,
    ) -> None:
        """Replace status.json atomically; times are UTC.

        `cause` is the category of what ended the run, `reason` a sentence about it. `started_at`, and `stage` and
        `step` where they are None, are copied from the previous status, so that code that reports a failure needs no
        access to them.

        Raises:
            RunError: the operating system refuses.
        """
        before = self.read_status()
        if step is None:
            step = before.get("step")
        if stage is None:
            stage = before.get("stage")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        status = {
            "state": state,
            "reason": reason,
            "cause": cause,
            "time": now,
            "started_at": before.get("started_at", now),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "step": step,
            "eta_seconds": eta_seconds,
            "stage": stage,
        }
        write_json_atomically(self.status_path, status | facts)

    def read_status(self) -> dict[str, Any]:
        """Return the last status; empty if there is none, or the file is not a JSON object. Raises RunError."""
        return _read_object(self.status_path)

    def read_job(self) -> dict[str, Any]:
        """Return the cluster job of the run, see `jobs.write_job`; empty if it is not a job. Raises RunError."""
        return _read_object(self.job_path)

    def read_environment(self) -> dict[str, Any]:
        """Return the environment the run was started in, see `runs/environment.py`. Raises OSError or ValueError."""
        environment: dict[str, Any] = json.loads(self.environment_path.read_text(encoding="utf-8"))
        return environment

    def read_trackers(self) -> dict[str, str]:
        """Return the run's id in each tracker it was logged to; empty if the file cannot be read."""
        ids = read_mapping(self.trackers_path)
        return {name: str(run_id) for name, run_id in ids.items()}

    def write_tracker(self, name: str, run_id: str) -> None:
        """Store the run's id in a tracker, atomically. Raises RunError if the operating system refuses."""
        with _TRACKERS:  # each tracker has its own thread
            write_json_atomically(self.trackers_path, self.read_trackers() | {name: run_id})

    def effective_status(self) -> dict[str, Any]:
        """Return the last status, corrected if it claims a running process while no process holds the lock.

        Such a run counts as interrupted: its process was killed, or its machine was lost.
        """
        status = self.read_status()
        if status.get("state") not in _ALIVE or is_locked(self.lock_path) is not False:
            return status
        cause: Cause = "killed"
        what = "The process was killed"
        if status.get("host") != socket.gethostname():
            cause = "node lost"
            what = f"The process was killed, or its machine {status.get('host')} was lost"
        reason = f"{what}; the last recorded step is {status.get('step') or 0}."
        return status | {"state": "interrupted", "cause": cause, "reason": reason, "eta_seconds": None}

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, unbuffered; NaN and infinities become null. Raises RunError."""
        metrics_file.append_record(self.metrics_path, record)

    def remove_metrics_after(self, step: int) -> None:
        """Remove the records after `step`, which a run resumed from there writes again. Raises RunError."""
        metrics_file.remove_records_after(self.metrics_path, step)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return all complete records, oldest first; incomplete lines of a killed process are skipped."""
        return metrics_file.read_records(self.metrics_path)

    def read_metrics_from(self, offset: int) -> tuple[list[dict[str, Any]], int]:
        """Return the complete records after `offset` bytes, and the offset to continue from; for polling."""
        return metrics_file.read_records_from(self.metrics_path, offset)


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is no file, or no object in it. Raises RunError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise explain(error, f"read {path}") from error
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _make_parents(parent: Path) -> None:
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        files = [path for path in (parent, *parent.parents) if path.is_file()]
        blocker = [*files, parent][0]
        what = f"could not create the folder {parent}: {blocker} is a file."
        raise RunError(what, "Choose another folder with output_root=…") from error
    except OSError as error:
        raise explain(error, f"create the folder {parent}") from error


def _publish(draft: RunDirectory, path: Path, write_files: WriteFirstFiles | None) -> bool:
    """Write the first files into the draft and rename it to `path`; returns False if `path` exists."""
    with explained(f"create the run directory {path}"):
        if path.exists() or path.is_symlink():
            return False
        if write_files is not None:
            write_files(draft, path.name)
        try:
            draft.path.rename(path)  # fails if another run's directory is there, since those are never empty
        except (FileExistsError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        sync_folder(path.parent)
    return True


def _slug(stem: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", stem).strip("-.")[:60] or "run"

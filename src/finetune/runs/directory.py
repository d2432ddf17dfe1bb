"""The run directory: plain files that alone say what a run was, is and found.

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
from itertools import count
from pathlib import Path
from typing import Any, Literal

from finetune.errors import FinetuneError, RunError
from finetune.runs.atomic import (
    explain,
    explained,
    sync_folder,
    to_json,
    write_json_atomically,
    write_text_atomically,
)
from finetune.runs.checkpoints import Checkpoints
from finetune.runs.failure_causes import Cause
from finetune.runs.lock import hold_lock, is_locked

_TRACKERS = threading.Lock()

State = Literal["pending", "created", "validating", "running", "finished", "failed", "interrupted"]
# How far the last process of the run came.
Stage = Literal["preparing", "training", "trained"]
_ALIVE = ("created", "validating", "running")


# Writes what a run is into its directory, which will have this name.
Record = Callable[["RunDirectory", str], None]


@dataclass(frozen=True)
class RunDirectory:
    """One run's folder: where its files are, and the writing of those that change while it runs."""

    path: Path

    @classmethod
    def claim(cls, parent: Path, name: str | None, stem: str, record: Record | None = None) -> RunDirectory:
        """Makes a directory that is this process's alone: `parent/name`, or one named after the time and `stem`.

        It appears with all that `record` writes into it, or, whatever ends the process, not at all. Two processes never
        get the same one: without a name the second gets `-2` at its end, with a name it gets a FinetuneError. Raises
        RunError when the system refuses.
        """
        _make_parents(parent)
        draft = cls(parent / f".{os.getpid()}-{threading.get_ident()}-{secrets.token_hex(4)}.new")
        try:
            with explained(f"make a run directory in {parent}"):
                draft.path.mkdir()
                (draft.path / "lock").touch()  # so that it is not empty, see _appears
            if name is not None:
                if not _appears(draft, parent / name, record):
                    what = f"the run {parent / name} exists already."
                    raise FinetuneError(what, "Give this one another name=, or go on with it.")
                return cls(parent / name)
            base = f"{datetime.now().strftime('%Y-%m-%d_%H-%M-%S')}_{_slug(stem)}"
            names = (base if n == 1 else f"{base}-{n}" for n in count(1))
            return cls(next(parent / free for free in names if _appears(draft, parent / free, record)))
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run directory at `path`, which must exist; raises FinetuneError."""
        if not path.is_dir():
            raise FinetuneError(f"there is no run directory {path}.", "Check the spelling, or where outputs are kept.")
        return cls(path)

    @property
    def name(self) -> str:  # noqa: D102
        return self.path.name

    @property
    def config_path(self) -> Path:
        """The whole resolved config."""
        return self.path / "config.yaml"

    @property
    def overrides_path(self) -> Path:
        """What was typed."""
        return self.path / "overrides.yaml"

    @property
    def data_path(self) -> Path:
        """The fingerprint of the data, which must be the same when the run goes on."""
        return self.path / "data.json"

    @property
    def status_path(self) -> Path:
        """The state at this moment, see `write_status`."""
        return self.path / "status.json"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line, see `append_metrics`."""
        return self.path / "metrics.jsonl"

    @property
    def environment_path(self) -> Path:
        """Versions, machine, git state."""
        return self.path / "environment.json"

    @property
    def log_path(self) -> Path:
        """What was said in the terminal, and what libraries logged."""
        return self.path / "run.log"

    @property
    def lock_path(self) -> Path:
        """Held by the process that works on the run, as long as it lives."""
        return self.path / "lock"

    @property
    def trackers_path(self) -> Path:
        """The id that each tracker gave to this run, so that it goes on with it when the run does."""
        return self.path / "trackers.json"

    @property
    def job_path(self) -> Path:
        """Which job of a cluster the run is, if it is one."""
        return self.path / "job.json"

    @property
    def ranks(self) -> Path:
        """Folder of what each process of a job printed."""
        return self.path / "ranks"

    @property
    def checkpoints(self) -> Path:
        """Folder of what is needed to resume."""
        return self.path / "checkpoints"

    @property
    def saved(self) -> Checkpoints:
        """The checkpoints themselves."""
        return Checkpoints(self.path)

    @property
    def last_checkpoint(self) -> Path:
        """A link to the newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def diverged_path(self) -> Path:
        """The batch whose loss was no number, where one was."""
        return self.path / "diverged.json"

    @property
    def model(self) -> Path:
        """Folder of what is needed to use the model."""
        return self.path / "model"

    @property
    def report_page_path(self) -> Path:
        """The report as a page, for people."""
        return self.path / "report.html"

    @property
    def report_path(self) -> Path:
        """The report as Markdown."""
        return self.path / "report.md"

    @property
    def report_data_path(self) -> Path:
        """The same for programs."""
        return self.path / "report.json"

    def lock(self) -> AbstractContextManager[object]:
        """Keeps other processes out while the `with` lasts; raises RunError when one is in already."""
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
        """Replaces status.json, atomically; times are UTC. `cause` is the kind of what ended it, `reason` a sentence.

        `started_at`, `stage` and the last `step` stay from the status before where they are not given again, so that
        whoever reports a failure need not know them. Raises RunError when the system refuses.
        """
        before = self.read_status()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        status = {
            "state": state,
            "reason": reason,
            "cause": cause,
            "time": now,
            "started_at": before.get("started_at", now),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "step": before.get("step") if step is None else step,
            "eta_seconds": eta_seconds,
            "stage": before.get("stage") if stage is None else stage,
        }
        write_json_atomically(self.status_path, status | facts)

    def read_status(self) -> dict[str, Any]:
        """The last status; empty where none was written or something else stands in its place."""
        return _read_object(self.status_path)

    def read_job(self) -> dict[str, Any]:
        """The job that the run is, see `jobs.write_job`; empty where it is none. Raises RunError."""
        return _read_object(self.job_path)

    def read_environment(self) -> dict[str, Any]:
        """What the run began on, see `runs/environment.py`. Raises OSError or ValueError where it was taken away."""
        environment: dict[str, Any] = json.loads(self.environment_path.read_text(encoding="utf-8"))
        return environment

    def read_trackers(self) -> dict[str, str]:
        """The run's id in each tracker that it was ever told to; empty where nothing can be read."""
        try:
            ids = json.loads(self.trackers_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(name): str(run_id) for name, run_id in ids.items()} if isinstance(ids, dict) else {}

    def write_tracker(self, name: str, run_id: str) -> None:
        """Keeps the run's id in a tracker, atomically. Raises RunError when the system refuses."""
        with _TRACKERS:  # each tracker has a thread of its own
            write_json_atomically(self.trackers_path, self.read_trackers() | {name: run_id})

    def effective_status(self) -> dict[str, Any]:
        """The last status, or, where it says that a process has the run and none has its lock, what became of that."""
        status = self.read_status()
        if status.get("state") not in _ALIVE or is_locked(self.lock_path) is not False:
            return status
        here = status.get("host") == socket.gethostname()
        cause: Cause = "killed" if here else "node lost"
        what = "The process was killed" if here else f"The process was killed, or its machine {status.get('host')} lost"
        reason = f"{what}; the last step that was written down is {status.get('step') or 0}."
        return status | {"state": "interrupted", "cause": cause, "reason": reason, "eta_seconds": None}

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one line to metrics.jsonl, seen at once by readers; NaN and infinities become null. Raises RunError."""
        line = to_json(record).encode("utf-8", "backslashreplace") + b"\n"
        with explained(f"write {self.metrics_path}"), self.metrics_path.open("ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                # A process killed in mid-line left half of one: it must not swallow this line too.
                line = line if file.read(1) == b"\n" else b"\n" + line
            _write_all(file.fileno(), line)

    def remove_metrics_after(self, step: int) -> None:
        """Drops the records past `step`, which a run that goes on from there will write again. Raises RunError."""
        if self.metrics_path.exists():
            kept = [record for record in self.read_metrics() if (record.get("step") or 0) <= step]
            write_text_atomically(self.metrics_path, "".join(to_json(record) + "\n" for record in kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole records, oldest first; half lines that a killed process left are passed over."""
        try:
            lines = self.metrics_path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise explain(error, f"read {self.metrics_path}") from error
        records = (_record(line) for line in lines)
        return [record for record in records if record is not None]

    def read_metrics_from(self, place: int) -> tuple[list[dict[str, Any]], int]:
        """The whole records after so many bytes, and the bytes up to there: for who looks again and again."""
        if not self.metrics_path.is_file():
            return [], 0
        with explained(f"read {self.metrics_path}"), self.metrics_path.open("rb") as file:
            # A run that goes on drops what it will write again.
            file.seek(place if place <= os.fstat(file.fileno()).st_size else 0)
            begin = file.tell()
            whole, newline, _ = file.read().rpartition(b"\n")
        records = (_record(line) for line in whole.splitlines())
        return [record for record in records if record is not None], begin + len(whole) + len(newline)


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, or something else."""
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
        blocker = next((place for place in (parent, *parent.parents) if place.is_file()), parent)
        raise RunError(
            f"could not make the folder {parent}: {blocker} is a file.", "Choose another place with output_root=…"
        ) from error
    except OSError as error:
        raise explain(error, f"make the folder {parent}") from error


def _appears(draft: RunDirectory, path: Path, record: Record | None) -> bool:
    """True if the draft, recorded under its name, became the directory `path`; False if something is there."""
    with explained(f"make the run directory {path}"):
        if path.exists() or path.is_symlink():
            return False
        if record is not None:
            record(draft, path.name)
        try:
            draft.path.rename(path)  # onto another run's directory it fails, since none is empty
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


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _write_all(handle: int, line: bytes) -> None:
    # A nearly full disk takes a part and raises only on the next try.
    while line:
        line = line[os.write(handle, line) :]

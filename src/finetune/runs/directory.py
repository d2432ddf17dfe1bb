"""The run directory: plain files that alone say what a run was, is and found.

config.yaml  overrides.yaml  data.json  environment.json  status.json  metrics.jsonl  run.log  lock
checkpoints/  model/  report.md  report.json
"""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

from finetune.errors import FinetuneError, RunError
from finetune.runs.atomic import explain, explained, to_json, write_json_atomically, write_text_atomically
from finetune.runs.lock import held

State = Literal["created", "validating", "running", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class RunDirectory:
    """One run's folder: where its files are, and the writing of those that change while it runs."""

    path: Path

    @classmethod
    def claim(cls, parent: Path, name: str | None, stem: str) -> RunDirectory:
        """Makes a directory that is this process's alone: `parent/name`, or one named after the time and `stem`.

        Two processes never get the same one: without a name the second gets `-2` at its end, with a name
        it gets a FinetuneError. Raises RunError when the system refuses.
        """
        _make_parents(parent)
        if name is not None:
            path = parent / name
            if not _make(path):
                raise FinetuneError(f"the run {path} exists already.", "Give this one another name=, or go on with it.")
            return cls(path)
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        base = f"{stamp}_{_slug(stem)}"
        names = (base if n == 1 else f"{base}-{n}" for n in count(1))
        return cls(next(parent / name for name in names if _make(parent / name)))

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
    def checkpoints(self) -> Path:
        """Folder of what is needed to resume."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The one checkpoint that a run goes on from."""
        return self.checkpoints / "last.ckpt"

    @property
    def model(self) -> Path:
        """Folder of what is needed to use the model."""
        return self.path / "model"

    @property
    def report_path(self) -> Path:
        """The report for people."""
        return self.path / "report.md"

    @property
    def report_data_path(self) -> Path:
        """The same for programs."""
        return self.path / "report.json"

    def lock(self) -> AbstractContextManager[object]:
        """Keeps other processes out while the `with` lasts; raises RunError when one is in already."""
        return held(self.path / "lock", f"the run {self.path}")

    def write_status(
        self, state: State, reason: str = "", step: int | None = None, eta_seconds: float | None = None, **facts: object
    ) -> None:
        """Replaces status.json, atomically; times are UTC.

        `started_at` and the last `step` stay from the status before where they are not given anew, so that
        whoever reports a failure need not know them. Raises RunError when the system refuses.
        """
        before = self.read_status()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        status = {
            "state": state,
            "reason": reason,
            "time": now,
            "started_at": before.get("started_at", now),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "step": before.get("step") if step is None else step,
            "eta_seconds": eta_seconds,
        }
        write_json_atomically(self.status_path, status | facts)

    def read_status(self) -> dict[str, Any]:
        """The last status; empty where none was written or something else stands in its place."""
        try:
            status = json.loads(self.status_path.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise explain(error, f"read {self.status_path}") from error
        except ValueError:
            return {}
        return status if isinstance(status, dict) else {}

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one line to metrics.jsonl, seen at once by readers; NaN and infinities become null. Raises RunError."""
        line = to_json(record).encode("utf-8", "backslashreplace") + b"\n"
        with explained(f"write {self.metrics_path}"), self.metrics_path.open("ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                # A process killed in mid-line left half of one: it must not swallow this line too.
                line = line if file.read(1) == b"\n" else b"\n" + line
            _write_all(file.fileno(), line)

    def forget_metrics_after(self, step: int) -> None:
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


def _make(path: Path) -> bool:
    """True if this call made the directory, False if something of that name is there."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise explain(error, f"make the run directory {path}") from error
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

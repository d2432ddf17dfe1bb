"""Taking a run away: never a living one, never what is no run, never outside of its root."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.runs.atomic import explained
from finetune.runs.directory import RunDirectory
from finetune.runs.record import ENDED, is_run, read_run

_AWAY = ".removed-"  # a run on its way out; names of runs never begin with a dot


def check_deletable(path: Path, root: Path) -> None:
    """Raise FinetuneError if this is not a run of the folder `root` that may be removed."""
    name = f"{path} is not removed"
    if path.is_symlink() or path.parent.is_symlink():
        raise FinetuneError(f"{name}: it is a link to another place.", "Remove the link yourself.")
    if path.resolve().parent.parent != root.resolve():
        raise FinetuneError(f"{name}: it is no run in {root}.", "Say with --root where it is.")
    if not is_run(path):
        raise FinetuneError(f"{name}: it is no run of finetune.", "Remove it yourself if that is what you want.")


def delete_run(path: Path, root: Path) -> None:
    """Remove one run whole: for everybody else it is there until it is gone.

    Raises FinetuneError if it must not be removed, and RunError if a process has it, or the system refuses.
    """
    check_deletable(path, root)
    run = RunDirectory(path)
    # As long as this process has the lock, nobody can go on with the run.
    with run.lock() as locked:
        record = read_run(path)
        if record.has_active_job:
            what = f"{path} is not removed: it is {record.state} as job {record.job} of a cluster."
            raise FinetuneError(what, f"End it first: finetune runs cancel {shlex.quote(str(path))}")
        if not locked and record.state not in ENDED:
            advice = "Remove it yourself when you are sure that it does not run."
            raise FinetuneError(f"{path} is not removed: {record.reason}", advice)
        away = path.with_name(f"{_AWAY}{path.name[:100]}.{secrets.token_hex(4)}")
        with explained(f"remove {path}"):
            path.rename(away)
            shutil.rmtree(away)
    # What a removal that was killed left behind was asked for then.
    for leftover in path.parent.glob(f"{_AWAY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with contextlib.suppress(OSError):  # other runs are still in it
        path.parent.rmdir()

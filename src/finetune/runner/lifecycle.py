"""How a run ended, written down whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from finetune import signals
from finetune.config.commands import resume_command
from finetune.console import print_error, say
from finetune.errors import FinetuneError, Interrupted, Refused, RunError
from finetune.runner.rendezvous import ExitReport, Rendezvous
from finetune.runner.slurm_job import record_job, stop_reason
from finetune.runs.directory import RunDirectory, State
from finetune.runs.failure_causes import Cause, RemoteRankError, cause_of, is_stop, out_of_memory_error


@contextmanager
def run_lifecycle(run: RunDirectory, was_there: bool = False, peers: Rendezvous | None = None) -> Iterator[None]:
    """Hold the run's lock and keep its status true: validating, then finished, failed or interrupted with the reason.

    What is inside says when it is running. What became of a run that `was_there` is said first. Where other processes
    of the run are its `peers`, what ended it may have happened to one of them.

    Raises:
        FinetuneError: another process has the run.
        Interrupted: somebody or the system stopped it; `resume=` goes on.
        RunError: memory or disk ran out.
    """
    before = run.effective_status()
    # In training, StopOnSignal takes these signals over.
    with _locked(run), signals.Listening(signals.STOPS, signals.raise_stop):
        if was_there and before.get("cause") in ("killed", "node lost"):
            say(f"before: {before['reason']}")
        try:
            record_job(run)
            run.write_status("validating", stage="preparing")
            with _watched(run, peers):
                yield
            last = run.read_status()  # a training that ended early says why
            run.write_status("finished", last.get("reason", ""), cause=last.get("cause"))
            if peers is not None:
                peers.finish()
        except BaseException as error:
            # Nothing may keep the reason from being written; torchrun for one ends all when one process has failed.
            with signals.Listening(signals.ALL, signal.SIG_IGN):
                found = _noted(run, _true(error, peers), before.get("step") or 0)
            if found is error:
                raise
            raise found from error


def _watched(run: RunDirectory, peers: Rendezvous | None) -> AbstractContextManager[None]:
    def end(error: RemoteRankError) -> None:
        found = _noted(run, error)
        assert isinstance(found, FinetuneError)
        print_error(found)
        os._exit(found.exit_code)  # the main thread waits for a process that is gone

    return contextlib.nullcontext() if peers is None else peers.watched(end)


def _true(error: BaseException, peers: Rendezvous | None) -> BaseException:
    """Return what ended the run, which may be an error of another process, and tell it to the others."""
    if peers is None:
        return error
    found = peers.truth(error)
    peers.end(ExitReport.of(found))
    return found


@contextmanager
def _locked(run: RunDirectory) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(run.lock())
        except RunError as error:  # here it is a mistake in what was asked: nothing was started
            raise FinetuneError(error.what, error.advice) from error
        yield


def _noted(run: RunDirectory, error: BaseException, first_step: int = 0) -> BaseException:
    """Write down what ended the run, which began at `first_step`, and return what is to be said about it."""
    go_on = resume_command(run.path)
    if is_stop(error) or (signals.asked() and not isinstance(error, FinetuneError)):
        what = error.what if isinstance(error, Interrupted) else _stopped(run)
        stop = stop_reason(has_moved=(run.read_status().get("step") or 0) > first_step)
        if stop is None:
            _write(run, "interrupted", what, "stopped")
        else:
            what = f"{what} {stop.what}"
            _write(run, "interrupted", what, stop.cause, will_resume=stop.will_resume)
        return Interrupted(what, "" if stop is not None and stop.will_resume else f"Go on with: {go_on}")
    if isinstance(error, FinetuneError):
        _write(run, "failed", error.what, cause_of(error))
        if error.exit_code == FinetuneError.exit_code and not run.checkpoints.exists():
            # A mistake that only showed while building (a damaged model): there is no run to speak of.
            shutil.rmtree(run.path, ignore_errors=True)
        elif isinstance(error, Refused):
            return Refused(error.what, f"{error.advice}\n  Then go on with: {go_on}".strip())
        return error
    shortage = out_of_memory_error(error)
    _write(run, "failed", shortage.what if shortage else f"{type(error).__name__}: {error}", cause_of(error))
    return shortage or error


def _stopped(run: RunDirectory) -> str:
    """Say which signal stopped a run that could not save first, at what stage, and what is saved of it."""
    status, saved = run.read_status(), run.saved.steps()
    stage = "while preparing"
    if status.get("stage") in ("training", "trained"):
        stage = f"at step {status.get('step')}" if status["stage"] == "training" else "while evaluating after training"
    elif status.get("state") == "running":
        stage = "while evaluating before training"
    if not saved:
        kept = "no checkpoint was written yet"
    elif status.get("stage") == "trained" and saved[-1] == status.get("step"):
        kept = f"all {saved[-1]:,} steps are saved"
    else:
        kept = f"the newest checkpoint is of step {saved[-1]:,}"
    by = signals.asked_by()
    return f"Stopped {f'by {by} ' if by else ''}{stage}; {kept}."


def _write(run: RunDirectory, state: State, reason: str, cause: Cause, will_resume: bool = False) -> None:
    # The disk may be full: the first error is the one to show, not that of writing it down.
    with contextlib.suppress(RunError):
        run.write_status(state, reason, cause=cause, will_resume=will_resume)

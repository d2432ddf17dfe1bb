"""The status of a run from its start to its end, written whatever ends it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn

from finetune import signals
from finetune.config.commands import resume_command
from finetune.console import log, print_error, say
from finetune.errors import FinetuneError, Interrupted, Refused, RunError
from finetune.runner.rendezvous import ExitReport, Rendezvous
from finetune.runner.slurm_job import record_job, stop_reason
from finetune.runs.directory import RunDirectory, State
from finetune.runs.failure_causes import Cause, RankGone, RemoteRankError, cause_of, explained_error, is_stop


@contextmanager
def run_lifecycle(run: RunDirectory, existed: bool = False, rendezvous: Rendezvous | None = None) -> Iterator[None]:
    """Hold the run's lock and keep its status: validating, then finished, failed or interrupted with the reason.

    The block itself writes when it is running. If the run `existed` and was killed, that is printed first. With other
    processes, connected by `rendezvous`, the reason may be an error of one of them.

    Raises:
        FinetuneError: another process works on the run.
        Interrupted: a signal stopped it; `resume=` continues it.
        RunError: memory or disk ran out.
    """
    before = run.effective_status()
    # In training, StopOnSignal handles these signals.
    with _locked(run), signals.Installed(signals.STOPS, signals.raise_stop):
        if existed and before.get("cause") in ("killed", "node lost"):
            say(f"before: {before['reason']}")
        try:
            record_job(run)
            run.write_status("validating", stage="preparing")
            with _watched(run, rendezvous):
                yield
            last = run.read_status()  # a training that ended early has written why
            run.write_status("finished", last.get("reason", ""), cause=last.get("cause"))
            if rendezvous is not None:
                rendezvous.finish()
        except BaseException as error:
            # Nothing may keep the reason from being written: torchrun, for one, ends all processes when one has failed.
            with signals.Installed(signals.ALL, signal.SIG_IGN):
                final = _record_end(run, _root_cause(error, rendezvous), before.get("step") or 0)
            if final is error:
                raise
            raise final from error


def _watched(run: RunDirectory, rendezvous: Rendezvous | None) -> AbstractContextManager[None]:
    """Return a context in which the failure of another process ends this one, which may wait for it forever."""

    if rendezvous is None:
        return contextlib.nullcontext()

    def end(error: RemoteRankError) -> None:
        final = _record_end(run, error)
        rendezvous.kill()
        exit_at_once(final)  # the main thread waits for a process that has ended

    return rendezvous.watched(end)


def _root_cause(error: BaseException, rendezvous: Rendezvous | None) -> BaseException:
    """Return what ended the run, which may be an error of another process, and report it to the others."""
    if rendezvous is None:
        return error
    cause = rendezvous.root_cause(error)
    rendezvous.end(ExitReport.of(cause))
    return cause


@contextmanager
def _locked(run: RunDirectory) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(run.lock())
        except RunError as error:  # here it is a user's mistake: nothing was started
            raise FinetuneError(error.what, error.advice) from error
        yield


def _record_end(run: RunDirectory, error: BaseException, first_step: int = 0) -> BaseException:
    """Write what ended the run, which began at `first_step`, and return the error to raise."""
    if is_stop(error) or (signals.stop_requested() and not isinstance(error, FinetuneError)):
        return _record_stop(run, error, first_step)
    if isinstance(error, FinetuneError):
        output = _last_output(run, error)
        if isinstance(error, RankGone):
            error.trace = "".join(f"{line}\n" for line in output)
        _write_status(run, "failed", error.what, cause_of(error), output=output)
        if error.exit_code == FinetuneError.exit_code and not run.checkpoints.exists():
            # A user's mistake that only showed while building (a damaged model): there is nothing to keep of the run.
            shutil.rmtree(run.path, ignore_errors=True)
        elif isinstance(error, Refused):
            return Refused(error.what, f"{error.advice}\n  Then resume it with: {resume_command(run.path)}".strip())
        return error
    explained = explained_error(error)
    if explained is not None:
        if not explained.trace:  # else it is printed and logged with the error
            log("".join(traceback.format_exception(error)))
        _write_status(run, "failed", explained.what, cause_of(error))
        return explained
    _write_status(run, "failed", f"{type(error).__name__}: {error}", cause_of(error))
    log("".join(traceback.format_exception(error)).rstrip())
    return error


def _record_stop(run: RunDirectory, error: BaseException, first_step: int) -> Interrupted:
    """Write that a signal stopped the run, and return the error to raise."""
    what = error.what if isinstance(error, Interrupted) else _describe_stop(run)
    advice = f"Resume it with: {resume_command(run.path)}"
    stop = stop_reason(has_progressed=(run.read_status().get("step") or 0) > first_step)
    if stop is None:
        _write_status(run, "interrupted", what, "stopped")
        return Interrupted(what, advice)
    what = f"{what} {stop.what}"
    _write_status(run, "interrupted", what, stop.cause, will_resume=stop.will_resume)
    if stop.will_resume:
        return Interrupted(what)
    return Interrupted(what, advice)


def _describe_stop(run: RunDirectory) -> str:
    """Return which signal stopped a run that could not save first, at what stage, and what is saved of it."""
    signal_name = signals.stop_signal()
    if signal_name is None:
        return f"Stopped {_stage(run)}; {_saved(run)}."
    return f"Stopped by {signal_name} {_stage(run)}; {_saved(run)}."


def _stage(run: RunDirectory) -> str:
    status = run.read_status()
    if status.get("stage") == "training":
        return f"at step {status.get('step')}"
    if status.get("stage") == "trained":
        return "while evaluating after training"
    if status.get("state") == "running":
        return "while evaluating before training"
    return "while preparing"


def _saved(run: RunDirectory) -> str:
    status, steps = run.read_status(), run.saved.steps()
    if not steps:
        return "no checkpoint was written yet"
    if status.get("stage") == "trained" and steps[-1] == status.get("step"):
        return f"all {steps[-1]:,} steps are saved"
    return f"the newest checkpoint is of step {steps[-1]:,}"


def _last_output(run: RunDirectory, error: FinetuneError) -> list[str]:
    """Return what the process printed last that an error comes from, if that is another one."""
    if isinstance(error, RemoteRankError) and error.rank is not None:
        return run.last_output(error.rank)
    return []


def exit_at_once(error: BaseException) -> NoReturn:
    """Print an error and end this process, without the exit handlers of libraries.

    These may wait for processes that have ended: CUDA waits for the operations that were started with them.
    """
    if isinstance(error, FinetuneError):
        print_error(error)
        code = error.exit_code
    else:
        traceback.print_exception(error)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _write_status(
    run: RunDirectory,
    state: State,
    reason: str,
    cause: Cause,
    will_resume: bool = False,
    output: Sequence[str] = (),
) -> None:
    # The disk may be full: the first error is the one to show, not that of writing it.
    with contextlib.suppress(RunError):
        run.write_status(state, reason, cause=cause, will_resume=will_resume, output=list(output))

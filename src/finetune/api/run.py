"""A run on this machine or on a cluster: its status, its results, waiting for it, stopping and resuming it."""

from __future__ import annotations

import html
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.api.run_files import RunFiles
from finetune.api.run_status import RunStatus
from finetune.arguments import check_timeout
from finetune.errors import Interrupted, RunFailed, WaitTimeout

if TYPE_CHECKING:
    from finetune.executors.base import Executor, RunOutcome
    from finetune.runs.record import Record

_POLL_SECONDS = 0.3


class LocalRun(RunFiles):
    """A run whose directory is on this machine. All methods may be called from any thread.

    Everything is read from the run directory when it is asked for, so that the same object shows the progress of a run.

    Example:
        >>> run = finetune.get_run("default/first")
        >>> run.status.state
        'finished'
        >>> run.metrics["metric"][0]
        'nDCG@10'
    """

    def __init__(self, path: Path, executor: Executor | None = None) -> None:
        super().__init__(path)
        self._executor = executor  # of a run that this process has started
        self._outcome: RunOutcome | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"LocalRun({self.name!r})"

    def _repr_html_(self) -> str:
        lines = [f"<b>{html.escape(self.name)}</b>", html.escape(str(self.status))]
        if self._directory.report_data_path.is_file():
            from finetune.report import terminal
            from finetune.report.write import read_report

            lines += [html.escape(line) for line in terminal.headlines(read_report(self._directory))]
        lines.append(f"<code>{html.escape(str(self._path))}</code>")
        return "<br>".join(lines)

    @property
    def status(self) -> RunStatus:
        """The present status."""
        from finetune.runs.record import ENDED, read_run

        with self._lock:
            executor = self._executor
            if executor is not None and self._outcome is None:
                for outcome in executor.poll():
                    self._outcome = outcome
            ended = self._outcome
        if not self._path.is_dir():
            return RunStatus("deleted", "Its directory was deleted or moved.")
        record = read_run(self._path)
        if ended is not None:
            # A job that ended without writing so has failed.
            state = ended.state if ended.state in ENDED else "failed"
            return RunStatus(state, ended.reason, record.step, record.status.get("cause"))
        if executor is not None and RunStatus(record.state).has_ended:
            return RunStatus(_state_until_the_end(record), "", record.step)
        cause, eta = record.status.get("cause"), record.status.get("eta_seconds")
        return RunStatus(record.state, record.reason, record.step, cause, eta)

    def wait(self, timeout: float | None = None, *, show_progress: bool = False) -> RunStatus:
        """Wait until the run has ended, however it ends, and return its status.

        Args:
            timeout: The longest time to wait, in seconds; None waits for ever.
            show_progress: Print what the run prints, in a terminal and in a notebook.

        Ctrl-C ends the waiting; the run continues.

        Raises:
            WaitTimeout: it has not ended after `timeout` seconds.

        Example:
            >>> finetune.get_run("default/first").wait().state
            'finished'
        """
        from finetune.api.progress import Progress

        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        progress = Progress(self._directory) if show_progress else None
        while True:
            status = self.status
            if progress is not None:
                progress.update(status)
            if status.has_ended:
                return status
            seconds = _POLL_SECONDS if self._executor is None else self._executor.poll_seconds
            if deadline is not None:
                seconds = min(seconds, deadline - time.monotonic())
                if seconds <= 0:
                    what = f"{self._path} has not ended after {timeout} seconds: it is {status.state}."
                    raise WaitTimeout(what, "It continues; wait again, or cancel it.")
            time.sleep(seconds)

    def raise_unless_finished(self) -> None:
        """Raise an error if the run has ended in any other way than by finishing.

        Raises:
            RunFailed: it failed, or its process was killed; with the reason, the cause and the end of the log.
            Interrupted: it was stopped; `resume` continues it.
        """
        status = self.status
        if not status.has_ended or status.state == "finished":
            return
        if status.state == "interrupted":
            raise Interrupted(status.reason or f"the run {self.name} was stopped.", "run.resume() continues it.")
        raise RunFailed(self.name, status.reason, status.cause, self.log_tail())

    def follow(self) -> None:
        """Show the progress until the run has ended; KeyboardInterrupt stops the run, and is raised again.

        A job of a cluster continues.

        Raises:
            RunFailed, Interrupted: as `raise_unless_finished`.
        """
        try:
            self.wait(show_progress=True)
        except KeyboardInterrupt:
            if self._directory.read_job():
                print(f"\n{self.name} continues as a job of the cluster; run.cancel() cancels it.", flush=True)
                raise
            print(f"\nStopping {self.name}, which saves first; interrupt again to stop without saving.", flush=True)
            self.stop()
            print(f"{self.name} is {self.status}", flush=True)
            print(f"It can be continued with finetune.get_run({str(self._path)!r}).resume()", flush=True)
            raise
        self.raise_unless_finished()

    def cancel(self) -> None:
        """Ask the run to save and stop; does nothing if it has ended. `wait` returns when it has stopped.

        Raises:
            FinetuneError: it runs on another machine, or SLURM refuses to cancel its job or does not answer; the run
                continues.
        """
        from finetune.console import silenced
        from finetune.executors.cancel import cancel_runs
        from finetune.runs.record import read_run

        with self._lock:
            if self._executor is not None:
                if self._outcome is None:
                    self._executor.cancel(self._path)
                return
        if not self.status.has_ended:
            with silenced():
                cancel_runs([read_run(self._path)])

    def stop(self) -> None:
        """Stop the run as Ctrl-C in a shell does, and wait until it has saved; a job of a cluster continues.

        A KeyboardInterrupt meanwhile stops it again, which ends it without saving.
        """
        import signal

        with self._lock:
            if self._executor is not None and self._outcome is None:
                for outcome in self._executor.stop(signal.SIGINT):
                    self._outcome = outcome

    def resume(self, *overrides: str, wait: bool = True) -> LocalRun:
        """Continue a run that was stopped, failed or killed, from its newest checkpoint; as `fit` otherwise.

        Args:
            *overrides: Further overrides, such as `"trainer.max_time=null"`. What defines the run cannot change.
            wait: As in `fit`.

        Returns:
            This run.

        Raises:
            CheckFailed: it is finished, or an override does not fit.
            FinetuneError: its config or data has changed, or a process works on it.
            RunFailed: it failed, with `wait`.
        """
        from finetune.api.isolation import arguments_of
        from finetune.api.launch import launch
        from finetune.config.quoting import quoted

        this = f"resume={quoted(str(self._path))}"
        executor, _ = launch(arguments_of([*self._launcher(), this, *overrides]))
        with self._lock:
            self._executor, self._outcome = executor, None
        if wait:
            self.follow()
        return self

    def _launcher(self) -> list[str]:
        """Return the override that makes the run a job of a cluster if it was one before."""
        from finetune.preflight.resume import LAUNCHER

        return [LAUNCHER] if self._directory.read_job() else []

    def delete(self) -> None:
        """Delete the run completely.

        Raises:
            FinetuneError: a process works on it, or it is the job of a cluster.
        """
        from finetune.runs.delete import delete_run

        delete_run(self._path, self._path.parent.parent)


def _state_until_the_end(record: Record) -> str:
    """Return the state of a run that has written its end, or released its lock, and whose process still exists.

    Only the executor decides that it has ended.
    """
    from finetune.runs.record import ENDED

    state = str(record.status.get("state", "pending"))
    return "running" if state in ENDED else state

"""Sweeps: many runs that differ in a few overrides, planned and started by a process of their own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.api.run import LocalRun
from finetune.api.run_status import RunStatus
from finetune.api.table import Table
from finetune.arguments import check_timeout
from finetune.errors import CheckFailed, FinetuneError, Interrupted, Problem, RunFailed, WaitTimeout

if TYPE_CHECKING:
    from finetune.config.command_line import Arguments

_POLL_SECONDS = 0.3
_LOG_LINES = 20  # of a failed sweep, in its error


class LocalSweep:
    """A sweep on this machine or on a cluster, with its trials: each is a run of the same experiment.

    The process of the sweep starts and ranks the trials, and continues when this program ends.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self._process = process

    @property
    def path(self) -> Path:
        """The folder of the experiment."""
        return self._folder

    def __repr__(self) -> str:
        return f"LocalSweep({self._folder.name!r}, {self.status.state})"

    def __str__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    @property
    def status(self) -> RunStatus:
        """Whether it is running, finished, interrupted, or failed: then not all of its trials have finished."""
        code = self._process.poll()
        if code is None:
            return RunStatus("running")
        if code == 0:
            return RunStatus("finished")
        if code == Interrupted.exit_code:
            return RunStatus("interrupted", "The sweep was stopped.")
        return RunStatus("failed", f"The process of the sweep ended with exit code {code}.")

    @property
    def table(self) -> Table:
        """The trials that ended, the best first.

        The columns are run, overrides (those that differ between the trials), state, reason, metric and value.
        """
        from finetune.runs.atomic import read_mapping

        columns = ("run", "overrides", "state", "reason", "metric", "value")
        rows = []
        for trial in read_mapping(self._folder / "sweep.json").get("points", []):
            found = trial | {"run": f"{self._folder.name}/{trial['run']}", "overrides": " ".join(trial["overrides"])}
            rows.append({column: found.get(column) for column in columns})
        return Table.from_rows(rows, columns)

    @property
    def runs(self) -> list[LocalRun]:
        """The runs of the trials that ended, the best first."""
        paths = [self._folder / name.rpartition("/")[2] for name in self.table["run"]]
        return [LocalRun(path) for path in paths if path.is_dir()]

    @property
    def best(self) -> LocalRun:
        """The run of the best trial.

        Raises:
            FinetuneError: no trial has finished with a value, so far or at all.
        """
        for row in self.table.rows:
            if row["value"] is not None:
                return LocalRun(self._folder / row["run"].rpartition("/")[2])
        if self.status.has_ended:
            what = f"no trial of {self._folder.name} has a value to rank it by."
            raise FinetuneError(what, "Choose an evaluation or sweep.metric=loss; sweep.table shows all trials.")
        what = f"no trial of {self._folder.name} has finished with a value yet."
        raise FinetuneError(what, "Wait for it; sweep.table shows what the trials are.")

    @property
    def logs(self) -> str:
        """What the process of the sweep has printed so far."""
        return _log_of(self._folder).read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout: float | None = None, *, show_progress: bool = False) -> RunStatus:
        """Wait until all trials have ended, however they end, and return the status of the sweep.

        Args:
            timeout: The longest time to wait, in seconds; None waits for ever.
            show_progress: Print what the sweep prints.

        Raises:
            WaitTimeout: it has not ended after `timeout` seconds.
        """
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        shown = 0
        while True:
            status, text = self.status, self.logs
            if show_progress and len(text) > shown:
                sys.stdout.write(text[shown:])
                sys.stdout.flush()
                shown = len(text)
            if status.has_ended:
                return status
            if deadline is not None and time.monotonic() >= deadline:
                what = f"the sweep {self._folder} has not ended after {timeout} seconds."
                raise WaitTimeout(what, "It continues; wait again, or cancel it.")
            time.sleep(_POLL_SECONDS)

    def cancel(self) -> None:
        """Ask the sweep to stop; running trials save first. The same call of `sweep` resumes it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)


def sweep(
    *overrides: str,
    data: Any = None,
    experiment: str | None = None,
    wait: bool = True,
    config_dir: str | Path | None = None,
    config_name: str = "train",
) -> LocalSweep:
    """Run one trial for each combination of the values in the overrides, and rank them; or search with Optuna.

    All trials are checked before the first one starts. The same call again resumes what is not finished.

    Args:
        *overrides: Overrides of `finetune train -m`, such as `"optimizer.lr=5e-5,1e-4"`, `"hydra/sweeper=optuna"`,
            `"sweep.metric=nDCG@10"`, `"sweep.parallel=2"`, `"hydra/launcher=slurm"`.
        data: As in `fit`.
        experiment: The experiment that the runs belong to; None is `default`.
        wait: As in `fit`.
        config_dir: A folder of your own config groups, as the flag `--config-dir`.
        config_name: The root config, as the flag `--config-name`.

    Raises:
        CheckFailed: with everything that is wrong with any trial; nothing was started.
        RunFailed: the process of the sweep failed, with `wait`. A failed trial is in the table of the sweep, and is no
            error.

    Example:
        >>> overrides = ["model.name=tiny", "data.max_length=16", "trainer.max_steps=1,2"]
        >>> trials = finetune.sweep(*overrides, data="pairs.csv", experiment="steps", wait=False)
        >>> trials.wait().state, len(trials.runs)
        ('finished', 2)
        >>> trials.best.status.state
        'finished'
    """
    from finetune.api.data_input import with_data
    from finetune.api.isolation import arguments_of, isolated

    arguments = arguments_of(overrides, config_dir, config_name, multirun=True, experiment=experiment)
    with isolated(), with_data(data, arguments) as chosen:
        started = _start(chosen)
    if wait:
        _wait_for(started)
    return started


def _start(arguments: Arguments) -> LocalSweep:
    from finetune.runner.spawn import RUN_SCRIPT
    from finetune.sweep.search_space import read_search_space
    from finetune.sweep.sweep import plan_sweep

    if not any(axis.varies for axis in read_search_space(arguments).axes):
        what = "no override has several values, so there is nothing to sweep."
        raise CheckFailed([Problem("sweep", what, "Give some, 'optimizer.lr=5e-5,1e-4', or start one run with fit.")])
    plan = plan_sweep(arguments)
    for key in ("check", "dry_run"):
        if plan.configs[0][key]:
            what = f"with {key}=true nothing is started."
            raise CheckFailed([Problem(key, what, "Leave it out.")])
    folder = plan.trials[0].run.parent.absolute()
    _prepare(folder, arguments.overrides)
    with _log_of(folder).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(RUN_SCRIPT), "-m", *arguments.where(), *arguments.overrides],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must reach it once, from here
        )
    return LocalSweep(folder, process)


def _prepare(folder: Path, overrides: list[str]) -> None:
    """Make the folder of the sweep's log and overrides, which also say that the sweep uses kept data."""
    import yaml

    from finetune.runs.atomic import explained, write_text_atomically

    with explained(f"create the folder {folder}"):
        _log_of(folder).parent.mkdir(parents=True, exist_ok=True)
        (folder / "sweep.json").unlink(missing_ok=True)  # of an earlier sweep
    write_text_atomically(_log_of(folder).with_name("overrides.yaml"), yaml.safe_dump(overrides))


def _wait_for(started: LocalSweep) -> None:
    try:
        status = started.wait(show_progress=True)
    except KeyboardInterrupt:
        print("\nStopping the sweep; its running trials save first.", flush=True)
        started.cancel()
        with contextlib.suppress(KeyboardInterrupt):
            started.wait(show_progress=True)
        raise
    if status.state == "interrupted":
        raise Interrupted("the sweep was stopped.", "The same call resumes it.")
    if status.state == "failed" and not started.table["run"]:
        tail = "\n".join(started.logs.splitlines()[-_LOG_LINES:])
        raise RunFailed(f"of the sweep {started.path.name}", status.reason, None, tail)


def _log_of(folder: Path) -> Path:
    return folder / ".sweep" / "log"

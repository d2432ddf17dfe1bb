"""What a run, an experiment, a data set and a client of the API offer, here and on a server.

The objects of this machine (`LocalRun`, ...) fulfill these protocols, and the module `finetune` is the client of this
machine. Their documentation, with examples, is that of the local objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from finetune.api.artifact import Artifact
    from finetune.api.checks import CheckResult
    from finetune.api.report import Report
    from finetune.api.run_status import RunStatus
    from finetune.api.table import Table
    from finetune.inference.model import Model


class Run(Protocol):
    """One run: it may be waiting, running, or have ended."""

    @property
    def name(self) -> str:
        """The unique name, `<experiment>/<name>`."""

    @property
    def status(self) -> RunStatus:
        """The present status."""

    def wait(self, timeout: float | None = None, *, show_progress: bool = False) -> RunStatus:
        """Wait until it has ended, at most `timeout` seconds, and return its status."""

    def raise_unless_finished(self) -> None:
        """Raise RunFailed or Interrupted if it has ended in any other way than by finishing."""

    def cancel(self) -> None:
        """Ask it to save and stop."""

    def resume(self, *overrides: str, wait: bool = True) -> Run:
        """Continue it from its newest checkpoint."""

    def delete(self) -> None:
        """Delete it completely."""

    @property
    def logs(self) -> str:
        """The log so far."""

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""

    def stream_logs(self) -> Iterator[str]:
        """Yield the lines of the log until it ends."""

    @property
    def history(self) -> Table:
        """Everything that was logged in training, by step."""

    @property
    def metrics(self) -> Table:
        """The metrics before and after training, with the interval of the change."""

    @property
    def example_results(self) -> dict[str, list[dict[str, Any]]]:
        """Example queries of each evaluation with what was found before and after."""

    @property
    def report(self) -> Report:
        """The report, which a notebook shows."""

    @property
    def config(self) -> dict[str, Any]:
        """The whole config, resolved."""

    @property
    def overrides(self) -> list[str]:
        """The overrides that it was started with."""

    @property
    def data(self) -> dict[str, Any]:
        """Where its data is, and the fingerprint of its content."""

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and git state when it was started."""

    @property
    def artifact(self) -> Artifact:
        """The files of the trained model."""

    def save_artifact(self, folder: str | Path = ".") -> Path:
        """Write the trained model as one zip into a folder, and return its path."""

    def model(self, **options: Any) -> Model:
        """Return the trained model, ready to encode."""


class Sweep(Protocol):
    """Many runs that differ in a few overrides."""

    @property
    def status(self) -> RunStatus:
        """Whether it is running, finished, failed or interrupted."""

    @property
    def table(self) -> Table:
        """The trials that ended, the best first."""

    @property
    def runs(self) -> Sequence[Run]:
        """The runs of the trials that ended, the best first."""

    @property
    def best(self) -> Run:
        """The run of the best trial."""

    def wait(self, timeout: float | None = None, *, show_progress: bool = False) -> RunStatus:
        """Wait until all trials have ended."""

    def cancel(self) -> None:
        """Ask it to stop; running trials save first."""


class Experiment(Protocol):
    """A named group of runs."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def description(self) -> str:
        """What it is about."""

    @property
    def created_at(self) -> datetime:
        """When it was created, in UTC."""

    def create_training_run(self, *overrides: str, data: Any = None, name: str | None = None) -> Run:
        """Start a run and return at once."""

    def list_runs(self) -> Sequence[Run]:
        """Return its runs, the newest first."""

    def get_run(self, name: str) -> Run:
        """Return one of its runs."""

    def delete(self) -> None:
        """Delete it with all its runs."""


class Dataset(Protocol):
    """Data that was read, checked and described."""

    @property
    def layout(self) -> str:
        """What a row is, such as "pairs"."""

    @property
    def columns(self) -> Table:
        """The columns with their roles."""

    @property
    def counts(self) -> dict[str, Any]:
        """Numbers of rows, distinct texts, training pairs, and so on."""

    @property
    def statistics(self) -> dict[str, Any]:
        """Lengths, classes, scores, repeated texts."""

    @property
    def leaks(self) -> dict[str, Any]:
        """How much of the evaluation data is also in the training data."""

    @property
    def examples(self) -> list[dict[str, Any]]:
        """A few rows at random."""

    @property
    def notes(self) -> list[str]:
        """How the data was read and split."""

    @property
    def warnings(self) -> list[str]:
        """What may be wrong."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""


class Client(Protocol):
    """Starts runs and finds them: the module `finetune` for this machine, later also a server."""

    def check(self, *overrides: str, data: Any = None) -> CheckResult:
        """Check the config of a run and its data."""

    def compose(self, *overrides: str) -> dict[str, Any]:
        """Return the resolved config."""

    def fit(
        self,
        *overrides: str,
        data: Any = None,
        name: str | None = None,
        experiment: str | None = None,
        wait: bool = True,
    ) -> Run:
        """Fine-tune a model."""

    def create_training_run(
        self, *overrides: str, data: Any = None, name: str | None = None, experiment: str | None = None
    ) -> Run:
        """Start a run and return at once."""

    def sweep(self, *overrides: str, data: Any = None, experiment: str | None = None, wait: bool = True) -> Sweep:
        """Run one trial for each combination of values."""

    def build_dataset(self, data: Any, *overrides: str, columns: Any = None, **options: Any) -> Dataset:
        """Read data completely and describe it."""

    def list_runs(
        self,
        *,
        experiment: str | Sequence[str] = (),
        state: str | Sequence[str] = (),
        where: str | Sequence[str] = (),
        metric: str | Sequence[str] = (),
        since: str | None = None,
        sort: str = "started",
        reverse: bool = False,
    ) -> Sequence[Run]:
        """Return runs, the newest first."""

    def get_run(self, name: str) -> Run:
        """Return one run."""

    def delete_run(self, name: str) -> None:
        """Delete one run."""

    def create_experiment(self, name: str, description: str = "") -> Experiment:
        """Create an experiment."""

    def get_experiment(self, name: str) -> Experiment:
        """Return one experiment."""

    def list_experiments(self) -> Sequence[Experiment]:
        """Return all experiments, by name."""

    def delete_experiment(self, name: str) -> None:
        """Delete an experiment with all its runs."""

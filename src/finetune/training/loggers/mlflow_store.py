"""MLflow: a folder for all runs, or a server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from finetune.config.differences import as_yaml
from finetune.config.types import NotEmptyText, Positive
from finetune.runs.directory import State
from finetune.training.loggers.tracker import Row, Tracker

_STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_LONGEST_VALUE = 500  # characters of a parameter that every version of MLflow takes
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000  # in one request


class MLflow(Tracker):
    """Writes config and rows into an MLflow store; a resumed run goes on with its run there.

    `uri` is a folder or the address of a server, `experiment` the name there. `finish_seconds` are waited for it at
    the end of the run. `directory` is given by the run.
    """

    title: ClassVar[str] = "MLflow"
    needs: ClassVar[str] = "mlflow"

    def __init__(
        self,
        uri: NotEmptyText = "mlruns",
        experiment: NotEmptyText = "finetune",
        finish_seconds: Positive = 60.0,
        directory: str | None = None,
    ) -> None:
        super().__init__(finish_seconds, directory)
        self._uri = uri if "://" in uri else Path(uri).absolute().as_uri()
        self._experiment = experiment
        self._client: Any = None
        self._id = ""

    def begin(self, config: dict[str, Any], step: int) -> None:
        """Open the run that this one had before, or a new one with its config."""
        # Nothing is told to MLflow's makers, and folders, which newer versions would rather not have, stay allowed.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        known = self.remembered()
        if known is not None:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        self._id = self._client.create_run(self._experiment_id(), run_name=self.run.name).info.run_id
        self.remember(self._id)
        self._log_config(config)

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        return str(found.experiment_id if found else self._client.create_experiment(self._experiment))

    def _log_config(self, config: dict[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(key, as_yaml(value)[:_LONGEST_VALUE]) for key, value in _leaves(config)]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=parameters[first : first + _MOST_PARAMETERS])

    def write(self, rows: list[Row]) -> None:
        """Add the numbers of some rows, many with one request: a slow store keeps up with fast steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = [Metric(_allowed(name), value, now, step) for row, step in rows for name, value in row.items()]
        for first in range(0, len(numbers), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=numbers[first : first + _MOST_METRICS])

    def end(self, state: State) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, _STATES[state])


def _allowed(name: str) -> str:
    """The name with what MLflow does not allow in one replaced: `nDCG@10` is `nDCG_10` there."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield _allowed(f"{prefix}{key}"), value

"""MLflow: a folder for several runs, or a server."""

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
_MAX_VALUE_LENGTH = 500  # characters of a parameter; every version of MLflow allows these
_MAX_PARAMETERS, _MAX_METRICS = 100, 1000  # in one request


class MLflow(Tracker):
    """Writes config and metrics to an MLflow store; a resumed run continues its run there.

    `uri` is a folder or the address of a server, `experiment` the name there. `finish_seconds` is how long the end of
    the run waits for it. `directory` is provided by the run.
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
        """Open the MLflow run of a resumed run, or create one with the config."""
        # No telemetry; and newer versions allow folders only with this variable.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        stored_id = self.stored_id()
        if stored_id is not None:
            self._id = stored_id
            self._client.update_run(stored_id, status="RUNNING")
            return
        self._id = self._client.create_run(self._experiment_id(), run_name=self.run.name).info.run_id
        self.store_id(self._id)
        self._log_config(config)

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return str(self._client.create_experiment(self._experiment))
        return str(experiment.experiment_id)

    def _log_config(self, config: dict[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(key, as_yaml(value)[:_MAX_VALUE_LENGTH]) for key, value in _leaves(config)]
        for first in range(0, len(parameters), _MAX_PARAMETERS):
            self._client.log_batch(self._id, params=parameters[first : first + _MAX_PARAMETERS])

    def write(self, rows: list[Row]) -> None:
        """Add rows, many in one request, so that a slow store keeps up with fast steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = [Metric(_allowed(name), value, now, step) for row, step in rows for name, value in row.items()]
        for first in range(0, len(numbers), _MAX_METRICS):
            self._client.log_batch(self._id, metrics=numbers[first : first + _MAX_METRICS])

    def end(self, state: State) -> None:
        """Set the final state of the run."""
        self._client.set_terminated(self._id, _STATES[state])


def _allowed(name: str) -> str:
    """Return a name without characters that MLflow does not allow: `nDCG@10` becomes `nDCG_10`."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield _allowed(f"{prefix}{key}"), value

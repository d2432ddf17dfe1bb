"""What a run has written: log, metrics, report, config, model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.api.artifact import Artifact
from finetune.api.report import Report
from finetune.api.table import Table
from finetune.arguments import is_whole_number
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.inference.model import Model
    from finetune.runs.directory import RunDirectory

_MAX_LOG_BYTES = 1 << 20  # that are read for the last lines


class RunFiles:
    """The directory of a run, read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    @property
    def path(self) -> Path:
        """The run directory, an absolute path."""
        return self._path

    @property
    def name(self) -> str:
        """The unique name of the run, `<experiment>/<name>`."""
        return f"{self._path.parent.name}/{self._path.name}"

    @property
    def logs(self) -> str:
        """The log so far: what the run printed, and messages of libraries; empty as long as there is none."""
        try:
            return self._directory.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log; empty as long as there is none.

        Raises:
            FinetuneError: `lines` is not a whole number from 1.
        """
        if not is_whole_number(lines):
            raise FinetuneError(
                f"lines={lines!r} is not a number of lines.", "Give at least 1; run.logs is the whole log."
            )
        try:
            with self._directory.log_path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _MAX_LOG_BYTES))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def stream_logs(self) -> Iterator[str]:
        """Yield the lines of the log, first those that there are, then new ones until the run ends.

        Raises:
            FinetuneError: the run ended without a log, or waits in the queue of a cluster.

        Example:
            >>> lines = list(finetune.get_run("default/first").stream_logs())
            >>> "report:" in lines[-1]
            True
        """
        from finetune.runs.log import tail

        rest = ""
        for text in tail(self._directory, 0, follow=True):
            *lines, rest = (rest + text).split("\n")
            yield from lines
        if rest:
            yield rest

    @property
    def history(self) -> Table:
        """Everything that was logged in training, a row each time: the column `step`, and one for each metric."""
        from finetune.runs.metrics import numbers

        rows = [{"step": record.get("step")} | numbers(record) for record in self._directory.read_metrics()]
        return Table.from_rows(rows, ["step"])

    @property
    def metrics(self) -> Table:
        """The metrics of all evaluations: before and after training, the change, and its 95 % interval.

        The columns are evaluation, metric, before, after, change, low, high and certain (as in
        `Evaluation.table`).
        Where it was measured only once, all but `after` are None.

        Raises:
            FinetuneError: there is no report yet.
        """
        from finetune.report.content import evaluations_and_forgetting

        columns = ("evaluation", "metric", "before", "after", "change", "low", "high", "certain")
        rows = []
        for name, part in evaluations_and_forgetting(self.report_data).items():
            for found in part["metrics"]:
                row = {"evaluation": name, "after": found.get("value")} | found
                rows.append({column: row.get(column) for column in columns})
        return Table.from_rows(rows, columns)

    @property
    def example_results(self) -> dict[str, list[dict[str, Any]]]:
        """Example queries of each evaluation, with the best documents before and after training, and their scores.

        Raises:
            FinetuneError: there is no report yet.
        """
        found: dict[str, list[dict[str, Any]]] = self.report_data.get("examples", {})
        return found

    @property
    def report(self) -> Report:
        """The report, which a notebook shows.

        Raises:
            FinetuneError: there is none yet.
        """
        from finetune.report.write import write_report

        data = self.report_data
        if not self._directory.report_page_path.is_file() or not self._directory.report_path.is_file():
            write_report(self._directory)
        return Report(self._directory.report_page_path, data)

    @property
    def report_data(self) -> dict[str, Any]:
        """The content of report.json.

        Raises:
            FinetuneError: there is none yet.
        """
        from finetune.report.write import read_report

        return dict(read_report(self._directory))

    @property
    def config(self) -> dict[str, Any]:
        """The whole config, resolved.

        Raises:
            FinetuneError: it cannot be read.
        """
        from finetune.runs.record import read_run

        config = read_run(self._path).config
        if config is None:
            raise FinetuneError(f"{self._directory.config_path} cannot be read.", "Start the run again.")
        return config

    @property
    def overrides(self) -> list[str]:
        """The overrides that the run was started with.

        Raises:
            FinetuneError: they cannot be read.
        """
        from finetune.preflight.resume import overrides_of

        return overrides_of(self._directory)

    @property
    def data(self) -> dict[str, Any]:
        """Where the data is (`path`, `sources`), and the fingerprint of its content."""
        from finetune.runs.atomic import read_mapping

        settings = self.config["data"]
        places = {key: settings.get(key) for key in ("path", "sources")}
        return places | read_mapping(self._directory.data_path)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions of packages, the machine, and the state of git when the run was started."""
        from finetune.runs.atomic import read_mapping

        return read_mapping(self._directory.environment_path)

    @property
    def artifact(self) -> Artifact:
        """The files of the trained model.

        Raises:
            FinetuneError: there is no model yet.
        """
        folder = self._model_folder()
        files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*"))
                 if path.is_file()}  # fmt: skip
        return Artifact(self.name, files)

    def save_artifact(self, folder: str | Path = ".") -> Path:
        """Write the trained model into `folder` as one zip with checksums, and return its path.

        `finetune.get_model` loads such a file on any machine. Exports in the folder of the model (`onnx/`,
        `openvino/`) are part of it.

        Raises:
            FinetuneError: there is no model yet.
            RunError: the disk is full, or the folder cannot be written.
        """
        from finetune.runs.artifact import write_artifact
        from finetune.runs.atomic import explain

        model, target = self._model_folder(), Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, f"create the folder {target}", "Choose another folder.") from error
        path = target / f"{self._path.name}.zip"
        write_artifact(model, path, {"run": self.name})
        return path

    def model(self, **options: Any) -> Model:
        """Return the trained model, ready to encode: `options` are those of `finetune.get_model`.

        Raises:
            FinetuneError: there is no model yet.
        """
        self._model_folder()
        from finetune.inference.load import get_model

        return get_model(self._path, **options)

    def _model_folder(self) -> Path:
        from finetune.runs.record import read_run

        folder = self._directory.model
        if not self._path.is_dir():
            raise FinetuneError(f"there is no run {self._path}.", "It was deleted or moved.")
        if not folder.is_dir():
            what = f"the run {self.name} has no model yet: it is {read_run(self._path).state}."
            raise FinetuneError(what, "A model is saved when a run has finished.")
        return folder

    @property
    def _directory(self) -> RunDirectory:
        from finetune.runs.directory import RunDirectory

        return RunDirectory(self._path)

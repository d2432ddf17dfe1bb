"""Experiments: named groups of runs, each a folder below the folder of all runs; and finding runs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.api.run import LocalRun
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.api.sweeps import LocalSweep

_FILE = "experiment.json"
_OWN_FILES = (_FILE, "sweep.json", "sweep.md", "optuna.db")  # that delete_experiment removes
_OWN_FOLDERS = (".sweep",)


class LocalExperiment:
    """A named group of runs: a folder below the folder of all runs.

    Example:
        >>> experiment = finetune.create_experiment("faq", "Questions and answers of the help desk")
        >>> experiment.description, experiment.list_runs()
        ('Questions and answers of the help desk', [])
        >>> experiment.create_training_run("model.name=tiny", data="none.csv")
        Traceback (most recent call last):
        finetune.errors.CheckFailed: ... there is no file 'none.csv'. ...
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """Its name, the value of `experiment` in a config."""
        return self._path.name

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._path

    @property
    def description(self) -> str:
        """What it is about, as it was created with; empty if it was made by its first run."""
        return str(self._facts().get("description", ""))

    @property
    def created_at(self) -> datetime:
        """When it was created, in UTC."""
        try:
            return datetime.fromisoformat(str(self._facts()["created_at"]))
        except (KeyError, ValueError):
            return datetime.fromtimestamp(self._path.stat().st_ctime, UTC)

    def __repr__(self) -> str:
        return f"LocalExperiment({self.name!r})"

    def create_training_run(self, *overrides: str, data: Any = None, name: str | None = None) -> LocalRun:
        """Start a run of this experiment and return at once; errors as in `fit`."""
        return self.fit(*overrides, data=data, name=name, wait=False)

    def fit(self, *overrides: str, data: Any = None, name: str | None = None, wait: bool = True) -> LocalRun:
        """Start a run of this experiment, as `finetune.fit` does."""
        from finetune.api.fit import fit

        return fit(*self._root(), *overrides, data=data, name=name, experiment=self.name, wait=wait)

    def sweep(self, *overrides: str, data: Any = None, wait: bool = True) -> LocalSweep:
        """Start a sweep of this experiment, as `finetune.sweep` does."""
        from finetune.api.sweeps import sweep

        return sweep(*self._root(), *overrides, data=data, experiment=self.name, wait=wait)

    def list_runs(self) -> list[LocalRun]:
        """Return its runs, the newest first."""
        return list_runs(experiment=self.name, output_root=self._path.parent)

    def get_run(self, name: str) -> LocalRun:
        """Return one of its runs by its name. Raises FinetuneError if there is none."""
        return get_run(f"{self.name}/{name.removeprefix(f'{self.name}/')}", output_root=self._path.parent)

    def delete(self) -> None:
        """Delete it with all its runs; errors as in `delete_experiment`."""
        delete_experiment(self.name, output_root=self._path.parent)

    def _root(self) -> list[str]:
        from finetune.config.quoting import quoted
        from finetune.runs.registry import OUTPUTS

        root = self._path.parent
        return [] if root == OUTPUTS else [f"output_root={quoted(str(root))}"]

    def _facts(self) -> dict[str, Any]:
        from finetune.runs.atomic import read_mapping

        return read_mapping(self._path / _FILE)


def create_experiment(name: str, description: str = "", *, output_root: str | Path | None = None) -> LocalExperiment:
    """Create an experiment. A run creates the experiment that it names by itself; this adds a description.

    Args:
        name: A name that can be a folder: letters, digits, `.`, `_`, `-` and spaces.
        description: What it is about.
        output_root: The folder of all runs; None is `outputs`.

    Raises:
        FinetuneError: it exists already, or the name cannot be a folder.
        RunError: the folder cannot be written.

    Example:
        >>> finetune.create_experiment("chat", "Pairs from the chat").created_at.tzinfo is not None
        True
    """
    from finetune.runs.atomic import explained, write_json_atomically

    path = _folder_of(name, output_root)
    if path.exists():
        raise FinetuneError(f"there is an experiment '{name}' already.", "Choose another name, or use get_experiment.")
    with explained(f"create the folder {path}"):
        path.mkdir(parents=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json_atomically(path / _FILE, {"description": description, "created_at": now})
    return LocalExperiment(path)


def get_experiment(name: str, *, output_root: str | Path | None = None) -> LocalExperiment:
    """Return the experiment of this name.

    Raises:
        FinetuneError: there is none; the message has a similar name.

    Example:
        >>> finetune.get_experiment("default").name
        'default'
    """
    from finetune.config.suggest import did_you_mean

    path = _folder_of(name, output_root)
    if _is_experiment(path):
        return LocalExperiment(path)
    names = [experiment.name for experiment in list_experiments(output_root=output_root)]
    advice = did_you_mean(name, names) or f"There are: {', '.join(names) or 'none yet'}."
    raise FinetuneError(f"there is no experiment '{name}' in {path.parent}.", advice)


def list_experiments(*, output_root: str | Path | None = None) -> list[LocalExperiment]:
    """Return all experiments, by name; none if nothing was run yet.

    Example:
        >>> "default" in [experiment.name for experiment in finetune.list_experiments()]
        True
    """
    root = _root_of(output_root)
    if not root.is_dir():
        return []
    return [LocalExperiment(path) for path in sorted(root.iterdir()) if _is_experiment(path)]


def delete_experiment(name: str, *, output_root: str | Path | None = None) -> None:
    """Delete an experiment with all its runs. Files that are not of finetune stay.

    Raises:
        FinetuneError: there is none, a process works on one of its runs, or it has files that are not of finetune.

    Example:
        >>> experiment = finetune.create_experiment("short-lived")
        >>> finetune.delete_experiment("short-lived")
        >>> "short-lived" in [experiment.name for experiment in finetune.list_experiments()]
        False
    """
    from finetune.runs.delete import delete_run
    from finetune.runs.kept_data import remove_unused

    experiment = get_experiment(name, output_root=output_root)
    root = experiment.path.parent
    for path in _deletable_runs(experiment):
        delete_run(path, root)
    for own in _OWN_FILES:
        (experiment.path / own).unlink(missing_ok=True)
    for own in _OWN_FOLDERS:
        shutil.rmtree(experiment.path / own, ignore_errors=True)
    remove_unused(root)  # data of a sweep
    with contextlib.suppress(FileNotFoundError):  # it has gone with its last run
        if any(experiment.path.iterdir()):
            what = f"{experiment.path} still has files that are not of finetune; its runs were removed."
            raise FinetuneError(what, "Remove them yourself if that is what you want.")
        experiment.path.rmdir()


def _deletable_runs(experiment: LocalExperiment) -> list[Path]:
    """Return the directories of all runs of an experiment; raises FinetuneError if one must not be deleted."""
    from finetune.runs.delete import check_deletable
    from finetune.runs.registry import run_folders

    root = experiment.path.parent
    paths = [path for path in run_folders(root) if path.parent == experiment.path]
    for path in paths:
        check_deletable(path, root)
        if not LocalRun(path).status.has_ended:
            what = f"the run {path} is not removed: it is active."
            raise FinetuneError(what, "Cancel it first; nothing was removed.")
    return paths


def list_runs(
    *,
    experiment: str | Sequence[str] = (),
    state: str | Sequence[str] = (),
    where: str | Sequence[str] = (),
    metric: str | Sequence[str] = (),
    since: str | None = None,
    sort: str = "started",
    reverse: bool = False,
    output_root: str | Path | None = None,
) -> list[LocalRun]:
    """Return runs, the newest first, with the filters of `finetune runs`; none if nothing was run yet.

    Args:
        experiment: Only of these experiments; `*` and `?` are wildcards.
        state: Only in one of these states: finished, failed, running, dead ...
        where: Conditions on config values, such as `"optimizer.lr<=1e-4"` or `"loss=triplet"`; all must hold.
        metric: Conditions on the last value of metrics, such as `"nDCG@10>0.3"`.
        since: Started since: `"30m"`, `"12h"`, `"7d"`, `"2w"`, or a date.
        sort: `started`, `run`, `state`, `step`, a metric, or a config key; numbers are sorted largest first.
        reverse: Smallest or oldest first.
        output_root: The folder of all runs; None is `outputs`.

    Raises:
        FinetuneError: there is no such experiment; a condition cannot be parsed, or a name in it is in none of the
            runs.

    Example:
        >>> [run.name for run in finetune.list_runs(state="finished", metric="nDCG@10>0", sort="run", reverse=True)][:1]
        ['default/first']
    """
    from finetune.runs.selection import RunQuery, select

    root = _root_of(output_root)
    if not root.is_dir():
        return []
    for name in _listed(experiment):
        if not set(name) & set("*?["):
            get_experiment(name, output_root=root)
    query = RunQuery(_listed(experiment), _listed(state), _listed(where), _listed(metric), since, sort, reverse)
    return [LocalRun(record.run.path) for record in select(root, query).records]


def get_run(name: str | Path, *, output_root: str | Path | None = None) -> LocalRun:
    """Return the run with this path, `<experiment>/<name>`, name, or unique part of a name.

    Raises:
        FinetuneError: there is no such run, or there are several; the message names similar ones.

    Example:
        >>> finetune.get_run("first").name
        'default/first'
    """
    from finetune.runs.registry import find_run

    return LocalRun(find_run(_checked_name(name), _root_of(output_root)))


def delete_run(name: str | Path, *, output_root: str | Path | None = None) -> None:
    """Delete a run completely: a part of its name is not enough.

    Raises:
        FinetuneError: there is no such run, or a process works on it.

    Example:
        >>> finetune.delete_run("default/firts")
        Traceback (most recent call last):
        finetune.errors.FinetuneError: there is no run 'default/firts' in outputs. Did you mean default/first?
    """
    from finetune.runs.registry import find_run

    LocalRun(find_run(_checked_name(name), _root_of(output_root), whole=True)).delete()


def _checked_name(name: Any) -> str:
    if isinstance(name, str | Path) and str(name):
        return str(name)
    raise FinetuneError(f"name={name!r} is not a name of a run.", "Give <experiment>/<name>, a name, or a path.")


def _root_of(output_root: str | Path | None) -> Path:
    from finetune.runs.registry import OUTPUTS

    return OUTPUTS if output_root is None else Path(output_root)


def _folder_of(name: str, output_root: str | Path | None) -> Path:
    """Return the folder of an experiment; raises FinetuneError for a name that is not a name of a single folder."""
    if not name or name.startswith(".") or any(character in name for character in "/\\\0"):
        what = f"'{name}' cannot be the name of an experiment."
        raise FinetuneError(what, "Use letters, digits, '.', '_', '-' and spaces; the first may be no dot.")
    return _root_of(output_root) / name


def _is_experiment(path: Path) -> bool:
    from finetune.runs.record import is_run

    if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
        return False
    return (path / _FILE).is_file() or any(is_run(run) for run in path.iterdir() if run.is_dir())


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)

"""Which directory a run gets: a new one of its own, or the one it goes on in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finetune.config.quoting import quoted
from finetune.errors import FinetuneError, RunError
from finetune.launch.arguments import Arguments, command_again
from finetune.runs.atomic import write_json_atomically, write_text_atomically
from finetune.runs.directory import RunDirectory
from finetune.runs.environment import describe_environment

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset

# Keys that say where and how a run is started, not what it computes: they may differ when it goes on.
NOT_COMPARED = ("experiment", "name", "output_root", "resume", "check", "sweep")
_MOST_DIFFERENCES = 10  # told of another config; more would scroll what matters out of sight
_ABSENT = object()


def is_first_process() -> bool:
    """Return whether this process speaks and writes for its run; the others were started by it."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def overrides_of_run(overrides: list[str]) -> list[str]:
    """Return the overrides, with `resume=<path>` replaced by what that run was started with.

    Raises:
        FinetuneError: there is no run at that path.
    """
    paths = [value for key, _, value in (o.partition("=") for o in overrides) if key == "resume"]
    if not paths or paths[-1].lower() in ("auto", "never", "true", "false"):  # the last two the check refuses
        return overrides
    folder = Path(paths[-1].strip("'\"")).expanduser()
    if folder.is_file():  # a checkpoint inside the run's checkpoints/
        last = RunDirectory(folder.parent.parent).last_checkpoint.name
        if folder.name != last:
            raise FinetuneError(f"resume={paths[-1]}: a run goes on from {last} only.", "Give the run directory.")
        folder = folder.parent.parent
    run = RunDirectory(folder)
    if not run.overrides_path.is_file():
        raise FinetuneError(
            f"resume={paths[-1]}: there is no run.", "Give a run directory, such as outputs/<experiment>/<run>."
        )
    started_with = _read_yaml(run.overrides_path) or []
    typed = [o for o in overrides if not o.startswith("resume=")]
    # The folder may have been renamed or moved since.
    name = [f"name={quoted(folder.name)}"] if any(o.startswith("name=") for o in started_with) else []
    return [*started_with, *typed, *name, f"hydra.run.dir={quoted(str(folder))}"]


def find_run(
    cfg: DictConfig, overrides: list[str], dataset: Dataset, arguments: Arguments
) -> tuple[RunDirectory, Path | None]:
    """Return the run's directory and the checkpoint to go on from, `None` for a new run.

    A new directory is there with everything that says what the run is, or not at all.

    Raises:
        FinetuneError: the directory belongs to a finished run, to another config, to other data, or to something
            else, or it cannot be made.
    """
    told = any(o.startswith("hydra.run.dir=") for o in cfg.hydra.overrides.hydra)
    path = Path(cfg.hydra.run.dir)
    if not is_first_process():
        return RunDirectory(path), _last_checkpoint(RunDirectory(path))
    if path.exists() and (told or cfg.name is not None):
        return _go_on(cfg, RunDirectory(path), dataset)
    is_named = told or cfg.name is not None
    parent = path.parent if is_named else Path(cfg.output_root) / cfg.experiment
    try:
        with _nothing_left_of_a_failure(parent) as made:
            made.append(RunDirectory.claim(parent, path.name if is_named else None, _stem(cfg)))
            _record(cfg, made[0], overrides, dataset, command_again(arguments, overrides))
    except RunError as error:  # here it is a mistake in what was asked: nothing has run yet
        raise FinetuneError(error.what, error.advice) from error
    return made[0], None


@contextmanager
def _nothing_left_of_a_failure(parent: Path) -> Iterator[list[RunDirectory]]:
    """Takes away what was made inside, if a full disk or Ctrl-C ends it: the run put into the list, its new parents."""
    new = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    made: list[RunDirectory] = []
    try:
        yield made
    except BaseException:
        for run in made:
            shutil.rmtree(run.path, ignore_errors=True)
        for folder in new:  # the inmost first; one that another run has begun to use stays
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _record(cfg: DictConfig, run: RunDirectory, overrides: list[str], dataset: Dataset, again: str) -> None:
    """Write down what this run is: its whole config, what was typed, its data, the machine."""
    write_text_atomically(run.config_path, yaml.safe_dump(resolved(cfg) | {"name": run.name}, sort_keys=False))
    typed = [o for o in overrides if not o.startswith("hydra.run.dir=")]
    write_text_atomically(run.overrides_path, yaml.safe_dump(typed))
    write_json_atomically(run.data_path, {"fingerprint": dataset.fingerprint})
    if dataset.problems is not None:
        shutil.copyfile(dataset.problems, run.path / dataset.problems.name)
    write_json_atomically(run.environment_path, describe_environment(Path.cwd()) | {"again": again})
    run.write_status("created")


def _go_on(cfg: DictConfig, run: RunDirectory, dataset: Dataset) -> tuple[RunDirectory, Path | None]:
    if run.config_path.is_file() and run.read_status().get("state") == "finished":
        raise FinetuneError(
            f"The run {run.path} is finished; it is not trained again.",
            "Choose another name=, or remove the directory.",
        )
    state_of_same(cfg, run, dataset)
    return run, _last_checkpoint(run)


def state_of_same(cfg: DictConfig, run: RunDirectory, dataset: Dataset) -> str:
    """Return the state of a run that is there, which must have this config and this data.

    Raises:
        FinetuneError: it has not, or is no run, or `resume=never`.
    """
    state = run.read_status().get("state")
    if not state or not run.config_path.is_file():
        raise FinetuneError(
            f"{run.path} exists and is no run of finetune; it was not touched.", "Choose another name=."
        )
    if cfg.resume == "never":
        raise FinetuneError(
            f"The run {run.path} exists ({state}) and resume=never.", "Choose another name=, or go on with resume=auto."
        )
    differences = list(_differences(_read_yaml(run.config_path), resolved(cfg)))
    if differences:
        shown = differences[:_MOST_DIFFERENCES]
        if len(differences) > len(shown):
            shown.append(f"and {len(differences) - len(shown)} more")
        raise FinetuneError(
            "\n    ".join([f"The run {run.path} was started with another config:", *shown]),
            "Leave these as they were to go on with it, or choose another name=.",
        )
    if run.data_path.is_file() and _read_yaml(run.data_path) != {"fingerprint": dataset.fingerprint}:
        raise FinetuneError(
            f"The run {run.path} was started on other data: {', '.join(dataset.sources)}, or what it is evaluated on,"
            " has changed since.",
            "Put back the data as it was to go on with it, or choose another name= to train on what is there now.",
        )
    return str(state)


def _last_checkpoint(run: RunDirectory) -> Path | None:
    return run.last_checkpoint if run.last_checkpoint.is_file() else None


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FinetuneError(
            f"{path} cannot be read: it is damaged.", "Start the run again under another name=."
        ) from error


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return the config of a run as plain data, without what is Hydra's."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), resolve=True
    )
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _differences(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """What differs, a line each: a node that builds something else is told as a whole, not by all that is in it."""
    for key in sorted({**then, **now}):
        if not prefix and key in NOT_COMPARED:
            continue
        old, new = then.get(key, _ABSENT), now.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict) and old.get("_target_") == new.get("_target_"):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    """A value as one would write it in YAML; of a node what it builds."""
    if value is _ABSENT:
        return "not there"
    if isinstance(value, dict):
        return str(value.get("_target_", "there"))
    # JSON is YAML on one line, and its words are those of the configs: null, true.
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _stem(cfg: DictConfig) -> str:
    choices = cfg.hydra.runtime.choices
    return f"{choices.get('model')}_{choices.get('data')}"

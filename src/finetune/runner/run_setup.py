"""Which directory a run gets: a new one of its own, or the one it goes on in."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finetune.config.command_line import Arguments, key_of
from finetune.config.commands import resume_command
from finetune.config.compose import compose
from finetune.config.differences import ABSENT, changes, value_of
from finetune.config.hydra_node import DEFAULT_FOLDER, folder_is_set
from finetune.config.quoting import quoted, typed
from finetune.config.types import seconds_of
from finetune.console import say
from finetune.errors import FinetuneError, RunError
from finetune.preflight.resume import named_folder, origin_of
from finetune.runs.atomic import write_json_atomically, write_text_atomically
from finetune.runs.directory import RunDirectory
from finetune.runs.environment import describe_environment

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset


def find_run(
    cfg: DictConfig, overrides: list[str], dataset: Dataset, arguments: Arguments
) -> tuple[RunDirectory, bool]:
    """Return the run's directory, and whether it was there before: a run to go on with.

    A new directory is there with everything that says what the run is, or not at all.

    Raises:
        FinetuneError: the directory belongs to a finished run, to another config, to other data, or to something
            else, or it cannot be made.
    """
    path = named_folder(cfg)
    if path is not None and path.exists():
        _check_goes_on(cfg, RunDirectory(path), dataset)
        return RunDirectory(path), True
    parent = path.parent if path is not None else Path(cfg.output_root) / cfg.experiment
    return make_run(cfg, parent, None if path is None else path.name, overrides, dataset, arguments), False


def make_run(
    cfg: DictConfig, parent: Path, name: str | None, overrides: list[str], dataset: Dataset, arguments: Arguments
) -> RunDirectory:
    """Return a new directory in `parent`, with everything that says what the run is.

    Raises:
        FinetuneError: something of that name is there, or it cannot be made.
    """
    record = _Record(
        cfg, overrides, dataset, {"again": _command_again(arguments, overrides), "origin": origin_of(arguments)}
    )
    try:
        with remove_new_dirs_on_failure(parent):
            return RunDirectory.create(parent, name, _stem(cfg), record)
    except RunError as error:  # here it is a mistake in what was asked: nothing has run yet
        raise FinetuneError(error.what, error.advice) from error


# What only this run is called by, or how it was started; a file may set these too.
_ONCE = {"name": "null", "resume": "auto", "check": "false", "dry_run": "false"}


def _command_again(arguments: Arguments, overrides: list[str]) -> str:
    """Return the command for the same run once more, in a directory of its own."""
    kept = [text for text in overrides if key_of(text) not in (*_ONCE, "hydra.run.dir")]
    cfg = compose(kept, arguments.config_dir, arguments.config_name)
    plain = [f"{key}={value}" for key, value in _ONCE.items() if cfg._get_node(key) != yaml.safe_load(value)]
    if folder_is_set(cfg):
        plain.append(f"hydra.run.dir={DEFAULT_FOLDER}")
    return replace(arguments, multirun=False).command([*kept, *plain])


@contextmanager
def remove_new_dirs_on_failure(parent: Path) -> Iterator[None]:
    """Take the run's new parents away, if a full disk or Ctrl-C ends what is inside."""
    new = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in new:  # the inmost first; one that another run has begun to use stays
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


class _Record:
    """Writes down what a run is: its whole config, what was typed, its data, the machine."""

    def __init__(self, cfg: DictConfig, overrides: list[str], dataset: Dataset, facts: dict[str, Any]) -> None:
        self._config = resolved(cfg)
        self._typed = [text for text in overrides if key_of(text) != "hydra.run.dir"]
        self._dataset = dataset
        self._environment = describe_environment(Path.cwd()) | facts

    def __call__(self, run: RunDirectory, name: str) -> None:
        """Write it into the directory of a run that will have this name."""
        write_text_atomically(run.config_path, yaml.safe_dump(self._config | {"name": name}, sort_keys=False))
        write_text_atomically(run.overrides_path, yaml.safe_dump(self._typed))
        write_json_atomically(run.data_path, _data_of(self._dataset))
        if self._dataset.problems is not None:
            shutil.copyfile(self._dataset.problems, run.path / self._dataset.problems.name)
        write_json_atomically(run.environment_path, self._environment)
        run.write_status("created")


def _check_goes_on(cfg: DictConfig, run: RunDirectory, dataset: Dataset) -> None:
    status = run.read_status()
    if run.config_path.is_file() and status.get("state") == "finished" and status.get("cause") == "max_time":
        _check_has_more_time(cfg, run, str(status.get("reason")))
    elif run.config_path.is_file() and status.get("state") == "finished":
        raise FinetuneError(
            f"The run {run.path} is finished; it is not trained again.",
            f"Choose another name=; to train on from its model also set {typed('model.name', quoted(str(run.model)))}.",
        )
    check_same_run(cfg, run, dataset)


def _check_has_more_time(cfg: DictConfig, run: RunDirectory, reason: str) -> None:
    """Refuse to resume a run that `trainer.max_time` ended, unless there is more time now.

    Raises:
        FinetuneError: there is not.
    """
    then, now = (_seconds(_limit(tree)) for tree in (_read_yaml(run.config_path), resolved(cfg)))
    if now is not None and (then is None or now <= then):
        raise FinetuneError(
            f"The run {run.path} is finished. {reason}",
            f"To train on, without a limit or with a longer one: {resume_command(run.path)} trainer.max_time=null",
        )


def _seconds(max_time: Any) -> float | None:
    return seconds_of(max_time) if isinstance(max_time, str | dict) else None


def record_time_limit(cfg: DictConfig, run: RunDirectory) -> None:
    """Record that a run resumes with another `trainer.max_time`, so that it has the same when it is resumed again.

    To be called while holding the run's lock.
    """
    config, typed = _read_yaml(run.config_path), _read_yaml(run.overrides_path) or []
    then, now = (_limit(tree) for tree in (config, resolved(cfg)))
    if then == now:
        return
    config["trainer"]["max_time"] = now
    old = [text for text in typed if f"{key_of(text)}.".startswith("trainer.max_time.")]
    key = f"{'++' if any(text.startswith('+') for text in old) else ''}trainer.max_time"
    new = [f"{key}={_in_grammar(now)}"]
    if isinstance(now, dict):
        new.insert(0, f"{key}=null")  # Hydra would merge it with one of a recipe, or of trainer={max_time: ...}
    write_text_atomically(run.config_path, yaml.safe_dump(config, sort_keys=False))
    write_text_atomically(run.overrides_path, yaml.safe_dump([*(text for text in typed if text not in old), *new]))


def _limit(tree: Any) -> Any:
    """Return `trainer.max_time` of a config; None if it has no such key, which is no limit either."""
    found = value_of(tree, "trainer.max_time")
    return None if found is ABSENT else found


def _in_grammar(limit: str | dict[str, float] | None) -> str:
    if isinstance(limit, dict):
        return "{" + ",".join(f"{unit}:{count}" for unit, count in limit.items()) + "}"
    return "null" if limit is None else quoted(limit)


def check_same_run(cfg: DictConfig, run: RunDirectory, dataset: Dataset) -> str:
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
    if differ := changes(_read_yaml(run.config_path), resolved(cfg)):
        raise FinetuneError(
            "\n    ".join([f"The run {run.path} was started with another config:", *differ]),
            "Leave these as they were to go on with it, or choose another name=.",
        )
    if run.data_path.is_file() and not _is_same_data(run, _data_of(dataset)):
        raise FinetuneError(
            f"The run {run.path} was started on other data: {', '.join(dataset.sources)}, or what it is evaluated on,"
            " has changed since.",
            "Put back the data as it was to go on with it, or choose another name= to train on what is there now.",
        )
    return str(state)


def _data_of(dataset: Dataset) -> dict[str, Any]:
    from finetune.data.fingerprint import reader_versions

    return {"fingerprint": dataset.fingerprint, "versions": reader_versions()}


def _is_same_data(run: RunDirectory, now: dict[str, Any]) -> bool:
    """Return whether a run was started on this data; unknown, and so taken as the same, if another version read it."""
    then = _read_yaml(run.data_path)
    if then.get("versions") == now["versions"]:
        return bool(then["fingerprint"] == now["fingerprint"])
    say(f"{run.path} was started by another version of finetune; whether its data has changed since is not checked.")
    return True


def checkpoint_of(run: RunDirectory, resume: str) -> Path | None:
    """Return the checkpoint to go on from, `None` to begin anew, and say what is left out for it.

    To be asked for by who holds the run's lock: else the process that has it may change what is found.

    Raises:
        FinetuneError: none is whole, or not the one that `resume` names.
    """
    chosen = Path(resume).expanduser()
    if resume not in ("auto", "never") and chosen.is_file():
        return run.saved.check(chosen.resolve())
    newest, left_out = run.saved.newest()
    for line in left_out:
        say(f"left out: {line}", style="yellow")
    return newest


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

    # One by one: what names something of Hydra's is resolved in the whole config only.
    nodes = {str(key): cfg[key] for key in cfg if key != "hydra"}
    return {
        key: OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        for key, node in nodes.items()
    }


def _stem(cfg: DictConfig) -> str:
    choices = cfg.hydra.runtime.choices
    return f"{choices.get('model')}_{choices.get('data')}"

"""Which directory a run gets: a new one, or an existing one that it resumes in."""

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
from finetune.config.home import expand_home
from finetune.config.hydra_node import DEFAULT_FOLDER, folder_is_set
from finetune.config.quoting import literal, quoted, typed
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
    """Return the run's directory, and whether it existed: then the run is resumed.

    A new directory appears with everything that defines the run, or not at all.

    Raises:
        FinetuneError: the directory belongs to a finished run, to another config, to other data, or to something
            else, or it cannot be created.
    """
    path = named_folder(cfg)
    if path is not None and path.exists():
        _check_resumable(cfg, RunDirectory(path), dataset)
        return RunDirectory(path), True
    if path is None:
        return make_run(cfg, Path(cfg.output_root) / cfg.experiment, None, overrides, dataset, arguments), False
    return make_run(cfg, path.parent, path.name, overrides, dataset, arguments), False


def make_run(
    cfg: DictConfig, parent: Path, name: str | None, overrides: list[str], dataset: Dataset, arguments: Arguments
) -> RunDirectory:
    """Return a new directory in `parent`, with everything that defines the run.

    Raises:
        FinetuneError: something of that name exists, or it cannot be created.
    """
    record = _Record(
        cfg, overrides, dataset, {"again": _command_again(arguments, overrides), "origin": origin_of(arguments)}
    )
    try:
        with remove_new_dirs_on_failure(parent):
            return RunDirectory.create(parent, name, _stem(cfg), record)
    except RunError as error:  # here it is a user's mistake: nothing has run yet
        raise FinetuneError(error.what, error.advice) from error


# What concerns only this run: its name, and how it was started; a file may set these too.
_ONCE = {"name": "null", "resume": "auto", "check": "false", "dry_run": "false"}


def _command_again(arguments: Arguments, overrides: list[str]) -> str:
    """Return the command for the same run once more, in a directory of its own."""
    kept = [text for text in overrides if key_of(text) not in (*_ONCE, "hydra.run.dir")]
    cfg = compose(kept, arguments.config_dir, arguments.config_name)
    neutral = [f"{key}={value}" for key, value in _ONCE.items() if cfg._get_node(key) != yaml.safe_load(value)]
    if folder_is_set(cfg):
        neutral.append(f"hydra.run.dir={DEFAULT_FOLDER}")
    return replace(arguments, multirun=False).command([*kept, *neutral])


@contextmanager
def remove_new_dirs_on_failure(parent: Path) -> Iterator[None]:
    """Remove the parent folders that were created inside the `with`, if a full disk or Ctrl-C ends it."""
    new = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in new:  # the innermost first; one that another run uses is not empty and stays
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


class _Record:
    """Writes what defines a run: its whole config, the typed overrides, its data, the machine."""

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


def _check_resumable(cfg: DictConfig, run: RunDirectory, dataset: Dataset) -> None:
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
    """Check that a run that `trainer.max_time` ended has more time now.

    Raises:
        FinetuneError: it has not.
    """
    then = _seconds(_limit(_read_yaml(run.config_path)))
    now = _seconds(_limit(resolved(cfg)))
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
    config, overrides = _read_yaml(run.config_path), _read_yaml(run.overrides_path) or []
    now = _limit(resolved(cfg))
    if _limit(config) == now:
        return
    config["trainer"]["max_time"] = now
    old = [text for text in overrides if f"{key_of(text)}.".startswith("trainer.max_time.")]
    key = "trainer.max_time"
    if any(text.startswith("+") for text in old):
        key = f"++{key}"
    new = [f"{key}={literal(now)}"]
    if isinstance(now, dict):
        new.insert(0, f"{key}=null")  # Hydra would merge it with one of a recipe, or of trainer={max_time: ...}
    kept = [text for text in overrides if text not in old]
    write_text_atomically(run.config_path, yaml.safe_dump(config, sort_keys=False))
    write_text_atomically(run.overrides_path, yaml.safe_dump([*kept, *new]))


def _limit(tree: Any) -> Any:
    """Return `trainer.max_time` of a config; None, which means no limit, if it has no such key."""
    found = value_of(tree, "trainer.max_time")
    return None if found is ABSENT else found


def check_same_run(cfg: DictConfig, run: RunDirectory, dataset: Dataset) -> str:
    """Return the state of an existing run after checking that it has this config and this data.

    Raises:
        FinetuneError: it has not, or it is no run, or `resume=never`.
    """
    state = run.read_status().get("state")
    if not state or not run.config_path.is_file():
        raise FinetuneError(
            f"{run.path} exists and is not a run of finetune; it was not touched.", "Choose another name=."
        )
    if cfg.resume == "never":
        raise FinetuneError(
            f"The run {run.path} exists ({state}) and resume=never.",
            "Choose another name=, or resume it with resume=auto.",
        )
    differences = changes(_read_yaml(run.config_path), resolved(cfg))
    if differences:
        raise FinetuneError(
            "\n    ".join([f"The run {run.path} was started with another config:", *differences]),
            "Leave these as they were to resume it, or choose another name=.",
        )
    if run.data_path.is_file() and not _is_same_data(run, _data_of(dataset)):
        raise FinetuneError(
            f"The run {run.path} was started on other data: {', '.join(dataset.sources)}, or what it is evaluated on,"
            " has changed since.",
            "Restore the data as it was to resume it, or choose another name= to train on the data as it is now.",
        )
    return str(state)


def _data_of(dataset: Dataset) -> dict[str, Any]:
    from finetune.data.fingerprint import reader_versions

    return {"fingerprint": dataset.fingerprint, "versions": reader_versions()}


def _is_same_data(run: RunDirectory, now: dict[str, Any]) -> bool:
    """Return whether a run was started on this data; assumed if another version read it, which cannot be compared."""
    then = _read_yaml(run.data_path)
    if then.get("versions") == now["versions"]:
        return bool(then["fingerprint"] == now["fingerprint"])
    say(f"{run.path} was started by another version of finetune; whether its data has changed since is not checked.")
    return True


def newest_checkpoint(run: RunDirectory, resume: str) -> Path | None:
    """Return the checkpoint to resume from, `None` to start from the beginning, and print which newer ones are damaged.

    To be called while holding the run's lock: another process that has it may change the checkpoints.

    Raises:
        FinetuneError: none is whole, or not the one that `resume` names.
    """
    chosen = expand_home(resume)
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
    """Return the config of a run as plain data, without Hydra's node."""
    from omegaconf import OmegaConf

    # One by one: an interpolation of a key of Hydra is resolved in the whole config only.
    plain: dict[str, Any] = {}
    for key in cfg:
        if key == "hydra":
            continue
        node = cfg[key]
        if OmegaConf.is_config(node):
            node = OmegaConf.to_container(node, resolve=True)
        plain[str(key)] = node
    return plain


def _stem(cfg: DictConfig) -> str:
    choices = cfg.hydra.runtime.choices
    return f"{choices.get('model')}_{choices.get('data')}"

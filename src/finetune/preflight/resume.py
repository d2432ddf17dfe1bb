"""What an existing run was started with, restored to resume it: overrides, root config, the moment of `${now:}`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finetune.config import resolvers
from finetune.config.check import check_overrides, with_locations
from finetune.config.command_line import Arguments, is_cluster_override, key_of
from finetune.config.home import expand_home
from finetune.config.hydra_node import folder_is_set
from finetune.config.quoting import quoted, typed
from finetune.errors import CheckFailed, FinetuneError, Problem
from finetune.runs.atomic import read_mapping
from finetune.runs.directory import RunDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

LAUNCHER = "hydra/launcher=slurm"  # how finetune submit says that the run is a job


def composed(arguments: Arguments) -> tuple[Arguments, DictConfig | None, list[Problem]]:
    """Return the arguments that compose the config of a run, the config, and what is wrong with it.

    `resume=PATH` is replaced by the arguments that the run at that path was started with.

    Raises:
        CheckFailed: there is no run at that path; everything else that is wrong is in it too.
    """
    cfg, problems = _compose(arguments)
    if cfg is None or {"resume", "hydra", "hydra.run.dir", "name"} & {problem.where for problem in problems}:
        return arguments, cfg, problems
    try:
        run = _named_by_resume(cfg, is_typed=any(key_of(text) == "resume" for text in arguments.overrides))
    except CheckFailed as failed:
        found = with_locations(failed.problems, arguments.overrides, arguments.config_dir, arguments.config_name)
        raise CheckFailed([*problems, *found]) from None
    if run is not None:
        arguments = _as_started(run, cfg.resume, arguments)
    folder = named_folder(cfg) if run is None else run.path
    is_another_moment = folder is not None and restore_moment(RunDirectory(folder))
    if run is not None or is_another_moment:
        return arguments, *_compose(arguments)
    return arguments, cfg, problems


def named_folder(cfg: DictConfig) -> Path | None:
    """Return the folder that the config gives to the run; None where it gets a new one of its own."""
    if folder_is_set(cfg):
        return Path(cfg.hydra.run.dir)
    if cfg.name is None:
        return None
    return Path(cfg.output_root) / str(cfg.experiment) / str(cfg.name)


def expected_folder(cfg: DictConfig) -> Path:
    """Return where a run will be; with `NAME` in place of a name that it only gets when it starts."""
    return named_folder(cfg) or Path(cfg.output_root) / str(cfg.experiment) / "NAME"


def origin_of(arguments: Arguments) -> dict[str, Any]:
    """Return what a run records of where its config came from, for `composed` when it is resumed."""
    folder = arguments.config_dir
    return {
        "config_dir": None if folder is None else str(folder.absolute()),
        "config_name": arguments.config_name,
        "moment": resolvers.moment(),
    }


def with_root_of(run: RunDirectory, arguments: Arguments) -> Arguments:
    """Return the arguments with the root config that a run was started with, unless another one was typed."""
    origin = read_mapping(run.environment_path).get("origin") or {}
    if arguments.has_own_root or not origin:
        return arguments
    folder = None
    if origin["config_dir"] is not None:
        folder = Path(origin["config_dir"])
        if not folder.is_dir():
            what = f"{run.path} was started with --config-dir {folder}, which does not exist."
            raise FinetuneError(what, "Give its present path: --config-dir FOLDER")
    return replace(arguments, config_dir=folder, config_name=str(origin["config_name"]))


def overrides_of(run: RunDirectory) -> list[str]:
    """Return the overrides that a run was started with; raises FinetuneError if they cannot be read."""
    try:
        return list(yaml.safe_load(run.overrides_path.read_text(encoding="utf-8")) or [])
    except (OSError, ValueError, yaml.YAMLError) as error:
        what = f"{run.overrides_path} cannot be read: it is damaged."
        raise FinetuneError(what, "Start the run again under another name=.") from error


def restore_moment(run: RunDirectory) -> bool:
    """Resolve `${now:...}` to the moment when the run was created, and return whether that was another one."""
    origin = read_mapping(run.environment_path).get("origin") or {}
    recorded = origin.get("moment")
    if not isinstance(recorded, int | float) or recorded == resolvers.moment():
        return False
    resolvers.set_moment(recorded)
    return True


def _compose(arguments: Arguments) -> tuple[DictConfig | None, list[Problem]]:
    return check_overrides(arguments.overrides, arguments.config_dir, arguments.config_name)


def _named_by_resume(cfg: DictConfig, *, is_typed: bool) -> RunDirectory | None:
    """Return the run that `resume` names; None if this process was already started with the arguments of that run."""
    if cfg.resume in ("auto", "never"):
        return None
    path = expand_home(cfg.resume)
    folder = path
    if path.is_file():  # a checkpoint, in the run's checkpoints/
        folder = path.parent.parent
    if not RunDirectory(folder).overrides_path.is_file():
        what = f"there is no run at '{cfg.resume}'."
        raise CheckFailed([Problem("resume", what, "Give a run directory, such as outputs/<experiment>/<run>.")])
    if not folder_is_set(cfg):
        _check_unfinished(RunDirectory(folder), is_typed=is_typed)
        return RunDirectory(folder)
    if Path(cfg.hydra.run.dir).absolute() != folder.absolute():
        what = f"resume names the run {folder}, and hydra.run.dir another folder."
        raise CheckFailed([Problem("hydra.run.dir", what, "Leave one of the two out.")])
    return None


def _check_unfinished(run: RunDirectory, *, is_typed: bool) -> None:
    status = run.read_status()
    if status.get("state") != "finished" or status.get("cause") == "max_time":  # with more time the latter resumes
        return
    what = f"the run {run.path} is finished; it is not trained again."
    leave_out = "Remove resume from the file"
    if is_typed:
        leave_out = "Leave resume=... out"
    advice = f"{leave_out}; to train on from its model also set {typed('model.name', quoted(str(run.model)))}."
    raise CheckFailed([Problem("resume", what, advice)])


def _as_started(run: RunDirectory, resume: str, arguments: Arguments) -> Arguments:
    typed = [text for text in arguments.overrides if key_of(text) != "resume"]
    for text in typed:
        if key_of(text) == "name" and text.partition("=")[2].strip("'\"") not in (run.name, "null"):
            what = f"resume names the run '{run.name}', and this is another name."
            raise CheckFailed([Problem(text, what, "Leave it out; to rename a run rename its folder.")])
    started_with = overrides_of(run)
    if LAUNCHER in typed:
        typed = [*_cluster_options_before(run, typed), *typed]
    path = expand_home(resume)
    chosen = "auto"
    if path.is_file():
        chosen = quoted(resume)
    # The folder may have been renamed or moved since: it alone says which run this is.
    this = ["name=null", f"resume={chosen}", f"hydra.run.dir={quoted(str(run.path))}"]
    return replace(
        with_root_of(run, arguments), overrides=[*started_with, *typed, *_recipes(started_with, typed), *this]
    )


def _recipes(started_with: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Return a choice of both the run's recipe and the one that is typed now, which would replace it."""
    before = [text for text in started_with if key_of(text) == "recipe"]
    now = [text for text in typed if key_of(text) == "recipe"]
    if not before or not now:
        return []
    names: list[str] = []
    for text in (before[-1], now[-1]):
        names += [name.strip() for name in text.partition("=")[2].strip("[]").split(",")]
    return [f"recipe=[{','.join(dict.fromkeys(names))}]"]


def _cluster_options_before(run: RunDirectory, typed: Sequence[str]) -> list[str]:
    """Return the cluster options that the run was submitted with, except for those that are typed now."""
    keys = {key_of(text) for text in typed}
    asked = [str(text) for text in run.read_job().get("asked", [])]
    return [text for text in asked if is_cluster_override(text) and key_of(text) not in keys]

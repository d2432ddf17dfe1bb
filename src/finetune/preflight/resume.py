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
from finetune.config.hydra_node import folder_is_set
from finetune.config.quoting import quoted, typed
from finetune.errors import CheckFailed, FinetuneError, Problem
from finetune.runs.atomic import read_mapping
from finetune.runs.directory import RunDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

LAUNCHER = "hydra/launcher=slurm"  # how finetune submit says that the run is a job


def composed(arguments: Arguments) -> tuple[Arguments, DictConfig | None, list[Problem]]:
    """Return the config of a run and what is wrong with it, after `resume=PATH` is replaced by what that run was.

    The first of what is returned are the arguments that compose this config.

    Raises:
        CheckFailed: there is no run at that path; all else that is wrong is in it too.
    """
    cfg, problems = _look(arguments)
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
        return arguments, *_look(arguments)
    return arguments, cfg, problems


def named_folder(cfg: DictConfig) -> Path | None:
    """Return the folder that the config gives to the run; None where it gets a new one of its own."""
    if folder_is_set(cfg):
        return Path(cfg.hydra.run.dir)
    return None if cfg.name is None else Path(cfg.output_root) / cfg.experiment / cfg.name


def origin_of(arguments: Arguments) -> dict[str, Any]:
    """Return what a run keeps of where its config came from, for `composed` when it is resumed."""
    folder = None if arguments.config_dir is None else str(arguments.config_dir.absolute())
    return {"config_dir": folder, "config_name": arguments.config_name, "moment": resolvers.moment()}


def with_root_of(run: RunDirectory, arguments: Arguments) -> Arguments:
    """Return the arguments with the root config that a run was started with, unless another one was typed."""
    origin = read_mapping(run.environment_path).get("origin") or {}
    if arguments.has_own_root or not origin:
        return arguments
    folder = None if origin["config_dir"] is None else Path(origin["config_dir"])
    if folder is not None and not folder.is_dir():
        what = f"{run.path} was started with --config-dir {folder}, and there is no such folder."
        raise FinetuneError(what, "Say where it is now: --config-dir FOLDER")
    return replace(arguments, config_dir=folder, config_name=str(origin["config_name"]))


def overrides_of(run: RunDirectory) -> list[str]:
    """Return the overrides that a run was started with; raises FinetuneError if they cannot be read."""
    try:
        return list(yaml.safe_load(run.overrides_path.read_text(encoding="utf-8")) or [])
    except (OSError, ValueError, yaml.YAMLError) as error:
        what = f"{run.overrides_path} cannot be read: it is damaged."
        raise FinetuneError(what, "Start the run again under another name=.") from error


def restore_moment(run: RunDirectory) -> bool:
    """Resolve `${now:...}` to the moment when the run was new, and return whether that is another one."""
    origin = read_mapping(run.environment_path).get("origin") or {}
    recorded = origin.get("moment")
    if not isinstance(recorded, int | float) or recorded == resolvers.moment():
        return False
    resolvers.set_moment(recorded)
    return True


def _look(arguments: Arguments) -> tuple[DictConfig | None, list[Problem]]:
    return check_overrides(arguments.overrides, arguments.config_dir, arguments.config_name)


def _named_by_resume(cfg: DictConfig, *, is_typed: bool) -> RunDirectory | None:
    """The run that `resume` names, unless this process was already started with what that run is."""
    if cfg.resume in ("auto", "never"):
        return None
    path = Path(cfg.resume).expanduser()
    folder = path.parent.parent if path.is_file() else path  # a checkpoint is in the run's checkpoints/
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
    out = "Leave resume=... out" if is_typed else "Remove resume from the file"
    advice = f"{out}; to train on from its model also set {typed('model.name', quoted(str(run.model)))}."
    raise CheckFailed([Problem("resume", what, advice)])


def _as_started(run: RunDirectory, resume: str, arguments: Arguments) -> Arguments:
    typed = [text for text in arguments.overrides if key_of(text) != "resume"]
    for text in typed:
        if key_of(text) == "name" and text.partition("=")[2].strip("'\"") not in (run.name, "null"):
            what = f"resume names the run '{run.name}', and this is another name."
            raise CheckFailed([Problem(text, what, "Leave it out; to rename a run rename its folder.")])
    started_with = overrides_of(run)
    if LAUNCHER in typed:
        typed = [*_asked_before(run, typed), *typed]
    path = Path(resume).expanduser()
    chosen = quoted(resume) if path.is_file() else "auto"
    # The folder may have been renamed or moved since: it alone says which run this is.
    this = ["name=null", f"resume={chosen}", f"hydra.run.dir={quoted(str(run.path))}"]
    return replace(
        with_root_of(run, arguments), overrides=[*started_with, *typed, *_recipes(started_with, typed), *this]
    )


def _recipes(started_with: Sequence[str], typed: Sequence[str]) -> list[str]:
    """The choice of the run's recipe and of the one that is typed now, which would take its place."""
    before, now = ([text for text in words if key_of(text) == "recipe"] for words in (started_with, typed))
    if not before or not now:
        return []
    names = [name.strip() for text in (before[-1], now[-1]) for name in text.partition("=")[2].strip("[]").split(",")]
    return [f"recipe=[{','.join(dict.fromkeys(names))}]"]


def _asked_before(run: RunDirectory, typed: Sequence[str]) -> list[str]:
    """What was asked of the cluster when the run was submitted, but for what is asked for now."""
    keys = {key_of(text) for text in typed}
    asked = [str(text) for text in run.read_job().get("asked", [])]
    return [text for text in asked if is_cluster_override(text) and key_of(text) not in keys]

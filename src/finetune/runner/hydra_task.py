"""Runs a function as a task of Hydra: with its logging, its output folder and its resolvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from finetune.config import resolvers
from finetune.config.command_line import Arguments
from finetune.config.compose import JOB_NAME, run_hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_as_hydra_task(arguments: Arguments, flags: list[str], task: Callable[[DictConfig], None]) -> None:
    """Run `task` through Hydra, with the same search path as the check.

    Raises:
        Exception: what `task` raised; Hydra would print a message of its own about it.
    """
    failures: list[Exception] = []

    def guarded(cfg: DictConfig) -> None:
        resolvers.register()  # Hydra has registered its own
        try:
            task(cfg)
        except Exception as error:
            failures.append(error)

    guarded.__module__ = JOB_NAME  # Hydra derives the name of the job from it
    words = [*flags, *arguments.where(), *arguments.overrides]
    run_hydra(words, arguments.config_dir, arguments.config_name, guarded)
    if failures:
        raise failures[0]

"""Checking and composing configs without starting anything."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.api.table import Table
from finetune.errors import CheckFailed, FinetuneError, Problem

if TYPE_CHECKING:
    from finetune.config.command_line import Arguments
    from finetune.preflight.check import CheckedRun


@dataclass(frozen=True)
class CheckResult:
    """What a check found: everything that is wrong, notes about what may be unexpected, and facts about the data.

    `problems` have a config key or a place in the data (`where`), a sentence (`what`) and `advice`. If there are any,
    `notes` and `facts` are empty.
    """

    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        from finetune.console import message_of
        from finetune.report.formatting import format_facts

        if self.problems:
            return "\n".join(text.plain for text in message_of(CheckFailed(self.problems)))
        facts = [f"  {name}: {value}" for name, value in format_facts(self.facts)]
        return "\n".join([*self.notes, "The config and the data are fine; nothing was started.", *facts])

    def _repr_html_(self) -> str:
        columns = ("where", "what", "advice")
        if self.problems:
            rows = [{column: getattr(problem, column) for column in columns} for problem in self.problems]
            return Table.from_rows(rows, columns)._repr_html_()
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        facts = Table({"": list(self.facts), "value": list(self.facts.values())})
        return f"The config and the data are fine.<ul>{notes}</ul>{facts._repr_html_()}"


def check(
    *overrides: str, data: Any = None, config_dir: str | Path | None = None, config_name: str = "train"
) -> CheckResult:
    """Check the config of a run and all of its data, as `finetune check` does; prints nothing and starts nothing.

    If rows are bad, all of them are listed in `problems.jsonl` in the working directory, as the problem says.

    Args:
        *overrides: Overrides of `finetune train`, such as `"optimizer.lr=1e-4"`.
        data: The training data, as in `fit`; None if the overrides choose it.
        config_dir: A folder of your own config groups, as the flag `--config-dir`.
        config_name: The root config, as the flag `--config-name`.

    Returns:
        Its `problems`, empty if a run could start. A mistake in the config or the data is never raised.

    Raises:
        TypeError: an override is no text.

    Example:
        >>> result = finetune.check("model.name=tiny", "trainer.max_epcohs=3", data="pairs.csv")
        >>> result.ok
        False
        >>> print(result.problems[0].where)
        trainer.max_epcohs=3
    """
    from finetune.api.data_input import with_data
    from finetune.api.isolation import arguments_of, isolated

    arguments = arguments_of(overrides, config_dir, config_name)
    try:
        with isolated(), with_data(data, arguments) as chosen:
            checked = checked_run(chosen)
            notes = list(checked.notes)
            for name in checked.missing_models:
                notes.append(f"{name} is not on this machine; a run would download it from the hub.")
            return CheckResult([], notes, dict(checked.dataset.facts))
    except CheckFailed as failed:
        return CheckResult(failed.problems)
    except FinetuneError as error:
        return CheckResult([Problem("check", error.what, error.advice)])


def compose(*overrides: str, config_dir: str | Path | None = None, config_name: str = "train") -> dict[str, Any]:
    """Return the config that these overrides make, with all values resolved, as nested dicts and lists.

    Args:
        *overrides: Overrides of `finetune train`.
        config_dir: A folder of your own config groups, as the flag `--config-dir`.
        config_name: The root config, as the flag `--config-name`.

    Raises:
        CheckFailed: with all mistakes in the config; files that it names are not looked at.

    Example:
        >>> finetune.compose("optimizer.lr=3e-5")["optimizer"]["lr"]
        3e-05
    """
    from finetune.api.isolation import arguments_of, isolated

    arguments = arguments_of(overrides, config_dir, config_name)
    with isolated():
        from finetune.config.check import check as check_config
        from finetune.runner.run_setup import resolved

        return resolved(check_config(arguments.overrides, arguments.config_dir, arguments.config_name))


def checked_run(arguments: Arguments) -> CheckedRun:
    """Check a single run; to be called in an isolated process.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    from finetune.preflight.check import check_run, check_single_run, is_for_cluster

    check_single_run(arguments, is_a_job=is_for_cluster(arguments))
    return check_run(arguments)

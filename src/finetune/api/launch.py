"""From the arguments of a run to its process: everything is checked before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from finetune.config.command_line import Arguments
    from finetune.executors.base import Executor
    from finetune.preflight.check import CheckedRun


def launch(arguments: Arguments, data: Any = None) -> tuple[Executor, Path]:
    """Check a run, create its directory, start its process or job, and return its executor and its directory.

    Raises:
        CheckFailed: with everything that is wrong; nothing was started.
        FinetuneError: the run cannot be started, as in `finetune.fit`.
    """
    from finetune.api.checks import checked_run
    from finetune.api.data_input import with_data
    from finetune.api.isolation import isolated

    with isolated(), with_data(data, arguments) as chosen:
        checked = checked_run(chosen)
        for key in ("check", "dry_run"):
            if checked.cfg[key]:
                what = f"with {key}=true nothing is started."
                raise CheckFailed([Problem(key, what, "Leave it out; finetune.check only checks.")])
        return _submit(checked)


def _submit(checked: CheckedRun) -> tuple[Executor, Path]:
    """Submit a run to the executor of its config, and return that and the run directory."""
    from finetune.executors.single_run import submit_local, submit_slurm
    from finetune.preflight.check import is_for_cluster
    from finetune.preflight.resume import expected_folder
    from finetune.preflight.slurm import slurm_settings

    settings = slurm_settings(checked.cfg)
    if settings is not None and is_for_cluster(checked.arguments):
        return submit_slurm(checked, settings, expected_folder(checked.cfg).absolute(), report=lambda _line: None)
    return submit_local(checked)

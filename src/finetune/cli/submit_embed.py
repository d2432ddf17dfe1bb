"""`finetune submit --embed`: an embedding as an array job, whose tasks share the shards by locks in its folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from finetune.cli.embed import split_one_model
from finetune.cli.errors import exit_code_of
from finetune.config.check import check_overrides
from finetune.config.command_line import key_of
from finetune.config.home import expand_home
from finetune.console import say
from finetune.embed.run import check_embedding
from finetune.embed.settings import EmbedSettings, settings_of
from finetune.errors import CheckFailed, FinetuneError
from finetune.executors.slurm.sbatch import check_possible, submit_job
from finetune.executors.slurm.script import directives, options_of
from finetune.preflight.resume import LAUNCHER
from finetune.preflight.slurm import ResourceRequest, SlurmSettings, check_slurm, slurm_settings
from finetune.runs.atomic import explained

_BODY = """
# Libraries would use all cores that they see.
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}}"
cd {folder} || exit 1
exec {command}
"""


def main(words: Sequence[str], tasks: int) -> int:
    """Submit an embedding as so many tasks, and return the exit code."""
    return exit_code_of(lambda: _submit(list(words), tasks))


def _submit(words: list[str], tasks: int) -> int:
    if tasks < 1:
        raise FinetuneError(f"--tasks {tasks} is not a number of tasks.", "Set at least 1.")
    of_cluster = [word for word in words if key_of(word) == "dry_run" or key_of(word).startswith("hydra.launcher")]
    rest = [word for word in words if word not in of_cluster]
    model, overrides = split_one_model(rest)
    data, settings = settings_of(overrides)
    cfg, slurm = _cluster(of_cluster)
    check_embedding(model, data, settings)
    text = script(["embed", *rest], slurm, settings, tasks)
    if cfg.dry_run:
        sys.stdout.write(text)
        return 0
    check_possible(text)
    with explained("make the folder of the jobs' output"):
        _folder_of_output(settings).mkdir(parents=True, exist_ok=True)
    job_id = submit_job(text, [], of_cluster)
    out = settings.out
    say(f"Job {job_id} with {tasks} tasks embeds into {out}; their output is in {_folder_of_output(settings)}.")
    return 0


def _cluster(overrides: list[str]) -> tuple[DictConfig, SlurmSettings]:
    """Return the config of the launcher; raises CheckFailed with what is wrong with it."""
    cfg, problems = check_overrides([LAUNCHER, *overrides])
    if cfg is None or problems:
        raise CheckFailed(problems)
    cfg.trainer.devices = 1
    problems = list(check_slurm(cfg))
    if problems:
        raise CheckFailed(problems)
    slurm = slurm_settings(cfg)
    if slurm is None:
        raise FinetuneError("this is a job already.", "Start finetune embed directly in it.")
    return cfg, slurm


def script(words: Sequence[str], slurm: SlurmSettings, settings: EmbedSettings, tasks: int) -> str:
    """Return the script of an array job that runs `finetune` with these words in each task."""
    gpus = slurm.gpus_per_process
    if gpus == "auto":
        gpus = int(settings.device != "cpu")
    options = options_of(slurm, ResourceRequest(nodes=1, processes=1, gpus=gpus))
    folder = str(_folder_of_output(settings)).replace("%", "%%")
    output = {"array": f"0-{tasks - 1}", "output": f"{folder}/%A_%a.log"}
    # No signal has to be sent in time: an embedding may be killed at any time.
    options = {name: value for name, value in options.items() if name != "signal"} | output
    body = _BODY.format(
        folder=shlex.quote(str(Path.cwd())), command=shlex.join([sys.executable, "-m", "finetune", *words])
    )
    return "\n".join(["#!/bin/bash", *directives(options)]) + "\n" + body


def _folder_of_output(settings: EmbedSettings) -> Path:
    """Return the folder for what the tasks print, next to that of the vectors."""
    out = expand_home(settings.out).absolute()
    return out.with_name(f"{out.name}-jobs")

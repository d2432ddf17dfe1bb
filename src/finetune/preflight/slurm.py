"""The settings of jobs on a SLURM cluster, and what is wrong with them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from finetune.config.build import build
from finetune.config.types import CountFromZero, NotEmptyText, PositiveInt
from finetune.config.values import has_slurm_launcher
from finetune.errors import Problem
from finetune.runs.jobs import current_job_id

if TYPE_CHECKING:
    from omegaconf import DictConfig

_KEY = "hydra.launcher"
# Options that the script sets itself, or that would write files or start something else.
_RESERVED = {
    *("nodes", "ntasks", "ntasks-per-node", "array", "output", "error", "input", "open-mode", "chdir", "export"),
    *("export-file", "wrap", "signal", "requeue", "no-requeue", "wait", "parsable", "test-only", "batch", "uid", "gid"),
    *("get-user-env", "bbf", "clusters", "gpus-per-node", "gpus-per-task", "time", "partition", "account", "qos"),
    *("constraint", "mem", "cpus-per-task"),
}
_OPTION = re.compile(r"[a-z][a-z0-9-]+")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_SCAN_SECONDS = 60  # SLURM may send its signal this much earlier


@dataclass(frozen=True)
class SlurmSettings:
    """What a job asks for; `conf/hydra/launcher/slurm.yaml` explains each field."""

    partition: NotEmptyText | None
    account: NotEmptyText | None
    qos: NotEmptyText | None
    constraint: NotEmptyText | None
    memory: NotEmptyText | None
    time: PositiveInt | NotEmptyText
    cpus_per_process: PositiveInt
    gpus_per_process: CountFromZero | Literal["auto"]
    options: dict[str, Any]
    save_seconds: PositiveInt
    requeue: bool
    wait: bool


@dataclass(frozen=True)
class ResourceRequest:
    """What a run needs on a cluster: machines, processes on each of them, and GPUs for each process."""

    nodes: int
    processes: int
    gpus: int


def slurm_settings(cfg: DictConfig) -> SlurmSettings | None:
    """Return the settings of a job; None if the config is not for a cluster, or this process is in the job already."""
    if not has_slurm_launcher(cfg) or current_job_id() is not None:
        return None
    settings: SlurmSettings = build(cfg.hydra.launcher, "sweep")
    return settings


def resource_request(cfg: DictConfig, settings: SlurmSettings) -> ResourceRequest:
    """Return what a checked run needs."""
    gpus = settings.gpus_per_process
    if gpus == "auto":
        gpus = int(cfg.trainer.accelerator in ("gpu", "cuda"))
    nodes = cfg.trainer.num_nodes
    if nodes == "auto":
        nodes = 1
    return ResourceRequest(int(nodes), int(cfg.trainer.devices), int(gpus))


def check_slurm(cfg: DictConfig) -> Iterator[Problem]:
    """Check the settings of a job, and that SLURM's commands are installed."""
    settings = slurm_settings(cfg)
    if settings is None:
        return
    if not isinstance(cfg.trainer.devices, int) or cfg.trainer.devices < 1:
        what = "on a cluster the number of processes on each machine has to be given."
        yield Problem("trainer.devices", what, "Write a number: trainer.devices=1")
    seconds = seconds_of(settings.time)
    if seconds is None:
        what = f"'{settings.time}' is not a duration."
        yield Problem(f"{_KEY}.time", what, "Write minutes, or '[days-]hours:minutes:seconds' in quotes.")
    elif seconds < settings.save_seconds + _SCAN_SECONDS:
        what = f"a run has to save {settings.save_seconds} s before the end of its {seconds} s: before it starts."
        yield Problem(f"{_KEY}.time", what, f"Give it more time, or set {_KEY}.save_seconds lower.")
    for name, value in (
        ("partition", settings.partition),
        ("account", settings.account),
        ("qos", settings.qos),
        ("constraint", settings.constraint),
        ("memory", settings.memory),
    ):
        yield from _check_text(f"{_KEY}.{name}", value)
    for option, value in settings.options.items():
        yield from _check_option(str(option), value)
    if shutil.which("sbatch") is None and not cfg.dry_run and not cfg.check:
        what = "SLURM's sbatch is not on the PATH here."
        yield Problem(
            "hydra/launcher=slurm",
            what,
            "Run this on a machine from which jobs are submitted, or load the cluster's module.",
        )


def slurm_notes(cfg: DictConfig) -> list[str]:
    """Return a sentence if a job is valid and may still be unexpected: it asks for no GPU."""
    settings = slurm_settings(cfg)
    if settings is None or resource_request(cfg, settings).gpus or cfg.trainer.accelerator == "cpu":
        return []
    if any(option.startswith("g") for option in settings.options):  # gres, gpus, gpus-per-node ...
        return []
    return ["No GPU is asked for; trainer.accelerator=gpu asks for one for each process."]


def seconds_of(time: int | str) -> int | None:
    """Return a duration in seconds: minutes, or as SLURM writes it; None if it is neither.

    The forms are those of `man sbatch`: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes, days-hours:minutes:seconds.
    """
    found = _TIME.fullmatch(str(time))
    if found is None:
        return None
    days, *numbers = (int(number or 0) for number in found.groups())
    if found[1] or found[4]:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0, numbers[0], numbers[1]
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _check_option(option: str, value: Any) -> Iterator[Problem]:
    key = f"{_KEY}.options.{option}"
    if not _OPTION.fullmatch(option):
        yield Problem(key, "this is not a long option of sbatch.", "Write it without dashes in front: {exclude: node7}")
    elif option in _RESERVED:
        what = "this is set from other keys of the config, or by the run itself."
        yield Problem(key, what, f"Leave it out; {_KEY} has time, partition, memory and more.")
    elif isinstance(value, dict | list):
        yield Problem(key, "expected a text or a number.", "Write it as sbatch takes it.")
    else:
        yield from _check_text(key, value)


def _check_text(key: str, value: Any) -> Iterator[Problem]:
    # A line break would start a new line of the script.
    if isinstance(value, str) and not value.isprintable():
        yield Problem(key, "there is a line break or another control character in it.", "Leave it out.")

"""What a run ran on: versions, machine, git state, command. Nothing about the person or their secrets."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import finetune
from finetune.config.commands import hide_secrets
from finetune.runs.atomic import write_text_atomically

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "safetensors",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "pyarrow",
    "numpy",
)


def describe_environment(cwd: Path) -> dict[str, Any]:
    """What is needed to know why a run differs elsewhere; what cannot be found is null, and nothing is raised.

    `git` is the state of the folder the command was typed in, `finetune_git` that of finetune's own checkout
    where it runs from one.
    """
    return {
        "finetune": finetune.__version__,
        **describe_code(cwd),
        "command": command_line(sys.argv),
        "python": platform.python_version(),
        **describe_machine(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def describe_code(cwd: Path) -> dict[str, Any]:
    """The part of `describe_environment` that git knows."""
    checkout = Path(finetune.__file__).parents[2]
    # An installed package may lie inside somebody's repository (.venv), whose state is not finetune's.
    from_source = (checkout / "setup.cfg").is_file()
    return {"finetune_git": git_state(checkout) if from_source else None, "git": git_state(cwd)}


def describe_machine() -> dict[str, Any]:
    """The part of `describe_environment` that another machine has otherwise."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory(),
    }


def command_line(argv: Sequence[str]) -> str:
    """The command as one would type it again in the same folder; values of passwords, tokens and keys are hidden."""
    program, *arguments = argv or [""]
    start = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join(start + hide_secrets(arguments))


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of `folder` and whether tracked files differ from it; null outside of git or where it fails."""
    # Untracked files can be millions.
    answer = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if answer is None:
        return None
    lines = answer.splitlines()
    heads = [line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")]
    sha = heads[0] if heads and heads[0] != "(initial)" else None
    return {"sha": sha, "dirty": any(not line.startswith("#") for line in lines)}


def write_changes(folder: Path) -> None:
    """Keep in `folder`/changes.diff how tracked files differ from the commits that `describe_environment` names.

    For a run that starts later: by then they may be others. Nothing is written where nothing differs.
    Raises RunError when the system refuses.
    """
    checkouts = dict.fromkeys(filter(None, map(_checkout, (Path.cwd(), Path(finetune.__file__).parent))))
    found = [text for each in checkouts if (text := _git(each, "diff", "HEAD", "--no-ext-diff", "--no-textconv"))]
    if found:
        write_text_atomically(folder / "changes.diff", "\n".join(found))


def _checkout(folder: Path) -> Path | None:
    found = (_git(folder, "rev-parse", "--show-toplevel") or "").strip()
    return Path(found) if found else None


def _git(folder: Path, *words: str) -> str | None:
    """What git says of a folder; None outside of git or where it fails."""
    # fsmonitor off: a repository's own settings must not start programs.
    command = ["git", "-c", "core.fsmonitor=false", *words]
    settings = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        answer = subprocess.run(command, cwd=folder, env=settings, capture_output=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.decode(errors="replace")


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or None)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None

"""The environment of a run: versions, machine, git state, command. Contains no personal data and no secrets."""

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
from finetune.cores import visible_cores
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
    """Return everything that may make the results of a run differ; unknown values are None, nothing is raised.

    `git` is the state of the working directory, `finetune_git` that of finetune's own checkout if it runs from one.
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
    """Return the git part of `describe_environment`."""
    checkout = Path(finetune.__file__).parents[2]
    # An installed package may be inside an unrelated repository (.venv).
    finetune_git = None
    if (checkout / "setup.cfg").is_file():
        finetune_git = git_state(checkout)
    return {"finetune_git": finetune_git, "git": git_state(cwd)}


def describe_machine() -> dict[str, Any]:
    """Return the part of `describe_environment` that depends on the machine."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(visible_cores()),
        "memory_bytes": _memory(),
    }


def command_line(argv: Sequence[str]) -> str:
    """Return the command to repeat in the same folder, with the values of passwords, tokens and keys hidden."""
    program, *arguments = argv or [""]
    start = [Path(program).name]
    if program.endswith(".py"):
        start = ["python", program]
    return shlex.join(start + hide_secrets(arguments))


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of `folder` and whether tracked files differ from it; None outside git or if git fails."""
    # Listing untracked files could take long: there may be millions.
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if status is None:
        return None
    sha, dirty = None, False
    for line in status.splitlines():
        if line.startswith("# branch.oid "):
            sha = line.removeprefix("# branch.oid ")
        elif not line.startswith("#"):
            dirty = True
    return {"sha": None if sha == "(initial)" else sha, "dirty": dirty}


def write_changes(folder: Path) -> None:
    """Write the differences of tracked files to the commits named by `describe_environment` to `folder`/changes.diff.

    For a run that starts later, when the files may have changed. Nothing is written if nothing differs.

    Raises:
        RunError: the operating system refuses.
    """
    checkouts: list[str] = []
    for start in (Path.cwd(), Path(finetune.__file__).parent):
        checkout = (_git(start, "rev-parse", "--show-toplevel") or "").strip()
        if checkout and checkout not in checkouts:
            checkouts.append(checkout)
    diffs = [_git(Path(each), "diff", "HEAD", "--no-ext-diff", "--no-textconv") for each in checkouts]
    text = "\n".join(diff for diff in diffs if diff)
    if text:
        write_text_atomically(folder / "changes.diff", text)


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git in a folder; None outside a repository or if it fails."""
    # fsmonitor off: the settings of a repository must not start programs.
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


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
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None

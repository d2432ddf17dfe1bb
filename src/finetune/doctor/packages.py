"""Python, finetune and the packages that it needs: which versions are installed, and whether they fit."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import finetune
from finetune.doctor.finding import Finding
from finetune.runs.environment import git_state

if TYPE_CHECKING:
    from packaging.requirements import Requirement

TOPIC = "packages"
_FOR_DEVELOPERS = ("dev", "all", "bench", "docs", "wandb")


def python_findings() -> Iterator[Finding]:
    """Yield the versions of finetune and Python."""
    folder = Path(finetune.__file__).parents[2]
    text = finetune.__version__
    if (folder / "setup.cfg").is_file():
        git = git_state(folder) or {}
        commit = str(git.get("sha") or "no commit")[:12]
        text += f", a checkout ({commit}{', changed' if git.get('dirty') else ''})"
    yield Finding("finetune", "version", "fine", text)
    in_environment = sys.prefix != sys.base_prefix
    where = "in a virtual environment" if in_environment else "not in a virtual environment"
    yield Finding("finetune", "Python", "fine", f"{platform.python_version()}, {where}")


def package_findings() -> Iterator[Finding]:
    """Yield a line for each required package, and one for each optional part (extra)."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("finetune") or []
    except importlib.metadata.PackageNotFoundError:
        advice = "Install it: pip install -e . in the checkout, or the wheel."
        yield Finding(TOPIC, "finetune", "doubtful", "it is imported from a folder and not installed.", advice)
        return
    requirements = [Requirement(line) for line in lines]
    extras: dict[str, list[Requirement]] = {}
    for requirement in requirements:
        extra = _extra_of(requirement)
        if extra is None:
            yield _required(requirement)
        elif extra not in _FOR_DEVELOPERS:
            extras.setdefault(extra, []).append(requirement)
    for extra, needed in sorted(extras.items()):
        yield _optional(extra, needed)


def _extra_of(requirement: Requirement) -> str | None:
    """Return the extra that a requirement belongs to, by its marker: `; extra == "lora"`."""
    marker = str(requirement.marker or "")
    _, found, name = marker.partition('extra == "')
    return name.partition('"')[0] if found else None


def _required(requirement: Requirement) -> Finding:
    name, specifier = requirement.name, requirement.specifier
    version = _version(name)
    if version is None:
        return Finding(TOPIC, name, "wrong", "not installed.", f"pip install '{name}{specifier}'")
    if not specifier.contains(version, prereleases=True):
        advice = f"pip install '{name}{specifier}'"
        return Finding(TOPIC, name, "wrong", f"{version}, and finetune needs {specifier}.", advice)
    return Finding(TOPIC, name, "fine", version)


def _optional(extra: str, needed: list[Requirement]) -> Finding:
    versions = {each.name: _version(each.name) for each in needed}
    missing = [name for name, version in versions.items() if version is None]
    name = f"finetune[{extra}]"
    install = f"pip install '{name}'"
    if len(missing) == len(versions):
        return Finding(TOPIC, name, "fine", f"not installed (optional; {install})")
    if missing:
        return Finding(TOPIC, name, "doubtful", f"{', '.join(missing)} of it not installed.", install)
    unfit = [
        f"{each.name} {versions[each.name]}, and finetune needs {each.specifier}"
        for each in needed
        if not each.specifier.contains(str(versions[each.name]), prereleases=True)
    ]
    if unfit:
        return Finding(TOPIC, name, "wrong", f"{'; '.join(unfit)}.", install)
    return Finding(TOPIC, name, "fine", ", ".join(f"{each} {version}" for each, version in versions.items()))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

"""Parses a command line into Hydra's flags and overrides."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from finetune.config.commands import hide_secrets, program
from finetune.config.quoting import quoted
from finetune.config.suggest import edit_distance, nearest
from finetune.errors import CheckFailed, FinetuneError, Problem

# Flags that print something and start nothing.
_SHOW = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--version")
_WITH_A_VALUE = ("--config-dir", "--config-path", "--config-name", "--cfg", "--info", "--package")
_FLAGS = (*_SHOW, *_WITH_A_VALUE, "--multirun", "--resolve")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


# Overrides of the sweep or of the cluster, which are not part of a run's config.
_OF_THE_SWEEP = re.compile(r"[+~]*(sweep[.=@]|hydra/sweeper|hydra\.sweeper)")
# hydra/launcher=basic belongs to a run: it replaces a launcher that a file selects.
_OF_THE_CLUSTER = re.compile(r"[+~]*(hydra/launcher(?!=basic$)|hydra\.launcher|dry_run=(?!false$))")


@dataclass(frozen=True)
class Arguments:
    """A parsed command line: `overrides` as typed, `multirun` for a sweep, `show` for flags that only print."""

    overrides: list[str]
    multirun: bool = False
    show: list[str] = field(default_factory=list)
    config_dir: Path | None = None
    config_name: str = "train"

    @property
    def only_checks(self) -> bool:
        """Whether nothing is started (`check=true`)."""
        return any(word.lower() == "check=true" for word in self.overrides)

    @property
    def has_own_root(self) -> bool:
        """Whether a flag selects another root config or folder than the default."""
        return self.config_dir is not None or self.config_name != "train"

    def where(self) -> list[str]:
        """Return the flags that select the same root config in another process."""
        flags = ["--config-name", self.config_name]
        if self.config_dir is not None:
            flags = ["--config-dir", str(self.config_dir.absolute()), *flags]
        return flags

    def in_folder(self, run: Path) -> Arguments:
        """Return the same arguments with this run directory."""
        kept = [text for text in self.overrides if key_of(text) != "hydra.run.dir"]
        return replace(self, overrides=[*kept, f"hydra.run.dir={quoted(str(run))}"])

    def command(self, overrides: Sequence[str]) -> str:
        """Return the command line for these overrides, for the same folder; secrets are hidden."""
        words = ["-m"] if self.multirun else []
        if self.has_own_root:
            words += self.where()
        return f"{program()} {shlex.join(hide_secrets([*words, *overrides]))}".strip()


def key_of(override: str) -> str:
    """Return the key or group of an override, such as `name` of `++name=x`."""
    return override.partition("=")[0].lstrip("+~")


def is_sweep_override(override: str) -> bool:
    """Return whether an override applies to a sweep as a whole, not to a run."""
    return _OF_THE_SWEEP.match(override) is not None


def is_cluster_override(override: str) -> bool:
    """Return whether an override applies to the job on a cluster, not to the run."""
    return _OF_THE_CLUSTER.match(override) is not None


def run_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that apply to the run itself."""
    return [text for text in overrides if not is_sweep_override(text) and not is_cluster_override(text)]


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FinetuneError(f"{message}.", "Overrides are written key=value; --help lists the keys and flags.")


def parse(argv: Sequence[str]) -> Arguments:
    """Split `argv` into flags and overrides.

    Raises:
        FinetuneError: a flag that Hydra does not have.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    # Hydra has two options; here they are the same folder, which precedes the shipped groups.
    parser.add_argument("--config-dir", "--config-path", "-cd", "-cp", dest="config_dir", type=Path)
    parser.add_argument("--config-name", "-cn", default="train")
    for short, long in (("-h", "--help"), ("-v", "--version")):
        parser.add_argument(short, long, action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=_INFO)
    parser.add_argument("--package", "-p")
    known, rest = parser.parse_known_args(list(argv))
    unknown = list(_unknown_flags(rest))
    if unknown:
        raise CheckFailed(unknown)
    for flag in ("resolve", "package"):
        if getattr(known, flag) and not known.cfg:
            raise FinetuneError(f"--{flag} needs --cfg.", f"Write it with --cfg job: --cfg job --{flag}.")
    if known.config_dir is not None and not known.config_dir.is_dir():
        raise FinetuneError(
            f"--config-dir {known.config_dir}: there is no such folder.", "Give the folder of your own groups."
        )
    name = known.config_name.removesuffix(".yaml")
    return Arguments(rest, known.multirun, _shown(known), known.config_dir, name)


def _unknown_flags(words: Sequence[str]) -> Iterator[Problem]:
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word.startswith("-"):
            yield Problem(word, f"there is no option {word.partition('=')[0]}.", _instead(word, following))


def _instead(word: str, following: str) -> str:
    """Return advice for an unknown option: one with a similar name, or an override."""
    flag, equals, value = word.partition("=")
    near = nearest(flag, _FLAGS)
    if equals:  # probably a key of the config, unless it is one letter away from an option
        near = [each for each in _WITH_A_VALUE if edit_distance(flag, each) == 1]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    key = flag.lstrip("-").replace("-", "_")
    if not equals:
        is_value = following and not following.startswith("-") and "=" not in following
        value = following if is_value else "VALUE"
    return f"Overrides are written without dashes: {shlex.quote(f'{key}={value}')}"


def _shown(known: object) -> list[str]:
    words = []
    for flag in ("help", "version", "hydra_help", "shell_completion", "resolve"):
        if getattr(known, flag):
            words.append("--" + flag.replace("_", "-"))
    for flag in ("cfg", "info", "package"):
        if getattr(known, flag) is not None:
            words += ["--" + flag, getattr(known, flag)]
    return words

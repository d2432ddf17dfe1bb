"""What was typed: Hydra's flags apart from the overrides."""

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
from finetune.config.suggest import distance, nearest
from finetune.errors import CheckFailed, FinetuneError, Problem

# Flags that only look at the config; Hydra answers them itself.
_SHOW = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--version")
_WITH_A_VALUE = ("--config-dir", "--config-path", "--config-name", "--cfg", "--info", "--package")
_FLAGS = (*_SHOW, *_WITH_A_VALUE, "--multirun", "--resolve")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


# What speaks of the sweep, or of the cluster, and not of a run.
_OF_THE_SWEEP = re.compile(r"[+~]*(sweep[.=@]|hydra/sweeper|hydra\.sweeper)")
# The launcher of this machine may be typed to set aside the one that a file chooses.
_OF_THE_CLUSTER = re.compile(r"[+~]*(hydra/launcher(?!=basic$)|hydra\.launcher|dry_run=(?!false$))")


@dataclass(frozen=True)
class Arguments:
    """`overrides` as typed, `multirun` for a sweep, `show` if Hydra is only to print something."""

    overrides: list[str]
    multirun: bool = False
    show: list[str] = field(default_factory=list)
    config_dir: Path | None = None
    config_name: str = "train"

    @property
    def only_checks(self) -> bool:
        """Whether nothing is to be started (`check=true`)."""
        return any(word.lower() == "check=true" for word in self.overrides)

    @property
    def has_own_root(self) -> bool:
        """Whether a flag names another root config, or another folder, than is used without one."""
        return self.config_dir is not None or self.config_name != "train"

    def where(self) -> list[str]:
        """Return the flags that say where the config is, for a process that is to find the same."""
        folder = [] if self.config_dir is None else ["--config-dir", str(self.config_dir.absolute())]
        return [*folder, "--config-name", self.config_name]

    def in_folder(self, run: Path) -> Arguments:
        """Return the same for a run that has this folder."""
        kept = [text for text in self.overrides if key_of(text) != "hydra.run.dir"]
        return replace(self, overrides=[*kept, f"hydra.run.dir={quoted(str(run))}"])

    def command(self, overrides: Sequence[str]) -> str:
        """Return the command that does this with these overrides, to be pasted in the same folder; without secrets."""
        words = ["-m"] * self.multirun + (self.where() if self.has_own_root else [])
        return f"{program()} {shlex.join(hide_secrets([*words, *overrides]))}".strip()


def key_of(override: str) -> str:
    """Return the key or group of an override as typed, such as `name` of `++name=x`."""
    return override.partition("=")[0].lstrip("+~")


def is_of_the_sweep(override: str) -> bool:
    """Return whether an override speaks of a sweep as a whole, not of a run."""
    return _OF_THE_SWEEP.match(override) is not None


def is_of_the_cluster(override: str) -> bool:
    """Return whether an override says what is asked of a cluster, not what a run is."""
    return _OF_THE_CLUSTER.match(override) is not None


def of_the_run(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that a run itself gets."""
    return [text for text in overrides if not is_of_the_sweep(text) and not is_of_the_cluster(text)]


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FinetuneError(f"{message}.", "Overrides are written key=value; --help shows what there is.")


def parse(argv: Sequence[str]) -> Arguments:
    """Split `argv` into flags and overrides.

    Raises:
        FinetuneError: a flag that Hydra does not have.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    # Hydra's two folders are one here: the shipped groups are found behind it.
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
    if unknown := list(_unknown_flags(rest)):
        raise CheckFailed(unknown)
    for flag in ("resolve", "package"):
        if getattr(known, flag) and not known.cfg:
            raise FinetuneError(
                f"--{flag} says how a config is printed.", f"Write it with --cfg job: --cfg job --{flag}."
            )
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
    """What to type instead of a word with dashes: an option that is spelled like it, or an override."""
    flag, equals, value = word.partition("=")
    # With a value behind it this is meant for a key of the config, unless one letter makes it an option.
    near = [each for each in _WITH_A_VALUE if distance(flag, each) == 1] if equals else nearest(flag, _FLAGS)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    key = flag.lstrip("-").replace("-", "_")
    if not equals:
        value = following if following and not following.startswith("-") and "=" not in following else "VALUE"
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

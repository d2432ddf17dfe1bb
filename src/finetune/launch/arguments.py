"""What was typed: Hydra's flags apart from the overrides."""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from finetune.errors import FinetuneError
from finetune.runs.environment import hide_secrets

# Flags that only look at the config; Hydra answers them itself.
_SHOW = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--version")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


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

    def where(self) -> list[str]:
        """Return the flags that say where the config is, for a process that is to find the same."""
        folder = [] if self.config_dir is None else ["--config-dir", str(self.config_dir.absolute())]
        return [*folder, "--config-name", self.config_name]


_PROGRAM = sys.argv[0]


def program() -> str:
    """Return how this program was called, for commands that are printed to be typed in the same folder."""
    called = Path(_PROGRAM)
    if called.name == "finetune":
        return f"{_found_by_the_shell(called)} train"
    python = _found_by_the_shell(Path(sys.executable), "python")
    if called.name == "__main__.py":
        return f"{python} -m finetune{'.launch' if called.parent.name == 'launch' else ' train'}"
    return f"{python} {shlex.quote(_PROGRAM) if called.suffix == '.py' else 'train.py'}"


def _found_by_the_shell(file: Path, name: str = "") -> str:
    """The shortest word that starts this file here: its name if that is on the PATH, or where it is from here."""
    name = name or file.name
    # Not resolved: the python of an environment is a link to one that does not know its packages.
    if shutil.which(name) == str(file.absolute()):
        return name
    near = file.absolute().is_relative_to(Path.cwd())
    return shlex.quote(f"{file.absolute().relative_to(Path.cwd()).parent}/{file.name}" if near else str(file))


# What only the run itself is called by, or that it was looked at or gone on with: not what it computes.
_ONCE = re.compile(r"[+~]*(name|resume|check|hydra\.run\.dir)=")


def command_again(arguments: Arguments, overrides: list[str]) -> str:
    """Return the command for the same run once more, in a directory of its own."""
    flags = arguments.where() if arguments.config_dir or arguments.config_name != "train" else []
    words = hide_secrets([*flags, *(text for text in overrides if not _ONCE.match(text))])
    return f"{program()} {shlex.join(words)}".strip()


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
    parser.add_argument("--config-dir", "-cd", type=Path)
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
    unknown = [word for word in rest if word.startswith("-") and not _is_override(word)]
    if unknown:
        raise FinetuneError(f"there is no option {unknown[0]}.", _did_you_mean(unknown[0]))
    for flag in ("resolve", "package"):
        if getattr(known, flag) and not known.cfg:
            raise FinetuneError(
                f"--{flag} says how a config is printed.", f"Write it with --cfg job: --cfg job --{flag}."
            )
    if known.config_dir is not None and not known.config_dir.is_dir():
        raise FinetuneError(
            f"--config-dir {known.config_dir}: there is no such folder.", "Give the folder of your own groups."
        )
    return Arguments(rest, known.multirun, _shown(known), known.config_dir, known.config_name)


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("--")


def _did_you_mean(word: str) -> str:
    flags = [*_SHOW, "--multirun", "--config-dir", "--config-name", "--resolve", "--package"]
    close = difflib.get_close_matches(word.split("=", maxsplit=1)[0], flags, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return (
        f"Overrides are written without dashes: {word.lstrip('-').replace('-', '_') if '=' in word else 'key=value'}."
    )


def _shown(known: object) -> list[str]:
    words = []
    for flag in ("help", "version", "hydra_help", "shell_completion", "resolve"):
        if getattr(known, flag):
            words.append("--" + flag.replace("_", "-"))
    for flag in ("cfg", "info", "package"):
        if getattr(known, flag) is not None:
            words += ["--" + flag, getattr(known, flag)]
    return words

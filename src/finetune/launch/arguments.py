"""What was typed: Hydra's flags apart from the overrides."""

from __future__ import annotations

import difflib
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from finetune.errors import FinetuneError

# Flags that only look at the config; Hydra answers them itself.
_SHOW = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--version")


@dataclass(frozen=True)
class Arguments:
    """`overrides` as typed, `multirun` for a sweep, `show` if Hydra is only to print something."""

    overrides: list[str]
    multirun: bool = False
    show: list[str] = field(default_factory=list)
    config_dir: Path | None = None
    config_name: str = "train"

    def where(self) -> list[str]:
        """Return the flags that say where the config is, for a process that is to find the same."""
        folder = [] if self.config_dir is None else ["--config-dir", str(self.config_dir.absolute())]
        return [*folder, "--config-name", self.config_name]


# As it was typed: sys.argv is rewritten before a run starts.
_PROGRAM = Path(sys.argv[0]).name


def program() -> str:
    """Return how this program was called, for commands that are printed to be typed."""
    return "finetune train" if _PROGRAM == "finetune" else "python train.py"


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
    parser.add_argument("--info", "-i", nargs="?", const="all")
    parser.add_argument("--package", "-p")
    known, rest = parser.parse_known_args(list(argv))
    unknown = [word for word in rest if word.startswith("-") and not _is_override(word)]
    if unknown:
        raise FinetuneError(f"there is no option {unknown[0]}.", _did_you_mean(unknown[0]))
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

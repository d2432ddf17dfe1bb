"""Commands that are printed, to be pasted into a shell in the same folder."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from finetune import streams
from finetune.config.quoting import quoted, typed

_PROGRAM = sys.argv[0]


def program() -> str:
    """Return how this program was called, for commands that are printed to be typed in the same folder."""
    called = Path(_PROGRAM)
    if called.name == "finetune":
        return f"{_found_by_the_shell(called)} train"
    python = _found_by_the_shell(Path(sys.executable), "python")
    if not streams.is_program():  # the script of a program that calls us does not take overrides
        return f"{python} -m finetune train"
    if called.name == "__main__.py":
        return f"{python} -m finetune{'.runner' if called.parent.name == 'runner' else ' train'}"
    return f"{python} {shlex.quote(_PROGRAM) if called.suffix == '.py' else 'train.py'}"


def _found_by_the_shell(file: Path, name: str = "") -> str:
    """The shortest word that starts this file here: its name if that is on the PATH, or where it is from here."""
    name = name or file.name
    # Not resolved: the python of an environment is a link to one that does not know its packages.
    if shutil.which(name) == str(file.absolute()):
        return name
    near = file.absolute().is_relative_to(Path.cwd())
    return shlex.quote(f"{file.absolute().relative_to(Path.cwd()).parent}/{file.name}" if near else str(file))


def resume_command(run: Path) -> str:
    """Return the command that resumes a run, to be pasted in the same folder; the run knows its own root config."""
    return f"{program()} {typed('resume', quoted(str(run)))}"

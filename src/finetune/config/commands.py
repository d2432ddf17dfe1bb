"""Commands as text that can be pasted into a shell in the same folder."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune import streams
from finetune.config.quoting import quoted, typed

_PROGRAM = sys.argv[0]
_SECRET = re.compile(r"([^=]*(?:token|secret|password|passwd|api_?key|credentials))=.*", re.IGNORECASE | re.DOTALL)


def program() -> str:
    """Return how this program was called, as the start of a command for the same folder."""
    called = Path(_PROGRAM)
    if called.name == "finetune":
        return f"{_shortest_path(called)} train"
    python = _shortest_path(Path(sys.executable), "python")
    if not streams.is_program():  # the script of a program that calls us takes no overrides
        return f"{python} -m finetune train"
    if called.name == "__main__.py":  # of the command line, or of the processes that finetune starts itself
        return f"{python} -m finetune train"
    if called.suffix == ".py":
        return f"{python} {shlex.quote(_PROGRAM)}"
    return f"{python} train.py"


def _shortest_path(file: Path, name: str = "") -> str:
    """The name of an executable if the shell finds it on the PATH, else its path, relative if it is below here."""
    name = name or file.name
    # Not resolved: the Python of a virtual environment is a link to one without its packages.
    if shutil.which(name) == str(file.absolute()):
        return name
    if not file.absolute().is_relative_to(Path.cwd()):
        return shlex.quote(str(file))
    folder = file.absolute().relative_to(Path.cwd()).parent
    return shlex.quote(f"{folder}/{file.name}")


def resume_command(run: Path) -> str:
    """Return the command that resumes a run, for the same folder; the run's directory records its root config."""
    return f"{program()} {typed('resume', quoted(str(run)))}"


def hide_secrets(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the values of passwords, tokens and keys hidden."""
    return [_SECRET.sub(r"\1=***", argument) for argument in arguments]

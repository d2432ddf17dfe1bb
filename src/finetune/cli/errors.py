"""How a command beside `train` answers a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from finetune.errors import FinetuneError


@contextmanager
def answering() -> Iterator[None]:
    """Show a mistake as a sentence, and end with its exit code."""
    from finetune.console import complain

    try:
        yield
    except FinetuneError as error:
        complain(error)
        raise typer.Exit(error.exit_code) from error

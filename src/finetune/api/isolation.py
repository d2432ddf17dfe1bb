"""Calling the parts of the command line from a program, without changing its process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from finetune.config.command_line import Arguments

_one_at_a_time = threading.RLock()  # Hydra's state belongs to the whole process


@contextmanager
def isolated(*, quiet: bool = True) -> Iterator[None]:
    """Restore the process afterwards: Hydra's state, signals, environment, logging; one thread at a time.

    With `quiet` nothing is printed.

    Raises:
        FinetuneError: this process is already running finetune.
    """
    from finetune.runner.process_state import preserve_process_state

    with _one_at_a_time, preserve_process_state():
        # Imported inside: the imports change some of the state too.
        import warnings

        from finetune import library_settings
        from finetune.config import resolvers
        from finetune.console import be_quiet

        if quiet:
            be_quiet()
        warnings.simplefilter("ignore")
        library_settings.apply()
        resolvers.reset_moment()
        yield


def arguments_of(
    overrides: Sequence[str],
    config_dir: str | Path | None = None,
    config_name: str = "train",
    *,
    multirun: bool = False,
    **keys: str | None,
) -> Arguments:
    """Return overrides as the command line would parse them; `keys` are added as overrides unless they are None.

    With `multirun` they are those of a sweep.

    Raises:
        TypeError: an override is no text.
        CheckFailed: an override sets one of the `keys` too.
    """
    from finetune.config.command_line import Arguments, key_of
    from finetune.config.quoting import literal

    for override in overrides:
        if not isinstance(override, str):
            what = f"an override is a text such as 'trainer.max_epochs=3', not of type {type(override).__name__}"
            raise TypeError(f"{what}; data is passed as data=..., a list of overrides with a star: fit(*overrides)")
        key = key_of(override)
        if keys.get(key) is not None:
            what = f"the {key} is given twice, by this override and by the argument {key}."
            raise CheckFailed([Problem(override, what, "Leave one of the two out.")])
    added = [f"{key}={literal(value)}" for key, value in keys.items() if value is not None]
    folder = None if config_dir is None else Path(config_dir)
    return Arguments([*overrides, *added], multirun=multirun, config_dir=folder, config_name=config_name)

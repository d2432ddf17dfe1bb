"""Raising `CheckFailed` with one problem: where it is, what is wrong, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from finetune.data.bad_rows import cut
from finetune.errors import CheckFailed, Problem


def fail(where: str, what: str, advice: str = "", cause: BaseException | None = None) -> NoReturn:
    """Raise `CheckFailed` with one problem."""
    raise CheckFailed([Problem(where, what, advice)]) from cause


def check_unique_names(names: Sequence[str], where: str, whose: str) -> None:
    """Raise `CheckFailed` if a name occurs more than once in `names`; spaces around a name do not count.

    `where` is the location of the names, `whose` what has them, as in "the table".
    """
    for name, count in Counter(name.strip() for name in names).items():
        if count > 1 and name:
            fail(where, f"{whose} has the name '{cut(name)}' more than once.", "Give every column its own name.")


def first_line(error: BaseException, width: int = 150) -> str:
    """Return the first line of an error's message without a full stop, or the name of its type."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text[:width].rstrip(".")

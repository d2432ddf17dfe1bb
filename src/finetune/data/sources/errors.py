"""One way to refuse: a problem with its place, and what to do about it."""

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
    """Refuse a name that stands more than once in `names`; spaces around it do not count."""
    for name, count in Counter(name.strip() for name in names).items():
        if count > 1 and name:
            fail(where, f"{whose} has the name '{cut(name)}' more than once.", "Give every column its own name.")

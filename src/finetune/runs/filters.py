"""Conditions on runs as they are typed: `optimizer.lr<=1e-4`, `model.name=*MiniLM*`, `7d`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from finetune.config.differences import ABSENT, as_yaml
from finetune.errors import FinetuneError

_TERM = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_AGO = re.compile(r"(\d+)\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Term:
    """`name sign value`; numbers are compared as numbers, texts as they are or by a pattern with `*` and `?`."""

    name: str
    sign: str
    value: str

    def holds(self, found: Any) -> bool:
        """Whether it is true of a value; of one that is not there nothing is."""
        if found is ABSENT:
            return False
        number, bound = _number(found), _number(self.value)
        if self.sign in ("=", "!="):
            same = number == bound if None not in (number, bound) else self._fits(found)
            return same == (self.sign == "=")
        if number is None or bound is None:
            return False
        larger, equal = number > bound, number == bound
        return {"<": not larger and not equal, "<=": not larger, ">": larger, ">=": larger or equal}[self.sign]

    def _fits(self, found: Any) -> bool:
        # Of a node only what it builds can be meant: loss=triplet is finetune.losses.triplet.Triplet.
        text = as_yaml(found).rpartition(".")[2] if isinstance(found, Mapping) else as_yaml(found)
        text, wanted = text.casefold(), self.value.casefold()
        return text == wanted or fnmatchcase(text, wanted)


def term(text: str, example: str) -> Term:
    """Read one condition; raises FinetuneError, which shows the `example`."""
    found = _TERM.fullmatch(text)
    if found is None:
        raise FinetuneError(
            f"'{text}' is no condition.", f"Write a name, one of = != < <= > >=, and a value: {example}"
        )
    read = Term(*found.groups())
    if read.sign not in ("=", "!=") and _number(read.value) is None:
        raise FinetuneError(f"'{text}' compares with '{read.value}', which is no number.", f"For example: {example}")
    return read


def moment(text: str, now: datetime) -> datetime:
    """The moment that `text` means: so long before `now` (30m, 12h, 7d, 2w), or a date or time of this machine.

    Raises FinetuneError.
    """
    try:
        if ago := _AGO.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FinetuneError(f"'{text}' is no time.", "Write 30m, 12h, 7d, 2w, or a date: 2026-11-20.") from error


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None

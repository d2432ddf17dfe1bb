"""Which column of a table is the anchor, the positive and the negatives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from finetune.config.quoting import quoted, typed
from finetune.errors import CheckFailed, Problem

KEY = "data.columns"

# Names that say what a column is for come before names that a column may have for other reasons.
ANCHORS = tuple(
    tier.split()
    for tier in (
        "anchor query queries question q text1 text_1 sentence1 sentence_1 text_a sentence_a",
        "source input prompt instruction description definition title text sentence",
    )
)
POSITIVES = tuple(
    tier.split()
    for tier in (
        "positive pos answer a document doc passage response text2 text_2 sentence2 sentence_2 text_b sentence_b",
        "target output context reply completion paragraph body content abstract word term",
    )
)
NEGATIVE = re.compile(r"(hard_?)?neg(ative)?s?_?\d*")
JUDGED = {"score", "label", "labels", "grade", "similarity", "relevance", "similarity_score", "is_duplicate", "class"}
ROLES = ("anchor", "positive", "negative")


@dataclass(frozen=True)
class Roles:
    """The columns that are used, by their names in the file's header, and a sentence if they were guessed."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    note: str = ""

    @property
    def names(self) -> list[str]:
        """All names: anchor, positive, negatives."""
        return [self.anchor, self.positive, *self.negatives]


def find_roles(header: Sequence[str], columns: list[str] | dict[str, str | list[str]] | None) -> Roles:
    """Return which column is what: as `columns` says, else by their names, whatever their case.

    Raises `CheckFailed` with all that is wrong with `columns`, or where the names leave it open.
    """
    if columns is None:
        return _recognise(header)
    asked, problems = _asked(columns)
    problems += _wrong_names(header, asked)
    if problems:
        raise CheckFailed(problems)
    by_name = {name.strip(): name for name in header}
    anchor, positive, *negatives = (name if name in header else by_name[name.strip()] for name in asked)
    return Roles(anchor, positive, tuple(negatives))


def check_columns(columns: list[str] | dict[str, str | list[str]] | None) -> list[Problem]:
    """Return what is wrong with `data.columns` whatever the file is."""
    return [] if columns is None else _asked(columns)[1]


def _asked(columns: list[str] | dict[str, str | list[str]]) -> tuple[list[str], list[Problem]]:
    """Return the names asked for: anchor, positive, negatives; and what is wrong with how they are written."""
    problems = []
    if isinstance(columns, dict):
        problems = [_unknown_role(role) for role in columns if role not in ROLES]
        missing = [role for role in ROLES[:2] if not columns.get(role)]
        problems += [Problem(KEY, f"names no {role} column.", _how_to_name()) for role in missing]
        asked = [name for role in ROLES for name in _listed(columns.get(role, []))]
        several = [role for role in ROLES[:2] if len(_listed(columns.get(role, []))) > 1]
        problems += [Problem(f"{KEY}.{role}", "must be one column.", _how_to_name()) for role in several]
    else:
        asked = columns
        if len(columns) < 2:
            count = "one column" if columns else "no column"
            problems.append(Problem(KEY, f"names {count}; two are needed.", _how_to_name()))
    twice = sorted({name for name in asked if asked.count(name) > 1})
    problems += [Problem(KEY, f"names '{name}' twice; each column has one role.") for name in twice]
    return asked, problems


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])


def _unknown_role(role: str) -> Problem:
    close = get_close_matches(role.lower(), ROLES, n=1, cutoff=0.4)
    advice = f"Did you mean '{close[0]}'?" if close else f"The roles are {', '.join(ROLES)}."
    return Problem(f"{KEY}.{role}", "there is no such role.", advice)


def _wrong_names(header: Sequence[str], asked: Iterable[str]) -> list[Problem]:
    there = [name.strip() for name in header]
    problems = []
    for name in dict.fromkeys(asked):
        if name.strip() not in there:
            by_lower = {column.lower(): column for column in there}
            close = get_close_matches(name.strip().lower(), by_lower, n=1, cutoff=0.5)
            meant = f"Did you mean '{by_lower[close[0]]}'? " if close else ""
            problems.append(Problem(KEY, f"the file has no column '{name}'.", f"{meant}It has: {_list(there)}."))
    return problems


def _recognise(header: Sequence[str]) -> Roles:
    plain = {name: re.sub(r"[\s\-]+", "_", name.strip().lower()) for name in header}
    judged = [name for name, known in plain.items() if known in JUDGED]
    if judged:
        rest = [name.strip() for name in header if name not in judged]
        example = typed(KEY, _bracketed(rest[:2] if len(rest) > 1 else [name.strip() for name in header]))
        what = f"the column '{judged[0].strip()}' makes this scored or labelled data, which data=csv does not read yet."
        raise CheckFailed([Problem(KEY, what, f"To take every row as a right pair: {example}.")])
    negatives = tuple(name for name, known in plain.items() if NEGATIVE.fullmatch(known))
    rest = [name for name in header if name not in negatives]
    anchors, positives = _candidates(rest, plain, ANCHORS), _candidates(rest, plain, POSITIVES)
    if len(anchors) == len(positives) == 1:
        return Roles(anchors[0], positives[0], negatives)
    if len(rest) == 2:
        # One recognised name settles both; otherwise the order does.
        first, second = rest
        if positives == [first] or anchors == [second]:
            first, second = second, first
        note = f"Taking '{first.strip()}' as the anchor and '{second.strip()}' as the positive."
        return Roles(first, second, negatives, note)
    several = [f"{role}: {_list(found)}" for role, found in (("anchor", anchors), ("positive", positives)) if found]
    found = f" Possible are {'; '.join(several)}." if several else ""
    there = _list([name.strip() for name in header])
    what = f"cannot tell the anchor and the positive among the columns {there}.{found}"
    raise CheckFailed([Problem(KEY, what, _how_to_name([name.strip() for name in rest]))])


def _candidates(header: Sequence[str], plain: dict[str, str], tiers: Iterable[Sequence[str]]) -> list[str]:
    """Return the columns whose names are in the first of the tiers that knows any."""
    for tier in tiers:
        if found := [name for name in header if plain[name] in tier]:
            return found
    return []


def _how_to_name(names: Sequence[str] = ("question", "answer")) -> str:
    first, second = names[0], names[1]
    mapping = f"{{anchor: {quoted(first)}, positive: {quoted(second)}}}"
    return f"Name them, as in {typed(KEY, _bracketed([first, second]))} or {typed(KEY, mapping)}."


def _bracketed(names: Sequence[str]) -> str:
    return f"[{','.join(map(quoted, names))}]"


def _list(names: Iterable[str]) -> str:
    shown = [f"'{name}'" for name in names]
    return ", ".join(shown[:30]) + (f" and {len(shown) - 30} more" if len(shown) > 30 else "")

"""What the columns of a table are: which is the anchor, the positive, a score, and so which layout the data has."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune.config.quoting import quoted, typed
from finetune.data.column_setting import (
    GRADES,
    KEY,
    LABELS,
    SCORES,
    WEIGHTS,
    ColumnSetting,
    asked_for,
    bracketed,
    how_to_name,
    listing,
    plain,
    wrong_names,
)
from finetune.data.numbers import POINT, TOLD, Notation, notation_of
from finetune.errors import CheckFailed, Problem

Layout = Literal[
    "pairs", "triplets", "several positives", "scored pairs", "judgments", "scored lists", "labelled", "texts"
]

# Names that say what a column is for come before names that a column may have for other reasons.
ANCHORS = tuple(
    tier.split()
    for tier in (
        "anchor query queries question q text1 text_1 sentence1 sentence_1 text_a sentence_a item1 item_1",
        "source input prompt instruction description definition title text sentence caption",
    )
)
POSITIVES = tuple(
    tier.split()
    for tier in (
        "positive_passages positive_ctxs positive_documents positive_docs positive_texts",
        "positive positives pos answer answers a document documents doc docs passage passages response text2 text_2 "
        "sentence2 sentence_2 text_b sentence_b item2 item_2",
        "target output context reply completion paragraph body content abstract word term image image_path picture",
    )
)
ITEMS = tuple(
    tier.split()
    for tier in (
        "item anchor text sentence image mesh vector embedding",
        "query question document passage description title content body caption file path",
    )
)
NEGATIVE = re.compile(r"(hard_?)?neg(ative)?s?(_(passages|ctxs|documents|docs|texts))?_?\d*")
# Numbers of rows and documents: never a text to learn from.
IDENTIFIERS = re.compile(r"|_?(row_?)?(id|idx|index)|.*_id|unnamed(:_\d+)?|split")


@dataclass(frozen=True)
class Roles:
    """Which column is what, by the names of the table, and the layout that this makes.

    `lists` are the columns with a list in every row; `note` is a sentence to be told if something was guessed.
    `notations` says how the numbers of a text column are written, where not with a decimal point.
    """

    layout: Layout
    anchor: str
    positive: str | None = None
    negatives: tuple[str, ...] = ()
    score: str | None = None
    label: str | None = None
    weight: str | None = None
    lists: frozenset[str] = frozenset()
    note: str = ""
    notations: Mapping[str, Notation] = field(default_factory=dict)

    @property
    def items(self) -> list[str]:
        """The columns that hold items: anchor, positive, negatives."""
        return [self.anchor, *([self.positive] if self.positive else []), *self.negatives]

    @property
    def names(self) -> list[str]:
        """All columns that are used."""
        return [*self.items, *(name for name in (self.score, self.label, self.weight) if name)]


def is_role_name(name: str) -> bool:
    """Return whether a column of this name is recognised, as a header's first sign of being one."""
    word = plain(name)
    items = {word for tiers in (ANCHORS, POSITIVES, ITEMS) for tier in tiers for word in tier}
    known = {*SCORES, *GRADES, *LABELS, *WEIGHTS, *items}
    # "a" and "q" are roles only beside others.
    return len(word) > 1 and (word in known or bool(NEGATIVE.fullmatch(word)))


def find_roles(
    names: Sequence[str],
    sample: Sequence[Sequence[Any]] = (),
    columns: ColumnSetting = None,
    *,
    named: bool = True,
    labelled: bool = False,
    notations: Mapping[str, Notation] | None = None,
    decimal: str = "auto",
) -> Roles:
    """Return which column is what: as `columns` says, else by names (whatever their case and order) and first values.

    `sample` are a few rows; `named` is False for a table without a header, whose columns count by their order;
    `labelled` says that of two columns the second is a class; `notations` is how numbers are written in columns where
    that was recognised, `decimal` the setting.

    Raises:
        CheckFailed: with all that is wrong with `columns`, or where the names leave it open.
    """
    table = _Sampled(names, sample, notations or {}, decimal)
    if columns is not None:
        return _told(table, columns, labelled)
    if not named:
        return _by_order(table, labelled)
    return _recognise(table, labelled)


class _Sampled:
    """The names of a table's columns, and questions about their first values."""

    def __init__(
        self, names: Sequence[str], sample: Sequence[Sequence[Any]], notations: Mapping[str, Notation], decimal: str
    ) -> None:
        self._notations, self._decimal = notations, decimal
        self.names = list(names)
        self.rows = [row for row in sample if len(row) == len(self.names)]
        self._values = {
            name: [row[i] for row in sample if i < len(row) and row[i] is not None] for i, name in enumerate(names)
        }

    def shown(self) -> list[str]:
        return [name.strip() for name in self.names]

    def is_list(self, name: str, of_numbers: bool) -> bool:
        """Whether every value is a list, also one written as JSON; a list of numbers is one item, a vector."""
        values = [_as_list(value) for value in self._values[name]]
        whole = bool(values) and all(value is not None for value in values)
        return whole and (of_numbers or not any(_is_number(value[0]) for value in values if value))

    def is_number(self, name: str) -> bool:
        """Whether every value is a number, also one written as text."""
        values = self._values[name]
        notation = TOLD.get(self._decimal) or self._notations.get(name, POINT)
        return bool(values) and all(_is_number(value, notation) for value in values)

    def notation(self, name: str) -> Notation:
        """Return how the numbers of a column are written; raises `CheckFailed` where that is open."""
        return notation_of(name, self._values[name], self._notations, self._decimal)


def _as_list(value: Any) -> list[Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, str | bytes | dict) else None


def _is_number(value: Any, notation: Notation = POINT) -> bool:
    if isinstance(value, str) and notation != POINT:
        return notation.number(value) is not None
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _told(table: _Sampled, columns: ColumnSetting, labelled: bool) -> Roles:
    asked, problems = asked_for(columns, labelled)
    problems += wrong_names(table.shown(), [name for found in asked.values() for name in found])
    if problems:
        raise CheckFailed(problems)
    by_name = {name.strip(): name for name in table.names}
    real = {
        role: [name if name in table.names else by_name[name.strip()] for name in found]
        for role, found in asked.items()
    }
    return _made(table, real)


def _by_order(table: _Sampled, labelled: bool) -> Roles:
    """Return the roles of a table without a header: item, label · item, item · item, item, score · item, item, item."""
    names = table.names
    if labelled and len(names) == 2:
        return _made(table, {"anchor": names[:1], "label": names[1:]})
    if len(names) > 3 or labelled:
        wanted = "two columns, item and label" if labelled else "at most three columns can be told by their order"
        what = f"the file has no header and {len(names)} columns; {wanted}."
        raise CheckFailed([Problem(KEY, what, f"Name them by number, as in {typed(KEY, '[1,2]')}.")])
    asked = {role: [name] for role, name in zip(("anchor", "positive", "negative"), names, strict=False)}
    if len(names) == 3 and table.is_number(names[2]):
        asked["score"] = asked.pop("negative")
    note = "No header: " + _said(asked, "column ") if len(names) > 1 else ""
    classes = len({str(row[1]) for row in table.rows}) if len(names) == 2 else 0
    if 0 < classes <= len(table.rows) / 2:
        note += " If the second is a class, set data.labelled=true."
    return _made(table, asked, note)


def _recognise(table: _Sampled, labelled: bool) -> Roles:
    words = {name: plain(name) for name in table.names}

    def called(known: Sequence[str]) -> list[str]:
        return [name for name in table.names if words[name] in known]

    negatives = [name for name in table.names if NEGATIVE.fullmatch(words[name])]
    special = {"score": called(SCORES), "grade": called(GRADES), "label": called(LABELS), "weight": called(WEIGHTS)}
    taken = {*negatives, *(name for names in special.values() for name in names)}
    rest = [name for name in table.names if name not in taken and not IDENTIFIERS.fullmatch(words[name])]
    rest = rest or [name for name in table.names if name not in taken]
    special = {role: names[:1] for role, names in special.items() if names}
    anchors, positives = _candidates(rest, words, ANCHORS), _candidates(rest, words, POSITIVES)
    found = _pair(rest, anchors, positives)
    if special.get("label") and (labelled or found is None or len(rest) == 1):
        return _labelled(table, rest, words, special)
    if found is None and len(rest) == 1 and not negatives:
        return _made(table, {"anchor": rest})
    if found is None:
        raise CheckFailed([_open(table, rest, anchors, positives)])
    anchor, positive, guessed = found
    asked = {"anchor": [anchor], "positive": [positive], "negative": negatives, **special}
    if label := asked.pop("label", None):
        asked["score"] = [_score_of_pair(table, label[0], (anchor, positive), guessed)]
    if asked.get("score") and asked.get("grade"):
        asked.pop("grade")
    note = f"Taking '{anchor.strip()}' as the anchor and '{positive.strip()}' as the positive." if guessed else ""
    return _made(table, asked, note)


def _pair(rest: list[str], anchors: list[str], positives: list[str]) -> tuple[str, str, bool] | None:
    """Return anchor, positive, and whether they were guessed; None where the names leave it open."""
    if len(anchors) == len(positives) == 1 and anchors != positives:
        return anchors[0], positives[0], False
    if len(rest) != 2:
        return None
    # One recognised name settles both; otherwise the order does.
    first, second = rest
    if positives == [first] or anchors == [second]:
        first, second = second, first
    return first, second, True


def _labelled(table: _Sampled, rest: list[str], words: dict[str, str], special: dict[str, list[str]]) -> Roles:
    items = rest if len(rest) == 1 else _candidates(rest, words, ITEMS)
    if len(items) != 1:
        label = special["label"][0].strip()
        what = f"'{label}' is the class, but which of the columns {listing(rest)} is the item?"
        example = typed(KEY, f"{{item: {quoted(rest[0].strip())}, label: {quoted(label)}}}" if rest else "[item,label]")
        raise CheckFailed([Problem(KEY, what, f"Name it, as in {example}.")])
    return _made(table, {"anchor": items, "label": special["label"], "weight": special.get("weight", [])})


def _score_of_pair(table: _Sampled, label: str, pair: tuple[str, str], guessed: bool) -> str:
    """Return the label beside two items as their score, if that is what it must be: a number, as 0 and 1."""
    if table.is_number(label) and not guessed:
        return label
    first, second, shown = (quoted(name.strip()) for name in (*pair, label))
    what = f"the column '{label.strip()}' may be the class of an item, or say how well two items match."
    ways = (
        ("labelled items", f"{{item: {first}, label: {shown}}}"),
        ("right pairs", f"[{first},{second}]"),
        ("scored pairs", f"{{anchor: {first}, positive: {second}, score: {shown}}}"),
    )
    raise CheckFailed([Problem(KEY, what, "Say which: " + "; ".join(f"{typed(KEY, w)} ({name})" for name, w in ways))])


def _open(table: _Sampled, rest: list[str], anchors: list[str], positives: list[str]) -> Problem:
    several = [f"{role}: {listing(found)}" for role, found in (("anchor", anchors), ("positive", positives)) if found]
    found = f" Possible are {'; '.join(several)}." if several else ""
    names = [name.strip() for name in (rest if len(rest) > 1 else table.names)]
    what = f"cannot tell the anchor and the positive among the columns {listing(table.shown())}.{found}"
    return Problem(KEY, what, how_to_name(names if len(names) > 1 else ("question", "answer")))


def _made(table: _Sampled, asked: Mapping[str, list[str]], note: str = "") -> Roles:
    """Return the roles, with the layout that they make together."""
    one = {role: names[0] if names else None for role, names in asked.items()}
    positive, label, grade = one.get("positive"), one.get("label"), one.get("grade")
    score = one.get("score") or grade
    negatives = tuple(asked.get("negative", ()))
    lists = frozenset(
        name for name in (positive, *negatives, score) if name and table.is_list(name, of_numbers=name == score)
    )
    layout: Layout = "pairs"
    if positive is None:
        layout = "labelled" if label else "texts"
    elif score:
        layout = "scored lists" if positive in lists else "judgments" if grade == score else "scored pairs"
        if negatives:
            what = f"the columns have both scores ('{score.strip()}') and negatives ('{negatives[0].strip()}')."
            advice = f"Leave one out, as in {typed(KEY, bracketed([str(one['anchor']).strip(), positive.strip()]))}."
            raise CheckFailed([Problem(KEY, what, advice)])
    elif positive in lists:
        layout = "several positives"
    elif negatives:
        layout = "triplets"
    anchor = one["anchor"]
    assert anchor is not None
    weight = one.get("weight")
    notations = {name: table.notation(name) for name in (score, weight) if name and name not in lists}
    notations = {name: notation for name, notation in notations.items() if notation != POINT}
    return Roles(layout, anchor, positive, negatives, score, label, weight, lists, note, notations)


def _candidates(header: Sequence[str], words: dict[str, str], tiers: Iterable[Sequence[str]]) -> list[str]:
    """Return the columns whose names are in the first of the tiers that knows any."""
    for tier in tiers:
        if found := [name for name in header if words[name] in tier]:
            return found
    return []


def _said(asked: Mapping[str, list[str]], what: str = "") -> str:
    return ", ".join(f"{what}{names[0]} is the {role}" for role, names in asked.items() if names) + "."

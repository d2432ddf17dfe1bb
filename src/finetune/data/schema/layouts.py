"""What the columns of a table are: which is the anchor, the positive, a score, and so which layout the data has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from finetune.config.quoting import quoted, typed
from finetune.data.schema.column_spec import (
    GRADES,
    IDENTIFIERS,
    KEY,
    LABELS,
    SCORES,
    WEIGHTS,
    ColumnSetting,
    hydra_list,
    missing_score,
    normalized_name,
    quoted_names,
    requested_columns,
    unknown_columns,
)
from finetune.data.schema.number_formats import POINT, Notation
from finetune.data.schema.questions import (
    are_classes,
    cannot_be_answer,
    classes_problem,
    flag_problem,
    is_flag,
    label_problem,
    scored_pair,
    undecided_problem,
)
from finetune.data.schema.sample_values import SampledColumns
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


@dataclass(frozen=True)
class Roles:
    """Which column is what, by the names of the table, and the layout that this makes.

    `lists` are the columns of lists; `note` is a sentence to print if something was guessed; `unused` are the columns
    that have no role. `notations` says how the numbers of a text column are written, where not with a decimal point.
    With `by_user` a user said what the columns are, in `data.columns`; `named` is False for a table without a header.
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
    unused: tuple[str, ...] = ()
    by_user: bool = False
    named: bool = True

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
    word = normalized_name(name)
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
    scored: bool = False,
    notations: Mapping[str, Notation] | None = None,
    decimal: str = "auto",
) -> Roles:
    """Return which column is what: as `columns` says, else by names (whatever their case and order) and first values.

    `sample` are a few rows; `named` is False for a table without a header, whose columns count by their order;
    `labelled` says that of two columns the second is a class; `scored`, that there is a score, as which a
    label next to a pair is taken whatever its values are (`data.score_values`); `notations` is how numbers are written
    in the text columns where that was recognised, `decimal` the setting.

    Raises:
        CheckFailed: with all that is wrong with `columns`, or where the names leave it open.
    """
    table = SampledColumns(names, sample, notations, decimal)
    if columns is not None:
        roles = _by_setting(table, columns, labelled)
    elif named:
        roles = _recognise(table, labelled, scored)
    else:
        roles = _by_order(table, labelled)
    if scored and roles.score is None:
        raise CheckFailed([missing_score(table.shown())])
    unused = tuple(name for name in table.names if name not in roles.names)
    return replace(roles, unused=unused, by_user=columns is not None, named=named)


def _by_setting(table: SampledColumns, columns: ColumnSetting, labelled: bool) -> Roles:
    asked, problems = requested_columns(columns, labelled)
    problems += unknown_columns(table.shown(), [name for found in asked.values() for name in found])
    if problems:
        raise CheckFailed(problems)
    by_name = {name.strip(): name for name in table.names}
    real = {
        role: [name if name in table.names else by_name[name.strip()] for name in found]
        for role, found in asked.items()
    }
    return _made(table, real)


def _by_order(table: SampledColumns, labelled: bool) -> Roles:
    """Return the roles of a table without a header: item, label · item, item · item, item, score · item, item, item."""
    names = table.names
    if labelled and len(names) == 2:
        return _made(table, {"anchor": names[:1], "label": names[1:]})
    if len(names) > 3 or labelled:
        wanted = "two columns, item and label" if labelled else "at most three columns can be told by their order"
        what = f"the file has no header and {len(names)} columns; {wanted}."
        example = ",".join(sorted(table.texts_first(names)[:2], key=int))
        raise CheckFailed([Problem(KEY, what, f"Name them by number, as in {typed(KEY, f'[{example}]')}.")])
    asked = {role: [name] for role, name in zip(("anchor", "positive", "negative"), names, strict=False)}
    if len(names) == 3 and table.is_score(names[2]):
        asked["score"] = asked.pop("negative")
    note = "No header: " + _said(asked, "column ") if len(names) > 1 else ""
    classes = len({str(row[1]) for row in table.rows}) if len(names) == 2 else 0
    if 0 < classes <= len(table.rows) / 2:
        note += " If the second is a class, set data.labelled=true."
    return _made(table, asked, note)


def _recognise(table: SampledColumns, labelled: bool, scored: bool) -> Roles:
    words = {name: normalized_name(name) for name in table.names}

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
        raise CheckFailed([undecided_problem(table, rest, anchors, positives, special)])
    anchor, positive, guessed = found
    if guessed and (flags := [name for name in (anchor, positive) if is_flag(table, name)]):
        raise CheckFailed([flag_problem(flags[0], positive if flags[0] == anchor else anchor)])
    asked = {"anchor": [anchor], "positive": [positive], "negative": negatives, **special}
    label = asked.pop("label", None)
    if label and cannot_be_answer(label[0]) and not (guessed or scored):
        label = None  # as the topic of a question and its answer
    if label and not asked.get("score") and not asked.get("grade"):
        asked["score"] = [label[0] if scored else _score_of_pair(table, label[0], (anchor, positive), guessed)]
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


def _labelled(table: SampledColumns, rest: list[str], words: dict[str, str], special: dict[str, list[str]]) -> Roles:
    items = rest if len(rest) == 1 else _candidates(rest, words, ITEMS)
    if len(items) != 1:
        label = special["label"][0].strip()
        what = f"'{label}' is the class, but which of the columns {quoted_names(rest)} is the item?"
        item = table.texts_first(rest)[0].strip() if rest else ""
        example = typed(KEY, f"{{item: {quoted(item)}, label: {quoted(label)}}}" if rest else "[item,label]")
        texts = [name for name in rest if name in table.texts_of(rest)[:2]]
        pairs = f", or for pairs {typed(KEY, scored_pair(texts[0], texts[1], label))}" if len(texts) > 1 else ""
        raise CheckFailed([Problem(KEY, what, f"Name it, as in {example}{pairs}.")])
    return _made(table, {"anchor": items, "label": special["label"], "weight": special.get("weight", [])})


def _score_of_pair(table: SampledColumns, label: str, pair: tuple[str, str], guessed: bool) -> str:
    """Return the label next to two items as their score, if that is what it must be, as 0 and 1, or fractions."""
    if guessed or not table.is_score(label):
        raise CheckFailed([label_problem(label, pair, table.words(label))])
    if are_classes(table.numbers(label), label):
        raise CheckFailed([classes_problem(label, pair, table.numbers(label))])
    return label


def _made(table: SampledColumns, asked: Mapping[str, list[str]], note: str = "") -> Roles:
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
            advice = f"Leave one out, as in {typed(KEY, hydra_list([str(one['anchor']).strip(), positive.strip()]))}."
            raise CheckFailed([Problem(KEY, what, advice)])
    elif positive in lists:
        layout = "several positives"
    elif negatives:
        layout = "triplets"
    anchor = one["anchor"]
    assert anchor is not None
    weight = one.get("weight")
    notations = {name: table.notation(name) for name in (score, weight) if name}
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

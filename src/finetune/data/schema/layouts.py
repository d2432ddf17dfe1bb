"""The role of each column of a table (anchor, positive, score, ...), and the layout of the data that follows."""

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

# In tiers: names that state the role of a column come before names that a column may have for other reasons.
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
_ITEM_NAMES = {name for tiers in (ANCHORS, POSITIVES, ITEMS) for tier in tiers for name in tier}
_ROLE_NAMES = {*SCORES, *GRADES, *LABELS, *WEIGHTS, *_ITEM_NAMES}


@dataclass(frozen=True)
class Roles:
    """The columns of a table by role, and the layout that they make.

    `lists` are the columns of lists; `note` is a sentence to print if a role was guessed; `unused` are the columns
    without a role. `notations` is how numbers are written in text columns without a decimal point. `by_user`: the user
    named the columns in `data.columns`. `named` is False for a table without a header.
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
        if self.positive is None:
            return [self.anchor, *self.negatives]
        return [self.anchor, self.positive, *self.negatives]

    @property
    def names(self) -> list[str]:
        """All columns that are used."""
        others = [name for name in (self.score, self.label, self.weight) if name]
        return [*self.items, *others]


def is_role_name(name: str) -> bool:
    """Whether a name is one that columns with a role have: the first sign of a header."""
    word = normalized_name(name)
    if len(word) < 2:  # "a" and "q" are roles only next to others
        return False
    return word in _ROLE_NAMES or NEGATIVE.fullmatch(word) is not None


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
    """Return the role of each column: as `columns` says, else by names (in any case and order) and first values.

    `sample` are a few rows; `named` is False for a table without a header, whose columns have roles by their order;
    `labelled`: of two columns the second is a class; `scored`: there is a score, and a label next to a pair is that
    score whatever its values are (`data.score_values`); `notations` is how numbers are written in text columns, where
    that was detected, `decimal` the setting.

    Raises:
        CheckFailed: with all problems of `columns`, or where names and values leave the roles open.
    """
    table = SampledColumns(names, sample, notations, decimal)
    if columns is not None:
        roles = _by_setting(table, columns, labelled)
    elif named:
        roles = _by_name(table, labelled, scored)
    else:
        roles = _by_order(table, labelled)
    if scored and roles.score is None:
        raise CheckFailed([missing_score(table.shown())])
    unused = tuple(name for name in table.names if name not in roles.names)
    return replace(roles, unused=unused, by_user=columns is not None, named=named)


def _by_setting(table: SampledColumns, columns: ColumnSetting, labelled: bool) -> Roles:
    asked, problems = requested_columns(columns, labelled)
    problems += unknown_columns(table.shown(), [name for names in asked.values() for name in names])
    if problems:
        raise CheckFailed(problems)
    by_stripped_name = {name.strip(): name for name in table.names}
    found: dict[str, list[str]] = {}
    for role, names in asked.items():
        found[role] = [name if name in table.names else by_stripped_name[name.strip()] for name in names]
    return _make_roles(table, found)


def _by_order(table: SampledColumns, labelled: bool) -> Roles:
    """Return the roles of a table without a header: item, label · item, item · item, item, score · item, item, item."""
    names = table.names
    if labelled and len(names) == 2:
        return _make_roles(table, {"anchor": names[:1], "label": names[1:]})
    if len(names) > 3 or labelled:
        raise CheckFailed([_too_many_columns(table, labelled)])
    asked = {role: [name] for role, name in zip(("anchor", "positive", "negative"), names, strict=False)}
    if len(names) == 3 and table.is_score(names[2]):
        asked["score"] = asked.pop("negative")
    note = ""
    if len(names) > 1:
        assigned = [f"column {columns[0]} is the {role}" for role, columns in asked.items()]
        note = f"No header: {', '.join(assigned)}."
    if len(names) == 2:
        classes = len({str(row[1]) for row in table.rows})
        if 0 < classes <= len(table.rows) / 2:
            note += " If the second is a class, set data.labelled=true."
    return _make_roles(table, asked, note)


def _too_many_columns(table: SampledColumns, labelled: bool) -> Problem:
    limit = "at most three columns can have roles by their order"
    if labelled:
        limit = "two columns, item and label"
    example = ",".join(sorted(table.texts_first(table.names)[:2], key=int))
    what = f"the file has no header and {len(table.names)} columns; {limit}."
    return Problem(KEY, what, f"Name them by number, as in {typed(KEY, f'[{example}]')}.")


def _by_name(table: SampledColumns, labelled: bool, scored: bool) -> Roles:
    """Return the roles of a table with a header."""
    words = {name: normalized_name(name) for name in table.names}
    negatives = [name for name in table.names if NEGATIVE.fullmatch(words[name])]
    numbers = _number_columns(words)
    assigned = {*negatives, *(name for names in numbers.values() for name in names)}
    rest = [name for name in table.names if name not in assigned and not IDENTIFIERS.fullmatch(words[name])]
    if not rest:
        rest = [name for name in table.names if name not in assigned]
    numbers = {role: names[:1] for role, names in numbers.items() if names}
    anchors, positives = _candidates(rest, words, ANCHORS), _candidates(rest, words, POSITIVES)
    found = _pair(rest, anchors, positives)
    if "label" in numbers and (labelled or found is None or len(rest) == 1):
        return _labelled(table, rest, words, numbers)
    if found is None and len(rest) == 1 and not negatives:
        return _make_roles(table, {"anchor": rest})
    if found is None:
        raise CheckFailed([undecided_problem(table, rest, anchors, positives, numbers)])
    anchor, positive, guessed = found
    if guessed:
        _check_no_flag(table, anchor, positive)
    asked = {"anchor": [anchor], "positive": [positive], "negative": negatives}
    asked |= _columns_next_to_pair(table, numbers, found, scored)
    note = ""
    if guessed:
        note = f"Taking '{anchor.strip()}' as the anchor and '{positive.strip()}' as the positive."
    return _make_roles(table, asked, note)


def _number_columns(words: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the columns that are named as a score, grade, label or weight, by role."""
    names = {"score": SCORES, "grade": GRADES, "label": LABELS, "weight": WEIGHTS}
    return {role: [name for name, word in words.items() if word in known] for role, known in names.items()}


def _check_no_flag(table: SampledColumns, anchor: str, positive: str) -> None:
    """Raise `CheckFailed` if one of two columns without a role by name has two or three values only."""
    for flag, item in ((anchor, positive), (positive, anchor)):
        if is_flag(table, flag):
            raise CheckFailed([flag_problem(flag, item)])


def _columns_next_to_pair(
    table: SampledColumns, numbers: Mapping[str, list[str]], pair: tuple[str, str, bool], scored: bool
) -> dict[str, list[str]]:
    """Return the columns of numbers that are used next to a pair, by role: a label becomes its score or is dropped."""
    anchor, positive, guessed = pair
    found = dict(numbers)
    label = found.pop("label", [])
    if label and cannot_be_answer(label[0]) and not (guessed or scored):
        label = []  # as the topic of a question and its answer
    if label and "score" not in found and "grade" not in found:
        if not scored:
            _check_is_score(table, label[0], (anchor, positive), guessed)
        found["score"] = label
    if "score" in found:
        found.pop("grade", None)
    return found


def _pair(rest: list[str], anchors: list[str], positives: list[str]) -> tuple[str, str, bool] | None:
    """Return anchor, positive, and whether they were guessed; None if the names do not decide it."""
    if len(anchors) == len(positives) == 1 and anchors != positives:
        return anchors[0], positives[0], False
    if len(rest) != 2:
        return None
    # One known name decides both; otherwise the order does.
    first, second = rest
    if positives == [first] or anchors == [second]:
        first, second = second, first
    return first, second, True


def _labelled(table: SampledColumns, rest: list[str], words: dict[str, str], numbers: dict[str, list[str]]) -> Roles:
    """Return the roles of a table of items with classes."""
    items = rest
    if len(rest) != 1:
        items = _candidates(rest, words, ITEMS)
    if len(items) != 1:
        raise CheckFailed([_undecided_item(table, rest, numbers["label"][0].strip())])
    return _make_roles(table, {"anchor": items, "label": numbers["label"], "weight": numbers.get("weight", [])})


def _undecided_item(table: SampledColumns, rest: list[str], label: str) -> Problem:
    """Return the question which of the columns `rest` is the item that has the class `label`."""
    example = "[item,label]"
    if rest:
        item = table.texts_first(rest)[0].strip()
        example = f"{{item: {quoted(item)}, label: {quoted(label)}}}"
    advice = f"Name it, as in {typed(KEY, example)}"
    texts = [name for name in rest if name in table.texts_of(rest)[:2]]
    if len(texts) > 1:
        advice += f", or for pairs {typed(KEY, scored_pair(texts[0], texts[1], label))}"
    what = f"'{label}' is the class, but which of the columns {quoted_names(rest)} is the item?"
    return Problem(KEY, what, f"{advice}.")


def _check_is_score(table: SampledColumns, label: str, pair: tuple[str, str], guessed: bool) -> None:
    """Raise `CheckFailed` if the label next to two items may be anything but their score: 0 and 1, or fractions."""
    if guessed or not table.is_score(label):
        raise CheckFailed([label_problem(label, pair, table.words(label))])
    if are_classes(table.numbers(label), label):
        raise CheckFailed([classes_problem(label, pair, table.numbers(label))])


def _make_roles(table: SampledColumns, asked: Mapping[str, list[str]], note: str = "") -> Roles:
    """Return the roles, with the layout that they make together; a role has one column, but for the negatives."""
    first = {role: names[0] for role, names in asked.items() if names}
    positive, grade, weight = first.get("positive"), first.get("grade"), first.get("weight")
    score = first.get("score", grade)
    negatives = tuple(asked.get("negative", ()))
    lists = set()
    for name in (positive, *negatives, score):
        if name is not None and table.is_list(name, of_numbers=name == score):
            lists.add(name)
    roles = Roles(
        layout="pairs",
        anchor=first["anchor"],
        positive=positive,
        negatives=negatives,
        score=score,
        label=first.get("label"),
        weight=weight,
        lists=frozenset(lists),
        note=note,
    )
    layout = _layout(roles, is_graded=score is not None and score == grade)
    notations = _notations(table, [name for name in (score, weight) if name is not None])
    return replace(roles, layout=layout, notations=notations)


def _notations(table: SampledColumns, names: Iterable[str]) -> dict[str, Notation]:
    """Return how numbers are written in those of the columns where that is not with a decimal point."""
    found = {}
    for name in names:
        notation = table.notation(name)
        if notation != POINT:
            found[name] = notation
    return found


def _layout(roles: Roles, is_graded: bool) -> Layout:
    """Return the layout of the data.

    Raises:
        CheckFailed: there are both scores and negatives.
    """
    if roles.positive is None:
        return "labelled" if roles.label else "texts"
    if roles.score is not None:
        if roles.negatives:
            raise CheckFailed([_scores_and_negatives(roles, roles.score, roles.positive)])
        if roles.positive in roles.lists:
            return "scored lists"
        return "judgments" if is_graded else "scored pairs"
    if roles.positive in roles.lists:
        return "several positives"
    return "triplets" if roles.negatives else "pairs"


def _scores_and_negatives(roles: Roles, score: str, positive: str) -> Problem:
    what = f"the columns have both scores ('{score.strip()}') and negatives ('{roles.negatives[0].strip()}')."
    pair = hydra_list([roles.anchor.strip(), positive.strip()])
    return Problem(KEY, what, f"Leave one out, as in {typed(KEY, pair)}.")


def _candidates(header: Sequence[str], words: dict[str, str], tiers: Iterable[Sequence[str]]) -> list[str]:
    """Return the columns whose names are in the first tier that has any of them."""
    for tier in tiers:
        found = [name for name in header if words[name] in tier]
        if found:
            return found
    return []

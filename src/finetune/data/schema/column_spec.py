"""The setting `data.columns`: its roles, its problems, and advice on how to write it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from finetune.config.quoting import quoted, typed
from finetune.data.bad_rows import cut
from finetune.errors import Problem

KEY = "data.columns"
ColumnSetting = list[str] | dict[str, str | list[str]] | None
_MOST_NAMES = 30  # in one message

SCORES = ("score", "scores", "similarity", "similarity_score", "sim", "is_duplicate", "teacher_score", "teacher_scores")
GRADES = ("grade", "grades", "relevance", "rel", "judgment", "judgement")
LABELS = (
    *("label", "labels", "gold_label", "gold_labels"),
    *("class", "category", "target_class", "cluster", "intent", "topic"),
)
WEIGHTS = ("weight", "sample_weight")
# Numbers of rows and documents, and splits: never a text to train on.
IDENTIFIERS = re.compile(r"|_?(row_?)?(id|idx|index)|.*_id|unnamed(:_\d+)?|split")
# The words for roles in data.columns, and the role that each means.
ROLES = {
    "anchor": "anchor",
    "query": "anchor",
    "text1": "anchor",
    "item": "anchor",
    "text": "anchor",
    "positive": "positive",
    "positives": "positive",
    "document": "positive",
    "documents": "positive",
    "text2": "positive",
    "negative": "negative",
    "negatives": "negative",
    "score": "score",
    "scores": "score",
    "grade": "grade",
    "label": "label",
    "weight": "weight",
}


def check_columns(columns: ColumnSetting) -> list[Problem]:
    """Return the problems of `data.columns` that do not depend on the file."""
    if columns is None:
        return []
    return requested_columns(columns, labelled=False)[1]


def requested_columns(columns: ColumnSetting, labelled: bool) -> tuple[dict[str, list[str]], list[Problem]]:
    """Return the names of the setting by role, and its problems."""
    asked: dict[str, list[str]] = {}
    problems = []
    if isinstance(columns, Mapping):
        for word, names in columns.items():
            role = ROLES.get(word.lower())
            if role is None:
                problems.append(_unknown_role(word))
            else:
                asked[role] = asked.get(role, []) + _as_list(names)
    else:
        asked = _roles_of_list(list(columns or []), labelled)
    all_names = [name for names in asked.values() for name in names]
    if not asked.get("anchor") and not problems:
        what = "names no anchor column." if all_names else "names no column."
        problems.append(Problem(KEY, what, naming_advice()))
    several = [role for role, names in asked.items() if len(names) > 1 and role != "negative"]
    problems += [Problem(f"{KEY}.{role}", "must be one column.", naming_advice()) for role in several]
    repeated = sorted({name for name in all_names if all_names.count(name) > 1})
    problems += [Problem(KEY, f"names '{name}' twice; each column has one role.") for name in repeated]
    return asked, problems + _contradictions(asked)


def _roles_of_list(names: list[str], labelled: bool) -> dict[str, list[str]]:
    """Return the roles of a plain list: anchor, positive, negatives; a column named score, label, … has that role."""
    asked: dict[str, list[str]] = {}
    for index, name in enumerate(names):
        if index == 0:
            role = "anchor"
        else:
            second = "label" if labelled else "positive"
            role = _number_role(name) or (second if index == 1 else "negative")
        asked.setdefault(role, []).append(name)
    return asked


def _number_role(name: str) -> str | None:
    word = normalized_name(name)
    for words, role in ((LABELS, "label"), (WEIGHTS, "weight"), (GRADES, "grade"), (SCORES, "score")):
        if word in words:
            return role
    return None


def _contradictions(asked: Mapping[str, list[str]]) -> list[Problem]:
    problems = []
    if asked.get("anchor") and not asked.get("positive"):
        unpaired = [role for role in ("negative", "score", "grade") if asked.get(role)]
        problems += [Problem(KEY, f"names a {role} column but no positive one.", naming_advice()) for role in unpaired]
    if asked.get("score") and asked.get("grade"):
        problems.append(Problem(KEY, "names both a score and a grade column.", "Name one of them."))
    if asked.get("positive") and asked.get("label"):
        what = "names both a positive and a label column: the rows are either pairs or labelled items."
        problems.append(Problem(KEY, what, "For a number that says how similar the two are, name it score."))
    return problems


def _as_list(names: str | list[str]) -> list[str]:
    if isinstance(names, str):
        return [names]
    return list(names or [])


def _unknown_role(role: str) -> Problem:
    close = get_close_matches(role.lower(), ROLES, n=1, cutoff=0.4)
    advice = f"The roles are {', '.join(ROLES)}."
    if close:
        advice = f"Did you mean '{close[0]}'?"
    return Problem(f"{KEY}.{role}", "there is no such role.", advice)


def unknown_columns(columns: list[str], asked: Iterable[str]) -> list[Problem]:
    """Return a problem for each name asked for that is not one of the columns."""
    by_lower_case = {column.lower(): column for column in columns}
    problems = []
    for name in dict.fromkeys(asked):
        if name.strip() in columns:
            continue
        advice = f"It has: {quoted_names(columns)}."
        close = get_close_matches(name.strip().lower(), by_lower_case, n=1, cutoff=0.5)
        if close:
            advice = f"Did you mean '{by_lower_case[close[0]]}'? {advice}"
        problems.append(Problem(KEY, f"there is no column '{name}'.", advice))
    return problems


def missing_score(names: Sequence[str]) -> Problem:
    """Return the problem of `data.score_values` without a score column."""
    what = f"is set, and none of the columns {quoted_names(names)} is a score."
    return Problem("data.score_values", what, f"Name it, as in {typed(KEY, '{anchor: a, positive: b, score: c}')}.")


def normalized_name(name: str) -> str:
    """Return a name in the form that is compared: lower case, one underscore for spaces and dashes."""
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def naming_advice(names: Sequence[str] = ("question", "answer"), scored: tuple[str, str] | None = None) -> str:
    """Return advice on naming two columns, with these names; `scored` is `score` or `grade`, and its column."""
    first, second = names[0], names[1]
    pair = f"anchor: {quoted(first)}, positive: {quoted(second)}"
    if scored is not None:
        # Without its score every pair would be right.
        role, column = scored
        return f"Name them, as in {typed(KEY, f'{{{pair}, {role}: {quoted(column)}}}')}."
    return f"Name them, as in {typed(KEY, hydra_list([first, second]))} or {typed(KEY, f'{{{pair}}}')}."


def hydra_list(names: Sequence[str]) -> str:
    """Return names as a list in Hydra's grammar."""
    return f"[{','.join(map(quoted, names))}]"


def quoted_names(names: Iterable[str]) -> str:
    """Return names in quotes, the first thirty of them."""
    quoted_all = [f"'{cut(name)}'" for name in names]
    shown = ", ".join(quoted_all[:_MOST_NAMES])
    if len(quoted_all) > _MOST_NAMES:
        shown += f" and {len(quoted_all) - _MOST_NAMES} more"
    return shown

"""What may be written in `data.columns`, and what is wrong with what was written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from finetune.config.quoting import quoted, typed
from finetune.data.bad_rows import cut
from finetune.errors import Problem

KEY = "data.columns"
ColumnSetting = list[str] | dict[str, str | list[str]] | None

SCORES = ("score", "scores", "similarity", "similarity_score", "sim", "is_duplicate", "teacher_score", "teacher_scores")
GRADES = ("grade", "grades", "relevance", "rel", "judgment", "judgement")
LABELS = (
    *("label", "labels", "gold_label", "gold_labels"),
    *("class", "category", "target_class", "cluster", "intent", "topic"),
)
WEIGHTS = ("weight", "sample_weight")
# Numbers of rows and documents, and parts of the data: never a text to learn from.
IDENTIFIERS = re.compile(r"|_?(row_?)?(id|idx|index)|.*_id|unnamed(:_\d+)?|split")
# What may be written in data.columns, and the role that it means.
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
    """Return what is wrong with `data.columns` whatever the file is."""
    return [] if columns is None else requested_columns(columns, labelled=False)[1]


def requested_columns(columns: ColumnSetting, labelled: bool) -> tuple[dict[str, list[str]], list[Problem]]:
    """Return the names asked for by role, and what is wrong with how they are written."""
    asked: dict[str, list[str]] = {}
    problems = []
    if isinstance(columns, Mapping):
        for word, names in columns.items():
            role = ROLES.get(word.lower())
            if role is None:
                problems.append(_unknown_role(word))
            else:
                asked[role] = asked.get(role, []) + _listed(names)
    else:
        asked = _in_order(list(columns or []), labelled)
    everything = [name for names in asked.values() for name in names]
    if not asked.get("anchor") and not problems:
        what = "names no column." if not everything else "names no anchor column."
        problems.append(Problem(KEY, what, naming_advice()))
    several = [role for role, names in asked.items() if len(names) > 1 and role != "negative"]
    problems += [Problem(f"{KEY}.{role}", "must be one column.", naming_advice()) for role in several]
    twice = sorted({name for name in everything if everything.count(name) > 1})
    problems += [Problem(KEY, f"names '{name}' twice; each column has one role.") for name in twice]
    return asked, problems + _do_not_fit(asked)


def _in_order(names: list[str], labelled: bool) -> dict[str, list[str]]:
    """Return the roles of a plain list: anchor, positive, negatives; a column called score, label, … is that."""
    asked: dict[str, list[str]] = {}
    for i, name in enumerate(names):
        word = normalized_name(name)
        role = ("anchor", "label" if labelled else "positive")[i] if i < 2 else "negative"
        if i > 0:
            for words, meant in ((SCORES, "score"), (GRADES, "grade"), (WEIGHTS, "weight"), (LABELS, "label")):
                role = meant if word in words else role
        asked.setdefault(role, []).append(name)
    return asked


def _do_not_fit(asked: Mapping[str, list[str]]) -> list[Problem]:
    problems = []
    if asked.get("anchor") and not asked.get("positive"):
        lost = [role for role in ("negative", "score", "grade") if asked.get(role)]
        problems += [Problem(KEY, f"names a {role} column but no positive one.", naming_advice()) for role in lost]
    if asked.get("score") and asked.get("grade"):
        problems.append(Problem(KEY, "names both a score and a grade column.", "Name one of them."))
    if asked.get("positive") and asked.get("label"):
        what = "names both a positive and a label column: the rows are either pairs or labelled items."
        problems.append(Problem(KEY, what, "For a number that says how similar the two are, name it score."))
    return problems


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])


def _unknown_role(role: str) -> Problem:
    close = get_close_matches(role.lower(), ROLES, n=1, cutoff=0.4)
    advice = f"Did you mean '{close[0]}'?" if close else f"The roles are {', '.join(ROLES)}."
    return Problem(f"{KEY}.{role}", "there is no such role.", advice)


def unknown_columns(there: list[str], asked: Iterable[str]) -> list[Problem]:
    """Return a problem for each name that is not `there`."""
    problems = []
    for name in dict.fromkeys(asked):
        if name.strip() not in there:
            by_lower = {column.lower(): column for column in there}
            close = get_close_matches(name.strip().lower(), by_lower, n=1, cutoff=0.5)
            meant = f"Did you mean '{by_lower[close[0]]}'? " if close else ""
            problems.append(Problem(KEY, f"the file has no column '{name}'.", f"{meant}It has: {quoted_names(there)}."))
    return problems


def missing_score(names: Sequence[str]) -> Problem:
    """Return the problem of scores for the values of a column where no column is a score."""
    what = f"is set, and none of the columns {quoted_names(names)} is a score."
    return Problem("data.score_values", what, f"Name it, as in {typed(KEY, '{anchor: a, positive: b, score: c}')}.")


def normalized_name(name: str) -> str:
    """Return a name as it is compared: lower case, one underscore for spaces and dashes."""
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def naming_advice(names: Sequence[str] = ("question", "answer"), scored: tuple[str, str] | None = None) -> str:
    """Return advice on how two columns are named, with these names; `scored` is `score` or `grade`, and its column."""
    first, second = names[0], names[1]
    pair = f"anchor: {quoted(first)}, positive: {quoted(second)}"
    if scored is not None:
        # Without its score every pair would be right.
        return f"Name them, as in {typed(KEY, f'{{{pair}, {scored[0]}: {quoted(scored[1])}}}')}."
    return f"Name them, as in {typed(KEY, hydra_list([first, second]))} or {typed(KEY, f'{{{pair}}}')}."


def hydra_list(names: Sequence[str]) -> str:
    """Return names as a list in Hydra's grammar."""
    return f"[{','.join(map(quoted, names))}]"


def quoted_names(names: Iterable[str]) -> str:
    """Return names in quotes, the first thirty of them."""
    shown = [f"'{cut(name)}'" for name in names]
    return ", ".join(shown[:30]) + (f" and {len(shown) - 30} more" if len(shown) > 30 else "")

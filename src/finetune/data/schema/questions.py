"""Questions to the user where values leave open what a column means: classes or scores, and unused columns.

They depend on all values of a column: a file may be sorted by it. R rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from finetune.config.quoting import quoted, typed
from finetune.data.bad_rows import BadRows, cut
from finetune.data.schema.column_spec import (
    GRADES,
    IDENTIFIERS,
    KEY,
    LABELS,
    SCORES,
    hydra_list,
    naming_advice,
    normalized_name,
    quoted_names,
)
from finetune.data.schema.number_formats import POINT, Notation, is_number
from finetune.data.schema.sample_values import (
    ROWS_A_VALUE,
    TRUE_WORDS,
    SampledColumns,
    is_truth_word,
    suggested_min_score,
    to_word,
)
from finetune.errors import Problem

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.schema.columns import Numbers
    from finetune.data.schema.layouts import Roles
    from finetune.data.source import Head, Source

VALUES_KEY = "data.score_values"
FEW = 3  # distinct values, at most, of a column that may say which pairs are right
MOST = 4  # the same, where one of them means no answer
_NO_ANSWER = ("", "-", "-1")
_CLASSES = 7  # distinct whole numbers, at most, that may be classes of pairs
_SHOWN = 5
_LONGEST = 30  # characters of a value in an example
_ENOUGH = 1000  # distinct values that are checked: more are not classes
_KEY_OF_HYDRA = re.compile(r"[\w.+-]+( [\w.+-]+)*", re.ASCII)  # Hydra allows no quotes around a key
_INSTRUCTIONS = re.compile(r"(.*_)?(prompt|instruction)s?")  # columns of texts, never an answer
# The topic or origin of a text: no value of these makes a pair right or wrong. (`same_topic` may.)
_ORIGINS = re.compile(
    r"(.*_)?(split|fold|subset|lang|language|locale)"
    r"|source|domain|dataset|corpus|country|category|topic|cluster|intent|genre|type"
)
_RIGHT = (*TRUE_WORDS, "1", "entailment", "entails", "duplicate", "match", "same", "paraphrase", "similar", "positive")
_HALF = ("neutral", "partial", "related", "maybe")
_ANSWER_WORDS = {*SCORES, *GRADES, *LABELS, "rating"}  # last words of names of columns that rate pairs


def questions(
    source: Source, head: Head, roles: Roles, score_R: Numbers | None, decimal: str = "auto"
) -> Iterator[Problem]:
    """Yield a question for each meaning that the values leave open; none where the user named the columns.

    `score_R` are the scores as they were read, None where there are none or the user gave the score of each value.
    `decimal` is the setting: how numbers are written.
    """
    if roles.by_user or roles.positive is None:
        return
    import numpy as np

    pair = roles.anchor, roles.positive
    if roles.layout == "scored pairs" and roles.score is not None and score_R is not None:
        numbers = {float(number) for number in np.unique(score_R[np.isfinite(score_R)])}
        name = roles.score if roles.named else None
        if are_classes(numbers, name):
            yield classes_problem(roles.score, pair, numbers)
    if roles.layout == "pairs":
        possible_answers = _possible_answers(source, head, roles, decimal)
        if possible_answers:
            yield unused_problem(pair, possible_answers)


def _possible_answers(source: Source, head: Head, roles: Roles, decimal: str) -> dict[str, list[str]]:
    """Return the columns without a role that may say which pairs are right, with their distinct values as texts."""
    sampled = SampledColumns(head.names, head.sample, head.notations, decimal)
    names = [name for name in roles.unused if not cannot_be_answer(name)]
    names = [name for name in names if sampled.may_have_few_values(name, MOST) or is_answer_name(name)]
    if not names:
        return {}
    # Values of another type than most are left out here: invalid values of unused columns are not reported. The first
    # of them are in the sample.
    table = source.read(names, BadRows()).table
    found = {}
    for name in names:
        values = distinct_values(table[name], sampled.likely_notation(name))
        if values is None:
            continue
        values = list(dict.fromkeys([*values, *sampled.words(name)]))
        if may_be_answer(name, values, len(table)):
            found[name] = values
    return found


def cannot_be_answer(name: str) -> bool:
    """Whether a column cannot, by its name, say which pairs are right."""
    return any(pattern.fullmatch(normalized_name(name)) for pattern in (IDENTIFIERS, _INSTRUCTIONS, _ORIGINS))


def are_classes(numbers: set[float], name: str | None) -> bool:
    """Whether numbers next to two texts, read as scores, may be classes as in NLI.

    Whole numbers may be, unless they are 0 and 1 or the column is named as a score. A score of -1 to 2 is one of NLI's
    classes too, with -1 where the annotators did not agree. `name` is None for a column without a name.
    """
    if not numbers or not all(number.is_integer() for number in numbers):
        return False
    if name is not None and normalized_name(name) in GRADES:
        return False
    if name is not None and normalized_name(name) in SCORES:
        return min(numbers) == -1 and max(numbers) == 2
    return not numbers <= {0, 1} and len(numbers) <= _CLASSES


def classes_problem(column: str, pair: tuple[str, str], numbers: set[float]) -> Problem:
    """Return the question whether numbers next to two texts are classes or scores."""
    values = [f"{number:g}" for number in sorted(numbers)]
    what = f"the column '{column.strip()}' has the values {', '.join(values)}: scores of the pairs, or classes?"
    score, unused = scored_pair(*pair, column), hydra_list([name.strip() for name in pair])
    ways = (
        f"{typed(KEY, score)} (scores: the higher, the better the match)",
        f"the same with {typed(VALUES_KEY, example_values(values))} (classes: what each is worth; null leaves "
        "its rows out)",
        f"{typed(KEY, unused)} (not used: all pairs are right)",
    )
    return Problem(
        KEY,
        what,
        f"Say which: {'; '.join(ways)}. {_loss_for_scores(numbers)} With data.score_values, data.min_score=1.",
    )


def label_problem(column: str, pair: tuple[str, str], words: Sequence[str]) -> Problem:
    """Return the question whether a class next to two texts is that of an item, or rates how well the two match."""
    first, second, shown = (quoted(name.strip()) for name in (*pair, column))
    what = f"the column '{column.strip()}' may be the class of an item, or say how well two items match."
    scored = typed(KEY, scored_pair(*pair, column))
    if not words or not all(is_number(word) or is_truth_word(word) for word in words):
        scored += f" with {typed(VALUES_KEY, example_values(words or ['entailment', 'neutral', 'contradiction']))}"
    item, right = f"{{item: {first}, label: {shown}}}", f"[{first},{second}]"
    ways = f"{typed(KEY, item)} (labelled items); {typed(KEY, right)} (right pairs); {scored} (scored pairs)"
    numbers = {float(word) for word in words if is_number(word)}
    return Problem(KEY, what, f"Say which: {ways}. {_loss_for_scores(numbers)}")


def flag_problem(flag: str, item: str) -> Problem:
    """Return the question what a column of two or three distinct values is, next to a single column of texts."""
    first, second = item.strip(), flag.strip()
    what = f"the column '{second}' has two or three values only, and no texts to be found by '{first}'."
    item_and_label = f"{{item: {quoted(first)}, label: {quoted(second)}}}"
    ways = f"{typed(KEY, item_and_label)} (it is the class); {typed(KEY, hydra_list([first, second]))} (pairs)"
    return Problem(KEY, what, f"Say what it is: {ways}.")


def undecided_problem(
    table: SampledColumns, rest: list[str], anchors: list[str], positives: list[str], special: Mapping[str, list[str]]
) -> Problem:
    """Return the question which columns are a pair; `rest` are the candidates, `special` those of scores by role."""
    candidates = [("anchor", anchors), ("positive", positives)]
    several = [f"{role}: {quoted_names(found)}" for role, found in candidates if found]
    what = f"cannot tell the anchor and the positive among the columns {quoted_names(table.shown())}."
    if several:
        what += f" Possible are {'; '.join(several)}."
    names = rest if len(rest) > 1 else table.names
    # In the order of the file; ids and numbers are left out of the example.
    texts = set(table.texts_first(names)[:2])
    example = [name.strip() for name in names if name in texts]
    if len(example) < 2:
        example = ["question", "answer"]
    scores = [(role, special[role][0].strip()) for role in ("score", "grade") if special.get(role)]
    advice = naming_advice(example, scores[0] if scores else None)
    others = [name for name in rest if name not in texts]
    if not scores:
        advice += _possible_score(table, others, example)
    if special.get("score"):
        advice += f" {_loss_for_scores(table.numbers(special['score'][0]))}"
    return Problem(KEY, what, advice)


def _possible_score(table: SampledColumns, names: Sequence[str], pair: Sequence[str]) -> str:
    """Return advice, with a space in front, on the one of these columns that may be the score of the pair."""
    flags = [name for name in names if is_flag(table, name)]
    numbers = [name for name in names if table.is_score(name)]
    if flags:
        score, meaning = flags[0], "which pairs are right"
    elif len(numbers) == 1:
        score, meaning = numbers[0], "how well the two match"
    else:
        return ""
    setting = naming_advice(pair, ("score", score.strip())).removeprefix("Name them, as in ")
    loss = _loss_for_scores(table.numbers(score))
    return f" If '{score.strip()}' says {meaning}, it is their score: {setting} {loss}"


def _loss_for_scores(numbers: set[float]) -> str:
    """Return a sentence on what else scored pairs need, with an example for these scores."""
    least = 1.0
    if not numbers <= {0, 1}:
        least = suggested_min_score(min(numbers), max(numbers))
    return (
        "Scored pairs need a loss that learns from scores, such as loss=cosent, or "
        f"data.min_score={least:g} to train on the pairs of at least this score as right pairs, with loss=infonce."
    )


def is_flag(table: SampledColumns, name: str) -> bool:
    """Whether the first rows of a column have two or three values only."""
    return table.may_have_few_values(name, FEW) and may_be_answer(name, table.words(name), len(table.rows))


def scored_pair(first: str, second: str, score: str) -> str:
    """Return the setting of `data.columns` that names a pair and its score, in Hydra's grammar."""
    first, second, score = (quoted(name.strip()) for name in (first, second, score))
    return f"{{anchor: {first}, positive: {second}, score: {score}}}"


def example_values(values: Sequence[str]) -> str:
    """Return a mapping of these values to scores as an example, in Hydra's grammar."""
    shown = [word for word in dict.fromkeys(values) if len(word) <= _LONGEST and _KEY_OF_HYDRA.fullmatch(word)]
    scores = _example_scores(shown[:_SHOWN] or ["right", "wrong"])
    return "{" + ", ".join(f"{value}: {score}" for value, score in scores.items()) + "}"


def _example_scores(values: list[str]) -> dict[str, str]:
    values = [f"{float(value):g}" if is_number(value) else value for value in values]
    if {"0", "1", "2"} <= {*values} <= {"-1", "0", "1", "2"}:
        known = {"0": "1", "1": "0.5", "2": "0", "-1": "null"}  # NLI: entailment, neutral, contradiction, none
        return {value: known[value] for value in known if value in values}
    scores = {}
    for value in values:
        scores[value] = _example_score(value.lower())
    if values and "1" not in scores.values():
        scores[values[0]] = "1"
    return scores


def _example_score(word: str) -> str:
    if word in _NO_ANSWER:
        return "null"
    if word in _RIGHT:
        return "1"
    if word in _HALF:
        return "0.5"
    return "0"


def may_be_answer(name: str, values: Sequence[str], rows: int) -> bool:
    """Whether a column of `rows` rows, with these distinct values, may say which pairs are right.

    True for two or three distinct values, or any number of them under a name that ends like `relatedness_score`.
    """
    if len(values) < 2 or rows < ROWS_A_VALUE * min(len(values), FEW):
        return False
    answers = [value for value in values if value not in _NO_ANSWER]
    if len(values) <= FEW or (len(values) <= MOST and len(answers) <= FEW):
        return True
    return is_answer_name(name) and all(map(is_number, answers))


def is_answer_name(name: str) -> bool:
    """Whether the last word of a name is that of a score, grade or label."""
    return normalized_name(name).rpartition("_")[2] in _ANSWER_WORDS


def distinct_values(column: pa.ChunkedArray, notation: Notation = POINT) -> list[str] | None:
    """Return the distinct values of a column as texts, an empty text for null; None for lists and objects.

    Numbers in `notation` get a decimal point.
    """
    import pyarrow as pa

    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return None
    values = column.unique()[:_ENOUGH].to_pylist()
    return list(dict.fromkeys("" if value is None else to_word(value, notation) for value in values))


def unused_problem(pair: tuple[str, str], columns: Mapping[str, list[str]]) -> Problem:
    """Return the question whether one of these unused columns, given with their values, says which pairs are right."""
    # The example is of the column that looks most like an answer.
    first, values = min(columns.items(), key=lambda item: (not _is_answer(item[1]), not is_answer_name(item[0])))
    shown = "; ".join(f"'{cut(name.strip())}' ({_shown_values(found)})" for name, found in columns.items())
    subject, them = f"the columns {shown} are", "them"
    if len(columns) == 1:
        subject, them = f"the column {shown} is", "it"
    what = f"{subject} not used, and may say which pairs are right: without {them}, all of them are trained as right."
    ways = (
        f"{typed(KEY, hydra_list([name.strip() for name in pair]))} (not used: all pairs are right)",
        f"{' '.join(_score_settings(pair, first, values))} (the pairs of at least this score are right; without "
        "data.min_score they are scored pairs)",
    )
    return Problem(KEY, what, f"Say which: {'; '.join(ways)}.")


def _score_settings(pair: tuple[str, str], column: str, values: Sequence[str]) -> Iterator[str]:
    yield typed(KEY, scored_pair(*pair, column))
    if _is_answer(values):
        yield "data.min_score=1"
    elif all(is_number(value) for value in values if value) and len(values) > MOST:
        numbers = [float(value) for value in values if value]
        yield f"data.min_score={suggested_min_score(min(numbers), max(numbers)):g}"
    else:
        yield typed(VALUES_KEY, example_values(sorted(values)))
        yield "data.min_score=1"


def _is_answer(values: Sequence[str]) -> bool:
    """Whether these are the numbers 0 and 1, or truth values."""
    answers = [value for value in values if value]  # a row without a value is invalid anyway
    return all(is_truth_word(value) or (is_number(value) and float(value) in (0, 1)) for value in answers)


def _shown_values(values: Sequence[str]) -> str:
    if len(values) > _SHOWN:
        return f"{len(values):,} values, as {quoted_names(values[:2])}"
    return quoted_names(sorted(values))


def unused_note(unused: Sequence[str]) -> str:
    """Return a sentence that names the columns that are not used."""
    columns = "column" if len(unused) == 1 else "columns"
    return f"Not used: the {columns} {quoted_names(name.strip() for name in unused)}."

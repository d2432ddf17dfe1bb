"""The score of each value of a score column (`data.score_values`): words or classes become scores.

R rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.bad_rows import BadRows, cut
from finetune.data.schema.number_formats import POINT, Notation, to_number
from finetune.data.schema.questions import VALUES_KEY, distinct_values
from finetune.data.schema.sample_values import FALSE_WORDS, TRUE_WORDS
from finetune.data.source import Reading
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune.data.arrays import Ints
    from finetune.data.bad_rows import RowLocation

ScoreValues = Mapping[Any, float | None]
_BAD = "score_values"  # the kind of a bad row whose value has no entry


def apply_score_values(
    reading: Reading, name: str, values: ScoreValues, bad: BadRows, notation: Notation = POINT
) -> tuple[Reading, list[str]]:
    """Return the reading with the values of the column `name` as scores, and notes to print.

    `notation` is how numbers are written in the column: `values` may write them so, or with a decimal point.
    Rows whose value has the score null are left out. Those with a value that is not in `values` are added to `bad` and
    left out.

    Raises:
        CheckFailed: the column holds lists or objects.
    """
    column = reading.table[name]
    if distinct_values(column) is None:
        what = f"is set, and the column '{name}' holds {column.type}: one value in each row is expected."
        raise CheckFailed([Problem(VALUES_KEY, what, "Leave it out.")])
    score_of = {_comparable(value, notation): score for value, score in values.items()}
    code_R, words = _coded(column, notation)
    known = np.array([word in score_of for word in words], bool)
    scores = np.full(len(words), np.nan)
    for index, word in enumerate(words):
        score = score_of.get(word)
        if score is not None:
            scores[index] = score
    _report_unknown(reading, name, np.flatnonzero(~known[code_R]), list(values), bad)
    has_score_R = ~np.isnan(scores[code_R])
    kept_R = np.flatnonzero(known[code_R] & has_score_R)
    left_out = int((known[code_R] & ~has_score_R).sum())
    notes = []
    if left_out:
        rows = "1 row" if left_out == 1 else f"{left_out:,} rows"
        notes.append(f"{rows} left out: the value of '{name.strip()}' has no score ({VALUES_KEY}).")
    return _of_rows(reading, name, kept_R, scores[code_R[kept_R]]), notes


def _coded(column: pa.ChunkedArray, notation: Notation) -> tuple[Ints, list[str]]:
    """Return the index of each row's value `(R,)` among the distinct values, and these as they are compared."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    words = [_comparable(value, notation) for value in encoded.dictionary.to_pylist()]
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), words


def _comparable(value: Any, notation: Notation) -> str:
    """Return a value in the form that is compared, the same whether it is stored as a text or as a number."""
    text = "" if value is None else str(value).strip().lower()
    if text in TRUE_WORDS:
        return TRUE_WORDS[0]
    if text in FALSE_WORDS:
        return FALSE_WORDS[0]
    number = to_number(value, notation)
    if number is None:
        number = to_number(value)
    if number is None:
        return text
    return f"{number:g}"


def _report_unknown(reading: Reading, name: str, rows: Ints, values: list[Any], bad: BadRows) -> None:
    if not len(rows):
        return
    what = f"has a value that {VALUES_KEY} gives no score ({', '.join(map(str, values))})"
    texts = reading.table[name].take(rows).to_pylist()
    for location, text in zip(reading.locate(rows), texts, strict=True):
        bad.add(location, name, _BAD, what, "" if text is None else cut(str(text)))


def _of_rows(reading: Reading, name: str, kept_R: Ints, score_R: Any) -> Reading:
    import pyarrow as pa

    table = reading.table.take(pa.array(kept_R))
    table = table.set_column(table.schema.get_field_index(name), name, pa.chunked_array([score_R]))

    def locate(rows: Ints) -> list[RowLocation]:
        return reading.locate(kept_R[rows])

    return Reading(table, locate, reading.rows_read)

"""A source whose passages, and texts with an instruction, are read as plain texts and lists of texts.

The forms that retrieval libraries use are described in `passage_values.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from finetune.data.schema.column_spec import normalized_name, quoted_names
from finetune.data.schema.layouts import is_role_name
from finetune.data.source import Head, Reading, Source, stream
from finetune.data.sources.errors import fail
from finetune.data.sources.passage_values import Form, find_forms, holds_content, value_as_text

if TYPE_CHECKING:
    from finetune.data.bad_rows import BadRows

_QUERY_NUMBER_NAMES = {"qid", "query_id", "queryid"}


class Passages:
    """A source that converts columns of passages, and of texts with an instruction, to texts and lists of texts."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.shown, self.base = source.shown, source.base

    @cached_property
    def _head(self) -> Head:
        """The head of the source, with NumPy arrays (which a data frame can have in its cells) as lists."""
        head = self._source.head()
        sample = [tuple(_array_as_list(value) for value in row) for row in head.sample]
        return replace(head, sample=sample)

    def fingerprint(self) -> str:
        """Return the fingerprint of the source: its content alone decides how it is converted."""
        return self._source.fingerprint()

    def head(self) -> Head:
        """Return the columns and first rows as texts, with a note on what was joined."""
        head = self._head
        self._refuse_numbers_only(head)
        forms = self._forms
        if not forms:
            return head
        sample = []
        for row in head.sample:
            values = zip(head.names, row, strict=False)
            sample.append(tuple(value_as_text(value, forms.get(name)) for name, value in values))
        return replace(head, sample=sample, notes=[*head.notes, *self._notes()])

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all rows; a value of another form than its column becomes null."""
        return self._as_text(self._source.read(names, bad))

    def stream(self, names: Sequence[str], bad: BadRows) -> Iterator[Reading]:
        """Yield the same rows in parts, if the source can be read so."""
        return map(self._as_text, stream(self._source, names, bad))

    def _as_text(self, reading: Reading) -> Reading:
        from finetune.data.sources.passage_columns import column_as_text, holds_passages

        table = reading.table
        for index, name in enumerate(table.column_names):
            form = self._forms.get(name)
            # The first rows may have empty lists only.
            if form is None and holds_passages(table.schema.field(index).type):
                form = "passages"
            if form is not None:
                table = table.set_column(index, name, column_as_text(table[name], form))
        return replace(reading, table=table)

    @cached_property
    def _forms(self) -> dict[str, Form]:
        columns = {}
        for index, name in enumerate(self._head.names):
            columns[name] = [row[index] for row in self._head.sample if row[index] is not None]
        return find_forms(columns)

    def _notes(self) -> Iterator[str]:
        # Unused columns may hold such objects too.
        passages = [name for name, form in self._forms.items() if form == "passages" and is_role_name(name)]
        if passages:
            yield f"In {quoted_names(passages)} the title and the text of each passage are joined."
        instructed = [name for name, form in self._forms.items() if form != "passages"]
        if instructed:
            yield f"In {quoted_names(instructed)} each text has an instruction in front; both are joined by a space."

    def _refuse_numbers_only(self, head: Head) -> None:
        """Refuse a table that holds only the numbers of queries and passages, with the texts in other files."""
        columns = [index for index, name in enumerate(head.names) if normalized_name(name) not in _QUERY_NUMBER_NAMES]
        if len(columns) == len(head.names) or not head.sample:
            return
        if not any(holds_content(row[index]) for row in head.sample for index in columns):
            what = f"holds the numbers of queries and passages ({quoted_names(head.names)}), not their texts."
            advice = "Put the texts in their place: query, positives and negatives; or make a BEIR folder of all files."
            fail(self.shown, what, advice)


def _array_as_list(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value

"""Texts inside of other values, as retrieval libraries have them, brought to plain texts and lists of them.

- Passages: objects of title and text (Tevatron's `positive_passages`, DPR's `positive_ctxs`), one or a list of them,
  also as an object of lists (the datasets library's `Sequence`). Title and text are joined, as for a BEIR corpus.
- Instructions: `[instruction, text]` in place of a text (MEDI, GritLM), where the anchor has this form. Both are
  joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from finetune.data.schema.column_spec import listing, plain
from finetune.data.schema.layouts import ANCHORS, NEGATIVE, POSITIVES, is_role_name
from finetune.data.sources.errors import refuse
from finetune.data.sources.source import Head, Reading, Source

if TYPE_CHECKING:
    from finetune.data.bad_rows import BadRows

TITLE = "title"
TEXTS = ("text", "contents", "passage_text", "passage", "body")  # the first that an object has is its text
Form = Literal["passages", "instruction", "instructions"]

_NUMBER_OF_QUERY = {"qid", "query_id", "queryid"}


class Passages:
    """A source whose columns of passages, and of texts with instructions, come as texts and lists of texts."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.shown, self.base = source.shown, source.base

    @cached_property
    def _head(self) -> Head:
        """The head of the source with arrays of NumPy, which a frame has in its cells, as lists."""
        head = self._source.head()
        return replace(head, sample=[tuple(map(_as_list, row)) for row in head.sample])

    def fingerprint(self) -> str:
        """Return that of the source: what is in it decides how it is read."""
        return self._source.fingerprint()

    def head(self) -> Head:
        """Return the columns and first rows as texts, with a note that says what was joined."""
        head = self._head
        self._refuse_numbers(head)
        if not self._forms:
            return head
        sample = [
            tuple(_value_as_text(value, self._forms.get(name)) for name, value in zip(head.names, row, strict=False))
            for row in head.sample
        ]
        return replace(head, sample=sample, notes=[*head.notes, *self._notes()])

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all rows; what is no passage, or no pair with an instruction, is null."""
        from finetune.data.sources.passages_as_text import column_as_text, holds_passages

        reading = self._source.read(names, bad)
        table = reading.table
        for place, name in enumerate(table.column_names):
            # The first rows may have empty lists only.
            form = self._forms.get(name) or ("passages" if holds_passages(table.schema.field(place).type) else None)
            if form is not None:
                table = table.set_column(place, name, column_as_text(table[name], form))
        return replace(reading, table=table)

    @cached_property
    def _forms(self) -> dict[str, Form]:
        head = self._head
        columns = {name: [row[i] for row in head.sample if row[i] is not None] for i, name in enumerate(head.names)}
        forms: dict[str, Form] = {name: "passages" for name, values in columns.items() if _are_passages(values)}
        instructed = [name for name, values in columns.items() if _is_role(name, ANCHORS) and _most(_is_pair, values)]
        if len(instructed) == 1:
            forms[instructed[0]] = "instruction"
            forms |= {name: form for name, values in columns.items() if (form := _instructed(name, values))}
        return forms

    def _notes(self) -> Iterator[str]:
        # Other columns, which are not used, may have such objects too.
        if passages := [name for name, form in self._forms.items() if form == "passages" and is_role_name(name)]:
            yield f"In {listing(passages)} the title and the text of each passage are joined."
        if instructed := [name for name, form in self._forms.items() if form != "passages"]:
            yield f"In {listing(instructed)} each text has an instruction in front; both are joined by a space."

    def _refuse_numbers(self, head: Head) -> None:
        """Refuse a table of the numbers of queries and passages alone, whose texts are in other files."""
        columns = [i for i, name in enumerate(head.names) if plain(name) not in _NUMBER_OF_QUERY]
        if len(columns) == len(head.names) or not head.sample:
            return
        if not any(_says_something(row[i]) for row in head.sample for i in columns):
            what = f"holds the numbers of queries and passages ({listing(head.names)}), not their texts."
            advice = "Put the texts in their place: query, positives and negatives; or make a BEIR folder of all files."
            refuse(self.shown, what, advice)


def text_field(fields: Sequence[str]) -> str | None:
    """Return the field of an object that holds its text, None if it is no passage."""
    return next((name for name in TEXTS if name in fields), None)


def joined(title: Any, text: Any) -> Any:
    """Return title and text of a passage as one text, as for a BEIR corpus; an empty one of them is left out."""
    title, text = ("" if part is None else str(part) for part in (title, text))
    if not title.strip():
        return text
    return f"{title} {text}" if text.strip() else title


def _as_list(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _is_role(name: str, tiers: Sequence[Sequence[str]]) -> bool:
    """Whether a name is one of the first tier: those that say what a column is for."""
    return any(plain(name) in tier for tier in tiers[:-1])


def _most(of: Callable[[Any], bool], values: Sequence[Any]) -> bool:
    """Whether most values are of a form, as most rows decide what a column holds."""
    return 2 * sum(map(of, values)) > len(values)


def _is_passage(value: Any) -> bool:
    return isinstance(value, Mapping) and text_field(list(value)) is not None


def _are_passages(values: Sequence[Any]) -> bool:
    return _most(_is_passage, [inner for value in values for inner in (value if isinstance(value, list) else [value])])


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(inner, str) for inner in value)


def _instructed(name: str, values: Sequence[Any]) -> Form | None:
    """Return the form of a column next to an anchor with an instruction, None where it has none."""
    if not (_is_role(name, POSITIVES) or NEGATIVE.fullmatch(plain(name))):
        return None
    if _most(_is_pair, values):
        return "instruction"
    lists = [value for value in values if isinstance(value, list)]
    return "instructions" if _most(_is_pair, [inner for value in lists for inner in value]) else None


def _value_as_text(value: Any, form: Form | None) -> Any:
    """Return a value of the sample as a text or a list of texts, None where it is of another form."""
    if form is None:
        return value
    if form == "instruction":
        return joined(*value) if _is_pair(value) else None
    if isinstance(value, list):
        return [_value_as_text(one, "instruction" if form == "instructions" else form) for one in value]
    if not _is_passage(value):
        return None
    text = value[text_field(list(value)) or ""]
    title = value.get(TITLE)
    if not isinstance(text, list):
        return joined(title, text)
    titles = title if isinstance(title, list) else [None] * len(text)
    return [joined(*both) for both in zip(titles, text, strict=False)]


def _says_something(value: Any) -> bool:
    """Whether a value is more than whole numbers: a text, a fraction (of a vector), bytes, whatever else."""
    if isinstance(value, Mapping):
        return any(map(_says_something, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_says_something, value))
    return not (value is None or isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal()))

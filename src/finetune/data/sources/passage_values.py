"""Passages, and texts with an instruction, as retrieval libraries store them: which columns have them, and their text.

- Passages: objects with a title and a text (Tevatron's `positive_passages`, DPR's `positive_ctxs`), one or a list of
  them, also as an object of lists (the datasets library's `Sequence`). Title and text are joined, as for a BEIR corpus.
- Instructions: `[instruction, text]` in place of a text (MEDI, GritLM), where the anchor has this form. Both are
  joined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from finetune.data.schema.column_spec import normalized_name
from finetune.data.schema.layouts import ANCHORS, NEGATIVE, POSITIVES

TITLE = "title"
TEXTS = ("text", "contents", "passage_text", "passage", "body")  # the first of these fields is a passage's text
Form = Literal["passages", "instruction", "instructions"]


def find_forms(columns: Mapping[str, Sequence[Any]]) -> dict[str, Form]:
    """Return the form of each column that holds passages or instructions; `columns` are sample values without nulls."""
    forms: dict[str, Form] = {}
    for name, values in columns.items():
        if _are_passages(values):
            forms[name] = "passages"
    anchors = [name for name, values in columns.items() if _is_role(name, ANCHORS) and _most(_is_pair, values)]
    if len(anchors) != 1:
        return forms
    forms[anchors[0]] = "instruction"
    for name, values in columns.items():
        form = _instruction_form(name, values)
        if form is not None:
            forms[name] = form
    return forms


def text_field(fields: Sequence[str]) -> str | None:
    """Return the field of an object that holds its text, None if it is no passage."""
    for name in TEXTS:
        if name in fields:
            return name
    return None


def value_as_text(value: Any, form: Form | None) -> Any:
    """Return a sample value as a text or a list of texts, None where it has another form."""
    if form is None:
        return value
    if form == "instruction":
        return _joined(*value) if _is_pair(value) else None
    if isinstance(value, list):
        inner_form: Form = "instruction" if form == "instructions" else form
        return [value_as_text(inner, inner_form) for inner in value]
    if not _is_passage(value):
        return None
    return _passage_as_text(value)


def holds_content(value: Any) -> bool:
    """Whether a value is more than whole numbers: a text, a fraction (of a vector), bytes or anything else."""
    if isinstance(value, Mapping):
        return any(map(holds_content, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_content, value))
    if isinstance(value, str):
        return not value.strip().isdecimal()
    return not (value is None or isinstance(value, int))


def _joined(title: Any, text: Any) -> Any:
    """Return title and text of a passage as one text, as for a BEIR corpus; an empty one of them is left out."""
    title, text = _as_text(title), _as_text(text)
    if not title.strip():
        return text
    if not text.strip():
        return title
    return f"{title} {text}"


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return str(value)


def _passage_as_text(passage: Mapping[str, Any]) -> Any:
    text = passage[text_field(list(passage)) or ""]
    title = passage.get(TITLE)
    if not isinstance(text, list):
        return _joined(title, text)
    titles = title if isinstance(title, list) else [None] * len(text)
    return [_joined(*both) for both in zip(titles, text, strict=False)]


def _is_role(name: str, tiers: Sequence[Sequence[str]]) -> bool:
    """Whether a name states the role of its column: one of any tier but the last."""
    return any(normalized_name(name) in tier for tier in tiers[:-1])


def _most(has_form: Callable[[Any], bool], values: Sequence[Any]) -> bool:
    """Whether more than half of the values have a form: the majority decides what a column holds."""
    return 2 * sum(map(has_form, values)) > len(values)


def _is_passage(value: Any) -> bool:
    return isinstance(value, Mapping) and text_field(list(value)) is not None


def _are_passages(values: Sequence[Any]) -> bool:
    flat: list[Any] = []
    for value in values:
        if isinstance(value, list):
            flat += value
        else:
            flat.append(value)
    return _most(_is_passage, flat)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(inner, str) for inner in value)


def _instruction_form(name: str, values: Sequence[Any]) -> Form | None:
    """Return the form of a column next to an anchor with an instruction, None where it has none."""
    if not (_is_role(name, POSITIVES) or NEGATIVE.fullmatch(normalized_name(name))):
        return None
    if _most(_is_pair, values):
        return "instruction"
    inner_values = [inner for value in values if isinstance(value, list) for inner in value]
    if _most(_is_pair, inner_values):
        return "instructions"
    return None

"""Which columns of a corpus are the text, its title and its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finetune.config.suggest import did_you_mean
from finetune.data.schema.column_spec import IDENTIFIERS, normalized_name, quoted_names
from finetune.data.source import Head
from finetune.embed.settings import Columns
from finetune.errors import CheckFailed, Problem

KEY = "data.columns"
# In the order of preference.
TEXTS = (
    *("text", "document", "passage", "content", "contents", "body", "chunk", "abstract", "sentence", "answer"),
    *("positive", "article", "paragraph", "description", "item", "caption", "anchor", "query", "question"),
)
IDS = ("id", "_id")
_NAMING = "Name the column of the texts: data.columns=NAME"


@dataclass(frozen=True)
class CorpusColumns:
    """The columns whose texts are joined, in order; that of the ids, None for row numbers; those that are kept."""

    texts: tuple[str, ...]
    id: str | None
    keep: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All columns to read, each once."""
        ids = () if self.id is None else (self.id,)
        return list(dict.fromkeys([*self.texts, *ids, *self.keep]))


def find_columns(head: Head, asked: Columns | None, keep: Sequence[str], shown: str) -> CorpusColumns:
    """Return the columns of a corpus: those that are asked for, else found by their names.

    Raises:
        CheckFailed: there is no such column, or it is unclear which holds the texts.
    """
    problems = [*_missing("keep", keep, head.names), *_missing(KEY, _asked_names(asked), head.names)]
    if isinstance(asked, Mapping):
        problems += _unknown_roles(asked)
    if problems:
        raise CheckFailed(problems)
    names = {normalized_name(name): name for name in reversed(head.names)}
    id_column = next((names[name] for name in IDS if name in names), None)
    if isinstance(asked, Mapping):
        texts = tuple(str(asked[role]) for role in ("title", "text") if asked.get(role) is not None)
        if "id" in asked:
            id_column = str(asked["id"])
        if "text" not in asked:
            texts = _found_texts(head, names, shown)
    elif asked is not None:
        texts = tuple(_asked_names(asked))
    else:
        texts = _found_texts(head, names, shown)
    if id_column in texts:
        id_column = None
    return CorpusColumns(texts, id_column, tuple(name for name in keep if name != id_column))


def _found_texts(head: Head, names: Mapping[str, str], shown: str) -> tuple[str, ...]:
    found = next((names[name] for name in TEXTS if name in names), None)
    if found is None:
        candidates = list(_text_columns(head))
        if len(candidates) != 1:
            what = f"no column of {shown} is recognized as that of the texts: {quoted_names(head.names)}."
            raise CheckFailed([Problem(KEY, what, f"{_NAMING}, or several to join: 'data.columns=[title,body]'.")])
        return (candidates[0],)
    if "title" in names:
        return names["title"], found
    return (found,)


def _text_columns(head: Head) -> Iterator[str]:
    """Yield the columns whose first values are texts and that are not numbered like ids."""
    for index, name in enumerate(head.names):
        values = [row[index] for row in head.sample if row[index] is not None]
        is_text = values and all(isinstance(value, str) for value in values)
        if is_text and not IDENTIFIERS.fullmatch(normalized_name(name)):
            yield name


def _asked_names(asked: Columns | None) -> list[str]:
    if asked is None:
        return []
    if isinstance(asked, Mapping):
        return [str(name) for name in asked.values() if name is not None]
    if isinstance(asked, list):
        return list(map(str, asked))
    return [str(asked)]


def _missing(key: str, asked: Sequence[str], names: Sequence[str]) -> Iterator[Problem]:
    for name in asked:
        if name not in names:
            advice = did_you_mean(name, names) or f"There are: {quoted_names(names)}."
            yield Problem(key, f"there is no column '{name}'.", advice)


def _unknown_roles(asked: Mapping[str, object]) -> Iterator[Problem]:
    for role in asked:
        if role not in ("text", "title", "id"):
            advice = did_you_mean(role, ("text", "title", "id")) or "There are: text, title, id."
            yield Problem(f"{KEY}.{role}", "there is no such role.", advice)

"""A BEIR folder as a source: the rows `query, document, grade` that its judgments make with its texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.bad_rows import BadRows
from finetune.data.beir_folder import (
    TRAIN,
    WANTED,
    BeirFolder,
    beir_problem,
    named_judgments,
    split_of,
    train_beir_folder,
)
from finetune.data.sources.errors import refuse
from finetune.data.sources.files import look_at
from finetune.data.sources.source import Head, Reading
from finetune.errors import CheckFailed

if TYPE_CHECKING:
    from finetune.data.schema.number_formats import Notation
    from finetune.data.sources.beir_files import BeirFiles

NAMES = ["query", "document", "grade"]


def _renamed(head: Head, places: Sequence[int]) -> dict[str, Notation]:
    """Return how the numbers of the judgments are written, under the names that their columns have here."""
    found = {name: head.notations.get(head.names[place]) for name, place in zip(NAMES, places, strict=True)}
    return {name: notation for name, notation in found.items() if notation is not None}


def open_beir(path: Path, shown: str, key: str) -> BeirSource:
    """Return the source of a BEIR folder, or of one of its files of judgments: `folder/qrels/dev.tsv`.

    Raises:
        CheckFailed: a part of it is missing, or it is open which judgments are meant.
    """
    if named_judgments(path) is not None:
        return BeirSource(train_beir_folder(path, shown, key), key)
    if not path.is_dir():
        if path.exists():
            refuse(key, f"'{shown}' is a file.", WANTED)
        look_at(path, shown, key)
    if problem := beir_problem(path, shown, key):
        raise CheckFailed([problem])
    return BeirSource(train_beir_folder(path, shown, key), key, chosen=True)


class BeirSource:
    """The judgments of a BEIR folder with their texts; a document's text is its title and its text.

    `chosen`: no user named the judgments, so that a note says if they are not for training.
    """

    def __init__(self, folder: BeirFolder, key: str, chosen: bool = False) -> None:
        self.shown = folder.shown
        self.base = folder.root
        self._folder = folder
        self._key = key
        self._chosen = chosen

    @cached_property
    def _files(self) -> BeirFiles:
        from finetune.data.sources.beir_files import BeirFiles

        return BeirFiles(self._folder, self._key)

    def head(self) -> Head:
        """Return its columns; the sample is of the judgments alone, for the texts they name may stand far behind."""
        from finetune.data.sources.beir_files import judgment_columns

        self._files.check()
        head = self._files.qrels.head()
        places = [head.names.index(name) for name in judgment_columns(self._files.qrels)]
        qrels = self._folder.qrels
        split = split_of(qrels)
        of_another = self._chosen and split not in ("", *TRAIN)
        notes = (
            [f"'{self.shown}' has no judgments for training: those of {qrels.name} are taken."] if of_another else []
        )
        notes += self._files.unused_notes()
        sample = [tuple(row[place] for place in places) for row in head.sample]
        return Head(NAMES, sample, notes=notes, notations=_renamed(head, places))

    def fingerprint(self) -> str:
        """Return a digest of its files."""
        import hashlib

        prints = [source.fingerprint() for source in self._files.sources()]
        return hashlib.sha256("".join(prints).encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all judgments; those of an unknown query or document are bad rows."""
        import numpy as np
        import pyarrow as pa

        queries, corpus, judged = self._files.read(bad)
        known = (judged.query >= 0) & (judged.document >= 0) & ~judged.regraded
        blank = known & (queries.blank[judged.query] | corpus.blank[judged.document])
        for at in judged.place(np.flatnonzero(blank)) if blank.any() else []:
            bad.add(at, None, "blank", "the query or the document has no text")
        good = np.flatnonzero(known & ~blank)
        columns = {
            "query": queries.texts.take(pa.array(judged.query[good])),
            "document": corpus.texts.take(pa.array(judged.document[good])),
            "grade": pa.array(judged.grade[good]),
        }
        table = pa.table({name: columns[name] for name in names})
        return Reading(table, lambda numbers: judged.place(good[numbers]), judged.rows_read)

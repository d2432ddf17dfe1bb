"""A BEIR folder as a source: a row `query, document, grade` for each judgment, with the texts."""

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
from finetune.data.source import Head, Reading
from finetune.data.sources.errors import fail
from finetune.data.sources.files import find_file
from finetune.errors import CheckFailed

if TYPE_CHECKING:
    from finetune.data.schema.number_formats import Notation
    from finetune.data.sources.beir_files import BeirFiles

NAMES = ["query", "document", "grade"]


def _renamed_notations(head: Head, indices: Sequence[int]) -> dict[str, Notation]:
    """Return how the numbers of the judgments are written, by the names that their columns have here."""
    found = {}
    for name, index in zip(NAMES, indices, strict=True):
        notation = head.notations.get(head.names[index])
        if notation is not None:
            found[name] = notation
    return found


def open_beir(path: Path, shown: str, key: str) -> BeirSource:
    """Return the source of a BEIR folder, or of one of its files of judgments: `folder/qrels/dev.tsv`.

    Raises:
        CheckFailed: a part of it is missing, or it has several splits of judgments to choose from.
    """
    if named_judgments(path) is not None:
        return BeirSource(train_beir_folder(path, shown, key), key)
    if not path.is_dir():
        if path.exists():
            fail(key, f"'{shown}' is a file.", WANTED)
        find_file(path, shown, key)
    problem = beir_problem(path, shown, key)
    if problem is not None:
        raise CheckFailed([problem])
    return BeirSource(train_beir_folder(path, shown, key), key, chosen=True)


class BeirSource:
    """The judgments of a BEIR folder with their texts; a document's text is its title and its text.

    `chosen`: the user did not name the judgments, so that a note is added if they are not for training.
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
        """Return its columns; the sample is of the judgments alone, as their texts may be anywhere in the files."""
        from finetune.data.sources.beir_files import judgment_columns

        self._files.check()
        head = self._files.qrels.head()
        indices = [head.names.index(name) for name in judgment_columns(self._files.qrels)]
        qrels = self._folder.qrels
        notes = []
        if self._chosen and split_of(qrels) not in ("", *TRAIN):
            notes.append(f"'{self.shown}' has no judgments for training: those of {qrels.name} are used.")
        notes += self._files.unused_notes()
        sample = [tuple(row[index] for index in indices) for row in head.sample]
        return Head(NAMES, sample, notes=notes, notations=_renamed_notations(head, indices))

    def fingerprint(self) -> str:
        """Return a digest of its files."""
        import hashlib

        prints = [source.fingerprint() for source in self._files.sources()]
        return hashlib.sha256("".join(prints).encode()).hexdigest()

    def read(self, names: Sequence[str], bad: BadRows) -> Reading:
        """Return these columns of all judgments; those of an unknown query or document are added to `bad`."""
        import numpy as np
        import pyarrow as pa

        queries, corpus, judged = self._files.read(bad)
        known = (judged.query >= 0) & (judged.document >= 0) & ~judged.regraded
        blank = known & (queries.blank[judged.query] | corpus.blank[judged.document])
        if blank.any():
            for location in judged.locate(np.flatnonzero(blank)):
                bad.add(location, None, "blank", "the query or the document has no text")
        valid = np.flatnonzero(known & ~blank)
        columns = {
            "query": queries.texts.take(pa.array(judged.query[valid])),
            "document": corpus.texts.take(pa.array(judged.document[valid])),
            "grade": pa.array(judged.grade[valid]),
        }
        table = pa.table({name: columns[name] for name in names})
        return Reading(table, lambda rows: judged.locate(valid[rows]), judged.rows_read)

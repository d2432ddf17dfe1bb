"""Evaluation data in a BEIR folder: `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`.

The layout of Thakur et al. 2021 (https://arxiv.org/abs/2104.08663). Published folders have judgments of documents that
are missing from the corpus, and documents without text. Both are left out of the search, and a right answer among them
counts as not found (`Judgments.lost_query`), as in trec_eval, so that numbers are comparable with published ones. Where
those were computed with the empty texts in the index, an empty text can only have displaced a hit.

J judgments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from finetune.data.arrays import Ints
from finetune.data.bad_rows import BadRows
from finetune.data.beir_folder import BeirFolder
from finetune.data.holdout.judgments import Grades, Judgments
from finetune.data.sources.beir_files import BeirFiles, BeirJudgments, BeirTexts, report_blank
from finetune.data.sources.errors import fail


@dataclass(frozen=True)
class Beir:
    """The texts and judgments of a BEIR folder, before texts are numbered as items.

    `lost_query` and `lost_grade` are right answers that are missing from the corpus.
    """

    name: str
    queries: pa.Array
    corpus: pa.Array
    query_index: Ints
    document_index: Ints
    grade: Grades
    lost_query: Ints
    lost_grade: Grades
    rows_read: int
    notes: list[str] = field(default_factory=list)

    def judgments(self, query_items: Ints, corpus_items: Ints) -> Judgments:
        """Return the judgments over items; documents or queries of the same text become one.

        `query_items` and `corpus_items` are the item numbers of the rows of `queries` and `corpus`.
        """
        queries, query_place = np.unique(query_items, return_inverse=True)
        corpus, document_place = np.unique(corpus_items, return_inverse=True)
        query, document = query_place[self.query_index], document_place[self.document_index]
        # Where equal texts became one item, a pair may be judged twice: its best grade counts.
        best = np.lexsort([-self.grade, document, query])
        pair = query[best] * len(corpus) + document[best]
        first = best[np.unique(pair, return_index=True)[1]]
        lost = query_place[self.lost_query]
        return Judgments(
            self.name, queries, corpus, query[first], document[first], self.grade[first], lost, self.lost_grade
        )


def read_beir(folder: BeirFolder, key: str, bad: BadRows) -> Beir:
    """Read a BEIR folder; `key` is the setting that named it. Unusable rows are added to `bad`.

    A document's text is its title and its text. Queries without a right answer are left out, with a note.

    Raises:
        CheckFailed: a file cannot be read, or no query with a right answer is left.
    """
    files = BeirFiles(folder, key)
    queries, corpus, judged = files.read(bad)
    rows = np.flatnonzero(judged.counts & (judged.query >= 0) & ~queries.blank[judged.query])
    query, document, grade = judged.query[rows], judged.document[rows], judged.grade[rows]
    searched = np.flatnonzero(~corpus.blank & ~corpus.duplicate & corpus.ids.is_valid().to_numpy(zero_copy_only=False))
    place = np.full(len(corpus.blank) + 1, -1)  # the last is for a document of -1
    place[searched] = np.arange(len(searched))
    found = place[document] >= 0
    if not (found & (grade > 0)).any():
        what = "has no judgment with a score above 0 of a known query and document."
        fail(folder.shown_file(folder.qrels), what, "Does it belong to another corpus, or to other queries?")
    _report_blank(queries, corpus, judged, bad)
    # Without a right answer every metric of a query is undefined.
    asked = np.unique(query[grade > 0])
    used = np.isin(query, asked)
    lost = used & ~found & (grade > 0)
    found &= used
    return Beir(
        name=folder.name,
        queries=queries.texts.take(pa.array(asked)),
        corpus=corpus.texts.take(pa.array(searched)),
        query_index=np.searchsorted(asked, query[found]),
        document_index=place[document[found]],
        grade=grade[found],
        lost_query=np.searchsorted(asked, query[lost]),
        lost_grade=grade[lost],
        rows_read=queries.rows_read + corpus.rows_read + judged.rows_read,
        notes=[*_notes(folder, queries, asked, judged, int(lost.sum()), bad), *files.unused_notes()],
    )


def _report_blank(queries: BeirTexts, corpus: BeirTexts, judged: BeirJudgments, bad: BadRows) -> None:
    """Report the documents, and the queries that are judged, which have no text."""
    blank = np.flatnonzero(corpus.blank & ~corpus.duplicate)
    report_blank(corpus, blank, bad, "the document has no text, and no title")
    asked = np.unique(judged.query[judged.query >= 0])
    report_blank(queries, asked[queries.blank[asked]], bad, "the query has no text")


def _notes(
    folder: BeirFolder, queries: BeirTexts, asked: Ints, judged: BeirJudgments, lost: int, bad: BadRows
) -> Iterator[str]:
    known = int((~queries.duplicate).sum())
    unanswered = known - len(asked)
    if unanswered:
        yield f"{unanswered:,} of {known:,} validation queries have no right answer and are left out."
    if bad:
        yield f"{folder.name}: left out {bad.counted()}."
    if lost:
        answers = "1 right answer is" if lost == 1 else f"{lost:,} right answers are"
        yield f"{folder.name}: {answers} not in the corpus and count as not found, as trec_eval counts them."
    repeated = int((~judged.counts & ~judged.regraded & (judged.query >= 0)).sum())
    if repeated:
        judgments = "1 judgment is" if repeated == 1 else f"{repeated:,} judgments are"
        yield f"{folder.name}: {judgments} repeated with the same grade, which changes nothing."

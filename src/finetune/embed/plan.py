"""The plan of an embedding: the texts in shards, the duplicates among them; written once, before anything is embedded.

The rows of the corpus are copied, compressed, into one file for each shard. So the source is read once, every process
finds the texts of a shard without reading the others, and bad rows are known before a text is embedded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from finetune.console import console, say
from finetune.data.arrays import Ints
from finetune.data.bad_rows import FILE, BadRows, list_for_user
from finetune.data.settings import OnBadRows
from finetune.embed.corpus import TEXT, Corpus
from finetune.embed.duplicates import Duplicates, duplicates_of
from finetune.embed.files import ELSEWHERE, WorkFolder, temporary, write_arrow, write_atomically, write_json
from finetune.errors import CheckFailed, Problem
from finetune.runs.atomic import explained

_FILE = "plan.json"


@dataclass(frozen=True)
class Plan:
    """The rows of a corpus: how many, how many of them repeat a text, how many were left out, rows of a shard."""

    rows: int
    duplicates: int
    left_out: int
    shard_rows: int

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.rows // self.shard_rows)

    @property
    def texts(self) -> int:
        """The number of distinct texts."""
        return self.rows - self.duplicates


def read_plan(work: WorkFolder) -> Plan | None:
    """Return the plan in a folder, None if there is none yet."""
    try:
        return Plan(**json.loads((work.plan / _FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def make_plan(work: WorkFolder, corpus: Corpus, shard_rows: int, on_bad_rows: OnBadRows) -> Plan:
    """Read the corpus, write the plan and return it; if another process has just written it, that one.

    Raises:
        CheckFailed: rows are bad and are not to be skipped, or no row is left.
        Refused: the disk is full.
    """
    draft = temporary(work.plan)
    shutil.rmtree(draft, ignore_errors=True)
    bad = BadRows()
    try:
        with explained(f"write {draft}", ELSEWHERE):
            (draft / "texts").mkdir(parents=True)
            rows, duplicates = _write_rows(draft, corpus, bad, shard_rows)
        _check_bad_rows(bad, rows, on_bad_rows, corpus)
        plan = Plan(rows, duplicates, len(bad), shard_rows)
        write_json(draft / _FILE, asdict(plan))
        if bad:
            bad.write(work.path.parent / FILE)
        try:
            draft.rename(work.plan)
        except OSError:  # on a file system without locks two processes may have planned
            if read_plan(work) is None:
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return plan


def _write_rows(folder: Path, corpus: Corpus, bad: BadRows, shard_rows: int) -> tuple[int, int]:
    """Write the rows into shards, and return how many they are and how many of them repeat a text."""
    rows = 0
    with Duplicates(folder / "duplicates") as duplicates, console.status("reading the corpus") as status:
        for shard, table in enumerate(_in_shards(corpus.rows(bad), shard_rows)):
            path = folder / "texts" / f"{shard:05}.arrow"

            def write(file, table: pa.Table = table) -> None:  # type: ignore[no-untyped-def]
                write_arrow(file, table, "lz4")

            write_atomically(path, write)
            duplicates.add(table[TEXT].chunk(0))
            rows += len(table)
            status.update(f"reading the corpus: {rows:,} rows")
        return rows, duplicates.write(shard_rows)


def _in_shards(parts: Iterator[pa.Table], shard_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of all parts in tables of `shard_rows`, each column in one chunk; fewer in the last."""
    waiting: list[pa.Table] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += len(part)
        while count >= shard_rows:
            table = pa.concat_tables(waiting)
            yield table.slice(0, shard_rows).combine_chunks()
            # A copy, so that the rest does not keep the whole part in memory.
            waiting = [table.slice(shard_rows).combine_chunks()]
            count -= shard_rows
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _check_bad_rows(bad: BadRows, rows: int, on_bad_rows: OnBadRows, corpus: Corpus) -> None:
    if bad.serious and on_bad_rows == "error":
        raise CheckFailed(bad.problems(rows + len(bad), list_for_user(bad)))
    if not rows:
        if bad.serious:
            raise CheckFailed([bad.none_left()])
        what = f"'{corpus.source.shown}' has no row with a text."
        raise CheckFailed([Problem("data.path", what, "Name a file with at least one text.")])
    if bad:
        say(f"Left out: {bad.counted()}; listed in {FILE} next to the vectors.")


def read_texts(work: WorkFolder, shard: int) -> pa.Table:
    """Return the rows of a shard: `ID`, `TEXT` and the kept columns."""
    with pa.memory_map(str(work.texts(shard))) as source:
        return pa.ipc.open_file(source).read_all()


def repeated(work: WorkFolder, plan: Plan, shard: int) -> tuple[Ints, Ints]:
    """Return the rows of a shard that repeat a text, counted in the shard, and the first row of each in the corpus."""
    return duplicates_of(work.duplicates, shard, plan.shard_rows)

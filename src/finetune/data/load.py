"""Reading everything that the settings name, once: what was read, numbered and related is kept in the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune.console import Bar
from finetune.data.bad_rows import FILE, BadRows, list_apart, list_for_user
from finetune.data.beir_folder import BeirFolder
from finetune.data.cache.store import Cache, CacheUnavailable
from finetune.data.dataset import Dataset, assemble, skipped_notes
from finetune.data.holdout.eval_data import EvalData, hold_all
from finetune.data.items import PLURALS, Items, Modality
from finetune.data.modalities import Options, prepare_column, recognize
from finetune.data.modalities.references import is_data_uri, url_scheme
from finetune.data.prepare import Prompts, TypedSource, prepare
from finetune.data.prepared import Prepared
from finetune.data.prompts import with_prompts
from finetune.data.schema.columns import to_texts, type_columns
from finetune.data.schema.layouts import Roles
from finetune.data.schema.number_formats import POINT
from finetune.data.schema.questions import questions, unused_note
from finetune.data.schema.score_values import apply_score_values
from finetune.data.sources import Head, Source
from finetune.data.sources.beir import Beir, read_beir
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from finetune.data.settings import Data, OneSource

NAMED = "named_files.json"
VERSION = 4  # of what the cache keeps; another one makes everything be read again
QUESTIONS = 1  # of what is asked about all values; another one makes everything be read, and asked about, again

Looked = tuple["OneSource", Source, Head, Roles]


def load(data: Data, seed: int) -> Dataset:
    """Return the data set that `data` describes, from the cache if it was read before.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    looked, folder = look(data)
    fingerprint, prepared, problems = _prepared(data, looked, folder)
    prompts = _saved_prompts([one for one, *_ in looked])
    dataset = assemble(
        prepared, data.limit, data.validation_fraction, seed, near_leaks=data.near_leaks, prompts=prompts
    )
    return replace(
        dataset,
        # A BEIR folder may be both trained and evaluated on.
        notes=list(dict.fromkeys([*_notes(looked), *dataset.notes])),
        fingerprint=fingerprint,
        problems=problems,
    )


def load_held(data: Data) -> EvalData:
    """Return all that `data` describes as held out, to be evaluated on.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    looked, _ = look(data)
    _, prepared, problems = _prepared(data, looked, None)
    held = hold_all(prepared, [*_notes(looked), *skipped_notes(prepared), *prepared.notes], problems)
    if not held.found:
        what = f"{prepared.layouts[0]} alone say nothing that a model could be measured by."
        raise CheckFailed([Problem("data.columns", what, "Give judgments, pairs, scored pairs or labelled items.")])
    return held


def load_beir(folder: BeirFolder, data: Data) -> EvalData:
    """Return the judgments of a BEIR folder with its whole corpus, under the prompts of `data`.

    Raises:
        CheckFailed: with everything that is wrong in its files.
    """
    problems: list[Problem] = []
    bad = BadRows()
    beir = _beir(folder, "data.path", bad, problems)
    if bad.serious and data.on_bad_rows == "error":
        problems += bad.problems(beir.rows_read if beir else len(bad), list_for_user(bad))
    if problems or beir is None:
        raise CheckFailed(problems)
    items, codes = Items.from_columns([beir.queries, beir.corpus])
    judgments, prompts = beir.judgments(*codes), prompts_of(data)
    items, columns, _ = with_prompts(items, [judgments.queries, judgments.corpus], [prompts.anchor, prompts.positive])
    judgments = replace(judgments, queries=columns[0], corpus=columns[1])
    return EvalData(items, (judgments,), beir.notes, list_apart(bad))


def _beir(folder: BeirFolder, key: str, bad: BadRows, problems: list[Problem]) -> Beir | None:
    """Return what is in a BEIR folder; what is wrong with it is added to `problems`, and its bad rows to `bad`."""
    try:
        return read_beir(folder, key, bad)
    except CheckFailed as failed:
        problems += failed.problems
        return None


def _prepared(data: Data, looked: list[Looked], folder: BeirFolder | None) -> tuple[str, Prepared, Path | None]:
    """Return the fingerprint of what is read, what was prepared, and the file of bad rows if some were left out."""
    fingerprint = _fingerprint(looked, folder)
    if data.cache:
        return fingerprint, *_from_cache(_key(fingerprint, data, looked), data, looked, folder)
    return fingerprint, *_read(data, looked, folder, set())


def _notes(looked: list[Looked]) -> list[str]:
    notes = []
    for one, _, head, roles in looked:
        notes += [note for note in (*head.notes, roles.note) if note]
        if roles.unused:
            notes.append(f"{one.name}: {unused_note(roles.unused)}" if one.name else unused_note(roles.unused))
    return notes


def look(data: Data) -> tuple[list[Looked], BeirFolder | None]:
    """Return each source with its first rows and what its columns mean, and the folder of judgments.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    from finetune.data.settings import attempt

    problems: list[Problem] = []
    looked: list[Looked] = []
    for one in attempt(data.each, problems) or []:
        if found := attempt(one.look, problems):
            looked.append((one, *found))
    folder = attempt(data.validation_folder, problems)
    if problems:
        raise CheckFailed(problems)
    return looked, folder


def _from_cache(key: str, data: Data, looked: list[Looked], folder: BeirFolder | None) -> tuple[Prepared, Path | None]:
    made: list[tuple[Prepared, Path | None]] = []

    def build(place: Path) -> None:
        named: set[Path] = set()
        prepared, problems = _read(data, looked, folder, named)
        made.append((prepared, problems))
        prepared.save(place)
        (place / NAMED).write_text(json.dumps(_states(map(str, named))), encoding="utf-8")
        if problems is not None:
            shutil.copy(problems, place / FILE)

    def load_entry(place: Path) -> tuple[Prepared, Path | None]:
        named = json.loads((place / NAMED).read_text(encoding="utf-8"))
        if _states(named) != named:
            raise ValueError("a file that the table names has changed")  # which makes the entry be made again
        return Prepared.load(place), place / FILE if (place / FILE).is_file() else None

    try:
        return Cache().load("tables", key, build, load_entry)
    except CacheUnavailable:
        # The disk is full, say: what was read is there all the same.
        return made[0] if made else _read(data, looked, folder, set())


def reader_versions() -> list[int]:
    """Return the versions of what reads and prepares data; fingerprints of different ones cannot be compared."""
    from finetune.data.sources import file_source, folder_table, folders, memory, vectors

    return [VERSION, *(module.VERSION for module in (file_source, folder_table, folders, memory, vectors))]


def _fingerprint(looked: list[Looked], folder: BeirFolder | None) -> str:
    """Return a digest of all that decides what is read, wherever it lies: contents, and what the columns are."""
    digest = hashlib.sha256(str(VERSION).encode())
    for one, source, _, roles in looked:
        data = one.data
        settings = (one.name, data.modality, data.prompts, data.transitive, data.min_score, data.encode_once)
        digest.update(json.dumps([source.fingerprint(), settings], sort_keys=True).encode())
        digest.update(repr(_of_what_is_read(roles)).encode())
        if data.score_values is not None:
            digest.update(repr(data.score_values).encode())
    for path in folder.files if folder else []:
        with path.open("rb") as file:
            digest.update(path.name.encode("utf-8", "surrogateescape"))
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _of_what_is_read(roles: Roles) -> dict[str, Any]:
    """Return what decides how the columns in use are read, and not what is said about the others."""
    found = asdict(roles) | {"lists": sorted(roles.lists)}
    return {name: value for name, value in found.items() if name not in ("unused", "by_user", "named")}


def _key(fingerprint: str, data: Data, looked: list[Looked]) -> str:
    """Return what the cache keeps it under: with the names that stand in it, and the folders of its paths."""
    names = [(source.shown, str(source.base.absolute())) for _, source, _, _ in looked]
    asked = [QUESTIONS, [(roles.by_user, one.data.decimal) for one, *_, roles in looked]]
    return hashlib.sha256(json.dumps([fingerprint, data.on_bad_rows, names, asked]).encode()).hexdigest()


def _states(paths: Iterable[str]) -> dict[str, list[int] | None]:
    """Return size and time of change of files, None of one that is not there."""
    states: dict[str, list[int] | None] = {}
    for path in paths:
        try:
            found = Path(path).stat()
            states[path] = [found.st_size, found.st_mtime_ns]
        except (OSError, ValueError):
            states[path] = None
    return states


def _read(
    data: Data, looked: list[Looked], folder: BeirFolder | None, named: set[Path]
) -> tuple[Prepared, Path | None]:
    """Read everything; returns what was prepared, and the file of bad rows if some were left out.

    The files of pictures and meshes that the data names are added to `named`.
    """
    bad, of_folder, options = BadRows(), BadRows(), Options()
    problems: list[Problem] = []
    sources: list[TypedSource] = []
    for one, source, head, roles in looked:
        try:
            sources.append(_typed(one, source, roles, bad, options, named))
        except CheckFailed as failed:
            problems += map(one.placed, failed.problems)
            continue
        score = sources[-1].columns.score if one.data.score_values is None else None
        problems += map(one.placed, questions(source, head, roles, score, one.data.decimal))
    validation = _beir(folder, "data.validation_path", of_folder, problems) if folder else None
    if len(sources) < len(looked):
        raise CheckFailed(problems)
    prepared = prepare(sources, validation, bad)
    bad.include(of_folder.lines())
    if bad.serious and data.on_bad_rows == "error":
        rows_read = prepared.rows_read + (validation.rows_read if validation else len(of_folder))
        problems += bad.problems(rows_read, list_for_user(bad))
    elif bad.serious and not len(prepared.relations):
        problems.append(bad.none_left())
    if problems:
        raise CheckFailed(problems)
    return prepared, list_apart(bad)


def _typed(
    one: OneSource, source: Source, roles: Roles, bad: BadRows, options: Options, named: set[Path]
) -> TypedSource:
    reading = source.read(roles.names, bad)
    notes: list[str] = []
    if one.data.score_values is not None and roles.score is not None:
        notation = roles.notations.get(roles.score, POINT)
        reading, notes = apply_score_values(reading, roles.score, one.data.score_values, bad, notation)

    def bring(
        name: str, values: pa.ChunkedArray, report: Callable[[int, str, str], None]
    ) -> tuple[Modality, pa.ChunkedArray]:
        told = one.data.modality if isinstance(one.data.modality, str) else one.data.modality.get(name, "auto")
        modality = recognize(name, values, source.base) if told == "auto" else told
        if modality == "text":
            return "text", to_texts(name, values)
        named.update(_files_in(values, source.base))
        with Bar(f"looking at {name}", len(values), PLURALS[modality]) as bar:
            shown = partial(_show, bar)
            return modality, prepare_column(modality, values, source.base, report, shown, options)

    return TypedSource(
        name=one.name or source.shown,
        columns=type_columns(reading, roles, bring),
        prompts=_prompts(one),
        transitive=one.data.transitive is True,
        min_score=one.data.min_score,
        two_views=not one.data.encode_once,
        notes=notes,
    )


def _show(bar: Bar, done: int, _: int) -> None:
    bar.update(done)


def _files_in(values: pa.ChunkedArray, base: Path) -> Iterator[Path]:
    """Yield the files that a column names."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return
    for text in values.unique().to_pylist():
        if text and not is_data_uri(text) and url_scheme(text) is None:
            yield base.absolute() / text


def _prompts(one: OneSource) -> Prompts:
    return prompts_of(one.data)


def prompts_of(data: Data) -> Prompts:
    """Return what the texts of a source begin with."""
    told = data.prompts or {}
    return Prompts(told.get("anchor", told.get("query", "")), told.get("positive", told.get("document", "")))


def _saved_prompts(sources: list[OneSource]) -> dict[str, str]:
    """Return the prompts by the names that sentence-transformers uses; those of further sources carry its name."""
    named: dict[str, str] = {}
    for one in sources:
        prompts = _prompts(one)
        front = f"{one.name}_" if named else ""
        if prompts.anchor or prompts.positive:
            named |= {f"{front}query": prompts.anchor, f"{front}document": prompts.positive}
    return named

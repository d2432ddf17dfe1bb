"""Loading everything that the settings name, from the cache where it was read before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config.suggest import did_you_mean
from finetune.data.bad_rows import FILE, BadRows, list_apart, list_for_user
from finetune.data.beir_folder import BeirFolder
from finetune.data.cache.store import Cache, CacheUnavailable
from finetune.data.dataset import Dataset, assemble, skipped_notes
from finetune.data.fingerprint import cache_key, file_states, fingerprint_of
from finetune.data.holdout.eval_data import EvalData, all_as_eval_data
from finetune.data.items import Items
from finetune.data.open_sources import OpenedSource, attempt, open_sources
from finetune.data.prepared import Prepared
from finetune.data.prompts import prompts_of, prompts_to_save, with_prompts
from finetune.data.read_sources import read_sources
from finetune.data.schema.questions import unused_note
from finetune.data.settings import Data, default_values
from finetune.data.sources.beir import read_beir
from finetune.errors import CheckFailed, Problem

NAMED_FILES = "named_files.json"


def load(settings: Data, seed: int = 42) -> Dataset:
    """Return the data set that `settings` describe, split by `seed`; from the cache if it was read before.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    opened, folder = open_sources(settings)
    fingerprint, prepared, problems = _prepared(settings, opened, folder)
    dataset = assemble(
        prepared,
        settings.limit,
        settings.validation_fraction,
        seed,
        near_leaks=settings.near_leaks,
        prompts=prompts_to_save([one.settings for one in opened]),
    )
    # A BEIR folder may be both trained and evaluated on: its notes are then given twice.
    notes = list(dict.fromkeys([*_notes(opened), *dataset.notes]))
    return replace(dataset, notes=notes, fingerprint=fingerprint, problems=problems)


def read(what: Any, *, seed: int = 42, **settings: Any) -> Dataset:
    """Return the data set in `what`: a path or several, a data frame, a table, a list of dicts, an open file.

    `settings` are the keys of `conf/data/files.yaml`, with its defaults: `read(frame, columns=["question", "answer"])`.
    The `notes` of the data set say what was guessed and left out.

    Raises:
        CheckFailed: with everything that is wrong; a setting is unknown.
    """
    defaults = default_values()
    problems = []
    for name in settings:
        if name not in defaults:
            advice = did_you_mean(name, defaults) or f"There are: {', '.join(defaults)}."
            problems.append(Problem(name, "there is no such setting.", advice))
    if problems:
        raise CheckFailed(problems)
    return load(Data(**{**defaults, "path": what, **settings}), seed)


def load_eval_data(settings: Data) -> EvalData:
    """Return everything that `settings` describe as evaluation data.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    opened, _ = open_sources(settings)
    _, prepared, problems = _prepared(settings, opened, None)
    held = all_as_eval_data(prepared, [*_notes(opened), *skipped_notes(prepared), *prepared.notes], problems)
    if not held.found:
        what = f"{prepared.layouts[0]} alone say nothing that a model could be measured by."
        raise CheckFailed([Problem("data.columns", what, "Give judgments, pairs, scored pairs or labelled items.")])
    return held


def load_beir(folder: BeirFolder, settings: Data) -> EvalData:
    """Return the judgments of a BEIR folder with its whole corpus, under the prompts of `settings`.

    Raises:
        CheckFailed: with everything that is wrong in its files.
    """
    problems: list[Problem] = []
    bad = BadRows()
    beir = attempt(lambda: read_beir(folder, "data.path", bad), problems)
    if bad.serious and settings.on_bad_rows == "error":
        problems += bad.problems(beir.rows_read if beir else len(bad), list_for_user(bad))
    if problems or beir is None:
        raise CheckFailed(problems)
    items, codes = Items.from_columns([beir.queries, beir.corpus])
    judgments, prompts = beir.judgments(*codes), prompts_of(settings)
    items, columns, _ = with_prompts(items, [judgments.queries, judgments.corpus], [prompts.anchor, prompts.positive])
    judgments = replace(judgments, queries=columns[0], corpus=columns[1])
    return EvalData(items, (judgments,), beir.notes, list_apart(bad))


def _prepared(
    settings: Data, opened: Sequence[OpenedSource], folder: BeirFolder | None
) -> tuple[str, Prepared, Path | None]:
    """Return the fingerprint of what is read, what was prepared, and the file of skipped bad rows if there are any."""
    fingerprint = fingerprint_of(opened, folder)
    if settings.cache:
        key = cache_key(fingerprint, settings, opened)
        return fingerprint, *_from_cache(key, settings, opened, folder)
    return fingerprint, *read_sources(settings, opened, folder, set())


def _from_cache(
    key: str, settings: Data, opened: Sequence[OpenedSource], folder: BeirFolder | None
) -> tuple[Prepared, Path | None]:
    made: list[tuple[Prepared, Path | None]] = []

    def build(entry: Path) -> None:
        named_files: set[Path] = set()
        prepared, problems = read_sources(settings, opened, folder, named_files)
        made.append((prepared, problems))
        prepared.save(entry)
        (entry / NAMED_FILES).write_text(json.dumps(file_states(map(str, named_files))), encoding="utf-8")
        if problems is not None:
            shutil.copy(problems, entry / FILE)

    def load_entry(entry: Path) -> tuple[Prepared, Path | None]:
        states = json.loads((entry / NAMED_FILES).read_text(encoding="utf-8"))
        if file_states(states) != states:
            raise ValueError("a file that the table names has changed")  # then the entry is built again
        problems = entry / FILE
        return Prepared.load(entry), problems if problems.is_file() else None

    try:
        return Cache().load("tables", key, build, load_entry)
    except CacheUnavailable:
        # For example the disk is full: what was read is still in memory.
        if made:
            return made[0]
        return read_sources(settings, opened, folder, set())


def _notes(opened: Sequence[OpenedSource]) -> list[str]:
    notes = []
    for one in opened:
        notes += [note for note in (*one.head.notes, one.roles.note) if note]
        if one.roles.unused:
            note, name = unused_note(one.roles.unused), one.settings.name
            notes.append(f"{name}: {note}" if name else note)
    return notes

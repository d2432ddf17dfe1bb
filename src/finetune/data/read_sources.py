"""Reading all rows of opened sources into `Prepared`, with their problems and bad rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from finetune.console import Bar
from finetune.data.bad_rows import BadRows, list_apart, list_for_user
from finetune.data.beir_folder import BeirFolder
from finetune.data.items import PLURALS, Modality
from finetune.data.modalities import Options, prepare_column, recognize
from finetune.data.modalities.references import is_data_uri, url_scheme
from finetune.data.open_sources import OpenedSource, attempt
from finetune.data.prepare import TypedSource, prepare
from finetune.data.prepared import Prepared
from finetune.data.prompts import prompts_of
from finetune.data.schema.columns import to_texts, type_columns
from finetune.data.schema.number_formats import POINT
from finetune.data.schema.questions import questions
from finetune.data.schema.score_values import apply_score_values
from finetune.data.settings import Data
from finetune.data.sources.beir import Beir, read_beir
from finetune.errors import CheckFailed, Problem


def read_sources(
    data: Data, opened: Sequence[OpenedSource], folder: BeirFolder | None, named_files: set[Path]
) -> tuple[Prepared, Path | None]:
    """Read everything; returns what was prepared, and the file that lists the skipped bad rows if there are any.

    The image and mesh files that the data names are added to `named_files`.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    bad, options = BadRows(), Options()
    problems: list[Problem] = []
    sources: list[TypedSource] = []
    for one in opened:
        settings = one.settings
        try:
            sources.append(_read_source(one, bad, options, named_files))
        except CheckFailed as failed:
            problems += map(settings.at_source, failed.problems)
            continue
        score = sources[-1].columns.score if settings.data.score_values is None else None
        asked = questions(one.source, one.head, one.roles, score, settings.data.decimal)
        problems += map(settings.at_source, asked)
    bad_in_folder = BadRows()
    validation: Beir | None = None
    if folder is not None:
        validation = attempt(lambda: read_beir(folder, "data.validation_path", bad_in_folder), problems)
    if len(sources) < len(opened):
        raise CheckFailed(problems)
    prepared = prepare(sources, validation, bad)
    bad.include(bad_in_folder.lines())
    if bad.serious and data.on_bad_rows == "error":
        rows_read = prepared.rows_read + (validation.rows_read if validation else len(bad_in_folder))
        problems += bad.problems(rows_read, list_for_user(bad))
    elif bad.serious and not len(prepared.relations):
        problems.append(bad.none_left())
    if problems:
        raise CheckFailed(problems)
    return prepared, list_apart(bad)


def _read_source(one: OpenedSource, bad: BadRows, options: Options, named_files: set[Path]) -> TypedSource:
    data, source, roles = one.settings.data, one.source, one.roles
    reading = source.read(roles.names, bad)
    notes: list[str] = []
    if data.score_values is not None and roles.score is not None:
        notation = roles.notations.get(roles.score, POINT)
        reading, notes = apply_score_values(reading, roles.score, data.score_values, bad, notation)

    def items_of(
        name: str, values: pa.ChunkedArray, report: Callable[[int, str, str], None]
    ) -> tuple[Modality, pa.ChunkedArray]:
        modality = data.modality if isinstance(data.modality, str) else data.modality.get(name, "auto")
        if modality == "auto":
            modality = recognize(name, values, source.base)
        if modality == "text":
            return "text", to_texts(name, values)
        named_files.update(_files_in(values, source.base))
        with Bar(f"looking at {name}", len(values), PLURALS[modality]) as bar:

            def show(done: int, _: int) -> None:
                bar.update(done)

            return modality, prepare_column(modality, values, source.base, report, show, options)

    return TypedSource(
        name=one.settings.name or source.shown,
        columns=type_columns(reading, roles, items_of),
        prompts=prompts_of(data),
        transitive=data.transitive is True,
        min_score=data.min_score,
        two_views=not data.encode_once,
        notes=notes,
    )


def _files_in(values: pa.ChunkedArray, base: Path) -> Iterator[Path]:
    """Yield the files that a column names."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return
    for text in values.unique().to_pylist():
        if text and not is_data_uri(text) and url_scheme(text) is None:
            yield base.absolute() / text

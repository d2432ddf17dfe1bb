"""`embed`: a corpus of any size into a folder of vectors, which can be stopped and repeated at any time."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.home import expand_home
from finetune.data.settings import OnBadRows
from finetune.embed.corpus import Corpus, open_corpus
from finetune.embed.files import MANIFEST, WorkFolder
from finetune.embed.manifest import Manifest, check_same, read_manifest
from finetune.embed.settings import Columns, DataSettings, EmbedSettings, checked_settings
from finetune.errors import CheckFailed, Problem
from finetune.inference.locate import locate
from finetune.models.digest import digest_of
from finetune.models.kinds import kind_of_folder
from finetune.runs.atomic import PROBE, check_writable, explained

# Settings that say where and how fast something is computed, not what.
_NOT_IDENTITY = ("out", "device")


@dataclass(frozen=True)
class Embedded:
    """A folder of vectors: `rows` in `shards` files, of `texts` distinct texts; `left_out` rows had none."""

    out: Path
    rows: int
    texts: int
    left_out: int
    shards: int


def embed(
    model: Any,
    data: Any,
    out: str | Path,
    *,
    columns: Columns | None = None,
    on_bad_rows: OnBadRows = "error",
    limit: int | None = None,
    data_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Embedded:
    """Write the embeddings of a corpus into the folder `out`, and return what is in it.

    `model` is a run, a folder, a hub id or an artifact, as for `get_model`. `data` is a path, a data frame, an Arrow
    table, or a list of dicts; `columns`, `on_bad_rows` and `limit` are those of `DataSettings`, and `data_options` say
    how files are parsed (`delimiter`, ...). `settings` are those of `EmbedSettings` by name: `prompt`, `dimensions`,
    `precision`, `format`, `keep`, `device`, and so on. Each distinct text is embedded once. A folder that is incomplete
    is completed; the files are the same bytes as without the interruption. Several processes may embed into one folder
    at the same time.

    Raises:
        CheckFailed: with all problems of the settings, the columns and the rows.
        FinetuneError: the folder holds something else; the model does not embed texts, or has no such prompt.
        Refused: the disk is full; what is done is kept.

    Example:
        >>> from finetune.embed.run import embed
        >>> done = embed("sentence-transformers/all-MiniLM-L6-v2", [{"id": 7, "text": "a red cat"}], "vectors")
        >>> done.rows
        1
    """
    path = str(data) if isinstance(data, Path) else data
    of_data = {"path": path, "columns": columns, "on_bad_rows": on_bad_rows, "limit": limit, **(data_options or {})}
    folder = str(out) if isinstance(out, Path) else out
    return embed_corpus(model, *checked_settings({**settings, "out": folder, "data": of_data}))


def embed_corpus(model: Any, data: DataSettings, settings: EmbedSettings) -> Embedded:
    """Write the embeddings of a corpus; see `embed`."""
    out = expand_home(settings.out)
    corpus, wanted, found = check_embedding(model, data, settings)
    if found is not None and found.complete:
        shutil.rmtree(WorkFolder(out).path, ignore_errors=True)  # a process was killed while it removed it
        return _embedded(out, found)
    from finetune.embed.processes import run_processes

    run_processes(model, corpus, wanted, data, settings)
    manifest = read_manifest(out)
    assert manifest is not None
    return _embedded(out, manifest)


def check_embedding(
    model: Any, data: DataSettings, settings: EmbedSettings
) -> tuple[Corpus, Manifest, Manifest | None]:
    """Return the corpus, the manifest that its vectors will have, and the one that the folder has, None for a new one.

    Nothing is written, and no torch imported.

    Raises:
        CheckFailed: with all problems of the columns; the corpus cannot be read, or the folder not be written.
        FinetuneError: there is no such model; the folder holds something else.
    """
    location = locate(model)
    kind_of_folder(location.folder)  # raises if there is no model in it
    corpus = open_corpus(data, settings)
    wanted = Manifest(
        model=location.name,
        model_digest=digest_of(location.folder),
        corpus=corpus.source.shown,
        corpus_digest=corpus.fingerprint,
        settings=_identity(corpus, settings),
    )
    out = expand_home(settings.out)
    found = _found_in(out, wanted)
    if found is None or not found.complete:
        check_writable(out, "out", "choose another folder with out=.")
    return corpus, wanted, found


def _identity(corpus: Corpus, settings: EmbedSettings) -> dict[str, Any]:
    """Return the settings that decide the bytes of the shards."""
    values = dataclasses.asdict(settings) | {"keep": list(corpus.columns.keep)}
    columns = {"columns": list(corpus.columns.texts), "id": corpus.columns.id, "limit": corpus.limit}
    return {name: value for name, value in values.items() if name not in _NOT_IDENTITY} | columns


def _found_in(out: Path, wanted: Manifest) -> Manifest | None:
    """Return the manifest that the folder has; raises FinetuneError if it holds something else."""
    if out.exists() and not out.is_dir():
        raise CheckFailed([Problem("out", f"'{out}' is a file.", "Name a folder for the vectors.")])
    found = read_manifest(out)
    if found is not None:
        check_same(out, found, wanted)
        return found
    with explained(f"read {out}"):
        other = [path.name for path in out.iterdir() if path.name != ".work"] if out.is_dir() else []
    if [name for name in other if not name.startswith((f".{MANIFEST}", PROBE))]:
        what = f"'{out}' is a folder with other files ({sorted(other)[0]}), and no {MANIFEST}."
        raise CheckFailed([Problem("out", what, "Name a folder that is empty or new.")])
    return None


def _embedded(out: Path, manifest: Manifest) -> Embedded:
    return Embedded(out, manifest.rows, manifest.texts, manifest.left_out, len(manifest.shards))

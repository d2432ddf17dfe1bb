"""Searching in a folder of vectors: exactly, shard by shard, or with its index.

Shapes: N vectors of a shard, W numbers of a vector as it is stored, D dimensions, k cut-off.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.config.home import expand_home
from finetune.embed.corpus import ID
from finetune.embed.index import check_index, search_index
from finetune.embed.manifest import Manifest
from finetune.embed.shards import read_rows, stored_columns
from finetune.embed.vectors import complete_manifest, float_vectors, similarity_of
from finetune.errors import FinetuneError
from finetune.inference.devices import Device
from finetune.inference.load import get_model
from finetune.inference.model import Model
from finetune.inference.quantize import Floats
from finetune.inference.search import search


@dataclass(frozen=True)
class Found:
    """A document that was found: its id, its score (higher is more similar) and the columns stored with it."""

    id: Any
    score: float
    columns: dict[str, Any]


def search_folder(
    folder: str | Path,
    query: str,
    k: int = 10,
    *,
    prompt: str | None = "query",
    index: bool = False,
    model: Any = None,
    device: Device | None = None,
) -> list[Found]:
    """Return the k documents of a folder that `finetune embed` wrote that are most similar to a query, best first.

    The scores are those of the model's similarity. Vectors of int8 are compared as the numbers that they stand for,
    binary ones by the cosine of their signs to the query. `index` searches approximately, with the index of the folder.
    `model` is where the model is now, if it is not where the manifest says.

    Raises:
        FinetuneError: the folder has no complete vectors or no index, the model is another one; the query is empty, or
            k is below 1.
    """
    out = expand_home(folder)
    manifest = complete_manifest(out)
    if not query.strip():
        raise FinetuneError("the query is empty.", "Write the text to search for.")
    if k < 1:
        raise FinetuneError(f"k={k} is no number of documents.", "Ask for at least one.")
    if index:
        check_index(out)
    query_1D, loaded = _embed_query(manifest, query, prompt, model, device)
    if index:
        scores, rows = search_index(out, manifest, query_1D[0], k)
    else:
        hits = search(query_1D, float_vectors(out, manifest), k, similarity_of(manifest), loaded.device)
        scores, rows = hits.scores[0], hits.indices[0]
    return _with_columns(out, manifest, scores, rows)


def _embed_query(
    manifest: Manifest, query: str, prompt: str | None, model: Any, device: Device | None
) -> tuple[Floats, Model]:
    settings = manifest.settings
    name = model or manifest.model
    loaded = get_model(name, device=device, dtype=settings["dtype"], max_length=settings["max_length"])
    if loaded.digest != manifest.model_digest:
        what = f"{name} is not the model of these vectors, or has changed since."
        raise FinetuneError(what, "Name the model with --model, or embed the corpus again into another folder.")
    options = {"normalize": settings["normalize"], "dimensions": settings["dimensions"], "precision": "float32"}
    return loaded.encode([query], prompt, **options), loaded


def _with_columns(out: Path, manifest: Manifest, scores: Floats, rows: Any) -> list[Found]:
    """Return what is stored with rows of the whole corpus."""
    names = stored_columns(out, manifest)
    ends = np.cumsum([entry.rows for entry in manifest.shards])
    owners = np.searchsorted(ends, rows, side="right")
    values: dict[int, dict[str, Any]] = {}
    for owner in np.unique(owners).tolist():
        entry = manifest.shards[owner]
        places = np.flatnonzero(owners == owner)
        table = read_rows(out, entry, names).take(pa.array(rows[places] - (ends[owner] - entry.rows)))
        values |= dict(zip(places.tolist(), table.to_pylist(), strict=True))
    found = []
    for place, score in enumerate(scores.tolist()):
        columns = values[place]
        found.append(Found(columns.pop(ID), score, columns))
    return found

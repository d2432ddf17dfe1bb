"""An index of the vectors in a folder for fast approximate search: HNSW of usearch.

(Malkov and Yashunin 2018, https://arxiv.org/abs/1603.09320.) Its keys are the rows of the corpus, from 0. Building it
keeps all vectors and the graph in memory; searching maps the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.console import Bar
from finetune.data.arrays import Ints
from finetune.embed.files import INDEX, write_atomically
from finetune.embed.manifest import Manifest
from finetune.embed.vectors import complete_manifest, float_vectors, similarity_of
from finetune.errors import FinetuneError
from finetune.evaluation.ann import add_vectors, is_installed
from finetune.inference.quantize import Floats

Kind = Literal["usearch"]
_METRICS = {"cosine": "cos", "dot": "ip", "euclidean": "l2sq"}


def check_kind(kind: str) -> None:
    """Check that an index of this kind can be built.

    Raises:
        FinetuneError: there is no such kind, or the package is not installed.
    """
    if kind != "usearch":
        raise FinetuneError(f"there is no index '{kind}'.", "There is: usearch.")
    if not is_installed():
        raise FinetuneError("the index needs the package usearch.", "Install it: pip install 'finetune[index]'")


def build_index(out: Path) -> Path:
    """Write an index next to the vectors of a complete folder and return its file; one that is there is replaced.

    Raises:
        FinetuneError: the vectors are not complete, or their similarity has no index.
        Refused: the disk is full.
    """
    manifest = complete_manifest(out)
    index = _new_index(manifest)
    with Bar("indexing", manifest.rows, "vectors") as bar:
        for vectors_ND in float_vectors(out, manifest):
            add_vectors(index, vectors_ND)
            bar.update(len(index))
    path = out / INDEX
    write_atomically(path, lambda file: file.write(index.save()))
    return path


def check_index(out: Path) -> None:
    """Check that a folder has an index that can be read.

    Raises:
        FinetuneError: it has none, or the package is not installed.
    """
    check_kind("usearch")
    if not (out / INDEX).is_file():
        what = f"{out} has no index."
        raise FinetuneError(what, "Run the command that wrote the vectors again with --index usearch.")


def search_index(out: Path, manifest: Manifest, query_D: Floats, k: int) -> tuple[Floats, Ints]:
    """Return the scores and rows of about the k most similar vectors, best first.

    Raises:
        FinetuneError: the index is damaged or of other vectors.
    """
    index = _new_index(manifest)
    try:
        index.view(str(out / INDEX))
        if len(index) != manifest.rows or index.ndim != manifest.dimensions:
            raise RuntimeError("other vectors")
        matches: Any = index.search(query_D, k)
    except (RuntimeError, ValueError, OSError) as error:
        what = f"{out / INDEX} is damaged, or is an index of other vectors."
        raise FinetuneError(what, "Build it again with --index usearch.") from error
    distances = np.asarray(matches.distances, np.float32)
    rows = np.asarray(matches.keys, np.int64)
    order = np.lexsort((rows, distances))
    return _scores(distances[order], similarity_of(manifest)), rows[order]


def _scores(distances: Floats, similarity: str) -> Floats:
    """Return distances of usearch as the similarity of the model."""
    return -np.sqrt(distances) if similarity == "euclidean" else 1 - distances


def _new_index(manifest: Manifest) -> Any:
    from usearch.index import Index

    similarity = similarity_of(manifest)
    if similarity not in _METRICS:
        what = f"usearch has no index for the similarity of this model, {similarity}."
        raise FinetuneError(what, "Search without an index.")
    return Index(ndim=manifest.dimensions, metric=_METRICS[similarity], dtype="f32")

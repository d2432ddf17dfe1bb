"""The work on one shard after the other: embedding its new texts, then writing its rows with their vectors.

Every process of an embedding runs `work_until_complete`. A text that occurs several times is embedded for the shard of
its first row. When all vectors are there, each shard is written with those of its own texts and of repeated ones.

Shapes: N rows of a shard, U texts that a shard has first, D dimensions, W numbers of a vector as it is stored.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finetune.console import Bar
from finetune.data.tokens.tokenize import slices
from finetune.embed.claims import do_first_free
from finetune.embed.corpus import TEXT
from finetune.embed.files import WorkFolder, write_array, write_atomically, write_json
from finetune.embed.manifest import Manifest, ShardEntry, read_manifest, write_manifest
from finetune.embed.plan import Plan, read_texts, repeated
from finetune.embed.settings import EmbedSettings
from finetune.embed.shards import write_shard
from finetune.errors import FinetuneError, Refused
from finetune.inference.model import Model
from finetune.inference.quantize import Floats, dtype_of, quantize, stored_width
from finetune.runs.atomic import read_mapping
from finetune.runs.lock import hold_lock

_SECONDS_BETWEEN_LOOKS = 0.5
_TEXTS_AT_ONCE, _BYTES_AT_ONCE = 4_096, 4 << 20


@dataclass(frozen=True)
class Task:
    """What a process needs to work on an embedding. `ranges_2D` are those of int8, None for another precision."""

    out: Path
    work: WorkFolder
    plan: Plan
    settings: EmbedSettings
    batch_tokens: int
    ranges_2D: Floats | None


class Progress:
    """The progress of all processes: texts, their number per second and that of tokens, and the time left."""

    def __init__(self, task: Task) -> None:
        self._work = task.work
        self._bar = Bar("embedding", task.plan.texts, "texts")
        self._started = time.monotonic()
        self._before = self._finished()
        self._own = {"texts": 0, "tokens": 0}
        self._shown = self._before["texts"]
        self._bar.start_at(self._before["texts"])

    def __enter__(self) -> Progress:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def update(self, texts: int, tokens: int) -> None:
        """Show the finished shards of all processes, and `texts` of the shard that this process works on."""
        self._own = {"texts": texts, "tokens": tokens}
        done = self._finished()
        seconds = max(time.monotonic() - self._started, 1e-6)
        new = {key: done[key] + self._own[key] - self._before[key] for key in done}
        pace = f"{new['texts'] / seconds:,.0f} texts/s · {new['tokens'] / seconds:,.0f} tokens/s"
        if done["texts"] + texts != self._shown:
            self._shown = done["texts"] + texts
            self._bar.update(self._shown, pace)

    def _finished(self) -> dict[str, int]:
        total = {"texts": 0, "tokens": 0}
        for path in sorted((self._work.path / "vectors").glob("*.json")):
            counts = read_mapping(path)
            for key in total:
                total[key] += counts.get(key, 0)
        return total


def work_until_complete(model: Model, task: Task, parent: int | None = None) -> None:
    """Embed and write shards that no other process works on, until all are there and the manifest says so.

    With `parent`, stop after the shard in progress if this process is gone.

    Raises:
        Refused: the disk is full.
        FinetuneError: an embedding is not finite.
    """
    work, shards = task.work, range(task.plan.shards)
    try:
        with Progress(task) as progress:
            _do_all(shards, "embed", work.vectors, work, lambda n: _embed_shard(model, task, n, progress), parent)
            progress.update(0, 0)
        _do_all(shards, "write", work.shard, work, lambda n: _write_shard(task, n), parent)
        with hold_lock(work.lock, str(task.out), wait=lambda _: None):
            _finish(task)
    except (FileNotFoundError, Refused):
        # Another process has finished all and removed the work folder.
        if not is_complete(task.out):
            raise


def is_complete(out: Path) -> bool:
    """Whether every shard of a folder is written."""
    manifest = read_manifest(out)
    return manifest is not None and manifest.complete


def _do_all(
    shards: range,
    kind: str,
    result: Callable[[int], Path],
    work: WorkFolder,
    do: Callable[[int], None],
    parent: int | None,
) -> None:
    """Do a kind of work for all shards whose `result` is not there, together with other processes."""
    folder = result(0).parent
    while True:
        there = set(os.listdir(folder))  # noqa: PTH208 names are enough
        pending = [shard for shard in shards if result(shard).name not in there]
        if not pending:
            return
        if parent is not None and os.getppid() != parent:
            raise FinetuneError("the process that started this one is gone.", "Run the same command again.")
        is_free = do_first_free(
            pending, lambda shard: work.claim(f"{kind}-{shard:05}"), lambda shard: result(shard).exists(), do
        )
        if not is_free:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _embed_shard(model: Model, task: Task, shard: int, progress: Progress) -> None:
    settings, started, tokens_before = task.settings, time.monotonic(), model.tokens
    table = read_texts(task.work, shard)
    rows, _ = repeated(task.work, task.plan, shard)
    texts = table[TEXT].combine_chunks().take(pa.array(np.setdiff1d(np.arange(len(table)), rows)))
    order_U = np.argsort(-pc.binary_length(texts).to_numpy(), kind="stable")
    dimensions = settings.dimensions or model.dimensions
    vectors_UW = np.empty((len(texts), stored_width(dimensions, settings.precision)), dtype_of(settings.precision))
    done = 0
    for part in slices(texts.take(pa.array(order_U)), _TEXTS_AT_ONCE, _BYTES_AT_ONCE):
        emb_nD = embeddings(model, part, settings, task.batch_tokens)
        vectors_UW[order_U[done : done + len(part)]] = quantize(emb_nD, settings.precision, task.ranges_2D)
        done += len(part)
        progress.update(done, model.tokens - tokens_before)
    write_atomically(task.work.vectors(shard), lambda file: write_array(file, vectors_UW))
    seconds = time.monotonic() - started
    counts = {"texts": len(texts), "tokens": model.tokens - tokens_before, "seconds": seconds}
    write_json(task.work.counts(shard), counts)


def embeddings(model: Model, texts: pa.Array, settings: EmbedSettings, batch_tokens: int) -> Floats:
    """Return the embeddings of texts in float32.

    Raises:
        FinetuneError: one of them is not finite.
    """
    emb_ND = model.encode(
        texts,
        settings.prompt,
        batch_tokens=batch_tokens,
        normalize=settings.normalize,
        dimensions=settings.dimensions,
        precision="float32",
    )
    if not np.isfinite(emb_ND).all():
        row = int(np.flatnonzero(~np.isfinite(emb_ND).all(axis=1))[0])
        what = f"the embedding of a text is not finite (NaN or infinite): {texts[row].as_py()!r:.60}."
        raise FinetuneError(what, "Try dtype=float32; if it is, the weights of the model are damaged.")
    return emb_ND


def _write_shard(task: Task, shard: int) -> None:
    table = read_texts(task.work, shard)
    vectors_NW = _vectors_of(task, shard, len(table))
    entry = write_shard(task.out, shard, table, vectors_NW, task.settings.format)
    write_json(task.work.shard(shard), asdict(entry))


def _vectors_of(task: Task, shard: int, count: int) -> NDArray[Any]:
    """Return the vectors of all rows of a shard, those of repeated texts from the shard of their first row."""
    own_UW = np.load(task.work.vectors(shard), mmap_mode="r", allow_pickle=False)
    rows, firsts = repeated(task.work, task.plan, shard)
    vectors_NW = np.empty((count, own_UW.shape[1]), own_UW.dtype)
    vectors_NW[np.setdiff1d(np.arange(count), rows)] = own_UW
    owners = firsts // task.plan.shard_rows
    for owner in np.unique(owners).tolist():
        of_owner = owners == owner
        first = firsts[of_owner] - owner * task.plan.shard_rows
        repeated_there, _ = repeated(task.work, task.plan, owner)
        index = first - np.searchsorted(repeated_there, first)  # only texts that are new there have a vector
        vectors_UW = np.load(task.work.vectors(owner), mmap_mode="r", allow_pickle=False)
        vectors_NW[rows[of_owner]] = vectors_UW[index]
    return vectors_NW


def _finish(task: Task) -> None:
    """Write the complete manifest and remove the work folder, unless another process has done so."""
    manifest = read_manifest(task.out)
    assert manifest is not None
    if not manifest.complete:
        entries = [json.loads(task.work.shard(shard).read_text()) for shard in range(task.plan.shards)]
        write_manifest(task.out, manifest.completed(shards=[ShardEntry(**entry) for entry in entries]))
    shutil.rmtree(task.work.path, ignore_errors=True)


def with_facts(manifest: Manifest, plan: Plan, model: Model, task: Task) -> Manifest:
    """Return the manifest with what is known once the plan and the model are there."""
    dimensions = task.settings.dimensions or model.dimensions
    ranges = None if task.ranges_2D is None else task.ranges_2D.tolist()
    return Manifest(
        **{**asdict(manifest), "shards": []}
        | {
            "rows": plan.rows,
            "texts": plan.texts,
            "left_out": plan.left_out,
            "dimensions": dimensions,
            "width": stored_width(dimensions, task.settings.precision),
            "similarity": model.similarity_function,
            "int8_ranges": ranges,
        }
    )

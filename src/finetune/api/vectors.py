"""Embedding a corpus into a folder of vectors, and searching in such a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from finetune.embed.run import Embedded
    from finetune.embed.search import Found
    from finetune.embed.settings import Columns, FileFormat
    from finetune.inference.devices import Device
    from finetune.inference.embedder import Dtype
    from finetune.inference.quantize import Precision


def embed(
    model: Any,
    data: Any,
    out: str | Path,
    *,
    columns: Columns | None = None,
    prompt: str | None = "document",
    dimensions: int | None = None,
    precision: Precision = "float32",
    normalize: bool = False,
    dtype: Dtype = "float32",
    max_length: int | None = None,
    batch_tokens: int | Literal["auto"] = "auto",
    device: Device | Sequence[Device] | None = None,
    format: FileFormat = "parquet",
    shard_rows: int = 32_768,
    keep: str | Sequence[str] = (),
    limit: int | None = None,
    on_bad_rows: Literal["error", "skip"] | None = None,
    data_options: Mapping[str, Any] | None = None,
    index: Literal["usearch"] | None = None,
    show_progress: bool = True,
) -> Embedded:
    """Write the embeddings of a corpus into a folder, as `finetune embed` does; each distinct text is embedded once.

    A folder that is incomplete is completed, with the same bytes as without the interruption; one that is complete is
    left as it is. Several processes may write into the same folder at the same time. Memory does not grow with the
    size of a corpus in files.

    Args:
        model: A run, a folder, a hub id or an artifact, as for `get_model`.
        data: The corpus, as in `fit`: a path, URL or pattern, or a list of them; a pandas or Polars frame; an Arrow
            table; a `datasets.Dataset`; a list of dicts or tuples; a dict of columns; or what `build_dataset` returned.
        out: The folder: new, empty, or of the same model, corpus and settings.
        columns: The column of the texts, a list of columns that are joined, or a dict with `text`, `title` and `id`;
            None recognizes them. Columns without names are `"1"`, `"2"`, ...
        prompt: The name of the prompt in front of each text, if the model has it; None for none.
        dimensions: Number of dimensions to keep of each vector, for models that were trained for that; None for all.
        precision: `"float32"`, `"int8"` (1/4 of the bytes) or `"binary"` (1/32: a bit for each dimension).
        normalize: Scale the vectors to unit length.
        dtype: The type of the matrix products, `"float32"` or `"bfloat16"`.
        max_length: Tokens to which texts are truncated; None for the maximum length of the model.
        batch_tokens: Tokens that are computed at a time.
        device: A device, a list of them with a process for each, or None for all GPUs, else the CPU.
        format: `"parquet"`, `"arrow"` or `"npy"`.
        shard_rows: Rows of a file.
        keep: Columns of the corpus that are stored next to the vectors.
        limit: Read only so many rows; None for all.
        on_bad_rows: `"skip"` leaves out rows that are invalid or have no text; None or `"error"` refuses them.
        data_options: How files are parsed: the keys of the group `data` for that, such as `{"delimiter": ";"}`.
        index: `"usearch"` also writes an index for approximate search.
        show_progress: Print the progress.

    Returns:
        The folder `out`, its number of `rows`, of distinct `texts`, of rows `left_out`, and of files (`shards`).

    Raises:
        CheckFailed: with everything that is wrong with the settings and the corpus; the folder has other files.
        FinetuneError: the folder holds vectors of another model, corpus or settings; the model embeds no texts, or has
            no such prompt or fewer dimensions.
        RunError: the disk is full; the same call continues.

    Example:
        >>> articles = [{"id": "a1", "text": "a red cat"}, {"id": "a2", "text": "a blue sea"}]
        >>> done = finetune.embed("default/first", articles, "vectors", keep="text", show_progress=False)
        >>> done.rows, done.texts
        (2, 2)
    """
    from finetune.api.data_input import as_corpus
    from finetune.console import silenced
    from finetune.embed import run
    from finetune.embed.index import build_index, check_kind

    content, of_dataset = as_corpus(data)
    of_data = of_dataset | dict(data_options or {})
    if limit is not None:
        of_data["limit"] = limit
    if on_bad_rows is not None:
        of_data["on_bad_rows"] = on_bad_rows
    if index is not None:
        check_kind(index)
    with contextlib.nullcontext() if show_progress else silenced():
        done = run.embed(
            model,
            content,
            out,
            columns=columns,
            data_options=of_data,
            prompt=prompt,
            dimensions=dimensions,
            precision=precision,
            normalize=normalize,
            dtype=dtype,
            max_length=max_length,
            batch_tokens=batch_tokens,
            format=format,
            shard_rows=shard_rows,
            keep=[keep] if isinstance(keep, str) else list(keep),
            device=_named(device),
        )
        if index is not None:
            build_index(done.out)
    return done


def search_vectors(
    folder: str | Path,
    query: str,
    k: int = 10,
    *,
    prompt: str | None = "query",
    index: bool = False,
    model: Any = None,
    device: Device | None = None,
) -> list[Found]:
    """Search the folder of vectors that `embed` wrote, as `finetune search` does.

    Args:
        folder: The folder.
        query: The text to search for.
        k: The number of documents to return.
        prompt: The name of the prompt in front of the query, if the model has it; None for none.
        index: Search approximately, with the index of the folder; False compares the query with every vector.
        model: The model of the vectors, if it is no longer where it was; None takes it from there.
        device: The device that embeds the query and compares; None for the fastest one.

    Returns:
        The k most similar documents, best first: of each its `id`, its `score` (the similarity of the model, higher is
        more similar) and `columns`, what was stored with it by `keep`.

    Raises:
        FinetuneError: the folder has no complete vectors or no index, the model is another one or has no such prompt,
            or k is below 1.

    Example:
        >>> articles = [{"id": "a1", "text": "a red cat"}, {"id": "a2", "text": "a blue sea"}]
        >>> done = finetune.embed("default/first", articles, "found", keep=["text"], show_progress=False)
        >>> finetune.search_vectors("found", "a red cat", k=1)[0].columns
        {'text': 'a red cat'}
    """
    from finetune.embed.search import search_folder

    return search_folder(folder, query, k, prompt=prompt, index=index, model=model, device=device)


def _named(device: Device | Sequence[Device] | None) -> str | list[str]:
    """Return one or more devices as a config names them."""
    if device is None:
        return "auto"
    if isinstance(device, list | tuple):
        return [str(each) for each in device]
    return str(device)

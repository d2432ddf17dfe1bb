"""The vectors of a folder, as numbers that can be compared.

Shapes: N vectors of a shard, D dimensions, W stored numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.embed.manifest import Manifest, read_manifest
from finetune.embed.shards import read_vectors
from finetune.errors import FinetuneError
from finetune.inference.quantize import Floats


def complete_manifest(out: Path) -> Manifest:
    """Return the manifest of a folder with all vectors.

    Raises:
        FinetuneError: there is no such folder, or its vectors are not complete.
    """
    manifest = read_manifest(out)
    if manifest is None:
        if out.is_file():
            advice = f"Embed it first, and search in the folder: finetune embed MODEL data.path={out} out=vectors"
            raise FinetuneError(f"{out} is a file, not a folder of vectors.", advice)
        what = f"{out} is not a folder that finetune embed wrote."
        raise FinetuneError(what, f"Write it: finetune embed MODEL data.path=corpus.parquet out={out}")
    if not manifest.complete:
        raise FinetuneError(f"the vectors in {out} are not complete.", "Run the command that writes them again.")
    return manifest


def similarity_of(manifest: Manifest) -> str:
    """Return the function that the vectors are compared with."""
    return "cosine" if manifest.settings["precision"] == "binary" else manifest.similarity


def float_vectors(out: Path, manifest: Manifest) -> Iterator[Floats]:
    """Yield the vectors of each shard as numbers that can be compared with an embedding, `(N, D)`.

    Raises:
        FinetuneError: a shard is missing or damaged.
    """
    precision, dimensions = manifest.settings["precision"], manifest.dimensions
    for vectors_NW in read_vectors(out, manifest):
        if precision == "binary":
            bits_ND = np.unpackbits((vectors_NW.astype(np.int16) + 128).astype(np.uint8), axis=1, count=dimensions)
            yield bits_ND.astype(np.float32) * 2 - 1
        elif precision == "int8":
            low_D, high_D = np.array(manifest.int8_ranges, np.float32)
            # The middle of the step that a value is in.
            yield low_D + (vectors_NW.astype(np.float32) + 128.5) * ((high_D - low_D) / 255)
        else:
            yield vectors_NW

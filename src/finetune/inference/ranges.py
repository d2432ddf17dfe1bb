"""The ranges of the dimensions for int8, kept in the folder of a model: `int8_ranges.json`.

Shapes: D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from finetune.errors import ModelError
from finetune.inference.quantize import Floats
from finetune.runs.atomic import write_json_atomically

FILE = "int8_ranges.json"

# The ranges `(2, D)` by the number of dimensions, and whether the embeddings are scaled to unit length.
Ranges = Mapping[tuple[int, bool], Floats]


def read(folder: Path) -> dict[tuple[int, bool], Floats]:
    """Return the ranges in a folder, empty if there are none.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    ranges = {}
    try:
        for entry in json.loads(path.read_text(encoding="utf-8")):
            ranges_2D = np.array([entry["low"], entry["high"]], np.float32)
            ranges[ranges_2D.shape[1], bool(entry["normalize"])] = ranges_2D
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{path} is damaged.", "Remove it, and calibrate again.") from error
    return ranges


def write(folder: Path, ranges: Ranges) -> None:
    """Write the ranges into a folder.

    Raises:
        RunError: it cannot be written.
    """
    entries = []
    for (_, normalize), ranges_2D in ranges.items():
        entries.append({"normalize": normalize, "low": ranges_2D[0].tolist(), "high": ranges_2D[1].tolist()})
    write_json_atomically(folder / FILE, entries)

"""A two-dimensional PCA map of items, before and after training, aligned so that the positions are comparable.

N items, R rank, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.arrays import Ints
from finetune.data.dataset import Dataset
from finetune.data.items import ABSENT
from finetune.evaluation.truncation_quantization import normalize
from finetune.report.escaping import one_line

LABELS = 8  # classes with a color of their own; more colors are not distinguishable
_MAX_TEXT = 80  # characters of a text

Floats = NDArray[np.floating]


def pca_map(items_N: Ints, before_ND: Floats, after_ND: Floats, dataset: Dataset) -> dict[str, Any]:
    """Return the `map` of report.json: the position of each item and the number of its class, -1 without a color."""
    place_N2, moved_N2 = project(_directions(before_ND)), project(_directions(after_ND))
    moved_N2 = align(moved_N2, place_N2)
    label_N, names = _labels(items_N, dataset)

    def points(xy_N2: Floats) -> list[list[float | int]]:
        return [
            [round(float(x), 4), round(float(y), 4), int(label)] for (x, y), label in zip(xy_N2, label_N, strict=True)
        ]

    return {
        "method": "pca",
        "labels": names or None,
        "before": points(place_N2),
        "after": points(moved_N2),
        "texts": [one_line(text, _MAX_TEXT) for text in dataset.items.named(items_N)],
    }


def _directions(emb_ND: Floats) -> NDArray[np.float64]:
    """Return the embeddings at unit length: it is their directions that are compared."""
    return normalize(emb_ND.astype(np.float32)).astype(np.float64)


def project(emb_ND: Floats) -> NDArray[np.float64]:
    """Return the coordinates of the items on the first two principal axes, (N, 2); 0 for a missing second axis.

    Pearson 1901, https://doi.org/10.1080/14786440109462720.
    """
    centred_ND = emb_ND - emb_ND.mean(0)
    _, _, axes_RD = np.linalg.svd(centred_ND, full_matrices=False)
    axes_2D = axes_RD[:2]
    # The sign of an axis is arbitrary: make its largest component positive.
    largest_2 = axes_2D[np.arange(len(axes_2D)), np.abs(axes_2D).argmax(1)]
    axes_2D = axes_2D * np.where(largest_2 < 0, -1, 1)[:, None]
    place_N2 = np.zeros((len(emb_ND), 2))
    place_N2[:, : len(axes_2D)] = centred_ND @ axes_2D.T
    return place_N2


def align(moved_N2: Floats, place_N2: Floats) -> NDArray[np.float64]:
    """Return `moved` rotated and mirrored to be as close as possible to `place`, without scaling.

    Orthogonal Procrustes: the rotation is U V of the singular value decomposition of moved' place (Schönemann 1966,
    https://doi.org/10.1007/BF02289451). Both have their mean at 0.
    """
    left, _, right = np.linalg.svd(moved_N2.T @ place_N2)
    return np.asarray(moved_N2 @ (left @ right), np.float64)


def _labels(items_N: Ints, dataset: Dataset) -> tuple[Ints, list[str]]:
    """Return the number of each item's class, or without classes of its source, and the names of the largest ones."""
    label_N, names = _classes(items_N, dataset), dataset.labels
    if (label_N == ABSENT).all():
        label_N, names = _sources(items_N, dataset), dataset.sources
    return _largest(label_N, names)


def _classes(items_N: Ints, dataset: Dataset) -> Ints:
    label = np.full(len(dataset.items), ABSENT)
    if dataset.train.label is not None:
        label[dataset.train.anchor] = dataset.train.label
    if dataset.labelled is not None:
        label[dataset.labelled.items] = dataset.labelled.label
    return label[items_N]


def _sources(items_N: Ints, dataset: Dataset) -> Ints:
    train, source = dataset.train, np.full(len(dataset.items), ABSENT)
    if train.source is not None and len(dataset.sources) > 1:
        for column in (train.positive, train.anchor):
            is_present = column != ABSENT
            source[column[is_present]] = train.source[is_present]
    return source[items_N]


def _largest(label_N: Ints, names: Sequence[str]) -> tuple[Ints, list[str]]:
    counts = np.bincount(label_N[label_N != ABSENT], minlength=len(names))
    kept = [int(label) for label in np.argsort(-counts, kind="stable")[:LABELS] if counts[label]]
    renumbered = np.full(len(names) + 1, ABSENT)  # the last entry is for a label of -1
    renumbered[kept] = np.arange(len(kept))
    return renumbered[label_N], [one_line(names[label], _MAX_TEXT) for label in kept]

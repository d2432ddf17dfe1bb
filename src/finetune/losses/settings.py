"""What can be wrong with a loss's settings, for the check before a run and for the losses themselves; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune.errors import Problem


def too_wide(key: str, dimensions: Sequence[int], width: int) -> Iterator[Problem]:
    """Yield the problem of dimensions that embeddings of this width do not have."""
    if max(dimensions, default=0) > width:
        what = f"{max(dimensions)} dimensions are more than the {width} that the model has."
        yield Problem(f"{key}.dimensions", what, f"Take {width} at most.")


def soft_over_all(key: str, negatives: str, soft: bool) -> Iterator[Problem]:
    """Yield the problem of a soft margin where only what loses anything counts."""
    if soft and negatives == "all":
        what = f"{key}.negatives=all is the mean over triplets that lose anything, and a soft margin always loses."
        yield Problem(f"{key}.soft", what, f"Set {key}.soft=false, or {key}.negatives=hard.")

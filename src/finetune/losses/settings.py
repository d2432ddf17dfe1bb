"""What can be wrong with a loss's settings, for the check before a run and for the losses themselves; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune.errors import Problem

_HIGHEST_GRADE = 30


def too_wide(key: str, dimensions: Sequence[int], width: int) -> Iterator[Problem]:
    """Yield the problem of dimensions that embeddings of this width do not have."""
    if max(dimensions, default=0) > width:
        what = f"{max(dimensions)} dimensions are more than the {width} that the model has."
        yield Problem(f"{key}.dimensions", what, f"Take {width} at most.")


def no_range(key: str, lowest: float, highest: float) -> Iterator[Problem]:
    """Yield the problem of a scale that ends where it begins, or before."""
    if highest <= lowest:
        what = f"it must be above {key}.lowest, and {highest:g} is not above {lowest:g}."
        yield Problem(f"{key}.highest", what, f"Set {key}.lowest and {key}.highest to the ends of the scores' scale.")


def no_grades(key: str, weighting: str, low: float, high: float) -> Iterator[Problem]:
    """Yield the problem of scores from `low` to `high` that are to be grades, of which each gains 2^grade - 1."""
    if weighting != "none" and not 0 <= low <= high <= _HIGHEST_GRADE:
        what = f"{weighting} takes grades of 0 to {_HIGHEST_GRADE}, and the scores are {low:g} to {high:g}."
        yield Problem(f"{key}.weighting", what, f"Set {key}.weighting=none, or take loss=ranknet or loss=listnet.")


def soft_over_all(key: str, negatives: str, soft: bool) -> Iterator[Problem]:
    """Yield the problem of a soft margin where only what loses anything counts."""
    if soft and negatives == "all":
        what = f"{key}.negatives=all is the mean over triplets that lose anything, and a soft margin always loses."
        yield Problem(f"{key}.soft", what, f"Set {key}.soft=false, or {key}.negatives=hard.")

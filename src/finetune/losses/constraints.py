"""What can be wrong with a loss's settings, for the check before a run and for the losses themselves; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.data.schema.sample_values import MIDDLE_SCORE, suggested_min_score
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


def off_scale(key: str, node: Mapping[str, Any], low: float, high: float) -> Iterator[Problem]:
    """Yield the problems of scores from `low` to `high` with a loss that wants 0 to 1, unless its settings say how.

    Losses that use the size of the scores take their scale (`lowest`, `highest`) or a threshold (`right_from`); those
    that only use their order have neither.
    """
    if {"lowest", "highest"} <= node.keys():
        for end, value, beyond in (("lowest", low, low < node["lowest"]), ("highest", high, high > node["highest"])):
            if beyond:
                what = f"the scores reach {value:g}, beyond {end}={node[end]:g}."
                yield Problem(f"{key}.{end}", what, f"Set {key}.{end}={value:g}, or what the scale ends at.")
    if "right_from" in node and node["right_from"] is None and not 0 <= low <= high <= 1:
        what = f"the scores are {low:g} to {high:g}, so it is open from which score on a pair is right."
        example = f"{key}.right_from={suggested_min_score(low, high):g}"
        advice = f"Set it, as in {example}; {MIDDLE_SCORE:g} is taken for scores of 0 to 1."
        yield Problem(f"{key}.right_from", what, advice)


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

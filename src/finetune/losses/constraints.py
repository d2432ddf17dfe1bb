"""Constraints on the settings of losses, for the check before a run and for the losses themselves; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.data.schema.sample_values import MIDDLE_SCORE, suggested_min_score
from finetune.errors import Problem

_HIGHEST_GRADE = 30


def dimension_problems(key: str, dimensions: Sequence[int], width: int) -> Iterator[Problem]:
    """Yield a problem if there are more dimensions than embeddings of this width have."""
    highest = max(dimensions, default=0)
    if highest > width:
        what = f"{highest} dimensions are more than the {width} that the model has."
        yield Problem(f"{key}.dimensions", what, f"Set {width} at most.")


def score_range_problems(key: str, lowest: float, highest: float) -> Iterator[Problem]:
    """Yield a problem if the range of scores is empty."""
    if highest <= lowest:
        what = f"it must be above {key}.lowest, and {highest:g} is not above {lowest:g}."
        yield Problem(f"{key}.highest", what, f"Set {key}.lowest and {key}.highest to the ends of the scores' range.")


def score_scale_problems(key: str, node: Mapping[str, Any], low: float, high: float) -> Iterator[Problem]:
    """Yield problems of scores from `low` to `high` with a loss that expects 0 to 1 or the range in its settings.

    Losses that use the values of the scores have settings for their range (`lowest`, `highest`) or a threshold
    (`right_from`); losses that only use their order have neither.
    """
    if {"lowest", "highest"} <= node.keys():
        if low < node["lowest"]:
            yield _out_of_range(key, "lowest", node["lowest"], low)
        if high > node["highest"]:
            yield _out_of_range(key, "highest", node["highest"], high)
    if "right_from" in node and node["right_from"] is None and not 0 <= low <= high <= 1:
        what = f"the scores are {low:g} to {high:g}, so the score from which a pair is positive is not clear."
        example = f"{key}.right_from={suggested_min_score(low, high):g}"
        yield Problem(
            f"{key}.right_from", what, f"Set it, as in {example}; for scores of 0 to 1 it is {MIDDLE_SCORE:g}."
        )


def _out_of_range(key: str, name: str, limit: float, score: float) -> Problem:
    what = f"the scores reach {score:g}, beyond {name}={limit:g}."
    return Problem(f"{key}.{name}", what, f"Set {key}.{name}={score:g}, or the end of the scores' range.")


def grade_problems(key: str, weighting: str, low: float, high: float) -> Iterator[Problem]:
    """Yield a problem if scores from `low` to `high` cannot be grades, whose gain is 2^grade - 1."""
    if weighting != "none" and not 0 <= low <= high <= _HIGHEST_GRADE:
        what = f"{weighting} takes grades of 0 to {_HIGHEST_GRADE}, and the scores are {low:g} to {high:g}."
        yield Problem(f"{key}.weighting", what, f"Set {key}.weighting=none, or use loss=ranknet or loss=listnet.")


def soft_margin_problems(key: str, negatives: str, soft: bool) -> Iterator[Problem]:
    """Yield a problem if a soft margin is combined with a mean over triplets of positive loss."""
    if soft and negatives == "all":
        what = f"{key}.negatives=all averages triplets of positive loss, and with a soft margin every triplet has one."
        yield Problem(f"{key}.soft", what, f"Set {key}.soft=false, or {key}.negatives=hard.")

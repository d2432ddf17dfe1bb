"""What a report says about the hard negatives that were mined, from report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.report.content import Table
from finetune.report.formatting import format_score

Lines = list[tuple[str, str, str]]  # name, text and score

# Why a candidate was left out, by the name of the filter.
REASONS = {
    "anchor_itself": "it is the anchor itself, or an equal text",
    "known_positives": "it is right according to the data, or equals a text that is",
    "given_negatives": "the row has it as a negative already",
    "max_share_of_positive": "it scores almost as high as the positive (max_share_of_positive)",
    "margin": "it scores almost as high as the positive (margin)",
    "max_score": "its score is too high (max_score)",
    "min_score": "its score is too low (min_score)",
    "near_duplicates": "it hardly differs from the anchor or a positive of it (near_duplicates)",
    "judge": "the judge finds it right",
}


def sentences(mined: Mapping[str, Any]) -> list[str]:
    """Return what was mined, a sentence for each time."""
    found = []
    for each in mined["rounds"]:
        model = "the untouched model" if each["step"] == 0 else f"the model at step {each['step']:,}"
        text = f"{model[0].upper()}{model[1:]}: {each['negatives']:,} negatives for {each['rows']:,} pairs"
        if each["short_rows"]:
            text += f", of which {each['short_rows']:,} have fewer than were asked for"
        if each["relabelled"]:
            text += f"; the judge made {each['relabelled']:,} candidates positives"
        found.append(f"{text}.")
    return found


def filters_table(mined: Mapping[str, Any]) -> Table | None:
    """Return how many candidates each filter left out, when mining for the last time; None if there were none."""
    rows: list[tuple[str, ...]] = []
    for name, one in mined["rounds"][-1]["filtered"].items():
        if one["candidates"]:
            rows.append((REASONS.get(name, name), f"{one['candidates']:,}", f"{one['rows']:,}"))
    if not rows:
        return None
    return Table(("left out because", "candidates", "in pairs"), rows)


def examples(mined: Mapping[str, Any]) -> list[tuple[str, list[Lines]]]:
    """Return examples by title: of the negatives, then of each filter."""
    last = mined["rounds"][-1]
    found: list[tuple[str, list[Lines]]] = []
    found.append(("Examples of hard negatives", [_negatives(one) for one in last["examples"]]))
    for name, one in last["filtered"].items():
        # The positive of the row itself is no surprise.
        lines = [_left_out(each) for each in one["examples"] if each["document"] != each["positive"]]
        found.append((f"Left out because {REASONS.get(name, name)}", lines))
    return [(title, lines) for title, lines in found if lines]


def _negatives(example: Mapping[str, Any]) -> Lines:
    lines = _row(example)
    for text, score in example["negatives"]:
        lines.append(("negative", text, format_score(score)))
    return lines


def _left_out(example: Mapping[str, Any]) -> Lines:
    return [*_row(example), ("left out", example["document"], format_score(example["score"]))]


def _row(example: Mapping[str, Any]) -> Lines:
    return [
        ("anchor", example["anchor"], ""),
        ("positive", example["positive"], format_score(example["positive_score"])),
    ]

"""Facts about the data: counts, lengths, duplicates, and leaks of the evaluation data into the training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.data.dataset import Dataset
from finetune.data.inspect.stats import lengths


def data_facts(dataset: Dataset, tokens: Mapping[str, Any], tokenizer: Any, max_length: int) -> dict[str, Any]:
    """Return the `data` of report.json, without the suspect rows; `tokens` are the counts of the tokenized texts.

    Lengths are in tokens, including special tokens, by role; `cut` is how many texts are truncated.
    """
    leaks = dataset.leaks.facts() if dataset.leaks else {}
    counts = {name: value for name, value in dataset.facts.items() if name not in leaks and name != "duplicate_rows"}
    roles: list[dict[str, Any]] = []
    if tokenizer is not None:
        roles = lengths(dataset, tokenizer, max_length).get("roles", [])
    return {
        "counts": counts | dict(tokens),
        "lengths": {row["role"]: _length(row) for row in roles},
        "duplicates": dataset.facts.get("duplicate_rows", 0),
        "leaks": leaks,
    }


def _length(row: Mapping[str, Any]) -> dict[str, Any]:
    cut = round(row["truncated"] * row["texts"])
    return {"texts": row["texts"], "median": row["50"], "p95": row["95"], "max": row["max"], "cut": cut}

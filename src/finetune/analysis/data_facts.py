"""How much data there is, how long, how often twice, and what of the evaluation was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.data.dataset import Dataset
from finetune.data.inspect.stats import lengths


def data_facts(dataset: Dataset, tokens: Mapping[str, Any], tokenizer: Any, max_length: int) -> dict[str, Any]:
    """Return the report's `data` but for what is in doubt; `tokens` are the counts of the tokenised texts.

    Lengths are in tokens, special ones included, by role; `cut` is how many texts are longer than is read.
    """
    leaks = dataset.leaks.facts() if dataset.leaks else {}
    counts = {name: value for name, value in dataset.facts.items() if name not in leaks and name != "duplicate_rows"}
    roles = lengths(dataset, tokenizer, max_length).get("roles", []) if tokenizer is not None else []
    return {
        "counts": counts | dict(tokens),
        "lengths": {row["role"]: _length(row) for row in roles},
        "duplicates": dataset.facts.get("duplicate_rows", 0),
        "leaks": leaks,
    }


def _length(row: Mapping[str, Any]) -> dict[str, Any]:
    cut = round(row["truncated"] * row["texts"])
    return {"texts": row["texts"], "median": row["50"], "p95": row["95"], "max": row["max"], "cut": cut}

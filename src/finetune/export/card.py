"""The model card that is saved with a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class CardFacts:
    """The content of a card."""

    run: str
    base_model: str
    command: str
    pairs: int
    about: str  # input and output of the model, in a sentence
    # Metric, value before and after, lower and upper end of the change's interval; NaN without an interval.
    results: list[tuple[str, float, float, float, float]]
    version: str
    data: str  # the names of the training data
    evaluated_on: list[str]  # the names of the evaluation data with their counts
    prompts: Mapping[str, str] = field(default_factory=dict)  # by name: query, document
    use: str = ""  # how to use it, in Python; empty: as sentence-transformers does


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown with the front matter for model hubs."""
    front: dict[str, str | list[str]] = {"library_name": "finetune", "tags": ["feature-extraction", "finetune"]}
    if not facts.use:
        front = {
            "library_name": "sentence-transformers",
            "pipeline_tag": "sentence-similarity",
            "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity", "finetune"],
        }
    base, description = _base(facts.base_model)
    if base:
        front["base_model"] = base
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# {facts.run}

An embedding model: {description}, fine-tuned on {facts.pairs:,} pairs of {facts.data} with finetune {facts.version}.
{facts.about}

## Use it

```python
{facts.use or _sentence_transformers(facts.prompts)}
```
{_results(facts)}
## How it was made

    {facts.command}

## Licence

None is stated here: it follows from those of the base model and of the training data. Look at both before you share
this model, and then say it at the top of this file (`license:`).
"""


def _sentence_transformers(prompts: Mapping[str, str]) -> str:
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        'model = SentenceTransformer("path/to/this/folder")\n' + _encode(prompts)
    )


def _encode(prompts: Mapping[str, str]) -> str:
    if not {"query", "document"} <= set(prompts):
        return (
            'embeddings = model.encode(["first text", "second text"])\nprint(model.similarity(embeddings, embeddings))'
        )
    # These methods add the prompts that the model was trained with.
    return (
        'queries = model.encode_query(["what is asked"])\n'
        'documents = model.encode_document(["what is searched"])\n'
        "print(model.similarity(queries, documents))"
    )


def _base(name: str) -> tuple[str, str]:
    """Return the hub id of the base model, empty if there is none, and a description of it.

    The path of a local folder is private and no id; but the card in the folder may name the hub id of its base model.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name, name
    description = folder.name
    if (folder.parent / "config.yaml").is_file():
        # The folder of a run: it is named after the run, and the folder of the model in it always `model`.
        description = f"the model of run {folder.parent.name}"
    base = _base_in_card(folder / "README.md")
    if base:
        description = f"{description} (itself from {base})"
    return base, description


def _base_in_card(card: Path) -> str:
    try:
        front = yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])
        base = front["base_model"]
    except (OSError, ValueError, IndexError, KeyError, TypeError, yaml.YAMLError):  # a card may contain anything
        return ""
    if not isinstance(base, str) or Path(base).is_absolute():
        return ""
    return base


def _results(facts: CardFacts) -> str:
    if not facts.results:
        return ""
    rows = []
    for metric, before, after, low, high in facts.results:
        interval = "-" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"
        rows.append(f"| {metric} | {before:.4f} | {after:.4f} | {interval} |")
    table = "\n".join(rows)
    return f"""
## Results

On {"; on ".join(facts.evaluated_on)}. The interval is of the change, by a paired bootstrap over the queries.

| metric | before | after | 95 % interval |
|---|---:|---:|---:|
{table}
"""

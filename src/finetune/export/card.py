"""The model card that is saved with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class CardFacts:
    """What a reader of the card wants to know."""

    run: str
    base_model: str
    command: str
    pairs: int
    width: int
    max_length: int
    pooling: str
    results: list[tuple[str, float, float]]  # metric, before, after
    version: str
    prompts: Mapping[str, str] = field(default_factory=dict)  # by name: query, document


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    front: dict[str, str | list[str]] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity", "finetune"],
    }
    # A hub reads this as one of its ids; a folder of somebody's machine is none, and not for others to read.
    name = Path(facts.base_model)
    shown = name.name if name.is_dir() else facts.base_model
    if not name.is_dir():
        front["base_model"] = facts.base_model
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# {facts.run}

An embedding model: {shown}, fine-tuned on {facts.pairs:,} pairs with finetune {facts.version}.
It maps a text of up to {facts.max_length} tokens to {facts.width} dimensions ({facts.pooling} pooling).

## Use it

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
{_encode(facts.prompts)}
```
{_results(facts)}
## How it was made

    {facts.command}
"""


def _encode(prompts: Mapping[str, str]) -> str:
    if not {"query", "document"} <= set(prompts):
        return (
            'embeddings = model.encode(["first text", "second text"])\nprint(model.similarity(embeddings, embeddings))'
        )
    # These put the prompts in front that the model was trained with.
    return (
        'queries = model.encode_query(["what is asked"])\n'
        'documents = model.encode_document(["what is searched"])\n'
        "print(model.similarity(queries, documents))"
    )


def _results(facts: CardFacts) -> str:
    if not facts.results:
        return ""
    rows = "\n".join(f"| {metric} | {before:.4f} | {after:.4f} |" for metric, before, after in facts.results)
    return f"""
## Results on the run's validation queries

| metric | before | after |
|---|---:|---:|
{rows}
"""

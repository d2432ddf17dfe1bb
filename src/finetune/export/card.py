"""The model card that is saved with a model."""

from __future__ import annotations

import math
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
    about: str  # what goes in, what comes out
    results: list[tuple[str, float, float, float, float]]  # metric, before, after, the change's interval, NaN: none
    version: str
    data: str  # what was trained on
    evaluated_on: list[str]  # each with its counts
    prompts: Mapping[str, str] = field(default_factory=dict)  # by name: query, document
    use: str = ""  # how to use it, in Python; empty: as sentence-transformers does


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    front: dict[str, str | list[str]] = {"library_name": "finetune", "tags": ["feature-extraction", "finetune"]}
    if not facts.use:
        front = {
            "library_name": "sentence-transformers",
            "pipeline_tag": "sentence-similarity",
            "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity", "finetune"],
        }
    base, shown = _base(facts.base_model)
    if base:
        front["base_model"] = base
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# {facts.run}

An embedding model: {shown}, fine-tuned on {facts.pairs:,} pairs of {facts.data} with finetune {facts.version}.
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
    # These put the prompts in front that the model was trained with.
    return (
        'queries = model.encode_query(["what is asked"])\n'
        'documents = model.encode_document(["what is searched"])\n'
        "print(model.similarity(queries, documents))"
    )


def _base(name: str) -> tuple[str, str]:
    """The hub id that a model comes from, empty if there is none, and what to call it in a sentence.

    A folder of somebody's machine is no id, and not for others to read; but its own card may say what it came from.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name, name
    # A run's folder is named after the run, the model in it always `model`.
    shown = f"the model of run {folder.parent.name}" if (folder.parent / "config.yaml").is_file() else folder.name
    base = _base_in_card(folder / "README.md")
    return base, f"{shown} (itself from {base})" if base else shown


def _base_in_card(card: Path) -> str:
    try:
        front = yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])
        base = front["base_model"]
    except (OSError, ValueError, IndexError, KeyError, TypeError, yaml.YAMLError):  # a card is anybody's text
        return ""
    return base if isinstance(base, str) and not Path(base).is_absolute() else ""


def _results(facts: CardFacts) -> str:
    if not facts.results:
        return ""
    rows = "\n".join(
        f"| {metric} | {before:.4f} | {after:.4f} | {'-' if math.isnan(low) else f'{low:+.4f} to {high:+.4f}'} |"
        for metric, before, after, low, high in facts.results
    )
    return f"""
## Results

On {"; on ".join(facts.evaluated_on)}. The interval is of the change, by a paired bootstrap over the queries.

| metric | before | after | 95 % interval |
|---|---:|---:|---:|
{rows}
"""

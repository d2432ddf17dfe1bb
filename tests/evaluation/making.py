"""Evaluators with their default settings, and evaluation data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from finetune.config.build import build
from finetune.data.holdout.judgments import Judgments

FOLDER = Path(__file__).parents[2] / "conf" / "evaluation"


def built(name: str, **changes: Any) -> Any:
    """Return the evaluator of a config file, with some settings changed."""
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return build({**node, "bootstrap_samples": 100, **changes}, "evaluation")


def judgments(queries, corpus, triples) -> Judgments:
    """Return judgments of items, from triples of query index, document index and grade."""
    query, document, grade = zip(*triples, strict=True)
    return Judgments(
        "test", np.array(queries), np.array(corpus), np.array(query), np.array(document), np.array(grade, float)
    )

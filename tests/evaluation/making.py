"""Evaluators with the settings that are shipped, and what they measure on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from finetune.config.build import build
from finetune.data.holdout.judgments import Judgments

FOLDER = Path(__file__).parents[2] / "conf" / "evaluation"


def built(name: str, **changes: Any) -> Any:
    """The evaluator of a shipped config file, with some settings changed."""
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return build({**node, "bootstrap_samples": 100, **changes}, "evaluation")


def judgments(queries, corpus, triples) -> Judgments:
    """Judgments of items, from triples of a query's place, a document's place and a grade."""
    query, document, grade = zip(*triples, strict=True)
    return Judgments(
        "test", np.array(queries), np.array(corpus), np.array(query), np.array(document), np.array(grade, float)
    )

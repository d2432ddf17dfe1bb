"""Searches and an evaluation by two processes, and by one of them alone; imported by these too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import distributed

from finetune.data.holdout.eval_data import EvalData, LabelledItems
from finetune.data.items import STORED, Items
from finetune.encoding.collectives import Collectives
from finetune.encoding.engine import Engine
from finetune.encoding.shared_search import shared_top_k
from finetune.evaluation import search
from finetune.evaluation.bf16_prefilter import Bf16Prefilter
from finetune.evaluation.result import Result
from finetune.models.text import TextEncoder
from finetune.training.evaluation_runner import EvalInputs, EvaluationRunner
from tests.conftest import WORDS
from tests.evaluation.making import built, judgments

ITEMS = 700
# Name, queries, documents, whether they have many equal scores, and whether there is a first pass in bf16.
SEARCHES = [
    ("three blocks", 700, 3000, False, False),
    ("three blocks after a first pass", 700, 3000, False, True),
    ("equal scores", 600, 2000, True, False),
    ("fewer documents than hits", 300, 5, False, False),
    ("one block", search.QUERIES_AT_ONCE, 2000, False, False),
]


def embeddings(queries: int, documents: int, *, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return random queries and documents, not contiguous in memory; whole numbers if many scores are to be equal."""
    random = np.random.default_rng(queries)
    shape = (queries + documents, 40)
    values = random.integers(-1, 2, shape).astype(np.float32) if tied else random.standard_normal(shape, np.float32)
    return values[:queries, :24], values[queries:, :24]


def held_out() -> EvalData:
    """Return texts that are judged, and that have classes: every second one is known."""
    random = np.random.default_rng(0)
    texts = [f"{n} {' '.join(random.choice(WORDS, 3))}" for n in range(ITEMS)]
    items = Items.of_texts(pa.array(texts, STORED["text"]))
    rows = np.arange(ITEMS)
    right = judgments(rows, rows, [(n, (n + 1) % ITEMS, 1) for n in rows])
    return EvalData(items, (right, LabelledItems("classes", rows, rows % 3, rows % 10 == 0)))


def evaluate(runner: EvaluationRunner, collectives: Collectives) -> dict[str, Result]:
    """Run the evaluators that search."""
    evaluators = {
        "retrieval": built("retrieval", bm25=False, dimensions=[8], precisions=["int8"]),
        "classification": built("classification", by=["neighbours"]),
    }
    return runner.evaluate(evaluators, collectives, "now")


def search_together(rank: int, folder: Path, model: Path) -> None:
    """Save what both processes find, what the first one finds alone, and how many queries this one has searched for."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    together, alone = Collectives(torch.device("cpu"), rank, 2), Collectives(torch.device("cpu"))
    searched = _count_queries()
    found: dict[str, Any] = {}
    for name, queries, documents, tied, first_pass in SEARCHES:
        Bf16Prefilter.is_faster = staticmethod(lambda *_, first_pass=first_pass: first_pass)  # type: ignore[method-assign]
        given = embeddings(queries, documents, tied=tied) if rank == 0 else (None, None)
        before = sum(searched)
        hits = shared_top_k(*given, 9, together)
        found[name] = {"searched": sum(searched) - before, "together": hits}
        if rank == 0:
            found[name]["alone"] = search.top_k(*given, 9)
    encoder = TextEncoder(str(model))
    runner = EvaluationRunner(encoder, Engine(), 16, EvalInputs.prepare(held_out(), encoder, 16, cache=False))
    before = sum(searched)
    found["evaluation"] = {"together": evaluate(runner, together), "searched": sum(searched) - before}
    if rank == 0:
        found["evaluation"]["alone"] = evaluate(runner, alone)
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def _count_queries() -> list[int]:
    """Return a list to which each search of a block adds its number of queries."""
    searched: list[int] = []
    of_block = search._search

    def counted(queries_QD: torch.Tensor, *arguments: Any) -> torch.Tensor:
        searched.append(len(queries_QD))
        return of_block(queries_QD, *arguments)

    search._search = counted
    return searched

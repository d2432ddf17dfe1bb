"""One of each metric, random arguments for it, and its values in several processes; imported by these too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

import finetune.metrics as ours

CUT_OFF = [ours.NDCG, ours.DCG, ours.RecallAtK, ours.PrecisionAtK, ours.F1AtK, ours.HitRate, ours.MRR, ours.MAP]
PAIRS = [ours.Pearson, ours.Spearman, ours.AveragePrecision, ours.BestF1, ours.BestAccuracy]


def every_metric() -> dict[str, ours.PerCaseMetric]:
    """Return one of each metric by its name."""
    found = [kind(k=3) for kind in CUT_OFF]
    found += [ours.RPrecision(), *(kind() for kind in PAIRS), ours.Accuracy(), ours.VMeasure()]
    return {type(metric).__name__: metric for metric in found}


def cases(metric: ours.PerCaseMetric, seed: int, count: int) -> tuple[Any, ...]:
    """Return random arguments of `update`."""
    random = np.random.default_rng(seed)
    if isinstance(metric, ours.RetrievalMetric):
        scores, grades = random.random((count, 8)), random.integers(0, 3, (count, 8))
        return tuple(ours.rank_by_score(torch.from_numpy(scores), torch.from_numpy(grades)))
    target = random.integers(0, 2, count)
    if isinstance(metric, ours.PairMetric):
        return np.round(random.random(count), 1), target
    return random.integers(0, 2, count), target


def measure_shares(rank: int, folder: Path) -> None:
    """Save the values of all metrics, of which this process, one of two, has a share of the cases: some, or none."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[str, list[torch.Tensor]] = {}
    for first_share in (13, 20):
        share = [slice(0, first_share), slice(first_share, 20)][rank]
        for name, metric in every_metric().items():
            arguments = [each[share] for each in cases(metric, 0, 20)]
            if len(arguments[0]):
                metric.update(*arguments)
            found.setdefault(name, []).append(metric.per_case())
            assert len(metric.values()) == len(arguments[0]), "the state is that of this process again"
            assert torch.equal(metric.compute(), found[name][-1].mean())
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()

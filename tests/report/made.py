"""A run directory with a report that has every section, with harmless or hostile texts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory
from tests.runs.made import make_run

# Texts that are markup unless escaped, that reverse the direction of the text around them, or that are very long.
HOSTILE = [
    "<script>document.title = 'broken'</script>",
    '"><img src=x onerror="document.title = \'broken\'">',
    "</td></table></details></main><style>* { display: none }</style>",
    "</title></style></script><script>document.title = 'broken'</script>",
    "{{ 7 * 7 }} {% for x in y %} ${jndi} $x^2$ &lt;b&gt; &amp;",
    "\u202eright to left by force \u05d0\u05d1\u05d2 \u0645\u0631\u062d\u0628\u0627",
    "w" * 10_000,
    "👨‍👩‍👧 🤷🏽‍♀️ 日本語 ไทย naïve",
    "line\nbreak\ttab \x00\x07\x1b[31m control\ud800",
    "| a | b |\n|---|---|\n`code` [link](javascript:alert(1))",
]


# A minimal report: no evaluation, no analysis.
BARE: dict[str, Any] = {
    "run": "bare",
    "model_path": "outputs/default/bare/model",
    "evaluations": {},
    "data": {"rows read": 1},
    "notes": [],
    "cost": {},
    "again": {},
}


def text(number: int, hostile: bool) -> str:
    """Return a text that is different for each number."""
    return f"{HOSTILE[number % len(HOSTILE)]} {number}" if hostile else f"the text of number {number}"


def row(metric: str, before: float, after: float, certain: bool = True) -> dict[str, Any]:
    """Return one metric as in report.json."""
    half = 0.02 if certain else 2 * abs(after - before) + 0.01
    change = after - before
    numbers = {"before": before, "after": after, "change": change, "low": change - half, "high": change + half}
    return {"metric": metric, **numbers, "certain": certain, "won": 120, "lost": 40, "tied": 90}


def make_report(name: str = "my run", hostile: bool = False) -> dict[str, Any]:
    """Return the content of report.json of a finished run."""
    said = (lambda number: text(number, hostile)) if hostile else (lambda number: text(number, False))
    return {
        "run": f"{name} {said(0)}" if hostile else name,
        "model_path": "outputs/default/my run/model",
        "negatives": _negatives(said),
        "evaluations": {
            "retrieval": _retrieval(said),
            "similarity": _described("Spearman cosine", row("Spearman cosine", 0.61, 0.615, False)),
            said(3) if hostile else "geometry": _described("-alignment", row("-alignment", -0.5, -0.6)),
        },
        "examples": {"retrieval": [_example(number, said) for number in range(20)]},
        "similarities": _similarities(),
        "map": _map(said),
        "data": {
            "counts": {"training pairs": 12_000, "validation_queries": 250},
            "lengths": {said(1): {"median": 12, "p95": 40, "max": 310, "cut": 3}},
            "duplicates": 3,
            "leaks": {"leaks": 0, "leaks_near": 2},
            "false_negatives": [_doubt(number, said, "held out") for number in range(12)],
            "wrong_labels": [_doubt(20, said, "training"), _doubt(21, said, "labels")],
        },
        "notes": [said(number) for number in range(3)],
        "forgetting": {
            "name": "words in use",
            "counts": {"queries": 250},
            "what": "Sentence pairs of general English, rated by how alike they are.",
            "verdict": "no visible change: -0.020 nDCG@10, needs about 900 more queries to be certain",
            "metrics": {"nDCG@10": row("nDCG@10", 0.81, 0.79, False)},
        },
        "cost": {
            "seconds": 372.4,
            "training_seconds": 311.0,
            "tokens": 1_234_567,
            "tokens_per_second": 3969.7,
            "items_per_second": 89,
            "peak_memory_mb": 2311.4,
            "gpu_memory_mb": None,
            "energy_wh": None,
            "device": "cpu",
        },
        "again": {
            "command": f"python train.py 'data.path={said(2)}' " + "optimizer.lr=1e-4 " * 10,
            "model": "org/a-model",
            "data": [said(4), "pairs.csv"],
            "seed": 42,
            "data_fingerprint": "0123456789abcdef" * 4,
            "versions": {"torch": "2.13.0", "gone": None},
            "git": {"sha": "c0ffee", "dirty": True},
        },
        "use": "",
    }


def make_reported_run(root: Path, name: str, hostile: bool = False) -> RunDirectory:
    """Create the run `root/<experiment>/<run>` with such a report.json and with metrics, but without its pages."""
    run = make_run(root, name, losses=[5 / (1 + step / 40) for step in range(300)])
    for step, value in ((100, 0.42), (200, 0.47)):
        run.append_metrics({"step": step, "retrieval/nDCG@10": value})
    run.append_metrics({"step": 300, "retrieval/before/nDCG@10": 0.412})
    run.append_metrics({"step": 300, "retrieval/after/nDCG@10": 0.493})
    write_json_atomically(run.report_data_path, make_report(name, hostile))
    return run


def _retrieval(said: Any) -> dict[str, Any]:
    rows = [row("nDCG@10", 0.412, 0.493), row("recall@1", 0.31, 0.28), row("MRR@10", 0.4, 0.41, False)]
    rows += [row(f"nDCG@10 ({kept})", 0.4 - 2 / kept, 0.48 - 1 / kept) for kept in (16, 32, 64)]
    rows += [row("nDCG@10 (64, int8)", 0.36, 0.46)]
    part = _described("nDCG@10", rows[0])
    headline = "better: +0.081 nDCG@10, certain; certainly worse: recall@1 -0.030"
    baselines = {"BM25": {"nDCG@10": 0.354}}
    return part | {"headline": headline, "metrics": rows, "baselines": baselines}


def _described(metric: str, headline: dict[str, Any]) -> dict[str, Any]:
    word = ("better" if headline["change"] > 0 else "worse") if headline["certain"] else "no visible change"
    end = ", certain" if headline["certain"] else ", needs about 900 more queries to be certain"
    return {
        "judgments": "pairs.csv, held out",
        "headline": f"{word}: {headline['change']:+.3f} {metric}{end}",
        "metric": metric,
        "counts": {"queries": 250, "documents": 4_000, "judgments": 251},
        "metrics": [headline],
        "baselines": {},
        "notes": [],
        "seconds": 1.5,
    }


def _example(number: int, said: Any) -> dict[str, Any]:
    def hits(right: int) -> list[dict[str, Any]]:
        return [{"text": said(number + n), "right": n == right, "score": 0.9 - n / 10} for n in range(5)]

    before, after = number % 4, (number * 3) % 7
    return {
        "query": said(number),
        "metric": "nDCG@10",
        "change": 1 / (after + 1) - 1 / (before + 1),
        "right": [said(number + before)],
        "before": hits(before),
        "after": hits(after),
        "right_rank_before": before + 1,
        "right_rank_after": after + 1 if after < 5 else None,
    }


def _similarities() -> dict[str, Any]:
    def counts(middle: float) -> list[int]:
        return [round(400 / (1 + ((n / 20 - middle) * 8) ** 2)) for n in range(20)]

    return {
        "edges": [n / 20 for n in range(21)],
        "before": {"positive": counts(0.55), "negative": counts(0.4)},
        "after": {"positive": counts(0.75), "negative": counts(0.2)},
    }


def _map(said: Any) -> dict[str, Any]:
    drawn = random.Random(0)
    labels = [number % 5 - 1 for number in range(200)]

    def points(apart: float) -> list[list[float | int]]:
        return [[drawn.gauss(apart * label, 1), drawn.gauss(apart * (label % 2), 1), label] for label in labels]

    names = [said(number) for number in range(4)]
    return {
        "method": "pca",
        "labels": names,
        "before": points(0.5),
        "after": points(3.0),
        "texts": [said(number)[:80] for number in range(200)],
    }


def _negatives(said: Any) -> dict[str, Any]:
    left_out = {"anchor": said(1), "positive": said(2), "document": said(3), "score": 0.7, "positive_score": 0.71}
    filtered = {
        "known_positives": {"candidates": 0, "rows": 0, "examples": []},
        "max_share_of_positive": {"candidates": 1234, "rows": 56, "examples": [left_out]},
    }
    example = {"anchor": said(4), "positive": said(5), "positive_score": None, "negatives": [[said(6), 0.4]]}
    counts = {"rows": 12_000, "negatives": 23_000, "short_rows": 1_000, "relabelled": 0}
    rounds = [{"step": step, "seconds": 1.5, "examples": [example], "filtered": filtered} | counts for step in (0, 500)]
    return {"rounds": rounds}


def _doubt(number: int, said: Any, of: str) -> dict[str, Any]:
    return {
        "anchor": said(number),
        "text": said(number + 1),
        "score": 0.83,
        "positive": said(number + 2),
        "positive_score": 0.61,
        "of": of,
        "place": f"{said(number + 3)[:60]}:17" if number % 2 else "pairs.csv:17",
    }

"""Search quality of a model: finetune's retrieval evaluator against that of sentence-transformers.

    python scripts/bench/evaluate.py                                # 10,000 queries against 100,000 documents
    python scripts/bench/evaluate.py --encode --queries 2000 --documents 20000
    python scripts/bench/evaluate.py --queries 500 --documents 5000 --rounds 1     # only to see that it runs

Both get the same embeddings (random ones, each query near its right documents), and must find the same numbers. With
--encode both embed texts of the shipped reverse dictionary with MiniLM first, in fp32 and in bf16, ours with its tokens
made anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from fresh import heading, medians, run_fresh, table

CONTESTANTS = ("ours", "sentence-transformers")
ENCODING = (*CONTESTANTS, "ours, bf16", "sentence-transformers, bf16")
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
METRICS = {"nDCG@10": "ndcg@10", "MRR@10": "mrr@10", "recall@10": "recall@10", "precision@10": "precision@10",
           "MAP@100": "map@100"}  # fmt: skip
WIDTH, RIGHT, MAX_LENGTH = 384, 3, 128


def main() -> None:
    """Measure every contestant in fresh processes, alternating, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--encode", action="store_true", help="embed texts too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=ENCODING, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    asked = ["--queries", str(arguments.queries), "--documents", str(arguments.documents)]
    asked += ["--encode"] if arguments.encode else []
    contestants = ENCODING if arguments.encode else CONTESTANTS
    measured: dict[str, list] = {who: [] for who in contestants}
    for _ in range(arguments.rounds):
        for who in contestants:
            measured[who].append(run_fresh(Path(__file__), ["--one", who, *asked]))
            print(f"{who}: {measured[who][-1]}", file=sys.stderr)
    found = {who: medians(rounds) for who, rounds in measured.items()}
    far = max(
        abs(found["ours"][name] - one[name]) for name in METRICS for who, one in found.items() if "bf16" not in who
    )
    # Computed in other blocks, a few of the embeddings' scores differ in their last bit, and with them an order.
    assert far < (1e-3 if arguments.encode else 1e-6), f"the numbers differ by {far:.2e}"
    rows = [[who, f"{one['seconds']:.1f}", f"{one['seconds'] / found['ours']['seconds']:.1f}", f"{one['cpu']:.1f}",
             f"{one['cpu'] / found['ours']['cpu']:.1f}", f"{one['peak_mb']:,.0f}",
             *(f"{one[name]:.4f}" for name in METRICS)] for who, one in found.items()]  # fmt: skip
    print(heading())
    print(table(["", "seconds", "times ours", "CPU s", "times ours", "peak MB", *METRICS], rows))
    print(f"\nThe numbers of those that compute in fp32 differ by {far:.1e} at most.")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the seconds that one contestant takes, without its imports and loading, and what it found."""
    queries, documents = arguments.queries, arguments.documents
    right = (np.arange(queries)[:, None] + queries * np.arange(RIGHT)) % documents
    texts = shipped_texts(right[:, 0], documents) if arguments.encode else None
    contestant = ours if arguments.one.startswith("ours") else peers
    return contestant(right, documents, texts, arguments.one.endswith("bf16"))


def shipped_texts(right_Q: np.ndarray, documents: int) -> list[str]:
    """Return queries, then distinct documents: entries of the reverse dictionary, numbered from the second time on.

    A query is every second word of the document that is right for it.
    """
    from importlib.resources import files

    path = files("finetune.datasets").joinpath("reverse_dictionary", "train.csv")
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    corpus = [f"{lines[i % len(lines)]} {i // len(lines) or ''}".strip() for i in range(documents)]
    return [" ".join(corpus[d].split()[::2]) for d in right_Q] + corpus


def made_embeddings(right_QR: np.ndarray, documents: int) -> np.ndarray:
    """Return queries and documents at unit length: each query is its right documents' mean, and much noise."""
    random = np.random.default_rng(0)
    corpus = random.standard_normal((documents, WIDTH), np.float32)
    queries = corpus[right_QR].mean(1) + 2.5 * random.standard_normal((len(right_QR), WIDTH), np.float32)
    both = np.concatenate([queries, corpus])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both


def ours(right_QR: np.ndarray, documents: int, texts: list[str] | None, bf16: bool) -> dict[str, float]:
    """Measure with the evaluator that conf/evaluation/retrieval.yaml builds."""
    from importlib.resources import files

    from finetune.config.build import build
    from finetune.data.holdout.judgments import Judgments

    queries = len(right_QR)
    node = yaml.safe_load((files("finetune.conf") / "evaluation" / "retrieval.yaml").read_text(encoding="utf-8"))
    evaluator = build({**node, "metrics": [*METRICS], "bm25": False}, "evaluation")
    judgments = Judgments(
        "made", np.arange(queries), queries + np.arange(documents), np.repeat(np.arange(queries), RIGHT),
        right_QR.ravel(), np.ones(right_QR.size),
    )  # fmt: skip
    embed = encoder_of(texts, bf16) if texts else made_embeddings(right_QR, documents).__getitem__
    found, seconds = timed(lambda: evaluator.evaluate(judgments, embed).means)
    return {**seconds, **found}


def timed(do: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what `do` returns, and the seconds that it took: by the clock, and of all processors together."""
    started, spent = time.perf_counter(), time.process_time()
    found = do()
    return found, {"seconds": time.perf_counter() - started, "cpu": time.process_time() - spent}


def encoder_of(texts: list[str], bf16: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return what embeds items by the engine; the texts are tokenised when they are asked for."""
    import pyarrow as pa

    from finetune.data.items import Items
    from finetune.data.tokens.token_store import Tokens
    from finetune.encoding.engine import Engine
    from finetune.models.text import TextEncoder

    encoder, engine = TextEncoder(MODEL).eval(), Engine(embed_precision="bf16-mixed" if bf16 else "32-true")

    def embed(rows: np.ndarray) -> np.ndarray:
        tokens = Tokens.build(Items.of_texts(pa.array(texts, pa.large_string())), encoder.tokenizer, MAX_LENGTH)
        found = np.empty((len(rows), encoder.width), np.float32)
        for places, part in engine.embed(encoder, tokens, rows):
            found[places] = part.numpy()
        return found

    return embed


def peers(right_QR: np.ndarray, documents: int, texts: list[str] | None, bf16: bool) -> dict[str, float]:
    """Measure with sentence-transformers' evaluator, which looks the embeddings up unless it is to embed texts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    from finetune.models.resolve import resolve

    class LooksUp(InformationRetrievalEvaluator):
        def embed_inputs(self, model: Any, sentences: list[str], **_: Any) -> Any:
            return torch.from_numpy(embeddings[[int(text) for text in sentences]])

    import torch

    queries = len(right_QR)
    names = texts or [str(i) for i in range(queries + documents)]
    embeddings = np.empty((0, 0), np.float32) if texts else made_embeddings(right_QR, documents)
    kind = InformationRetrievalEvaluator if texts else LooksUp
    # Names of one length come in the order of their numbers, by which equal scores go.
    evaluator = kind(
        {f"q{q}": names[q] for q in range(queries)},
        {f"d{d:09d}": names[queries + d] for d in range(documents)},
        {f"q{q}": {f"d{d:09d}" for d in row} for q, row in enumerate(right_QR)},
        ndcg_at_k=[10], mrr_at_k=[10], precision_recall_at_k=[10], accuracy_at_k=[10], map_at_k=[100],
    )  # fmt: skip
    model = SentenceTransformer(str(resolve(MODEL)), device="cpu")
    model.max_seq_length = MAX_LENGTH
    if bf16:
        model.bfloat16()
    found, seconds = timed(lambda: evaluator(model))
    return {**seconds, **{ours: found[f"cosine_{theirs}"] for ours, theirs in METRICS.items()}}


if __name__ == "__main__":
    main()

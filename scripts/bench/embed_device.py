"""Evaluation on a device: exact search, and embedding texts; ours against what others do.

    python scripts/bench/embed_device.py --device cuda --out results --seconds 90
    python scripts/bench/embed_device.py --device cpu --tiny

Search: the k best documents of every query, in fp32, from arrays in main memory to arrays in main memory. `torch` is
the shortest program: the corpus on the device, blocks of queries, a matrix product and `topk`. The others get a part of
the queries, as they may take minutes, so compare queries/s. "Hits as ours" is the share of hits that ours has as well.

Encoding: texts of random length to embeddings in main memory, including tokenization, with a model of bert-base's shape
and random weights; imports and loading are not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import device
from fresh import table
from prepared import MeasurementError, Prepared
from results import Deadline, write
from shapes import MINILM, make_model
from texts import KINDS, pairs

PEER = "sentence-transformers"
SEARCHES = ("ours", "torch", PEER, "faiss")
_WIDTH, _K = 768, 100
_QUERIES, _DOCUMENTS, _PEER_QUERIES, _TEXTS = 100_000, 1_000_000, 5_000, 20_000
_TINY = {"queries": 200, "documents": 2_000, "peer_queries": 100, "texts": 64}
_SHORTEST = 10.0  # seconds; less time is not enough for any measurement


def main() -> None:
    """Measure as far as the time allows, and print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tiny", action="store_true", help="few documents and a tiny model")
    parser.add_argument("--queries", type=int, default=_QUERIES)
    parser.add_argument("--documents", type=int, default=_DOCUMENTS)
    parser.add_argument("--peer-queries", type=int, default=_PEER_QUERIES, help=f"for {PEER} and faiss")
    parser.add_argument("--texts", type=int, default=_TEXTS, help="texts to encode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokenizer", default=MINILM, help="a name, or a folder with a tokenizer")
    parser.add_argument("--seconds", type=float, default=3600, help="no measurement starts after this time")
    parser.add_argument("--out", type=Path, help="a folder for evaluate.json and evaluate.md")
    arguments = parser.parse_args()
    if arguments.tiny:
        vars(arguments).update(_TINY)
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here: nothing was measured.")
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Measure every contestant in a process of its own, alternating."""
    deadline = Deadline(arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="finetune-bench-embed-") as folder:
        prepared = Prepared(arguments.device)
        model = str(make_model("bert-base", Path(folder) / "model", arguments.tokenizer, arguments.tiny))
        np.save(f"{folder}/hits.npy", np.empty((0, 0)))
        jobs: list[tuple[str, str, Callable[..., Any], tuple[Any, ...]]] = []
        for who in SEARCHES:
            many = arguments.queries if who in ("ours", "torch") else arguments.peer_queries
            told = (who, arguments.device, many, arguments.documents, f"{folder}/hits.npy")
            jobs.append(("search", who, search, told))
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps(texts_to_encode(arguments.texts)), encoding="utf-8")
        for bf16 in (False, True):
            for who, function in (("ours", encode_ours), (PEER, encode_theirs)):
                name = f"{who}, bf16" if bf16 else who
                jobs.append(("encode", name, function, (model, arguments.device, str(texts), bf16)))
        facts: dict[str, Any] = {"environment": device.environment(arguments.device), "search": {}, "encode": {}}
        sizes = ("queries", "documents", "peer_queries", "texts")
        facts["sizes"] = {key: getattr(arguments, key) for key in sizes} | {"k": _K, "width": _WIDTH}
        for round_ in range(arguments.rounds):
            for what, who, function, told in jobs:
                found = facts[what].setdefault(who, {"rounds": [], "problem": None})
                _measure(f"round {round_ + 1}, {what}, {who}", found, function, told, prepared, deadline)
                write(arguments.out, "evaluate", facts, markdown(facts, arguments.device))
    print(markdown(facts, arguments.device))


def _measure(
    title: str,
    found: dict[str, Any],
    function: Callable[..., Any],
    told: tuple[Any, ...],
    prepared: Prepared,
    deadline: Deadline,
) -> None:
    """Add one more measurement to what was found, if there is time for it."""
    expected = max((one["seconds_in_all"] for one in found["rounds"]), default=_SHORTEST)
    if found["problem"] or deadline.left() < expected:
        return
    try:
        # One of them must not take the time of all others.
        found["rounds"].append(prepared.measure(function, told, min(deadline.left(), deadline.seconds / 2)))
    except MeasurementError as error:
        found["problem"] = str(error)
    answer = found["problem"] or f"{found['rounds'][-1]['per_second']:,.0f} a second"
    print(f"{title}: {answer}", file=sys.stderr, flush=True)


def made_embeddings(rows: int, seed: int) -> np.ndarray:
    """Return random embeddings of unit length, fp32."""
    random = np.random.default_rng(seed)
    found = random.standard_normal((rows, _WIDTH), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def search(who: str, name: str, queries: int, documents: int, hits_of_ours: str) -> dict[str, Any]:
    """Return queries/s of one contestant, and its agreement with the hits of ours, which are stored in a file."""
    emb_QD, emb_MD = made_embeddings(queries, 1), made_embeddings(documents, 2)
    function = {"ours": _search_ours, "torch": _search_torch, PEER: _search_theirs, "faiss": _search_faiss}[who]
    function(emb_QD[:64], emb_MD[:1024], name)  # loads kernels and libraries
    start = time.perf_counter()
    hits_Qk = function(emb_QD, emb_MD, name)
    taken = time.perf_counter() - start
    if who == "ours":
        np.save(hits_of_ours, hits_Qk)
    return {"per_second": queries / taken, "seconds": taken, "queries": queries, "gpu_mb": _peak_mb(name),
            "agreement": _agreement(hits_Qk, np.load(hits_of_ours))}  # fmt: skip


def _agreement(hits_Qk: np.ndarray, expected_Qk: np.ndarray) -> float | None:
    """Return the share of hits that are among those of the other, over the queries that both have; None without any."""
    rows = min(len(hits_Qk), len(expected_Qk), 1000)
    if not rows:
        return None
    same = [len(np.intersect1d(hits_Qk[row], expected_Qk[row])) for row in range(rows)]
    return float(np.mean(same)) / hits_Qk.shape[1]


def _search_ours(emb_QD: np.ndarray, emb_MD: np.ndarray, name: str) -> np.ndarray:
    from finetune.evaluation.search import top_k

    return top_k(emb_QD, emb_MD, _K, device=name)[1]


def _search_torch(emb_QD: np.ndarray, emb_MD: np.ndarray, name: str) -> np.ndarray:
    import torch

    corpus_MD = torch.from_numpy(emb_MD).to(name)
    parts = []
    for part in torch.split(torch.from_numpy(emb_QD), 1024):
        parts.append((part.to(name) @ corpus_MD.T).topk(min(_K, len(corpus_MD)), dim=1).indices.cpu())
    return torch.cat(parts).numpy()


def _search_theirs(emb_QD: np.ndarray, emb_MD: np.ndarray, name: str) -> np.ndarray:
    import torch
    from sentence_transformers.util import dot_score, semantic_search

    queries, corpus = torch.from_numpy(emb_QD).to(name), torch.from_numpy(emb_MD).to(name)
    hits = semantic_search(queries, corpus, query_chunk_size=1024, top_k=_K, score_function=dot_score)
    return np.array([[hit["corpus_id"] for hit in row] for row in hits])


def _search_faiss(emb_QD: np.ndarray, emb_MD: np.ndarray, name: str) -> np.ndarray:
    try:
        import faiss
    except ImportError:
        raise MeasurementError("not installed") from None
    index = faiss.IndexFlatIP(emb_MD.shape[1])
    if name == "cuda" and hasattr(faiss, "StandardGpuResources"):
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(emb_MD)
    return np.asarray(index.search(emb_QD, _K)[1])


def texts_to_encode(count: int) -> list[str]:
    """Return ragged texts, as the training benchmark has them."""
    return [text for pair in pairs("ragged", -(-count // 2)) for text in pair][:count]


def encode_ours(model: str, name: str, path: str, bf16: bool) -> dict[str, Any]:
    """Return texts/s of what an evaluation does: tokenize, sort, embed in micro-batches."""
    import pyarrow as pa

    from finetune.data.items import Items
    from finetune.data.tokens.token_store import Tokens
    from finetune.encoding.engine import Engine
    from finetune.models.text import TextEncoder

    encoder = TextEncoder(model).eval().to(name)
    engine = Engine(embed_precision="bf16-mixed" if bf16 else "32-true")

    def encode(texts: list[str]) -> np.ndarray:
        items = Items.of_texts(pa.array(texts, pa.large_string()))
        tokens = Tokens.build(items, encoder.tokenizer, KINDS["ragged"])
        emb_ND = np.empty((len(texts), encoder.width), np.float32)
        for rows, emb_nD in engine.embed(encoder, tokens, np.arange(len(texts))):
            emb_ND[rows] = emb_nD.cpu().numpy()
        return emb_ND

    return _encode(encode, name, path)


def encode_theirs(model: str, name: str, path: str, bf16: bool) -> dict[str, Any]:
    """Return texts/s of `SentenceTransformer.encode`, in bf16 with the whole model in it."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device=name, model_kwargs={"dtype": "bfloat16" if bf16 else "float32"})
    encoder.max_seq_length = KINDS["ragged"]

    def encode(texts: list[str]) -> np.ndarray:
        batch = 256 if name == "cuda" else 32
        found = encoder.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found)

    return _encode(encode, name, path)


def _encode(encode: Callable[[list[str]], np.ndarray], name: str, path: str) -> dict[str, Any]:
    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    encode(texts[: max(2, len(texts) // 20)])  # loads kernels
    start = time.perf_counter()
    encode(texts)
    taken = time.perf_counter() - start
    return {"per_second": len(texts) / taken, "seconds": taken, "gpu_mb": _peak_mb(name)}


def _peak_mb(name: str) -> float:
    if name != "cuda":
        return 0.0
    import torch

    return float(torch.cuda.max_memory_allocated() / 2**20)


def markdown(facts: dict[str, Any], name: str) -> str:
    """Return the two tables, with the device, the versions and the command above them."""
    sizes = facts["sizes"]
    lines = [device.heading(name)]
    lines.append(
        f"Search: {sizes['queries']:,} queries ({sizes['peer_queries']:,} of {PEER} and faiss), {sizes['documents']:,}"
        f" documents, {sizes['width']} dimensions, the {sizes['k']} best. Encoding: {sizes['texts']:,} ragged texts.\n"
    )
    header = ["", "per second", "ours is times as fast", "GPU MB", "hits as ours", "rounds"]
    rows = []
    for what in ("search", "encode"):
        for who, found in facts[what].items():
            rows.append(
                [f"{what}: {who}", *_cells(found, facts[what], "ours, bf16" if who.endswith("bf16") else "ours")]
            )
    lines.append(table(header, rows))
    return "\n".join(lines)


def _cells(found: dict[str, Any], contestants: dict[str, Any], ours: str) -> list[str]:
    if not found["rounds"]:
        return [found["problem"] or "not measured: no time left", "", "", "", "0"]
    own, pace = contestants[ours]["rounds"], _median(found["rounds"], "per_second")
    ratio = f"{_median(own, 'per_second') / pace:.2f}" if own else ""
    agreement = found["rounds"][0].get("agreement")
    shown = "" if agreement is None else f"{agreement:.2%}"
    gpu = f"{_median(found['rounds'], 'gpu_mb'):,.0f}"
    return [f"{pace:,.0f}", ratio, gpu, shown, str(len(found["rounds"]))]


def _median(rounds: list[dict[str, Any]], key: str) -> float:
    return float(np.median([one[key] for one in rounds]))


if __name__ == "__main__":
    main()

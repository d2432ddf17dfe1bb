"""Embedding a corpus: `Model.encode` and `finetune embed` against sentence-transformers and its pool of processes.

    python scripts/bench/embed.py                                   # all kinds of texts, precisions and contestants
    python scripts/bench/embed.py --kinds short --precisions fp32 --texts 200000 --rounds 1
    python scripts/bench/embed.py --profile --kinds ragged --precisions fp32 --texts 2000    # where the time goes

All have the same weights, precision and maximum length, and get the same distinct texts; with `--duplicates 0.3`, 30 %
of the texts are repetitions of others. Counted is the time from texts in main memory to vectors in main memory, or for
`finetune embed` from a Parquet file to a folder of vectors, including the loading of the model there. Imports, loading
and a first call are not counted, except in the memory. CPU seconds are those of all threads and processes.

`peak MB` is the largest resident memory of the process, plus that of its children; `adds MB` is how much larger it is
than after the first call. The vectors must be equal to those of the first contestant: to 1e-5 in fp32, and to a cosine
of 0.999 in bf16, which each rounds at other places.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fresh import Measured, heading, medians, run_fresh, table
from results import write
from shapes import MINILM
from texts import KINDS, pairs

PEER = "sentence-transformers"
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
COUNTS = {"short": 3_000, "ragged": 300, "long": 100}
_FIRST = 80  # texts of the first call, enough for all processes of a pool
_COMPARED = 1_000  # texts whose vectors are compared
_LOOK, _IDLE_SHARE = 2.0, 0.02  # seconds between two looks, and the share of a core that is idle
_MB = 2**20


def main() -> None:
    """Measure every contestant in fresh processes, alternating, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--duplicates", nargs="+", type=float, default=[0.0, 0.3], help="shares of repeated texts")
    parser.add_argument("--texts", type=int, help=f"by default {COUNTS}")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--model", default=MINILM, help="a name, or a folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of a contestant, in all processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for embed.json and embed.md")
    parser.add_argument("--profile", action="store_true", help="print the operations of Model.encode instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(json.loads(arguments.one))))
    elif arguments.profile:
        for case in cases(arguments):
            print(f"{title(case)}\n{profile(case)}")
    else:
        print(compare(arguments))


def cases(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is measured: kinds of text, precisions, shares of duplicates."""
    shared = {"model": arguments.model, "threads": arguments.threads}
    return [
        {"kind": kind, "precision": precision, "duplicates": share, "texts": arguments.texts or COUNTS[kind], **shared}
        for kind, precision, share in product(arguments.kinds, arguments.precisions, arguments.duplicates)
    ]


def title(case: dict[str, Any]) -> str:
    """Return the case in words."""
    return f"{case['kind']}, {case['texts']:,}, {case['precision']}, {case['duplicates']:.0%}"


def compare(arguments: argparse.Namespace) -> str:
    """Return the table, which is also written after each case."""
    facts: dict[str, Any] = {"cases": []}
    shown = heading()
    with tempfile.TemporaryDirectory(prefix="finetune-bench-embed-") as folder:
        for case in cases(arguments):
            rounds: dict[str, list[Measured]] = {who: [] for who in arguments.contestants}
            for round_, who in product(range(arguments.rounds), arguments.contestants):
                case |= {"who": who, "sample": f"{folder}/{len(rounds[who])}-{arguments.contestants.index(who)}.npy"}
                threads = {"OMP_NUM_THREADS": str(threads_of(case))}
                rounds[who].append(run_fresh(Path(__file__), ["--one", json.dumps(case)], **threads))
                print(f"{title(case)}, round {round_ + 1}, {who}: {rounds[who][-1].said}", file=sys.stderr, flush=True)
            differences = check_equal(case, arguments.contestants, Path(folder))
            found = {who: medians(each) | {"difference": differences[who]} for who, each in rounds.items()}
            facts["cases"].append({"case": case, "medians": found})
            shown = markdown(facts["cases"])
            write(arguments.out, "embed", facts, shown)
    return shown


def threads_of(case: dict[str, Any]) -> int:
    """Return the threads of one process of a contestant."""
    return max(1, case["threads"] // 2) if case["who"].endswith("pool") else case["threads"]


def check_equal(case: dict[str, Any], contestants: list[str], folder: Path) -> dict[str, float]:
    """Return how far the vectors of each are from those of the first, as a number of the vector; stop if too far."""
    first_ND = np.load(folder / "0-0.npy")
    differences = {}
    for number, who in enumerate(contestants):
        emb_ND = np.load(folder / f"0-{number}.npy")
        differences[who] = float(np.abs(emb_ND - first_ND).max())
        norms_N = np.linalg.norm(emb_ND, axis=1) * np.linalg.norm(first_ND, axis=1)
        cosine = float(((emb_ND * first_ND).sum(1) / norms_N).min())
        is_equal = differences[who] <= 1e-5 if case["precision"] == "fp32" else cosine >= 0.999
        if not is_equal:
            sys.exit(f"{title(case)}: {who} differs from {contestants[0]}: by {differences[who]:.1e}, cosine {cosine}.")
    return differences


def markdown(measured: list[dict[str, Any]]) -> str:
    """Return the heading and the table; ratios are those of the first contestant in CPU time."""
    rows = []
    for each in measured:
        ours = next(iter(each["medians"].values()))
        shown = title(each["case"])
        for who, found in each["medians"].items():
            cells = [f"{each['case']['texts'] / found['seconds']:,.0f}", f"{found['cpu']:.1f}"]
            cells += [f"{found['cpu'] / ours['cpu']:.2f}", f"{found['own_peak_mb']:,.0f}"]
            cells += [f"{found['own_peak_mb'] / ours['own_peak_mb']:.2f}", f"{found['adds_mb']:,.0f}"]
            rows.append([shown, who, *cells, f"{found['difference']:.0e}"])
            shown = ""
    header = ["texts, number, precision, duplicates", "", "texts/s", "CPU s", "times ours", "peak MB", "times ours",
              "adds MB", "difference"]  # fmt: skip
    return f"{heading()}\n{table(header, rows)}"


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Return the seconds and the memory of one contestant, and write a sample of its vectors."""
    texts = corpus(case)
    with ExitStack() as stack:
        encode = stack.enter_context(CONTESTANTS[case["who"]](case))
        encode(texts[:_FIRST])
        wait_until_idle()
        before, spent, started = peak_mb(), cpu_seconds(), time.perf_counter()
        emb_ND = encode(texts)
        seconds, cpu, peak = time.perf_counter() - started, cpu_seconds() - spent, peak_mb()
        places = np.linspace(0, len(texts) - 1, min(_COMPARED, len(texts))).astype(int)
        np.save(case["sample"], np.asarray(emb_ND[places], np.float32))
    return {"seconds": seconds, "cpu": cpu, "own_peak_mb": peak, "adds_mb": peak - before}


def corpus(case: dict[str, Any]) -> list[str]:
    """Return the texts of a case: distinct ones, and copies of some of them at random places."""
    count = case["texts"]
    distinct = max(1, round(count * (1 - case["duplicates"])))
    found: dict[str, None] = {}
    size = distinct
    while len(found) < distinct:  # words and docstrings occur in several pairs
        found = dict.fromkeys(text for pair in pairs(case["kind"], size) for text in pair)
        size += distinct
    texts = list(found)[:distinct]
    shuffled = random.Random(0)
    texts += shuffled.choices(texts, k=count - distinct)
    shuffled.shuffle(texts)
    return texts


Encode = Callable[[list[str]], Any]


@contextmanager
def ours(case: dict[str, Any], device: Any = "cpu") -> Iterator[Encode]:
    """`Model.encode`."""
    import finetune

    with finetune.get_model(
        case["model"], device=device, dtype=PRECISIONS[case["precision"]], max_length=KINDS[case["kind"]]
    ) as model:
        yield model.encode


def ours_pool(case: dict[str, Any]) -> Any:
    """`Model.encode` with two processes."""
    return ours(case, ["cpu", "cpu"])


@contextmanager
def ours_to_a_folder(case: dict[str, Any]) -> Iterator[Encode]:
    """`finetune embed`, from one file for the first call, and from one for all texts; vectors are memory-mapped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from finetune.embed.run import embed

    settings = {"dtype": PRECISIONS[case["precision"]], "max_length": KINDS[case["kind"]], "device": "cpu"}
    with tempfile.TemporaryDirectory(prefix="finetune-bench-embed-") as folder:
        files = (f"{folder}/first.parquet", f"{folder}/all.parquet")
        for file, texts in zip(files, (corpus(case)[:_FIRST], corpus(case)), strict=True):
            pq.write_table(pa.table({"text": texts}), file)
        remaining = iter(files)

        def encode(_: list[str]) -> Any:
            file = next(remaining)
            out = Path(file).with_suffix("")
            embed(case["model"], file, out, format="npy", **settings)
            return ShardsOfVectors(out)

        yield encode


class ShardsOfVectors:
    """The vectors in a folder of `finetune embed`, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        shards = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends])
        return np.stack([self._shards[shard][row - starts[shard]] for shard, row in zip(shards, rows, strict=True)])


def load_peer(case: dict[str, Any]) -> Any:
    """Return the peer's model."""
    from sentence_transformers import SentenceTransformer

    from finetune.models.resolve import resolve

    dtype = {"dtype": PRECISIONS[case["precision"]]}
    model = SentenceTransformer(str(resolve(case["model"])), device="cpu", model_kwargs=dtype)
    model.max_seq_length = KINDS[case["kind"]]
    return model


@contextmanager
def peer(case: dict[str, Any]) -> Iterator[Encode]:
    """`SentenceTransformer.encode` with its defaults."""
    model = load_peer(case)
    yield lambda texts: model.encode(texts, show_progress_bar=False)


@contextmanager
def peer_pool(case: dict[str, Any]) -> Iterator[Encode]:
    """`SentenceTransformer.encode` with two processes."""
    model = load_peer(case)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        yield lambda texts: model.encode(texts, pool=pool, show_progress_bar=False)
    finally:
        model.stop_multi_process_pool(pool)


CONTESTANTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ours": ours,
    "finetune embed": ours_to_a_folder,
    PEER: peer,
    "ours, pool": ours_pool,
    f"{PEER}, pool": peer_pool,
}


def processes() -> list[str]:
    """Return the numbers of this process and of its descendants."""
    found = ["self"]
    for number in found:
        for thread in Path(f"/proc/{number}/task").iterdir():
            found += (thread / "children").read_text().split()
    return found


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its descendants, in user and system mode."""
    ticks = 0
    for number in processes():
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:13]))  # utime and stime; the name before them may contain spaces
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_until_idle() -> None:
    """Wait until this process and its descendants compute nothing: those of a pool may still load the model."""
    before = -1.0
    while cpu_seconds() > before + _IDLE_SHARE * _LOOK:
        before = cpu_seconds()
        time.sleep(_LOOK)


def peak_mb() -> float:
    """Return the largest resident memory of this process plus that of its descendants; shared pages count twice."""
    lines = [line for number in processes() for line in Path(f"/proc/{number}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / _MB


def profile(case: dict[str, Any]) -> str:
    """Return the operations that take most of the time of `Model.encode`, and the share of each."""
    import torch
    from torch.profiler import ProfilerActivity

    torch.set_num_threads(case["threads"])
    texts = corpus(case)
    with ours(case) as encode:
        encode(texts[:_FIRST])
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
            started = time.perf_counter()
            encode(texts)
            seconds = time.perf_counter() - started
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)[:12]
    rows = [[event.key, event.count, f"{event.self_cpu_time_total / 1e6 / seconds:.1%}"] for event in events]
    return table(["operation", "calls", "share of the time"], rows)


if __name__ == "__main__":
    main()

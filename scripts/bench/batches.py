"""An epoch of batches without a text twice: finetune against the samplers of sentence-transformers.

    python scripts/bench/batches.py                                 # a million made-up pairs, Zipf-like
    python scripts/bench/batches.py --csv pairs.csv --seconds 1800  # the first two columns of a file

All get the same pairs from one memory-mapped Arrow file and hand out the rows of every batch. "once" is what is done
before the first batch of the first epoch only (numbering or hashing the texts), "epoch" what every epoch takes, and
"98 % of rows" when so many of an epoch had been handed out: the peers end in ever smaller batches of what found no
place before, which ours leaves to other epochs. A peer that is not through after --seconds is stopped, and its epoch is
reckoned from the rows that it had handed out by then (marked ~): too little rather than too much.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

sys.path.insert(0, str(Path(__file__).parent))
from fresh import heading, medians, run_fresh, table

CONTESTANTS = ("ours", "NO_DUPLICATES", "NO_DUPLICATES_HASHED")
SEED = 42


def main() -> None:
    """Measure every contestant in fresh processes, alternating, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--csv", type=Path, help="a file with a header, whose first two columns are the texts of a pair"
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many pairs to make up without --csv")
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600, help="stop a peer after so long")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--arrow", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.arrow, arguments.batch_size, arguments.seconds)))
        return
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        pairs = made_up(arguments.rows) if arguments.csv is None else pa.csv.read_csv(arguments.csv).select([0, 1])
        arrow = written(pairs.rename_columns(["text1", "text2"]), Path(folder) / "pairs.arrow")
        del pairs
        rest = ["--arrow", str(arrow), "--batch-size", str(arguments.batch_size), "--seconds", str(arguments.seconds)]
        measured: dict[str, list] = {who: [] for who in CONTESTANTS}
        for i in range(arguments.rounds):
            for who in CONTESTANTS:
                cache = str(Path(folder) / f"{who}{i}")
                found = run_fresh(Path(__file__), ["--one", who, *rest], HF_DATASETS_CACHE=cache, HF_HUB_OFFLINE="1")
                measured[who].append(found)
                print(f"{who}: {found}", file=sys.stderr)
    print_table({who: medians(rounds) for who, rounds in measured.items()})


def print_table(found: dict[str, dict[str, float]]) -> None:
    """Print medians and ratios as Markdown."""
    rows = []
    ours = found["ours"]
    for who, one in found.items():
        about = "" if one["share"] == 1 else "~"
        rows.append(
            [
                who,
                f"{one['once']:.1f}",
                f"{about}{one['epoch']:,.1f}",
                _or_nothing(one["most"], ".1f"),
                f"{one['cpu']:,.1f}",
                f"{one['share']:.0%}",
                f"{one['batches']:,.0f}",
                f"{one['smallest']:,.0f}",
                f"{one['rows_used']:.2%}" if one["share"] == 1 else "",
                f"{one['repeats']:.0f}",
                f"{one['peak_mb']:,.0f}",
                f"{about}{one['epoch'] / ours['epoch']:,.0f}",
                f"{about}{(one['once'] + one['epoch']) / (ours['once'] + ours['epoch']):,.0f}",
                _or_nothing(one["most"] / ours["most"], ".0f"),
            ]
        )
    header = ["", "once, s", "epoch, s", "98 % of rows, s", "CPU, s", "epoch run", "batches", "smallest", "rows used"]
    header += ["repeats", "peak MB", "times ours", "with once", "98 %"]
    print(heading())
    print(f"{ours['rows']:,.0f} pairs\n")
    print(table(header, rows))


def _or_nothing(number: float, form: str) -> str:
    return "" if np.isnan(number) else f"{number:,{form}}"


def measure(who: str, arrow: Path, batch_size: int, seconds: float) -> dict[str, float]:
    """Hand out the batches of an epoch, for at most `seconds` if it is a peer, then look through them for repeats."""
    maker = {"ours": ours, "NO_DUPLICATES": peer, "NO_DUPLICATES_HASHED": peer}[who]
    batches, rows, total, most = [], 0, read(arrow).num_rows, float("nan")
    steps = maker(arrow, batch_size, who)
    next(steps)  # imports, and opening the file
    started, cpu = time.perf_counter(), used_cpu()
    next(steps)
    once = time.perf_counter() - started
    whole = True
    for batch in steps:
        batches.append(batch)
        rows += len(batch)
        gone = time.perf_counter() - started - once
        if rows >= 0.98 * total and np.isnan(most):
            most = gone
        if who != "ours" and gone > seconds:
            whole = False
            break
    epoch, cpu = time.perf_counter() - started - once, used_cpu() - cpu
    codes = numbered(read(arrow))
    share = 1.0 if whole else rows / total
    return {
        "once": once,
        "epoch": epoch / share,
        "most": most,
        "cpu": cpu,
        "share": share,
        "batches": len(batches),
        "smallest": min(map(len, batches)),
        "rows": total,
        "rows_used": len(np.unique(np.concatenate(batches))) / total,
        "repeats": sum(repeats(codes[batch]) for batch in batches),
    }


def ours(arrow: Path, batch_size: int, _: str) -> Iterator:
    """Number the texts, plan the epoch, and hand out its batches."""
    from finetune.data.batching.mixing import BatchSettings, Epochs
    from finetune.data.relations import Relations

    yield
    codes = numbered(read(arrow))
    relations = Relations(codes[:, 0].copy(), codes[:, 1].copy())
    yield
    epochs = Epochs(relations, BatchSettings(batch_size, unique=True), SEED)
    for place in range(len(epochs)):
        yield epochs.batch(0, place)[0]


def peer(arrow: Path, batch_size: int, who: str) -> Iterator:
    """Hand out the batches of sentence-transformers' sampler, as its trainer makes it by default."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

    disable_progress_bars()
    rows = Dataset.from_file(str(arrow))
    sampler = NoDuplicatesBatchSampler(
        rows,
        batch_size,
        drop_last=False,
        generator=torch.Generator(),
        seed=SEED,
        precompute_hashes=who == "NO_DUPLICATES_HASHED",
    )
    yield
    sampler._build_hashes()  # its first batch would do it
    yield
    yield from sampler


def read(arrow: Path) -> pa.Table:
    """Return the pairs, mapped into memory."""
    with pa.memory_map(str(arrow)) as file:
        return pa.ipc.open_stream(file).read_all()


def numbered(pairs: pa.Table) -> np.ndarray:
    """Return the number of each text, (R, 2)."""
    from finetune.data.items import Items

    return np.column_stack(Items.from_columns(pairs.columns)[1])


def repeats(codes: np.ndarray) -> int:
    """Return how many texts of a batch stand in more than one of its pairs."""
    texts = np.concatenate([codes[:, 0], codes[codes[:, 0] != codes[:, 1], 1]])
    return len(texts) - len(np.unique(texts))


def made_up(rows: int) -> pa.Table:
    """Return distinct pairs of texts of which a few occur very often, as in real ones."""
    random = np.random.default_rng(SEED)
    popularity = 1 / (np.arange(rows // 2) + 500.0)
    drawn = random.choice(rows // 2, (rows, 2), p=popularity / popularity.sum())
    pairs = np.unique(drawn[drawn[:, 0] != drawn[:, 1]], axis=0)
    return pa.table([pa.array([f"phrase number {item}" for item in side]) for side in pairs.T], ["text1", "text2"])


def written(pairs: pa.Table, path: Path) -> Path:
    """Write the pairs as `datasets` keeps its own: a stream of 1,000 rows at a time."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pairs.schema) as stream:
        stream.write_table(pairs, max_chunksize=1000)
    return path


def used_cpu() -> float:
    """Return the seconds of processor time that this process and its children have used."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()

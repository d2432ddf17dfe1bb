"""Distinct texts to token ids: finetune's token cache against transformers and tokenizers.

    python scripts/bench/tokens.py                     # half a million made-up phrases
    python scripts/bench/tokens.py --csv pairs.csv     # the distinct texts of the first two columns of a file

All cut to 128 tokens with MiniLM's tokenizer. The peers get the first --sample texts. "ours" writes its ids to an empty
cache and flushes them to disk; that the ids of the sample are equal to the wrapper's is checked.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

sys.path.insert(0, str(Path(__file__).parent))
from fresh import heading, medians, run_fresh, table

CONTESTANTS = ("ours", "transformers", "tokenizers")
MAX_LENGTH = 128


def main() -> None:
    """Measure every contestant in fresh processes, alternating, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="a file with a header, whose first two columns hold texts")
    parser.add_argument("--sample", type=int, default=200_000, help="how many texts the peers get")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--arrow", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.arrow, arguments.sample)))
        return
    with tempfile.TemporaryDirectory(prefix="finetune-bench-tokens-") as folder:
        arrow = Path(folder) / "texts.arrow"
        written(distinct(arguments.csv) if arguments.csv else made_up(), arrow)
        measured: dict[str, list] = {who: [] for who in CONTESTANTS}
        for _ in range(arguments.rounds):
            for who in CONTESTANTS:
                found = run_fresh(
                    Path(__file__), ["--one", who, "--arrow", str(arrow), "--sample", str(arguments.sample)]
                )
                measured[who].append(found)
                print(f"{who}: {found}", file=sys.stderr)
        found = {who: medians(rounds) for who, rounds in measured.items()}
    pace = {who: one["texts"] / one["seconds"] for who, one in found.items()}
    rows = [[who, f"{one['texts']:,.0f}", f"{one['seconds']:.2f}", f"{pace[who]:,.0f}", f"{one['peak_mb']:,.0f}",
             f"{pace['ours'] / pace[who]:.1f}"] for who, one in found.items()]  # fmt: skip
    print(heading())
    print(table(["", "texts", "seconds", "texts/s", "peak MB", "ours is times as fast"], rows))


def measure(who: str, arrow: Path, sample: int) -> dict[str, float]:
    """Return the seconds that one contestant takes, and for how many texts."""
    from transformers import AutoTokenizer

    from finetune.models.resolve import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve("sentence-transformers/all-MiniLM-L6-v2"))
    texts = pa.ipc.open_file(pa.memory_map(str(arrow))).read_all()["text"].chunk(0)
    if who == "ours":
        return measure_ours(texts, tokenizer, sample)
    some = texts.slice(0, sample).to_pylist()
    started = time.perf_counter()
    if who == "transformers":
        tokenizer(some, truncation=True, max_length=MAX_LENGTH)
    else:
        tokenizer.backend_tokenizer.enable_truncation(MAX_LENGTH)
        tokenizer.backend_tokenizer.no_padding()  # or it would fill every text up
        [encoded.ids for encoded in tokenizer.backend_tokenizer.encode_batch_fast(some)]
    return {"seconds": time.perf_counter() - started, "texts": len(some)}


def measure_ours(texts: pa.Array, tokenizer: Any, sample: int) -> dict[str, float]:
    """Tokenise all texts into an empty cache; stops everything if an id differs from the wrapper's."""
    from finetune.data.cache.store import Cache
    from finetune.data.items import Items
    from finetune.data.tokens.token_store import Tokens

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        tokens = Tokens.cached(Items.of_texts(texts), tokenizer, MAX_LENGTH, Cache(Path(folder)))
        seconds = time.perf_counter() - started
    few = texts.slice(0, min(sample, 20_000)).to_pylist()
    expected = tokenizer(few, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    ids, lengths = tokens.take(np.arange(len(few)))
    assert [len(row) for row in expected] == lengths.tolist()
    assert [token for row in expected for token in row] == ids.tolist()
    return {"seconds": seconds, "texts": len(texts)}


def distinct(file: Path) -> pa.Array:
    """Return the distinct texts of the first two columns."""
    read = pa.csv.read_csv(file).select([0, 1])
    together = pa.chunked_array([chunk for column in read.columns for chunk in column.cast(pa.large_string()).chunks])
    return together.unique()


def made_up(count: int = 500_000) -> pa.Array:
    """Return phrases of a few words, frequent ones more often."""
    random = np.random.default_rng(0)
    words = np.array([f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("", "n", "st", "ring", "les")])
    drawn = words[random.zipf(1.3, (count, 5)) % len(words)]
    return pa.array([" ".join(row[: 2 + i % 4]) for i, row in enumerate(drawn)], pa.large_string()).unique()


def written(texts: pa.Array, path: Path) -> None:
    """Write the texts as one Arrow file."""
    rows = pa.table({"text": texts})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)


if __name__ == "__main__":
    main()

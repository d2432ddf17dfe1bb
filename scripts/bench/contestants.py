"""The contestants of the training benchmark: each trains some steps in this process and returns what it measured.

A case is a dictionary: `texts` (a kind of text), `batch` (pairs per step), `steps` that are counted, `warmup` steps
before them (1 if it is missing), `precision`, `device`, `model` (a name or a folder), and the settings of a contestant.
`rows` is a JSON file with the pairs, if there is one, since collecting them takes seconds.
"""

from __future__ import annotations

import csv
import json
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from texts import KINDS, pairs


def rows_of(case: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of all steps, those of the warm-up too."""
    if "rows" in case:
        return [(a, b) for a, b in json.loads(Path(case["rows"]).read_text(encoding="utf-8"))]
    return pairs(case["texts"], case["batch"] * (case["steps"] + case.get("warmup", 1)))


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
    warmup = case.get("warmup", 1)
    steps = trained(case)[warmup : warmup + case["steps"]]
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
        if status:
            raise RuntimeError(f"the run failed with exit code {status}")
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
            **{key: case[key] for key in ("mini_batch_num_tokens",) if key in case},
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
            dataloader_drop_last=True, dataloader_num_workers=case.get("workers", 0),
            **({"batch_sampler": InOrder} if "order" in case else {}),
        )  # fmt: skip
        dataset = Dataset.from_dict({"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]})
        trainer = SentenceTransformerTrainer(
            model=model, args=settings, train_dataset=dataset, loss=loss, callbacks=[Clock()]
        )
        model.train()
        trainer.train()
    warmup = case.get("warmup", 1)
    steps, seconds = len(ends) - warmup, ends[-1] - ends[warmup - 1]
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

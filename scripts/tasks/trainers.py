"""The two trainers that compare.py compares. Each trains one configuration in this process and saves the model.

A case is a dictionary: `train` (a CSV file with the columns anchor and positive), `definition` (of the configuration,
see configurations.yaml), `model`, `max_length`, `precision`, `device`, `seed`, and `folder`, in which a contestant
works. Both return the folder of the model and the facts of the training: seconds and CPU seconds from reading the file
to the saved model, without imports; optimizer steps; and pairs of the training data.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}  # devices as Lightning calls them


def finetune(case: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Train through the command line, on all rows, without evaluations unless the configuration has some."""
    import pytorch_lightning  # noqa: F401  imported before the time is taken

    from finetune.cli.train import main

    with timed() as facts:
        status = main(overrides_of(case))
    if status:
        raise RuntimeError(f"the run failed with exit code {status}")
    (run,) = Path(case["folder"]).glob("*/run")
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    steps, pairs = report["cost"]["optimizer_steps"], report["data"]["counts"]["training_pairs"]
    return run / "model", {**facts, "steps": steps, "pairs": pairs}


@contextmanager
def timed() -> Iterator[dict[str, Any]]:
    """Yield a dictionary which gets the seconds and the CPU seconds of the block."""
    facts: dict[str, Any] = {}
    started, spent = time.perf_counter(), time.process_time()
    yield facts
    facts.update(seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - spent)


def overrides_of(case: dict[str, Any]) -> list[str]:
    """Return the overrides of a run: those that make contestants comparable, and those of the configuration."""
    from finetune.config.command_line import key_of
    from finetune.config.quoting import quoted

    own = case["definition"].get("overrides", [])
    shared = [
        "data=csv", f"data.path={quoted(case['train'])}", "data.columns=[anchor,positive]", "data.validation_path=null",
        "data.validation_fraction=0", "evaluation=none", f"model.name={quoted(case['model'])}",
        f"data.max_length={case['max_length']}", f"trainer.precision={case['precision']}", f"seed={case['seed']}",
        f"output_root={quoted(case['folder'])}", "name=run", "callbacks.checkpoint.every_n_minutes=null",
        "callbacks.checkpoint.every_n_steps=1000000", f"trainer.accelerator={ACCELERATORS[case['device']]}",
    ]  # fmt: skip
    replaced = {key_of(word) for word in own}
    return [*(word for word in shared if key_of(word) not in replaced), *own]


def sentence_transformers(case: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Train with the trainer of sentence-transformers and MultipleNegativesRankingLoss.

    The definition may set `epochs`, `batch_size`, `lr`, `warmup` (a share of the steps), `scale` and `batch_sampler`.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from finetune.models.resolve import resolve

    chosen, folder = case["definition"], Path(case["folder"])
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "trainer"), num_train_epochs=chosen.get("epochs", 1), seed=case["seed"],
        per_device_train_batch_size=chosen.get("batch_size", 64), learning_rate=chosen.get("lr", 5e-5),
        warmup_steps=chosen.get("warmup", 0.1), batch_sampler=chosen.get("batch_sampler", "no_duplicates"),
        bf16=case["precision"] == "bf16-mixed", use_cpu=case["device"] == "cpu", save_strategy="no", report_to=[],
        logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    with timed() as facts:
        model = SentenceTransformer(str(resolve(case["model"])), device=case["device"])
        model.max_seq_length = case["max_length"]
        with Path(case["train"]).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        dataset = Dataset.from_dict({name: [row[name] for row in rows] for name in ("anchor", "positive")})
        loss = MultipleNegativesRankingLoss(model, scale=chosen.get("scale", 20.0))
        trainer = SentenceTransformerTrainer(model=model, args=settings, train_dataset=dataset, loss=loss)
        trainer.train()
        model.save_pretrained(str(folder / "model"))
    return folder / "model", {**facts, "steps": trainer.state.global_step, "pairs": len(rows)}


TRAINERS = {"finetune": finetune, "sentence-transformers": sentence_transformers}

"""The report of a finished run as plain data, for report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from finetune.analysis.data_facts import data_facts
from finetune.analysis.examples import examples
from finetune.evaluation.comparison import Comparison
from finetune.report.report_data import forgetting_data, report_data
from finetune.runs.directory import RunDirectory
from finetune.training.assembly import Parts
from finetune.training.callbacks import early_end
from finetune.training.trainer import steps_per_epoch


def build_report(
    cfg: DictConfig, parts: Parts, run: RunDirectory, comparisons: Mapping[str, Comparison]
) -> dict[str, Any]:
    """Return the report of a run; `comparisons` are those of all evaluators, including those that are only reported.

    In addition to the keys of `report_data`: `training`, its steps and how it ended; `examples` by evaluator; in `data`
    the doubts of the tuned model; and, each left out if there is none, `similarities`, `map` and `forgetting`.
    """
    judged = parts.without_report_only(comparisons)
    report = report_data(
        run=run.name,
        model_path=str(run.model),
        evaluations=judged,
        data=_data_facts(cfg, parts, judged),
        notes=[*parts.data.dataset.notes, *parts.warnings],
        cost=parts.cost.facts(parts.trainer, parts.module),
        again=_reproduction(cfg, parts, run),
        use=parts.encoder.use,
    )
    report["training"] = _training(parts)
    if parts.negatives is not None:
        report["negatives"] = {"rounds": parts.negatives.rounds}
    if parts.snapshots is not None:
        report.update(parts.snapshots.findings())
    report["examples"] = _examples(parts, judged)
    reported = list(parts.of_report_only(comparisons).values())
    if reported:
        report["forgetting"] = forgetting_data(reported[0])
    return report


def _training(parts: Parts) -> dict[str, Any]:
    """Return the steps, and the reasons of an early end and of keeping the untouched model, None without these."""
    kept_untouched = None
    for callback in parts.trainer.callbacks:  # type: ignore[attr-defined]
        kept_untouched = kept_untouched or getattr(callback, "kept_untouched", None)
    return {
        "step": parts.trainer.global_step,
        "steps": parts.module.total_steps,
        "ended_early": early_end(parts.trainer, parts.module),
        "kept_untouched": kept_untouched,
    }


def _data_facts(cfg: DictConfig, parts: Parts, judged: Mapping[str, Comparison]) -> dict[str, Any]:
    """Return the statistics of the data, and what the tuned model contradicts in it."""
    facts = data_facts(parts.data.dataset, parts.data.tokens.facts(), parts.encoder.tokenizer, cfg.data.max_length)
    if parts.snapshots is None:
        return facts
    own = parts.runner.own_texts()
    results = [comparison.after for name, comparison in judged.items() if name not in own]
    return facts | parts.snapshots.doubts(results, parts.data_settings)


def _examples(parts: Parts, judged: Mapping[str, Comparison]) -> dict[str, Any]:
    """Return the examples of each evaluator that has some, by its name."""
    own, run_texts = parts.runner.own_texts(), parts.data.dataset.items.named
    by_evaluator = {}
    for name, comparison in judged.items():
        found = examples(comparison, own.get(name, run_texts))
        if found:
            by_evaluator[name] = found
    return by_evaluator


def _reproduction(cfg: DictConfig, parts: Parts, run: RunDirectory) -> dict[str, Any]:
    """Return what is needed to repeat the run."""
    environment = run.read_environment()
    return {
        "command": environment.get("again", environment["command"]),  # runs of older versions have no "again"
        "model": parts.encoder.name,
        "data": cfg.data.path or sorted(cfg.data.sources),
        "data_fingerprint": parts.data.dataset.fingerprint,
        "pairs per step": cfg.data.batch_size,
        "learning rate": float(parts.trainer.optimizers[0].defaults["lr"]),
        "passes": _passes(parts),
        "seed": cfg.seed,
        "versions": {"finetune": environment["finetune"], "python": environment["python"], **environment["packages"]},
        "git": environment["finetune_git"] or environment["git"],
    }


def _passes(parts: Parts) -> float:
    """Return the number of passes over all pairs; a fraction if trainer.max_steps ended the training within one."""
    return round(parts.trainer.global_step / steps_per_epoch(parts.trainer, parts.data.batches_per_epoch), 2)

"""All that a finished run has to tell, as plain data for report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from finetune.analysis.data_facts import data_facts
from finetune.analysis.examples import examples
from finetune.data.settings import data_settings
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.forgetting import forgetting_data
from finetune.report.report_data import report_data
from finetune.runs.directory import RunDirectory
from finetune.training.early_end import early_end
from finetune.training.trainer import steps_per_epoch

if TYPE_CHECKING:
    from finetune.training.fit import Parts


def build_report(
    parts: Parts, run: RunDirectory, cfg: DictConfig, findings: Mapping[str, Comparison]
) -> dict[str, Any]:
    """Return the report of a run; `findings` are those of all evaluators, also of those that only watch.

    Beside the keys of `report_data`, each left out where there is nothing of it: `similarities`, `map`, `examples` by
    evaluator, `forgetting`; in `data` what the tuned model doubts; and `training`, its steps and how it ended.
    """
    judged = parts.judged(findings)
    report = report_data(
        run=run.name,
        model_path=str(run.model),
        evaluations=judged,
        data=_data_facts(parts, cfg, judged),
        notes=[*parts.data.dataset.notes, *parts.warnings],
        cost=parts.meter.facts(parts.trainer, parts.module),
        again=_again(parts, run, cfg),
        use=parts.encoder.use,
    )
    report["training"] = _training(parts)
    return report | _seen(parts, findings)


def _training(parts: Parts) -> dict[str, Any]:
    """Return how far the training came, why it ended early, and why the untouched model was kept, where that is so."""
    kept = (getattr(callback, "kept_untouched", None) for callback in parts.trainer.callbacks)  # type: ignore[attr-defined]
    return {
        "step": parts.trainer.global_step,
        "steps": parts.module.total_steps,
        "ended_early": early_end(parts.trainer, parts.module),
        "kept_untouched": next((sentence for sentence in kept if sentence), None),
    }


def _data_facts(parts: Parts, cfg: DictConfig, judged: Mapping[str, Comparison]) -> dict[str, Any]:
    """Return how much data there is, and what of it the tuned model contradicts."""
    facts = data_facts(parts.data.dataset, parts.data.tokens.facts(), parts.encoder.tokenizer, cfg.data.max_length)
    if parts.portrait is None:
        return facts
    own = parts.measure.takes()
    results = [comparison.after for name, comparison in judged.items() if name not in own]
    return facts | parts.portrait.doubts(results, data_settings(cfg))


def _seen(parts: Parts, findings: Mapping[str, Comparison]) -> dict[str, Any]:
    """Return what the report shows beside the metrics: similarities, map, examples, and what was forgotten."""
    found = parts.portrait.findings() if parts.portrait else {}
    takes, own = parts.measure.takes(), parts.data.dataset.items.named
    found["examples"] = {
        name: some
        for name, comparison in parts.judged(findings).items()
        if (some := examples(comparison, takes.get(name, own)))
    }
    if (watched := next(iter(parts.watched(findings).values()), None)) is not None:
        found["forgetting"] = forgetting_data(watched)
    return found


def _again(parts: Parts, run: RunDirectory, cfg: DictConfig) -> dict[str, Any]:
    """Return what it takes to do the run once more."""
    environment = run.read_environment()
    return {
        "command": environment.get("again", environment["command"]),  # older runs have none
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
    """Return how often all pairs were gone through; trainer.max_steps can end it within a pass."""
    return round(parts.trainer.global_step / steps_per_epoch(parts.trainer, parts.data.batches_per_epoch), 2)

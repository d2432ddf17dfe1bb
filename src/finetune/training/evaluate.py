"""Evaluation of one model without any training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from finetune.config.build import build
from finetune.data.holdout.eval_data import EvalData
from finetune.data.prompts import prompts_of
from finetune.data.settings import data_settings
from finetune.encoding.collectives import Collectives
from finetune.encoding.devices import device_of
from finetune.encoding.memory import tune_malloc
from finetune.evaluation.result import Result
from finetune.training.encoder import build_encoder
from finetune.training.evaluation_runner import EvalInputs, EvaluationRunner


def evaluate(
    cfg: DictConfig, evaluators: Mapping[str, Any], held: EvalData | None, own: Mapping[str, EvalData], label: str
) -> dict[str, Result]:
    """Return the result of each evaluator for the model of a checked config.

    `held` is the data of the evaluators without data of their own, `own` the data of the others, by their names.
    `label` is the name of the model in the progress.

    Raises:
        FinetuneError: the model is not found, there is nothing to evaluate, or an embedding is not finite.
    """
    device = device_of(cfg.trainer.accelerator)
    if device.type == "cpu":
        tune_malloc()
    all_data = [data for data in (held, *own.values()) if data is not None]
    encoder = build_encoder(cfg.model, all_data[0].items if all_data else None)
    max_length, cache = cfg.data.max_length, cfg.data.cache
    own_sources = {name: EvalInputs.prepare(data, encoder, max_length, cache) for name, data in own.items()}
    run_source = None
    if held is not None:
        run_source = EvalInputs.prepare(held, encoder, max_length, cache)
    prompts = prompts_of(data_settings(cfg))
    engine = build(cfg.engine, "engine")
    runner = EvaluationRunner(encoder, engine, max_length, run_source, own_sources, prompts)
    return runner.evaluate(evaluators, Collectives(device), label)

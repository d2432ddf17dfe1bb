"""One model, measured without any training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from finetune.config.build import build
from finetune.data.holdout.eval_data import EvalData
from finetune.data.prompts import prompts_of
from finetune.data.settings import data_settings
from finetune.encoding.collectives import Collectives
from finetune.encoding.memory import tune_malloc
from finetune.evaluation.result import Result
from finetune.models.encoder import Encoder
from finetune.training.evaluation_runner import EvaluationRunner, Source, sized


def evaluate(
    cfg: DictConfig, evaluators: Mapping[str, Any], held: EvalData | None, own: Mapping[str, EvalData], label: str
) -> dict[str, Result]:
    """Return what each evaluator found of the model that a checked config names.

    `held` is what the evaluators without a source of their own measure on, `own` the sources of the others, by their
    names; `label` is what to call the model.

    Raises:
        FinetuneError: the model cannot be had, there is nothing to be found, an embedding is no number.
    """
    device = device_of(cfg.trainer.accelerator)
    if device.type == "cpu":
        tune_malloc()
    some = next((one.items for one in (held, *own.values()) if one is not None), None)
    encoder: Encoder = build(cfg.model if some is None else sized(cfg.model, some), "model")
    length, cache = cfg.data.max_length, cfg.data.cache
    sources = {name: Source.of(one, encoder, length, cache) for name, one in own.items()}
    run = Source.of(held, encoder, length, cache) if held is not None else None
    prompts = prompts_of(data_settings(cfg))
    measure = EvaluationRunner(encoder, build(cfg.engine, "engine"), length, run, sources, prompts)
    return measure(evaluators, Collectives(device), label)


def device_of(accelerator: str) -> torch.device:
    """Return the first device of this kind; of `auto` the fastest that there is."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")

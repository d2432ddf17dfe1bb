"""What an export is measured on: the data that the run held out, or for other models data that ships with finetune."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from finetune.config.build import build
from finetune.config.compose import compose
from finetune.config.evaluators import brings_texts, evaluators_of, report_only
from finetune.console import say
from finetune.data.holdout.eval_data import EvalData
from finetune.data.load import load
from finetune.data.settings import data_settings
from finetune.errors import CheckFailed, FinetuneError
from finetune.evaluation.result import Result
from finetune.inference.build_encoder import InferenceSettings
from finetune.models.encoder import Encoder
from finetune.preflight.evaluators import load_sources
from finetune.runs.directory import RunDirectory
from finetune.training.evaluate import evaluate_encoder

# The evaluation of a model that no run is known of, by its kind; the others have no bundled data.
_DEFAULTS = {"text": "retrieval", "static": "retrieval", "pairs": "reranking"}


@dataclass(frozen=True)
class HeldOut:
    """Evaluators and their data: `held` of the run, and `own` of evaluators, by their names."""

    cfg: DictConfig
    evaluators: Mapping[str, Any]
    held: EvalData | None
    own: Mapping[str, EvalData]

    def evaluate(self, encoder: Encoder, label: str) -> dict[str, Result]:
        """Return the result of each evaluator for an encoder, on the CPU."""
        return evaluate_encoder(encoder, torch.device("cpu"), self.cfg, self.evaluators, self.held, self.own, label)


def load_held_out(run: RunDirectory | None, settings: InferenceSettings) -> HeldOut | None:
    """Return what a model is evaluated on; None if there is nothing for its kind.

    Raises:
        FinetuneError: the data of the run cannot be read.
    """
    if run is None and settings.kind not in _DEFAULTS:
        return None
    cfg = _config_of(run, settings)
    try:
        own, problems = load_sources(cfg)
        if problems:
            raise CheckFailed(problems)
        dataset = load(data_settings(cfg), cfg.seed)
    except FinetuneError as error:
        what = f"the export cannot be evaluated: {error}"
        raise FinetuneError(what, "Run it in the folder where the run was started, or add --no-evaluation.") from error
    nodes = {
        name: _without_baselines(node)
        for name, node in evaluators_of(cfg).items()
        if not report_only(node) and not brings_texts(node)
    }
    evaluators = {name: build(node, f"evaluation.{name}") for name, node in nodes.items()}
    if not evaluators:
        say("The run has no evaluator that an export could be measured with.")
    held = replace(dataset.held, problems=dataset.problems)
    return HeldOut(cfg, evaluators, held, {name: data for name, data in own.items() if name in evaluators})


def _config_of(run: RunDirectory | None, settings: InferenceSettings) -> DictConfig:
    if run is None:
        cfg = compose([f"evaluation={_DEFAULTS[settings.kind]}"])
    else:
        loaded = OmegaConf.load(run.config_path)
        assert isinstance(loaded, DictConfig)
        cfg = loaded
    if settings.max_length is not None:
        cfg.data.max_length = min(cfg.data.max_length, settings.max_length)
    return cfg


def _without_baselines(node: DictConfig) -> DictConfig:
    """Return an evaluator that does not compute BM25 again for every format."""
    if "bm25" not in node:
        return node
    node = node.copy()
    node.bm25 = False
    return node


def compared_as_trained(encoder: Encoder, settings: InferenceSettings) -> Encoder:
    """Return a copy of an encoder whose embeddings the evaluators compare as the folder declares: by their cosine."""
    compared: Any = copy.copy(encoder)
    compared.normalize = settings.similarity == "cosine" and settings.kind != "pairs"
    if hasattr(compared, "truncate"):
        compared.truncate = settings.truncate_dim
    return cast(Encoder, compared)

"""Everything that a run is made of, built from a checked config and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from torch import nn

from finetune.config.build import build, build_offered
from finetune.config.evaluators import evaluators_of, report_only
from finetune.data.batching.datamodule import RelationDataModule
from finetune.data.batching.mixing import BatchSettings
from finetune.data.dataset import Dataset
from finetune.data.holdout.eval_source import eval_sources
from finetune.data.prompts import prompts_of
from finetune.data.settings import Data, data_settings
from finetune.encoding.engine import Engine
from finetune.encoding.source import ItemSource
from finetune.encoding.teacher import teacher_embeddings
from finetune.losses.loss import check_width
from finetune.mining.inputs import MiningInputs, mining_inputs
from finetune.models.encoder import Encoder
from finetune.models.tuning import Tuning
from finetune.runs.directory import RunDirectory
from finetune.training.callbacks import MineNegatives, StatusWriter, StopOnSignal, TimeLimit, ordered
from finetune.training.cost import RunCost
from finetune.training.encoder import build_encoder
from finetune.training.evaluation_runner import EvalInputs, EvaluationRunner
from finetune.training.in_training_evaluator import InTrainingEvaluator
from finetune.training.losses import build_losses, layers_of, teacher_of
from finetune.training.module import EmbeddingModule
from finetune.training.negative_mining import NegativeMining
from finetune.training.snapshots import Snapshots
from finetune.training.trainer import build_trainer, total_steps

T = TypeVar("T")


@dataclass
class Parts:
    """The parts of a run."""

    encoder: Encoder
    tuning: Tuning
    data_settings: Data
    data: RelationDataModule
    engine: Engine
    module: EmbeddingModule
    trainer: pl.Trainer
    stop: StopOnSignal
    evaluators: dict[str, Any]
    report_only: dict[str, Any]  # evaluators that are in the report, and by which nothing is decided
    runner: EvaluationRunner
    negatives: NegativeMining | None
    snapshots: Snapshots | None
    cost: RunCost
    warnings: list[str] = field(default_factory=list)  # from before the training, for the report too

    def without_report_only(self, by_evaluator: Mapping[str, T]) -> dict[str, T]:
        """Return the values of those evaluators that the run is judged by."""
        return {name: value for name, value in by_evaluator.items() if name not in self.report_only}

    def of_report_only(self, by_evaluator: Mapping[str, T]) -> dict[str, T]:
        """Return the values of the other evaluators, in the order of the config."""
        return {name: by_evaluator[name] for name in self.report_only if name in by_evaluator}


def assemble(cfg: DictConfig, dataset: Dataset, run: RunDirectory) -> Parts:
    """Build the parts of a run.

    The order decides which random numbers the weights of new layers get: the encoder, its adapters, then the losses.

    Raises:
        FinetuneError: the model cannot be loaded, or the trainer does not work on this machine.
        CheckFailed: settings that a loss refuses.
    """
    encoder = build_encoder(cfg.model, dataset.items)
    tuning: Tuning = build(cfg.tuning, "tuning")
    tuning.apply(encoder)
    settings = data_settings(cfg)
    dataset, mining = _mining_inputs(cfg, settings, dataset)
    data = _build_data(cfg, settings, dataset, encoder)
    engine: Engine = build(cfg.engine, "engine")
    evaluators, report_only_evaluators = _build_evaluators(cfg)
    runner = _build_runner(cfg, settings, data, encoder, engine)
    negatives = _build_negatives(cfg, mining, data, runner)
    stop = StopOnSignal(run.path)
    trainer = _build_trainer(cfg, run, data, stop, InTrainingEvaluator(evaluators, runner, dataset), negatives)
    losses = _build_losses(cfg, settings, dataset, encoder)
    _add_teacher(cfg, data, losses, trainer)
    module = EmbeddingModule(
        encoder,
        losses,
        engine,
        cfg.optimizer,
        build(cfg.scheduler, "scheduler"),
        total_steps(trainer, data.batches_per_epoch),
        tuning.lr_multipliers(encoder),
    )
    return Parts(
        encoder,
        tuning,
        settings,
        data,
        engine,
        module,
        trainer,
        stop,
        evaluators,
        report_only_evaluators,
        runner,
        negatives,
        _build_snapshots(data, encoder, runner) if evaluators else None,
        RunCost(trainer.strategy.root_device),
    )


def _build_data(cfg: DictConfig, settings: Data, dataset: Dataset, encoder: Encoder) -> RelationDataModule:
    max_length = cfg.data.max_length
    return RelationDataModule(
        dataset,
        encoder.tokenizer,
        BatchSettings.from_data(settings),
        max_length,
        cfg.seed,
        cfg.data.cache,
        encoder.prepare,
        encoder.pairing(max_length),
    )


def _build_evaluators(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the evaluators that the run is judged by, and those that are only reported, by their names."""
    evaluators: dict[str, Any] = {}
    report_only_evaluators: dict[str, Any] = {}
    for name, node in evaluators_of(cfg).items():
        evaluator = build(node, f"evaluation.{name}")
        if report_only(node):
            report_only_evaluators[name] = evaluator
        else:
            evaluators[name] = evaluator
    return evaluators, report_only_evaluators


def _build_runner(
    cfg: DictConfig, settings: Data, data: RelationDataModule, encoder: Encoder, engine: Engine
) -> EvaluationRunner:
    """Return what runs evaluators, with the data of the run and what evaluators have of their own."""
    max_length, cache = cfg.data.max_length, cfg.data.cache
    own = {
        name: EvalInputs.prepare(source.load(), encoder, max_length, cache)
        for name, source in eval_sources(cfg).items()
    }
    held = data.dataset.held
    run = EvalInputs(held, ItemSource(held.items, data.tokens, data.non_text))
    return EvaluationRunner(encoder, engine, max_length, run, own, prompts_of(settings))


def _build_trainer(
    cfg: DictConfig,
    run: RunDirectory,
    data: RelationDataModule,
    stop: StopOnSignal,
    evaluator: InTrainingEvaluator,
    negatives: NegativeMining | None,
) -> pl.Trainer:
    """Return Lightning's trainer with the callbacks and loggers of the config, and the callbacks of every run."""
    # A logger or callback gets these if it has parameters of their names.
    offered = {"directory": str(run.path), "save_dir": str(run.path)}
    callbacks = [
        build_offered(node, f"callbacks.{name}", {**offered, "evaluator": evaluator})
        for name, node in cfg.callbacks.items()
    ]
    loggers = [build_offered(node, f"logger.{name}", offered) for name, node in cfg.logger.items()]
    max_time = OmegaConf.to_container(cfg.trainer, resolve=True).get("max_time")  # type: ignore[union-attr]
    if negatives is not None:
        callbacks.append(MineNegatives(negatives))
    all_callbacks = ordered([TimeLimit(max_time), StatusWriter(run.path), *callbacks, stop])
    timeout = timedelta(minutes=cfg.collective_timeout)
    return build_trainer(cfg.trainer, run, data.batches_per_epoch, all_callbacks, loggers, timeout)


def _mining_inputs(cfg: DictConfig, settings: Data, dataset: Dataset) -> tuple[Dataset, MiningInputs | None]:
    """Return the data set with the items that negatives are mined from, and these; None if nothing is mined."""
    if not cfg.negatives:
        return dataset, None
    inputs = mining_inputs(build(cfg.negatives, "negatives"), dataset, settings)
    return inputs.dataset, inputs


def _build_negatives(
    cfg: DictConfig, inputs: MiningInputs | None, data: RelationDataModule, runner: EvaluationRunner
) -> NegativeMining | None:
    """Return what mines the hard negatives of the run, None if nothing is to be mined."""
    if inputs is None:
        return None
    identity = None
    if cfg.data.cache:
        identity = (OmegaConf.to_yaml(cfg.model, resolve=True), str(cfg.engine.embed_precision))
    settings = build(cfg.negatives, "negatives")
    return NegativeMining(settings, inputs, data, runner, cfg.seed, cfg.data.max_length, identity)


def _build_losses(cfg: DictConfig, settings: Data, dataset: Dataset, encoder: Encoder) -> nn.ModuleList:
    """Return the loss of each source, and let the encoder return the layers that these need."""
    losses = build_losses(cfg, dataset, encoder.width, settings.one_source_per_batch)
    for loss in losses:
        check_width(loss, encoder.width)
    encoder.set_output_layers(layers_of(losses))
    return losses


def _add_teacher(cfg: DictConfig, data: RelationDataModule, losses: nn.ModuleList, trainer: pl.Trainer) -> None:
    """Add the embeddings of the losses' teacher to the batches, if they have one."""
    teacher = teacher_of(losses)
    if teacher is not None:
        device = trainer.strategy.root_device
        items, max_length = data.dataset.items, cfg.data.max_length
        data.teach(teacher_embeddings(teacher, items, max_length, device, cfg.data.cache))


def _build_snapshots(data: RelationDataModule, encoder: Encoder, runner: EvaluationRunner) -> Snapshots | None:
    if encoder.scores_pairs:
        return None  # it has no embeddings
    cost_N = np.full(len(data.dataset.items), encoder.other_cost)
    cost_N[: len(data.tokens)] = data.tokens.lengths
    return Snapshots.of(data.dataset, runner, cost_N)

"""One run, in the order in which things happen: build, evaluate, train, evaluate, save, report."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.profilers import PassThroughProfiler, SimpleProfiler

import finetune
from finetune.config.build import build, build_offered
from finetune.config.commands import resume_command
from finetune.config.evaluators import evaluators_of, report_only
from finetune.console import console, say
from finetune.data.batching.datamodule import RelationDataModule
from finetune.data.batching.mixing import BatchSettings
from finetune.data.dataset import Dataset
from finetune.data.holdout.eval_source import eval_sources
from finetune.data.prompts import prompts_of
from finetune.data.settings import data_settings
from finetune.encoding.collectives import Collectives
from finetune.encoding.engine import Engine
from finetune.encoding.memory import tune_malloc
from finetune.encoding.teacher import embedded
from finetune.errors import Interrupted, RunError
from finetune.evaluation.comparison import Comparison, compare
from finetune.evaluation.result import Result
from finetune.export.card import CardFacts, model_card
from finetune.export.folder import save
from finetune.losses.loss import tell_width
from finetune.models.encoder import Encoder
from finetune.models.tuning import Tuning
from finetune.report.content import outcome
from finetune.report.report_data import counts_in_words
from finetune.report.terminal import metrics_table
from finetune.report.write import try_to_write_report
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory
from finetune.training.build_report import build_report
from finetune.training.callbacks import (
    Checkpoint,
    StatusWriter,
    StopOnSignal,
    TimeLimit,
    check_metrics,
    finish,
    ordered,
    scores_of_untouched,
)
from finetune.training.callbacks.time_left import seconds_after
from finetune.training.cost import RunCost
from finetune.training.early_end import early_end, is_out_of_time
from finetune.training.evaluation_runner import EvaluationRunner, Source, sized
from finetune.training.fsdp import unshard
from finetune.training.in_training_evaluator import InTrainingEvaluator, in_training
from finetune.training.inverted_scores import warn_of_inverted_scores
from finetune.training.loggers import ended
from finetune.training.losses import build_losses, layers_of, teacher_of
from finetune.training.module import EmbeddingModule
from finetune.training.non_finite_loss import NonFiniteLossError, described
from finetune.training.resume import begin
from finetune.training.snapshots import Snapshots
from finetune.training.trainer import build_trainer, total_steps

T = TypeVar("T")


@dataclass
class Parts:
    """Everything a run is made of, built."""

    encoder: Encoder
    tuning: Tuning
    data: RelationDataModule
    engine: Engine
    module: EmbeddingModule
    trainer: pl.Trainer
    stop: StopOnSignal
    evaluators: dict[str, Any]
    watchers: dict[str, Any]  # evaluators that no run is judged by
    measure: EvaluationRunner
    portrait: Snapshots | None
    meter: RunCost
    warnings: list[str] = field(default_factory=list)  # found before the training, for the report too

    def judged(self, found: Mapping[str, T]) -> dict[str, T]:
        """Return what the run is judged by of what evaluators found, by their names."""
        return {name: one for name, one in found.items() if name not in self.watchers}

    def watched(self, found: Mapping[str, T]) -> dict[str, T]:
        """Return the rest of it, in the order of the config."""
        return {name: found[name] for name in self.watchers if name in found}


def fit(cfg: DictConfig, dataset: Dataset, run: RunDirectory, checkpoint: Path | None = None) -> None:
    """Run one checked config to its end; everything it makes lands in `run`.

    `checkpoint` is where to go on from. In a run of several processes every process calls this; the first one says
    where, measures, saves and reports.

    Raises:
        FinetuneError: the model cannot be had, the disk is full, the loss is no number, somebody interrupted.
    """
    _quieten()
    pl.seed_everything(cfg.seed, verbose=False)
    parts = assemble(cfg, dataset, run)
    with ended(parts.trainer.loggers):
        _live(cfg, parts, run, checkpoint)


def _live(cfg: DictConfig, parts: Parts, run: RunDirectory, checkpoint: Path | None) -> None:
    """Evaluate, train, evaluate, save and report what was built."""
    first, together = parts.trainer.is_global_zero, Collectives.of(parts.trainer)
    together.begin(parts.trainer, parts.module)  # the model is measured before the training begins
    checkpoint = together.broadcast(checkpoint)
    step = 0
    if first:
        # Not sooner: what could not be built (a device that is not there) leaves no directory behind.
        say(f"run directory: {run.path}")
        step = begin(parts.trainer, run, checkpoint, parts.module.total_steps)
        run.write_status("running", step=step)
    if parts.trainer.strategy.root_device.type == "cpu":
        tune_malloc()
    before = _evaluate_before(parts, log=checkpoint is None)
    if not parts.encoder.scores_pairs:  # whose scores mean nothing before it is trained
        parts.warnings += warn_of_inverted_scores(parts.measure, parts.data.dataset, before, together)
    _judge_untouched(parts, before)
    parts.meter.begin()
    try:
        _train(parts, run, checkpoint)
    finally:
        parts.meter.end()
        if first:
            # Whatever ended it: the status that is written for that takes the step from here. A disk that is full
            # for this too must not hide what it was full for first.
            with contextlib.suppress(RunError):
                left = round(seconds_after(parts.trainer, parts.module))
                run.write_status("running", step=max(step, parts.trainer.global_step), eta_seconds=left)
    if first:
        _tell_early_end(parts, run)
    unshard(parts.encoder)
    finish(parts.trainer, parts.module)
    after = _evaluate(parts, "after", log=True)
    if first:
        comparisons = {name: compare(before[name], after[name]) for name in after}
        _save_model(cfg, parts, run, parts.judged(comparisons))
        _report(parts, run, cfg, comparisons)


def _evaluate_before(parts: Parts, *, log: bool) -> dict[str, Result]:
    """Evaluate the untouched model, and note how long that takes, for the time left."""
    start, module = time.monotonic(), parts.module
    found = _evaluate(parts, "before", log=log)
    if found:
        module.seconds_of_evaluation = time.monotonic() - start
        names = in_training(parts.evaluators)
        module.seconds_in_training = sum(result.seconds for name, result in found.items() if name in names)
    return found


def _judge_untouched(parts: Parts, before: Mapping[str, Result]) -> None:
    """Check the metrics that callbacks go by, and tell those that look for the best what the untouched model has."""
    names = in_training(parts.evaluators)
    means = {name: result.means for name, result in before.items() if name in names}
    scores = Collectives.of(parts.trainer).broadcast(scores_of_untouched(means))
    if not scores:
        return
    check_metrics(parts.trainer, scores)
    for callback in parts.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Checkpoint):
            callback.judge_untouched(scores)


def _tell_early_end(parts: Parts, run: RunDirectory) -> None:
    """Say why the training ended before its last step, if it did; the status keeps it, whatever is written later."""
    trainer, module = parts.trainer, parts.module
    if (reason := early_end(trainer, module)) is None:
        return
    out_of_time = is_out_of_time(trainer, module)
    say(reason)
    if out_of_time:
        say(f"To train on later: {resume_command(run.path)} trainer.max_time=null")
    run.write_status(
        "running", reason, eta_seconds=round(seconds_after(trainer, module)), cause="max_time" if out_of_time else None
    )


def assemble(cfg: DictConfig, dataset: Dataset, run: RunDirectory) -> Parts:
    """Build encoder, data, module and trainer from the config."""
    # A logger or callback that wants to know where the run lives says so by a parameter of that name.
    offered = {"directory": str(run.path), "save_dir": str(run.path)}
    encoder: Encoder = build(sized(cfg.model, dataset.items), "model")
    tuning: Tuning = build(cfg.tuning, "tuning")
    tuning.apply(encoder)
    settings = data_settings(cfg)
    data = RelationDataModule(
        dataset,
        encoder.tokenizer,
        BatchSettings.from_data(settings),
        cfg.data.max_length,
        cfg.seed,
        cfg.data.cache,
        encoder.prepare,
        encoder.pairing(cfg.data.max_length),
    )
    engine = build(cfg.engine, "engine")
    stop = StopOnSignal(run.path)
    nodes = evaluators_of(cfg)
    built = {name: build(node, f"evaluation.{name}") for name, node in nodes.items()}
    watchers = {name: evaluator for name, evaluator in built.items() if report_only(nodes[name])}
    evaluators = {name: evaluator for name, evaluator in built.items() if name not in watchers}
    own = {
        name: Source.of(source.load(), encoder, cfg.data.max_length, cfg.data.cache)
        for name, source in eval_sources(cfg).items()
    }
    run_source = Source(dataset.held, data.tokens, data.non_text)
    measure = EvaluationRunner(encoder, engine, cfg.data.max_length, run_source, own, prompts_of(settings))
    given = offered | {"gauge": InTrainingEvaluator(evaluators, measure, dataset)}
    callbacks = [build_offered(node, f"callbacks.{name}", given) for name, node in cfg.callbacks.items()]
    loggers = [build_offered(node, f"logger.{name}", offered) for name, node in cfg.logger.items()]
    limit = TimeLimit(_plain(cfg.trainer).get("max_time"))
    watching = ordered([limit, StatusWriter(run.path), *callbacks, stop])
    trainer = build_trainer(cfg.trainer, run, data.batches_per_epoch, watching, loggers)
    steps = total_steps(trainer, data.batches_per_epoch)
    losses = build_losses(cfg, dataset, encoder.width, settings.one_source_per_batch)
    for loss in losses:
        tell_width(loss, encoder.width)
    encoder.give_layers(layers_of(losses))
    if (teacher := teacher_of(losses)) is not None:
        device = trainer.strategy.root_device
        data.teach(embedded(teacher, dataset.items, cfg.data.max_length, device, cfg.data.cache))
    module = EmbeddingModule(
        encoder,
        losses,
        engine,
        cfg.optimizer,
        build(cfg.scheduler, "scheduler"),
        steps,
        tuning.rates(encoder),
    )
    portrait = _portrait(dataset, data, encoder, measure) if evaluators else None
    meter = RunCost(trainer.strategy.root_device)
    return Parts(encoder, tuning, data, engine, module, trainer, stop, evaluators, watchers, measure, portrait, meter)


def _plain(node: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def _portrait(
    dataset: Dataset, data: RelationDataModule, encoder: Encoder, measure: EvaluationRunner
) -> Snapshots | None:
    if encoder.scores_pairs:
        return None  # it has no embeddings to look at
    cost_N = np.full(len(dataset.items), encoder.other_cost)
    cost_N[: len(data.tokens)] = data.tokens.lengths
    return Snapshots.of(dataset, measure, cost_N)


def _train(parts: Parts, run: RunDirectory, checkpoint: Path | None) -> None:
    if parts.engine.compile:
        parts.encoder.compile_backbone(parts.trainer.strategy.root_device)
    try:
        parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    except NonFiniteLossError as error:
        if parts.trainer.is_global_zero:
            batch = described(error, parts.data.train_dataloader(), parts.data.dataset)
            write_json_atomically(run.diverged_path, batch)
        raise
    if parts.stop.stopped_by:
        raise Interrupted(
            f"Stopped by {parts.stop.stopped_by} at step {parts.trainer.global_step} of {parts.module.total_steps}.",
            "The checkpoint is saved.",
        )


def _evaluate(parts: Parts, when: str, *, log: bool) -> dict[str, Result]:
    together = Collectives.of(parts.trainer)
    if parts.portrait:
        parts.portrait.begin(when)
    results = parts.measure(parts.evaluators, together, when)
    if parts.portrait:
        parts.portrait.end(when, together)
    for name, result in results.items():
        for logger in parts.trainer.loggers if log else ():
            logger.log_metrics(
                {f"{name}/{when}/{metric}": value for metric, value in result.means.items()},
                step=parts.trainer.global_step - 1,
            )
    return results | parts.measure(parts.watchers, together, when)


def _save_model(cfg: DictConfig, parts: Parts, run: RunDirectory, comparisons: Mapping[str, Comparison]) -> None:
    encoder = parts.encoder.cpu().float().eval()
    parts.tuning.merge(encoder)
    rows = [row for comparison in comparisons.values() for row in comparison.rows]
    card = model_card(
        CardFacts(
            run=run.name,
            base_model=encoder.name,
            command=run.read_environment()["command"],
            pairs=len(parts.data.dataset.train),
            about=encoder.about(cfg.data.max_length),
            use=encoder.use,
            results=[
                (row.metric, row.change.mean_before, row.change.mean_after, row.change.low, row.change.high)
                for row in rows
            ],
            version=finetune.__version__,
            data=", ".join(map(_public_name, parts.data.dataset.sources)),
            evaluated_on=[
                f"{_public_name(found.after.name)} ({counts_in_words(found.after.counts)})"
                for found in comparisons.values()
            ],
            prompts=parts.data.dataset.prompts,
        )
    )
    save(encoder, run.model, cfg.data.max_length, card, parts.data.dataset.prompts)


def _public_name(name: str) -> str:
    """What data is called for others, to whom the folders of this machine say nothing."""
    path = Path(name).expanduser()
    return path.name if path.exists() else name


def _report(parts: Parts, run: RunDirectory, cfg: DictConfig, findings: Mapping[str, Comparison]) -> None:
    report = build_report(parts, run, cfg, findings)
    write_json_atomically(run.report_data_path, report)
    written = try_to_write_report(run)
    _say_profile(parts, run)
    for line in outcome(report):
        if line != report["training"]["ended_early"]:  # said when it ended
            say(line, style="bold yellow")
    for name, part in report["evaluations"].items():
        console.print(metrics_table(name, part))
    for name, comparison in parts.watched(findings).items():
        say(f"{name}, on {comparison.after.name}: {comparison.verdict}")
    say(f"model:  {run.model}")
    say(f"report: {run.report_page_path if written else run.report_data_path}")


def _say_profile(parts: Parts, run: RunDirectory) -> None:
    """Print where the profile is, and a short one whole."""
    profiler = parts.trainer.profiler  # type: ignore[attr-defined]
    if isinstance(profiler, PassThroughProfiler):
        return
    for path in sorted(run.path.glob("fit-profile*.txt")):
        if isinstance(profiler, SimpleProfiler):
            say(path.read_text(encoding="utf-8"))
        say(f"profile: {path}")


def _quieten() -> None:
    # Lightning reports what the run says itself, and its handlers would print every line twice under Hydra.
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")

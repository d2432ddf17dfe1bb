"""One run, in this order: build the parts, evaluate, train, evaluate, save the model, write the report."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
from omegaconf import DictConfig

from finetune import signals
from finetune.config.commands import resume_command
from finetune.console import say
from finetune.data.dataset import Dataset
from finetune.encoding.collectives import Collectives
from finetune.encoding.memory import tune_malloc
from finetune.encoding.sharding import unshard
from finetune.errors import Interrupted, RunError
from finetune.evaluation.comparison import compare
from finetune.evaluation.result import Result
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory
from finetune.training.assembly import Parts, assemble
from finetune.training.callbacks import early_end, finish, is_out_of_time, judge_untouched, seconds_after_training
from finetune.training.in_training_evaluator import in_training
from finetune.training.inverted_scores import warn_of_inverted_scores
from finetune.training.loggers import close_trackers
from finetune.training.non_finite_loss import NonFiniteLossError, batch_facts
from finetune.training.outputs import save_model, write_run_report
from finetune.training.resume import prepare_start
from finetune.training.trainer import silence_lightning


def fit(cfg: DictConfig, dataset: Dataset, run: RunDirectory, checkpoint: Path | None = None) -> None:
    """Do one checked run; all of its output is written into the directory `run`.

    `checkpoint` is where to resume from. With several processes every process calls this; the first one chooses the
    checkpoint, runs the evaluators, saves and reports.

    Raises:
        FinetuneError: the model cannot be loaded, the disk is full, the loss is not finite, or the run is interrupted.
    """
    silence_lightning()
    pl.seed_everything(cfg.seed, verbose=False)
    parts = assemble(cfg, dataset, run)
    with close_trackers(parts.trainer.loggers):
        _run(cfg, parts, run, checkpoint)


def _run(cfg: DictConfig, parts: Parts, run: RunDirectory, checkpoint: Path | None) -> None:
    is_first_process = parts.trainer.is_global_zero
    collectives = Collectives.from_trainer(parts.trainer)
    collectives.init_process_group(parts.trainer, parts.module)
    checkpoint = collectives.broadcast(checkpoint)
    step = 0
    if is_first_process:
        # Printed only after everything is built: a run that cannot be built leaves no directory.
        say(f"run directory: {run.path}")
        step = prepare_start(parts.trainer, run, checkpoint, parts.module.total_steps)
        run.write_status("running", step=step)
    if parts.trainer.strategy.root_device.type == "cpu":
        tune_malloc()

    before = _evaluate_before(parts, collectives, log=checkpoint is None)
    if parts.negatives is not None and checkpoint is None:  # a checkpoint has those that were in use
        parts.negatives.update(collectives, step=0)
    _train(parts, run, checkpoint, step)
    if is_first_process:
        _report_early_end(parts, run)
    unshard(parts.encoder)
    finish(parts.trainer, parts.module)
    after = _evaluate(parts, collectives, "after", log=True)

    if is_first_process:
        comparisons = {name: compare(before[name], after[name]) for name in after}
        save_model(cfg, parts, run, parts.without_report_only(comparisons))
        write_run_report(cfg, parts, run, comparisons)


def _evaluate_before(parts: Parts, collectives: Collectives, *, log: bool) -> dict[str, Result]:
    """Evaluate the untouched model, time it, and check what depends on its scores."""
    start, module = time.monotonic(), parts.module
    results = _evaluate(parts, collectives, "before", log=log)
    repeated = {name: result for name, result in results.items() if name in in_training(parts.evaluators)}
    if results:
        module.seconds_per_evaluation = time.monotonic() - start
        module.seconds_per_training_evaluation = sum(result.seconds for result in repeated.values())
    if not parts.encoder.scores_pairs:  # an untrained head of a cross-encoder gives meaningless scores
        parts.warnings += warn_of_inverted_scores(parts.runner, parts.data.dataset, results, collectives)
    judge_untouched(parts.trainer, {name: result.means for name, result in repeated.items()}, collectives)
    return results


def _evaluate(parts: Parts, collectives: Collectives, when: str, *, log: bool) -> dict[str, Result]:
    """Return the results of all evaluators in the first process; `when` is `before` or `after` the training."""
    if parts.snapshots is not None:
        parts.snapshots.start(when)
    results = parts.runner.evaluate(parts.evaluators, collectives, when)
    if parts.snapshots is not None:
        parts.snapshots.stop(when, collectives)
    if log:
        _log(parts.trainer, results, when)
    return results | parts.runner.evaluate(parts.report_only, collectives, when)


def _log(trainer: pl.Trainer, results: Mapping[str, Result], when: str) -> None:
    for name, result in results.items():
        metrics = {f"{name}/{when}/{metric}": value for metric, value in result.means.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step - 1)


def _train(parts: Parts, run: RunDirectory, checkpoint: Path | None, step: int) -> None:
    """Train from `step` on, to the end or until a signal.

    Raises:
        Interrupted: a signal stopped the training; a checkpoint is saved.
        FinetuneError: the loss is not finite, or the disk is full.
    """
    trainer = parts.trainer
    parts.cost.start_training()
    try:
        if parts.engine.compile:
            parts.encoder.compile_backbone(trainer.strategy.root_device)
        trainer.fit(parts.module, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    except NonFiniteLossError as error:
        if trainer.is_global_zero:
            facts = batch_facts(error, parts.data.train_dataloader(), parts.data.dataset)
            write_json_atomically(run.diverged_path, facts)
        raise
    finally:
        parts.cost.end_training()
        if trainer.is_global_zero:
            # Also after an error, whose status takes the step from here. If this fails too (a full disk), the first
            # error is the one to report.
            with contextlib.suppress(RunError):
                left = round(seconds_after_training(trainer, parts.module))
                run.write_status("running", step=max(step, trainer.global_step), eta_seconds=left)
    if parts.stop.stopped_by:
        what = f"Stopped by {parts.stop.stopped_by} at step {trainer.global_step} of {parts.module.total_steps}"
        if parts.stop.stopped_by == signals.display_name(signal.SIGTERM):
            what += ": it was cancelled, or the system ended it"
        raise Interrupted(f"{what}.", "The checkpoint is saved.")


def _report_early_end(parts: Parts, run: RunDirectory) -> None:
    """Print why the training ended before its last step, if it did, and store it in the status."""
    trainer, module = parts.trainer, parts.module
    reason = early_end(trainer, module)
    if reason is None:
        return
    say(reason)
    cause: Literal["max_time"] | None = None
    if is_out_of_time(trainer, module):
        cause = "max_time"
        say(f"To train on later: {resume_command(run.path)} trainer.max_time=null")
    run.write_status("running", reason, eta_seconds=round(seconds_after_training(trainer, module)), cause=cause)

"""Where a run starts: at step 0, or at a checkpoint; and what a checkpoint stores for that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from finetune.console import say
from finetune.runs.checkpoints import step_and_metrics
from finetune.runs.directory import RunDirectory


def prepare_start(trainer: Trainer, run: RunDirectory, checkpoint: Path | None, total_steps: int) -> int:
    """Remove what an earlier process wrote after the start, and return the step to start from; first process only.

    Raises:
        RunError: a file cannot be read, written or removed.
    """
    if checkpoint is None:
        run.saved.remove_after(-1)
        run.remove_metrics_after(-1)
        return 0
    step, metrics = step_and_metrics(checkpoint)
    say(f"resuming from step {step}: {checkpoint}")
    run.saved.remove_after(step)
    run.remove_metrics_after(step)
    logged = {name for row in run.read_metrics() if row.get("step") == step for name in row}
    is_due = step % trainer.log_every_n_steps == 0 or step >= total_steps  # type: ignore[attr-defined]
    if "loss" not in logged and is_due:
        # The process was killed after it saved the checkpoint and before it logged the metrics of that step.
        for logger in trainer.loggers:
            logger.log_metrics({name: metrics[name] for name in metrics.keys() - logged}, step=step - 1)
    return step


def fix_progress(loops: dict[str, Any], loader: Mapping[str, int], batches: int, step: int) -> None:
    """Correct the epoch and batch counts in the `loops` of a checkpoint that is saved at the end of a batch.

    After a resume from the end of an epoch, Lightning counts differently until the next epoch, and a run that is
    resumed from a checkpoint of that time repeats batches. So the counts are set to those of an uninterrupted run.

    `loader` is the state of the loader after that batch; `batches` are those of an epoch, `step` the optimizer steps.
    """
    fit_loop, epoch, position = loops["fit_loop"], loader["epoch"], loader["position"]
    for before, scope in ((0, "current"), (epoch * batches, "total")):
        done = before + position
        fit_loop["epoch_progress"][scope] = _counts(epoch + 1, epoch + 1, epoch, epoch)
        fit_loop["epoch_loop.batch_progress"][scope] = _counts(done, done, done, done - 1)
    fit_loop["epoch_loop.batch_progress"]["is_last_batch"] = position == batches
    # Lightning increments this after the hook in which the checkpoint is saved.
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1


def _counts(ready: int, started: int, processed: int, completed: int) -> dict[str, int]:
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}

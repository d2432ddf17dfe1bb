"""Where a run begins, or goes on: what is past that place is taken away."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer

from finetune.console import say
from finetune.runs.checkpoints import step_and_metrics
from finetune.runs.directory import RunDirectory


def begin(trainer: Trainer, run: RunDirectory, checkpoint: Path | None, total_steps: int) -> int:
    """Return the step to resume from, 0 without a checkpoint; to be called by the first process alone.

    Raises:
        RunError: the system refuses.
    """
    if checkpoint is None:
        run.saved.remove_after(-1)
        run.remove_metrics_after(-1)
        return 0
    step, numbers = step_and_metrics(checkpoint)
    say(f"going on from step {step}: {checkpoint}")
    run.saved.remove_after(step)
    run.remove_metrics_after(step)
    written = {name for record in run.read_metrics() if record.get("step") == step for name in record}
    is_due = step % trainer.log_every_n_steps == 0 or step >= total_steps  # type: ignore[attr-defined]
    if "loss" not in written and is_due:
        # The process was killed after it had saved the step, and before it wrote its line.
        for logger in trainer.loggers:
            logger.log_metrics({name: numbers[name] for name in numbers.keys() - written}, step=step - 1)
    return step

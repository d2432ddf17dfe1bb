"""Lightning's counts of epochs and batches in a checkpoint, as those of a run that was never interrupted.

After it has gone on from the end of an epoch, Lightning counts in another way until the next, and who goes on
from a checkpoint of then repeats batches. So a checkpoint is given what follows from where the loader stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fix_progress(loops: dict[str, Any], place: Mapping[str, int], batches: int, step: int) -> None:
    """Correct the `loops` of a checkpoint that is saved at the end of a batch.

    `place` is the loader's, after that batch; `batches` are those of an epoch, `step` the optimizer steps so far.
    """
    fit_loop, epoch, position = loops["fit_loop"], place["epoch"], place["position"]
    for before, scope in ((0, "current"), (epoch * batches, "total")):
        done = before + position
        fit_loop["epoch_progress"][scope] = _counts(epoch + 1, epoch + 1, epoch, epoch)
        fit_loop["epoch_loop.batch_progress"][scope] = _counts(done, done, done, done - 1)
    fit_loop["epoch_loop.batch_progress"]["is_last_batch"] = position == batches
    # Counted up behind the hook in which it is saved.
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1


def _counts(ready: int, started: int, processed: int, completed: int) -> dict[str, int]:
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}

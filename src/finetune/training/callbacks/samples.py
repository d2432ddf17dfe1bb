"""Embeddings of a few items as they change, in files that projectors read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning import Callback, Trainer

from finetune.config.types import PositiveInt
from finetune.runs.atomic import explained, write_text_atomically
from finetune.training.callbacks.order import CallbackOrder, every
from finetune.training.in_training_evaluator import InTrainingEvaluator


class SampleEmbeddings(Callback):
    """Writes the embeddings of `items` items every `every_n_steps` optimizer steps, always of the same ones.

    Into `samples/step-00000100/`: `vectors.tsv`, an embedding a line, and `metadata.tsv`, the text of each, as the
    TensorFlow projector (https://projector.tensorflow.org) and TensorBoard read them. `gauge` and `directory` are given
    by the run.
    """

    place: ClassVar[int] = CallbackOrder.MEASURES

    def __init__(
        self,
        gauge: InTrainingEvaluator,
        every_n_steps: PositiveInt = 500,
        items: PositiveInt = 200,
        directory: str | None = None,
    ) -> None:
        self.every_n_steps, self.items = every_n_steps, items
        self._gauge = gauge
        self._folder = Path(directory or ".") / "samples"

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Write if it is time."""
        if not every(trainer, module, batch_idx, self.every_n_steps):
            return
        items_N = self._gauge.some_items(self.items)
        emb_ND = self._gauge.embeddings(trainer, module, items_N)
        if trainer.is_global_zero:
            folder = self._folder / f"step-{trainer.global_step:08d}"
            with explained(f"make the folder {folder}"):
                folder.mkdir(parents=True, exist_ok=True)
            lines = ("\t".join(f"{value:.6g}" for value in row) for row in emb_ND)
            write_text_atomically(folder / "vectors.tsv", "".join(f"{line}\n" for line in lines))
            texts = (" ".join(text.split()) for text in self._gauge.texts(items_N))  # a tab would be another column
            write_text_atomically(folder / "metadata.tsv", "".join(f"{text}\n" for text in texts))

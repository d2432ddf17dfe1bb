"""Embeddings of a few items during the training, in files for embedding projectors."""

from __future__ import annotations

from collections.abc import Iterable
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
    TensorFlow projector (https://projector.tensorflow.org) and TensorBoard read them. `evaluator` and `directory` are
    provided by the run.
    """

    order: ClassVar[int] = CallbackOrder.MEASURES

    def __init__(
        self,
        evaluator: InTrainingEvaluator,
        every_n_steps: PositiveInt = 500,
        items: PositiveInt = 200,
        directory: str | None = None,
    ) -> None:
        self.every_n_steps, self.items = every_n_steps, items
        self._evaluator = evaluator
        self._folder = Path(directory or ".") / "samples"

    def on_train_batch_end(self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        """Write if it is due."""
        if not every(trainer, module, batch_idx, self.every_n_steps):
            return
        items_N = self._evaluator.some_items(self.items)
        emb_ND = self._evaluator.embeddings(trainer, module, items_N)
        if trainer.is_global_zero:
            folder = self._folder / f"step-{trainer.global_step:08d}"
            with explained(f"make the folder {folder}"):
                folder.mkdir(parents=True, exist_ok=True)
            vectors = ("\t".join(f"{value:.6g}" for value in row) for row in emb_ND)
            _write_lines(folder / "vectors.tsv", vectors)
            # Without tabs and line ends, which separate columns and rows.
            texts = (" ".join(text.split()) for text in self._evaluator.texts(items_N))
            _write_lines(folder / "metadata.tsv", texts)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_text_atomically(path, "".join(f"{line}\n" for line in lines))

"""Several sources in one run: each batch with the loss of its source, and a resume in the middle of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from finetune.config.check import check
from finetune.config.command_line import Arguments
from finetune.data.dataset import Dataset
from finetune.data.load import load
from finetune.data.settings import data_settings
from finetune.losses.infonce import InfoNCE
from finetune.runner.run_setup import find_run
from finetune.runs.directory import RunDirectory
from finetune.training.assembly import assemble
from tests.conftest import WORDS, quick, write_pairs

SOURCES = "data.sources={pairs:{path:pairs.csv},classes:{path:classes.csv,columns:{item:item,label:label}}}"
LOSSES = ("+data.sources.pairs.loss.temperature=0.1", "+data.sources.classes.loss.temperature=0.5")


def prepare(folder: Path, tiny_model: Path, name: str, *more: str) -> tuple[DictConfig, Dataset, RunDirectory]:
    write_pairs(folder / "pairs.csv")
    rows = [f"{a} {b},{a}" for a in WORDS[:6] for b in WORDS[10:17]]
    (folder / "classes.csv").write_text("\n".join(["item,label", *rows]), encoding="utf-8")
    some = [each for each in quick(tiny_model) if not each.startswith("data.path")]
    overrides = ["data=mix", SOURCES, *some, "evaluation=none", *more, f"name={name}", f"output_root={folder}/outputs"]
    cfg = check(overrides)
    dataset = load(data_settings(cfg), cfg.seed)
    return cfg, dataset, find_run(cfg, overrides, dataset, Arguments(overrides))[0]


class Recorder(pl.Callback):
    """Records the batches, and saves a checkpoint after step `save_at`."""

    def __init__(self, save_at: int = -1, path: str = "") -> None:
        self.batches: list[Any] = []
        self.save_at, self.path = save_at, path

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)


def train(made: tuple[DictConfig, Dataset, RunDirectory], recorder: Recorder, checkpoint: str | None = None) -> Any:
    pl.seed_everything(made[0].seed, verbose=False)
    parts = assemble(*made)
    parts.trainer.callbacks.insert(0, recorder)
    parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    return parts


def test_each_batch_is_scored_by_the_loss_of_its_source(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    used = []
    real = InfoNCE.forward
    monkeypatch.setattr(InfoNCE, "forward", lambda self, *given: used.append(self.temperature) or real(self, *given))
    recorder = Recorder()
    train(prepare(tmp_path, tiny_model, "losses", *LOSSES), recorder)
    assert used == [{0: 0.1, 1: 0.5}[batch.source] for batch in recorder.batches]
    assert set(used) == {0.1, 0.5}
    for batch in recorder.batches:
        assert (batch.positive_B >= 0).all()
        # Members of a class, and nothing else, are of one group.
        assert (batch.source == 1) == bool((batch.group_N >= 0).all())


@pytest.mark.parametrize(
    "more",
    [[*LOSSES, "data.mix_temperature=3", "data.unique=true"], ["data.one_source_per_batch=false"]],
    ids=["one source a batch", "mixed"],
)
def test_a_resume_in_the_middle_of_an_epoch_ends_with_the_same_weights(tiny_model, tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    whole = train(prepare(tmp_path, tiny_model, "whole", *more), Recorder())
    at = whole.data.batches_per_epoch + 2
    assert whole.trainer.global_step > at + 2
    path = str(tmp_path / "middle.ckpt")
    first, rest = Recorder(at, path), Recorder()
    train(prepare(tmp_path, tiny_model, "first", *more), first)
    again = train(prepare(tmp_path, tiny_model, "again", *more), rest, path)
    assert [b.items_N.tolist() for b in rest.batches] == [b.items_N.tolist() for b in first.batches[at:]]
    ours, plain = again.module.state_dict(), whole.module.state_dict()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)

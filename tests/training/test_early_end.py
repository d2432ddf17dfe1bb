"""The end of a training, checkpoints by time, and the estimate of the time left."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Timer
from safetensors.torch import load_file

from finetune.config.types import seconds_of
from finetune.encoding.collectives import Collectives
from finetune.runs.directory import RunDirectory
from finetune.training.callbacks import Checkpoint, Evaluate, StopOnSignal, WiseFT, checkpoint, status
from finetune.training.callbacks.status import TimeLeft
from finetune.training.fit import fit
from tests.conftest import quick, run_train, write_pairs
from tests.training.test_callbacks import rows
from tests.training.test_fit import fit_with

AT_ONCE = "trainer.max_time={milliseconds:1}"


def test_a_time_limit_is_reported_and_the_run_can_be_resumed_to_its_end(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    words = quick(tiny_model, "evaluation=none", AT_ONCE, "name=limited")
    process = run_train(*words, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    why = "Training ended at step 1 of 21 because of trainer.max_time={milliseconds: 1}."
    assert why in process.stdout
    assert ".py resume=outputs/default/limited trainer.max_time=null" in process.stdout
    run = RunDirectory(tmp_path / "outputs/default/limited")
    status = run.read_status()
    assert (status["state"], status["reason"], status["cause"], status["step"]) == ("finished", why, "max_time", 1)
    assert why in run.report_path.read_text().replace("\\", "")
    assert "Training ended at step 1 of 21" in run.report_page_path.read_text()
    assert run.saved.steps() == [1]
    again = run_train(*words, "trainer.max_time={milliseconds:0.5}", cwd=tmp_path)
    assert again.returncode == 2
    assert "is finished. Training ended at step 1 of 21" in again.stderr
    assert ".py resume=outputs/default/limited trainer.max_time=null" in again.stderr
    resumed = run_train("resume=outputs/default/limited", "trainer.max_time=null", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "Training ended" not in resumed.stdout
    assert (run.read_status()["reason"], run.read_status()["step"]) == ("", 21)
    assert [row["step"] for row in rows(run)] == [*range(1, 22)]
    # It is written down: another resume must not end at the old limit again.
    assert yaml.safe_load(run.config_path.read_text())["trainer"]["max_time"] is None
    assert [word for word in yaml.safe_load(run.overrides_path.read_text()) if "max_time" in word] == [
        "trainer.max_time=null"
    ]


def test_a_run_resumed_after_a_time_limit_has_the_same_weights(start):
    more = ["evaluation=none", "trainer.accumulate_grad_batches=2"]
    cfg, dataset, whole = start("whole", *more)
    fit(cfg, dataset, whole)
    limited, dataset, broken = start("broken", *more, AT_ONCE)
    fit(limited, dataset, broken)
    assert broken.saved.steps() == [1]
    fit(cfg, dataset, broken, checkpoint=broken.last_checkpoint)
    ours, theirs = (load_file(run.model / "model.safetensors") for run in (broken, whole))
    assert all(torch.equal(weight, ours[name]) for name, weight in theirs.items())


def test_the_time_before_a_resume_counts(start):
    cfg, dataset, run = start("limit", "evaluation=none", AT_ONCE)
    fit(cfg, dataset, run)
    fit(cfg, dataset, run, checkpoint=run.last_checkpoint)
    assert run.saved.steps() == [1]
    assert run.read_status()["reason"].startswith("Training ended at step 1 of 21")


def test_a_time_limit_saves_even_without_a_checkpoint_callback(start):
    cfg, dataset, run = start("bare", "evaluation=none", AT_ONCE, "callbacks=none")
    fit(cfg, dataset, run)
    assert run.saved.steps() == [1]


def test_the_last_step_before_a_time_limit_is_evaluated(start):
    cfg, dataset, run = start("last", AT_ONCE, "callbacks=[default,evaluate]")
    fit(cfg, dataset, run)
    assert [row["step"] for row in rows(run) if "retrieval/nDCG@10" in row] == [1]


@pytest.mark.parametrize("form", ["00:00:00:07", "01:02:03:04", "12:00:00:00", {"hours": 1.5}, {"days": 1, "weeks": 2}])
def test_a_duration_is_parsed_as_by_lightning(form):
    assert timedelta(seconds=seconds_of(form)) == timedelta(seconds=Timer(form)._duration)


@pytest.mark.parametrize("form", ["00:12", "1:2:3:4", "12 hours", {"hour": 1}, {"hours": "x"}])
def test_a_duration_that_lightning_rejects_is_none(form):
    assert seconds_of(form) is None


class Clock(pl.Callback):
    """Lets every optimizer step take four minutes."""

    order = -2

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.now = 240.0 * trainer.global_step


@pytest.mark.parametrize(("minutes", "saved"), [(10, [3, 6, 7, 10, 11]), ("null", [7, 11])])
def test_a_checkpoint_is_also_saved_after_some_minutes(start, monkeypatch, minutes, saved):
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)
    more = [f"callbacks.checkpoint.every_n_minutes={minutes}", "callbacks.checkpoint.keep_last=99"]
    cfg, dataset, run = start("minutes", "evaluation=none", "trainer.max_steps=11", *more)
    assert cfg.callbacks.checkpoint.every_n_steps == 500
    fit_with(clock, monkeypatch, cfg, dataset, run)
    assert run.saved.steps() == saved


@pytest.mark.parametrize("others", [[False, False], [False, True], [True, False]])
def test_processes_agree_to_stop_and_to_save_in_one_reduction(tmp_path, monkeypatch, others):
    monkeypatch.setattr(
        Collectives,
        "all_reduce_any",
        lambda self, flags: [mine or other for mine, other in zip(flags, others, strict=True)],
    )
    saver, stop = Checkpoint(directory=str(tmp_path)), StopOnSignal(tmp_path)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(world_size=2, global_rank=0, strategy=strategy, callbacks=[saver, stop])
    saver.on_train_start(trainer, None)
    assert not saver._is_time_in_all(trainer)
    assert stop._any_signal(trainer) == others[0]
    assert saver._is_time_in_all(trainer) == others[1]


@pytest.mark.parametrize("more", ["trainer.max_steps=5", "trainer.max_epochs=1", AT_ONCE])
def test_the_last_step_is_always_logged(start, more):
    cfg, dataset, run = start("line", "evaluation=none", "trainer.log_every_n_steps=500", more)
    fit(cfg, dataset, run)
    (line,) = (row for row in rows(run) if "loss" in row)
    assert line["step"] == {"trainer.max_steps=5": 5, "trainer.max_epochs=1": 7, AT_ONCE: 1}[more]
    assert {"learning_rate", "epoch", "items_per_second"} <= line.keys()


def test_the_last_step_is_logged_after_a_kill(start):
    """The process may be killed between the last save and that line."""
    cfg, dataset, run = start("line", "evaluation=none", "trainer.log_every_n_steps=500", "trainer.max_steps=5")
    fit(cfg, dataset, run)
    run.metrics_path.write_text("")
    fit(cfg, dataset, run, checkpoint=run.last_checkpoint)
    assert [row["step"] for row in rows(run) if "loss" in row] == [5]


def test_the_time_left_counts_evaluations(monkeypatch):
    evaluate, mixtures = Evaluate(None, every_n_steps=4), WiseFT(None, alphas=[0.5, 1.0])
    trainer = SimpleNamespace(global_step=0, callbacks=[evaluate])
    module = SimpleNamespace(
        total_steps=10, seconds_evaluated=0.0, seconds_per_evaluation=100.0, seconds_per_training_evaluation=7.0
    )
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr("finetune.training.callbacks.status.time", clock)
    left = TimeLeft(trainer, module)
    trainer.global_step, clock.now, module.seconds_evaluated = 5, 17.0, 7.0  # 2 s a step, and one evaluation
    assert left.seconds() == 5 * 2 + 2 * 7 + 100  # those of steps 8 and 10, and the one after
    trainer.callbacks.append(mixtures)
    assert left.seconds() == 5 * 2 + 2 * 7 + 3 * 100
    trainer.global_step = 10
    assert left.seconds() == 3 * 100


class Slow(pl.Callback):
    """Sets a long time for the evaluation."""

    def on_train_start(self, trainer, module):
        module.seconds_per_evaluation = 5000.0


def test_status_and_progress_include_the_evaluation_after_the_training(start, monkeypatch, capsys):
    monkeypatch.setattr(status, "_SECONDS_BETWEEN_WRITES", 0.0)
    written, real = [], RunDirectory.write_status
    monkeypatch.setattr(RunDirectory, "write_status", lambda self, *a, **k: (written.append(k), real(self, *a, **k)))
    fit_with(Slow(), monkeypatch, *start("eta", "evaluation=none", "trainer.max_steps=3"))
    left = [each["eta_seconds"] for each in written if "eta_seconds" in each]
    assert len(left) == 3 + 1
    assert all(5000 <= seconds < 5100 for seconds in left)
    assert "items/s · 5000 s left" in capsys.readouterr().out

"""A clock that was set back: nothing is shown as negative, and no run is lost or taken for another."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from finetune.cli.runs_tables import _row
from finetune.runs import directory
from finetune.runs.directory import RunDirectory
from finetune.runs.record import read_run
from finetune.training.callbacks import StatusWriter


class Earlier(datetime):
    """The clock after it was set back by a day."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) - timedelta(days=1)


def test_a_run_that_began_tomorrow_has_no_negative_age(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "run", "", lambda run, _: run.config_path.write_text("{}"))
    run.write_status("running", step=1)
    began = run.read_status()["started_at"]
    monkeypatch.setattr(directory, "datetime", Earlier)
    monkeypatch.setattr("finetune.cli.runs_tables.datetime", Earlier)
    assert _row(read_run(run.path), [])["age"] == "0 s"
    run.write_status("running", step=2, eta_seconds=5)
    status = run.read_status()
    assert (status["started_at"], status["step"]) == (began, 2)
    with run.lock():
        row = _row(read_run(run.path), [])
    assert (row["state"], row["left"]) == ("running", "5 s left")


def test_the_time_left_comes_from_a_clock_that_nobody_sets(tmp_path, monkeypatch):
    keep, trainer = StatusWriter(tmp_path), SimpleNamespace(global_step=0, is_global_zero=True, callbacks=[])
    module = SimpleNamespace(
        total_steps=10, seconds_evaluated=0.0, seconds_per_training_evaluation=0.0, seconds_per_evaluation=0.0
    )
    keep.on_train_start(trainer, module)
    monkeypatch.setattr(directory, "datetime", Earlier)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    trainer.global_step = 5
    keep.on_train_batch_end(trainer, module)
    assert RunDirectory(tmp_path).read_status()["eta_seconds"] >= 0


def test_a_name_made_of_the_time_is_never_used_twice(tmp_path, monkeypatch):
    now = datetime.now(UTC)
    monkeypatch.setattr(directory, "datetime", SimpleNamespace(now=lambda _=None: now))
    names = {RunDirectory.create(tmp_path, None, "run").name for _ in range(3)}
    assert len(names) == 3

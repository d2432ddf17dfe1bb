"""Trackers get every row, continue with a resumed run, and do not stop a training if they fail."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from finetune.config.command_line import Arguments
from finetune.errors import Interrupted, RunError
from finetune.preflight.check import check_quickly
from finetune.runs.directory import RunDirectory, State
from finetune.training.loggers import MLflow, TensorBoard, Tracker, WeightsAndBiases, close_trackers
from finetune.training.loggers.tracker import Row
from tests.conftest import ROOT, quick, run_train, thorough, write_pairs

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # for reading what was written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run directory with a config."""
    path = tmp_path / "an experiment" / "a 'run'"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("optimizer: {lr: 0.1}\nseed: 1\n")
    return path


@pytest.fixture
def without_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Uses no key of the user who runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "none"))


class Slow(Tracker):
    """A tracker that waits before it processes a row."""

    title: ClassVar[str] = "Slow"

    def __init__(self, folder: Path, do: Callable[[int], None] = lambda step: None, wait: float = 10) -> None:
        super().__init__(wait, str(folder))
        self.do, self.seen, self.first, self.state = do, [], -1, ""

    def begin(self, config: dict[str, Any], step: int) -> None:
        self.config, self.first = config, step

    def write(self, rows: list[Row]) -> None:
        for row, step in rows:
            self.do(step)
            self.seen.append((step, row["loss"]))

    def end(self, state: State) -> None:
        self.state = state


def rows(tracker: Tracker, steps: range) -> float:
    """Log a row for each step; return the seconds that this took."""
    started = time.monotonic()
    for step in steps:
        tracker.log_metrics({"loss": 1 / (step + 2)}, step)
    return time.monotonic() - started


@pytest.mark.alone
def test_rows_arrive_in_order_and_logging_does_not_wait(folder: Path) -> None:
    tracker = Slow(folder, lambda step: time.sleep(0.01))
    assert rows(tracker, range(-1, 49)) < 0.25
    with close_trackers([tracker]):
        pass
    assert tracker.seen == [(step, 1 / (step + 1)) for step in range(50)]
    assert (tracker.first, tracker.state) == (0, "finished")
    assert tracker.config == {"optimizer": {"lr": 0.1}, "seed": 1}


@pytest.mark.parametrize(
    ("error", "state"),
    [(Interrupted("x"), "interrupted"), (KeyboardInterrupt(), "interrupted"), (ValueError(), "failed")],
)
def test_a_tracker_gets_the_final_state_of_the_run(folder: Path, error: BaseException, state: str) -> None:
    tracker = Slow(folder)
    rows(tracker, range(3))
    with pytest.raises(type(error)), close_trackers([object(), tracker]):
        raise error
    assert tracker.state == state


def test_a_failed_tracker_is_reported_once_and_not_used_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(step: int) -> None:
        raise ConnectionError("gone")

    tracker = Slow(folder, fail)
    rows(tracker, range(3))
    tracker.close("finished")
    rows(tracker, range(3))
    said = capsys.readouterr().out
    assert said == "Slow failed, and the run continues without it: ConnectionError: gone\n"


@pytest.mark.alone
def test_a_hanging_tracker_costs_only_its_finish_seconds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forever = threading.Event()
    tracker = Slow(folder, lambda step: forever.wait() and None, wait=0.2)
    assert rows(tracker, range(1000)) < 1
    started = time.monotonic()
    tracker.close("finished")
    assert time.monotonic() - started < 2
    assert "it has not answered for 0.2 seconds" in capsys.readouterr().out
    forever.set()


def test_a_tracker_without_a_row_does_nothing(folder: Path) -> None:
    tracker = Slow(folder)
    tracker.close("finished")
    assert tracker.first == -1


def test_ids_are_stored_whatever_the_file_contains(folder: Path) -> None:
    run = RunDirectory(folder)
    run.write_tracker("a", "1")
    run.write_tracker("b", "2")
    assert run.read_trackers() == {"a": "1", "b": "2"}
    for damage in ("{", "[]", ""):
        run.trackers_path.write_text(damage)
        assert run.read_trackers() == {}
    run.write_tracker("a", "3")
    assert run.read_trackers() == {"a": "3"}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), purge_orphaned_data=True).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_repeated_steps_of_a_resumed_run_only_once(folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs pip install 'finetune[tensorboard]'")
    for steps in (range(10), range(4, 12), range(20, 22)):
        tracker = TensorBoard(directory=str(folder))
        if steps[0] == 20:  # what the file has lost in a kill, the lines have
            for step in range(1, 21):
                RunDirectory(folder).append_metrics({"step": step, "loss": 1 / (step + 1)})
        rows(tracker, steps)
        tracker.close("finished")
    found = scalars(folder / "tensorboard")["loss"]
    assert found == [(step, pytest.approx(1 / (step + 1))) for step in range(1, 23)]


def test_mlflow_continues_its_run_after_a_resume(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs pip install 'finetune[mlflow]'")
    from mlflow.tracking import MlflowClient

    store = tmp_path / "the store"
    for steps, state in ((range(3), "interrupted"), (range(3, 5), "finished")):
        tracker = MLflow(uri=str(store), experiment="mine", directory=str(folder))
        rows(tracker, steps)
        tracker.log_metrics({"retrieval/after/nDCG@10": 0.5}, 9)
        tracker.close(state)  # type: ignore[arg-type]
    client = MlflowClient(store.as_uri())
    [run] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (run.info.run_name, run.info.status) == ("a 'run'", "FINISHED")
    assert run.data.params == {"optimizer.lr": "0.1", "seed": "1"}
    assert run.data.metrics["retrieval/after/nDCG_10"] == 0.5
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, 1 / (step + 1)) for step in range(1, 6)]


def test_an_unreachable_mlflow_server_does_not_stop_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow", reason="needs pip install 'finetune[mlflow]'")
    tracker = MLflow(uri="http://127.0.0.1:9", finish_seconds=1, directory=str(folder))
    assert rows(tracker, range(100)) < 1
    tracker.close("finished")
    assert "MLflow failed, and the run continues without it" in capsys.readouterr().out


def recorded(folder: Path) -> Iterator[Any]:
    """The records of a file of W&B, which has the format of LevelDB's logs."""
    from wandb.proto import wandb_internal_pb2

    [file] = folder.glob("*.wandb")
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def wandb_rows(folder: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for record in recorded(folder):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.setdefault(row["_step"], {}).update(row)
    return found


def wandb_folders(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


@pytest.fixture
def wandb(without_key: None) -> None:
    pytest.importorskip("wandb", reason="needs pip install 'finetune[wandb]'")


def test_wandb_records_without_a_key_and_resumes_with_the_same_id(
    wandb: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps in (range(-1, 3), range(3, 5)):
        tracker = WeightsAndBiases(directory=str(folder))
        rows(tracker, steps)
        tracker.close("finished")
        time.sleep(1.1)  # W&B names its folders by the second
    first, second = wandb_folders(folder)
    assert {step: row["loss"] for step, row in wandb_rows(first).items()} == {s: 1 / (s + 1) for s in range(4)}
    assert {step: row["loss"] for step, row in wandb_rows(second).items()} == {s: 1 / (s + 1) for s in range(4, 6)}
    known = RunDirectory(folder).read_trackers()["W&B"]
    assert first.name.endswith(f"-{known}") and second.name.endswith(f"-{known}")
    [run] = [record.run for record in recorded(first) if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.display_name, run.run_group) == (known, "a 'run'", "an experiment")
    assert json.loads(next(i.value_json for i in run.config.update if i.key == "optimizer")) == {"lr": 0.1}
    assert "send it with: wandb sync" in capsys.readouterr().out


def test_wandb_sends_nothing_that_identifies_the_machine(wandb: None, folder: Path) -> None:
    tracker = WeightsAndBiases(directory=str(folder))
    rows(tracker, range(3))
    tracker.close("finished")
    [there] = wandb_folders(folder)
    told = list(recorded(there))
    everything = b"".join(path.read_bytes() for path in (there / "files").rglob("*") if path.is_file())
    everything += b"".join(record.SerializeToString() for record in told)
    for secret in (str(ROOT), sys.executable, str(folder.parent.parent), "requirements", "github"):
        assert secret.encode() not in everything, secret
    [run] = [record.run for record in told if record.WhichOneof("record_type") == "run"]
    assert (run.host, run.git.remote_url, run.git.commit) == ("", "", "")


def processes_of(tracker: WeightsAndBiases) -> tuple[int, int]:
    """Wait for both processes: the one of the tracker, and the one that W&B starts."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ours = tracker._process
        if ours is not None:
            children = " ".join(path.read_text() for path in Path(f"/proc/{ours.pid}/task").glob("*/children")).split()
            if cores := [int(pid) for pid in children if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]:
                return ours.pid, cores[0]
        time.sleep(0.05)
    raise AssertionError("no process was started")


@pytest.mark.parametrize(
    ("number", "which"),
    [
        (signal.SIGKILL, 0),
        *(thorough(*case) for case in ((signal.SIGKILL, 1), (signal.SIGSTOP, 0), (signal.SIGSTOP, 1))),
    ],
)
def test_wandb_processes_may_be_killed_or_hang(
    wandb: None, folder: Path, capsys: pytest.CaptureFixture[str], which: int, number: signal.Signals
) -> None:
    tracker = WeightsAndBiases(finish_seconds=4, directory=str(folder))
    rows(tracker, range(3))
    processes = processes_of(tracker)
    time.sleep(1)
    os.kill(processes[which], number)
    try:
        assert rows(tracker, range(3, 3000)) < 2
        started = time.monotonic()
        with close_trackers([tracker]):
            pass
        assert time.monotonic() - started < 10
        assert "W&B failed, and the run continues without it" in capsys.readouterr().out
        assert tracker._process is not None and tracker._process.poll() is not None
    finally:
        if number == signal.SIGSTOP and which == 1:
            os.kill(processes[1], signal.SIGKILL)


@pytest.mark.parametrize("answers", [False, thorough(True)])
def test_wandb_records_if_the_service_is_unreachable_or_never_answers(
    wandb: None, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if answers else 9
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        tracker = WeightsAndBiases(init_seconds=2, directory=str(folder))
        assert rows(tracker, range(4)) < 1
        tracker.close("finished")
    said = capsys.readouterr().out
    assert "W&B: it cannot be reached" in said and "W&B: recorded on this machine" in said
    assert "failed" not in said.replace("Failed", "")
    assert sorted(wandb_rows(wandb_folders(folder)[-1])) == [1, 2, 3, 4]


@pytest.mark.thorough
def test_several_trackers_resume_after_a_kill(wandb: None, tiny_model: Path, tmp_path: Path) -> None:
    """Each tracker continues its run, and the weights are those of a run without trackers."""
    pytest.importorskip("tensorboard", reason="needs pip install 'finetune[tensorboard]'")
    pytest.importorskip("mlflow", reason="needs pip install 'finetune[mlflow]'")
    from mlflow.tracking import MlflowClient
    from safetensors.torch import load_file

    write_pairs(tmp_path / "pairs.csv")
    overrides = [*quick(tiny_model, "callbacks.checkpoint.every_n_steps=4"), "trainer.max_epochs=20"]
    tracked = [*overrides, "name=tracked", "logger=[wandb,tensorboard,mlflow]"]
    run = RunDirectory(tmp_path / "outputs" / "default" / "tracked")
    command = [sys.executable, str(ROOT / "train.py"), *tracked]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while not run.last_checkpoint.exists() or len(run.read_trackers()) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert len(run.read_metrics()) < 140
    ids = run.read_trackers()
    again = run_train(*tracked, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr == "" and "resuming from step" in again.stdout
    assert run_train(*overrides, "name=plain", cwd=tmp_path).returncode == 0
    plain = load_file(run.path.with_name("plain") / "model" / "model.safetensors")
    assert all((load_file(run.model / "model.safetensors")[name] == plain[name]).all() for name in plain)

    losses = [(row["step"], row["loss"]) for row in run.read_metrics() if "loss" in row]
    assert [step for step, _ in losses] == list(range(1, 141))
    shown = scalars(run.path / "tensorboard")["loss"]
    assert [step for step, _ in shown] == list(range(1, 141))
    assert [loss for _, loss in shown] == pytest.approx([loss for _, loss in losses])
    assert run.read_trackers() == ids
    [stored] = MlflowClient((tmp_path / "outputs" / "mlruns").as_uri()).search_runs(
        [MlflowClient((tmp_path / "outputs" / "mlruns").as_uri()).get_experiment_by_name("default").experiment_id]
    )
    assert (stored.info.run_id, stored.info.status) == (ids["MLflow"], "FINISHED")
    assert stored.data.metrics["loss"] == losses[-1][1]
    last = wandb_folders(run.path)[-1]
    assert last.name.endswith(ids["W&B"])
    assert wandb_rows(last)[140]["loss"] == losses[-1][1]
    assert "retrieval/after/nDCG@10" in wandb_rows(last)[140]


def test_a_missing_package_is_reported_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("wandb", "tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    overrides = ["logger=[wandb,tensorboard,mlflow]"]
    _, problems = check_quickly(Arguments(overrides), overrides)
    assert [str(problem) for problem in problems] == [
        f"logger.{name}: it needs the package {name}. Install it: pip install 'finetune[{name}]'."
        for name in ("wandb", "tensorboard", "mlflow")
    ]


def test_every_logger_config_but_none_has_json_lines() -> None:
    import yaml

    for path in (ROOT / "conf" / "logger").glob("*.yaml"):
        target = (yaml.safe_load(path.read_text()).get("jsonl") or {}).get("_target_")
        assert target == (None if path.stem == "none" else "finetune.training.loggers.JsonLines"), path


def test_a_full_disk_while_an_id_is_stored_fails_the_tracker(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RunError("could not write trackers.json: the disk is full.")

    monkeypatch.setattr("finetune.runs.directory.write_json_atomically", full)
    tracker = Slow(folder)
    monkeypatch.setattr(tracker, "begin", lambda config, step: tracker.store_id("1"))
    rows(tracker, range(3))
    tracker.close("finished")
    assert "the disk is full" in capsys.readouterr().out

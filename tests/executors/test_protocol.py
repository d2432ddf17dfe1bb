"""A third executor, in memory: the public sweep function runs a grid and a search through it, with nothing changed."""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from finetune.config.command_line import Arguments
from finetune.errors import FinetuneError, Interrupted
from finetune.executors.base import RunBatch, RunOutcome, RunRequest
from finetune.runner.process_state import preserve_process_state
from finetune.sweep.sweep import GridScheduler, sweep
from tests.conftest import quick

RATES = "optimizer.lr=1e-5,1e-4,1e-3"
SEARCH = ["hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-6,1e-2))", "hydra.sweeper.n_trials=5"]


@dataclass
class InMemoryExecutor:
    """Executes a run by writing its status and its report; the score of a run is its learning rate."""

    batch: RunBatch
    capacity: int = 2
    is_detached: bool = False
    poll_seconds: float = 0.0
    fails: bool = False
    interrupts: bool = False
    refusals: int = 0  # so many times `cancel` fails; no run ends before
    submitted: list[Path] = field(default_factory=list)
    cancelled: list[Path] = field(default_factory=list)
    flushes: int = 0
    most_at_once: int = 0
    _active: list[RunRequest] = field(default_factory=list)

    def has_room(self) -> bool:
        return len(self._active) < self.capacity

    def submit(self, request: RunRequest) -> None:
        self.submitted.append(request.path)
        self._active.append(request)
        self.most_at_once = max(self.most_at_once, len(self._active))

    def flush(self) -> None:
        self.flushes += 1

    def poll(self) -> list[RunOutcome]:
        if self.interrupts:
            raise KeyboardInterrupt
        if self.refusals:
            return []
        done, self._active = self._active, []
        return [self._execute(request) for request in done]

    def running(self) -> list[Path]:
        return [request.path for request in self._active]

    def cancel(self, path: Path, reason: str | None = None) -> None:
        if self.refusals:
            self.refusals -= 1
            raise FinetuneError("the cluster does not answer.")
        self.cancelled.append(path)

    def stop(self, number: int) -> list[RunOutcome]:
        stopped = [RunOutcome(request.path, "interrupted", signal.Signals(number).name) for request in self._active]
        self._active = []
        return stopped

    def interrupted(self, finished: int, command: str) -> Interrupted:
        return Interrupted(f"Stopped in memory after {finished}.", command)

    def _execute(self, request: RunRequest) -> RunOutcome:
        run, _ = self.batch.claim(request)
        if self.fails:
            run.write_status("failed", "in memory")
            return RunOutcome(request.path, "failed", "in memory")
        score = float(self.batch.config_of(request).optimizer.lr)
        rows = [{"metric": "nDCG@10", "after": score}]
        run.report_data_path.write_text(json.dumps({"evaluations": {"search": {"metric": "nDCG@10", "metrics": rows}}}))
        run.write_status("finished")
        return RunOutcome(request.path, "finished", "")


@pytest.fixture
def run_sweep(tiny_model, pairs_csv, monkeypatch):
    monkeypatch.chdir(pairs_csv.parent)
    few = [text for text in quick(tiny_model) if not text.startswith("optimizer.lr")]

    def run(*overrides, **settings):
        made = []

        def make_executor(batch):
            made.append(InMemoryExecutor(batch, **settings))
            return made[0]

        with preserve_process_state():
            code = sweep(Arguments([*few, *overrides], multirun=True), make_executor)
        return code, made[0]

    return run


def written(folder="outputs/default"):
    return json.loads((Path(folder) / "sweep.json").read_text())


def test_a_grid_runs_and_is_ranked(run_sweep, capsys):
    code, executor = run_sweep(RATES)
    assert (code, len(executor.submitted), executor.most_at_once) == (0, 3, 2)
    trials = written()["points"]
    assert [trial["overrides"] for trial in trials] == [
        [f"optimizer.lr={rate}"] for rate in ("0.001", "0.0001", "1e-05")
    ]
    assert [trial["value"] for trial in trials] == [1e-3, 1e-4, 1e-5]
    assert "the trials, best first" in capsys.readouterr().out
    again, executor = run_sweep("optimizer.lr=1e-5,1e-4,1e-2")
    assert (again, len(executor.submitted)) == (0, 1)
    assert capsys.readouterr().out.count("finished already") == 2


def test_a_search_draws_trials_and_continues_to_its_number(run_sweep, capsys):
    code, executor = run_sweep(*SEARCH)
    assert (code, len(set(executor.submitted)), executor.most_at_once) == (0, 5, 2)
    values = [trial["value"] for trial in written()["points"]]
    assert len(values) == 5 and values == sorted(values, reverse=True)
    code, executor = run_sweep(*SEARCH[:-1], "hydra.sweeper.n_trials=6")
    assert (code, len(executor.submitted)) == (0, 1)
    assert "5 of its trials are done, 1 remain" in capsys.readouterr().out
    assert len(written()["points"]) == 6


def test_failures_and_interrupts_are_recorded(run_sweep):
    code, _ = run_sweep(RATES, fails=True)
    assert code == 1
    assert [(trial["state"], trial["reason"]) for trial in written()["points"]] == [("failed", "in memory")] * 3
    with pytest.raises(Interrupted, match="Stopped in memory after 0") as stopped:
        run_sweep(RATES, "experiment=stopped", interrupts=True)
    assert RATES in stopped.value.advice


def test_a_pruning_that_fails_is_reported_once_and_retried(run_sweep, capsys, monkeypatch):
    monkeypatch.setattr(GridScheduler, "should_prune", lambda self, trial: True)
    code, executor = run_sweep(RATES, refusals=4)
    assert (code, executor.refusals) == (0, 0)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("could not be stopped: the cluster does not answer. It is tried again.") == 2  # two trials


def test_a_detached_executor_only_gets_the_trials(run_sweep, capsys):
    code, executor = run_sweep(RATES, is_detached=True)
    assert (code, len(executor.submitted), executor.flushes) == (0, 3, 1)
    assert "shows the state of the others" in capsys.readouterr().out
    assert not Path("outputs").exists()


def test_the_sweep_depends_on_no_executor():
    source = (Path(__file__).parents[2] / "src/finetune/sweep/sweep.py").read_text()
    assert "isinstance(" not in source and "LocalExecutor" not in source and "SlurmExecutor" not in source
    for path in (Path(__file__).parents[2] / "src/finetune/executors").rglob("*.py"):
        assert "finetune.sweep" not in path.read_text(), path


def test_the_processes_of_a_claimed_run_resume_it(tmp_path):
    request = RunRequest(tmp_path, ["seed=1", "resume=never", "hydra.run.dir=x", "sweep.parallel=2"])
    assert request.overrides_to_resume() == ["seed=1", "resume=auto"]
    chosen = RunRequest(tmp_path, ["resume=outputs/a/run/checkpoints/last.ckpt"])
    assert chosen.overrides_to_resume() == ["resume=outputs/a/run/checkpoints/last.ckpt"]

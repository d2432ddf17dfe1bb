"""Searches with Optuna: through the front door, then the study with trials whose metrics are written by hand."""

import json
import math
import subprocess
import sys
from contextlib import contextmanager

import optuna
import pytest

from finetune.config.command_line import Arguments
from finetune.config.compose import compose
from finetune.errors import FinetuneError
from finetune.runs.directory import RunDirectory
from finetune.sweep.optuna_search import searching
from finetune.sweep.planner import Planner
from finetune.sweep.search_space import read_search_space
from finetune.sweep.settings import SweepSettings
from finetune.sweep.trials import TrialResult
from tests.conftest import quick, run_train, write_pairs
from tests.sweep.test_sweep import statuses, swept

LR = "optimizer.lr=tag(log,interval(1e-8,1e-2))"


@pytest.mark.slow
def test_a_search_prunes_bad_trials_and_the_same_command_continues_to_its_number_of_trials(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    # With this seed the third rate is thousands of times smaller than the two before it.
    search = ["hydra/sweeper=optuna", LR, "hydra.sweeper.sampler.seed=276", "hydra.sweeper.pruner.n_startup_trials=2"]
    told = ["evaluation=none", "sweep.metric=loss", "sweep.prune_by=loss", "trainer.max_epochs=20"]
    overrides = [text for text in swept(tiny_model, *search, *told) if text != "trainer.max_epochs=3"]
    sweep = run_train("-m", *overrides, "hydra.sweeper.n_trials=3", cwd=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    folder = tmp_path / "outputs/default"
    first = statuses(folder)
    assert sorted((each["state"], each["reason"]) for each in first.values()) == [
        ("finished", ""),
        ("finished", ""),
        ("interrupted", "pruned"),
    ]
    (pruned,) = (path for path, each in first.items() if each["state"] == "interrupted")
    assert first[pruned]["step"] < 20 * 7
    assert (pruned / "checkpoints/last.ckpt").is_file()
    again = run_train("-m", *overrides, "hydra.sweeper.n_trials=4", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "3 of its trials are done, 1 remain" in again.stdout
    second = statuses(folder)
    assert len(second) == 4
    assert {path: second[path] for path in first} == first
    assert len(json.loads((folder / "sweep.json").read_text())["points"]) == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=1"], "nothing is to be searched"),
        ([LR, "evaluation=none"], "a search needs a metric"),
        (["optimizer.lr=tag(log,interval(0,1))"], "above 0"),
        (["optimizer.lr=interval(1e-3,1e-5)"], "the interval is empty"),
        (["optimizer.lr=interval(1e-5,2)"], "optimizer.lr"),  # at most 1: the end is tried
        ([LR, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials"),
        ([LR, "hydra.sweeper.n_trails=3"], "n_trials"),
        ([LR, "hydra.sweeper._target_=os.system"], "may not build os.system"),
        ([LR, "hydra.sweeper.sampler._target_=os.system"], "may not build os.system"),
        ([LR, "hydra/sweeper/sampler=tpee"], "tpe"),
        ([LR, "hydra.sweeper.sampler.seed=-1"], "of at least 0"),
        ([LR, "+hydra.sweeper.pruner.steps=1"], "no parameter 'steps'"),
        ([LR, "loss=infonce,cosent"], "cosent"),
    ],
)
def test_an_impossible_search_is_refused_before_anything_starts(tmp_path, overrides, words):
    sweep = run_train("-m", "hydra/sweeper=optuna", *overrides, cwd=tmp_path)
    assert words in sweep.stderr
    assert sweep.returncode == 2, sweep.stdout
    assert "Traceback" not in sweep.stderr
    assert not list(tmp_path.iterdir())


@contextmanager
def opened(overrides, prune_by="auto", metric=None):
    axes = read_search_space(Arguments(overrides))
    planner, settings = Planner(Arguments(overrides)), SweepSettings(metric, "auto", 1, False, prune_by)
    corner = axes.one_at_a_time()[0]
    cfg = compose(corner[0])
    with searching(axes, planner, cfg, settings, planner.trial(*corner)) as search:
        yield search


def finished(trial, value):
    RunDirectory(trial.run).path.mkdir(parents=True, exist_ok=True)
    return TrialResult(trial, "finished", "", "nDCG@10", value)


@pytest.fixture
def overrides(tiny_model, pairs_csv, monkeypatch):
    monkeypatch.chdir(pairs_csv.parent)
    few = [text for text in quick(tiny_model) if not text.startswith("optimizer.lr")]
    return [*few, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4"]


def test_draws_fit_the_search_space_and_a_new_process_draws_other_trials(overrides):
    more = ["data.batch_size=range(8,25,4)", "loss=infonce,supcon", "trainer.max_steps=int(interval(3,9))", LR]
    drawn = []
    for _ in range(3):  # each a process that goes on
        with opened([*overrides, *more]) as search:
            trial = search.next()
            drawn.append(dict(text.split("=") for text in trial.own_overrides))
            assert "hydra/sweeper=optuna" not in trial.overrides
            search.record(finished(trial, 0.5))
            assert search.waiting() == 4 - len(drawn)
    assert len({float(each["optimizer.lr"]) for each in drawn}) == 3
    for each in drawn:
        assert 1e-8 <= float(each["optimizer.lr"]) <= 1e-2
        assert int(each["data.batch_size"]) in range(8, 25, 4)
        assert int(each["trainer.max_steps"]) in range(3, 10)
        assert each["loss"] in ("infonce", "supcon")


def test_a_trial_that_was_running_when_the_sweep_was_killed_is_resumed(overrides):
    with opened([*overrides, LR]) as search:
        lost, failed = search.next(), search.next()
        search.record(TrialResult(failed, "failed", "disk full", "", None))
    with opened([*overrides, LR]) as search:
        assert [search.next().run, search.next().run] == [lost.run, failed.run]
        search.record(finished(lost, 0.25))
        search.record(finished(failed, 0.5))
        assert search.waiting() == 2
        assert search.study.best_value == 0.5
    with opened([*overrides, LR]) as search:  # nothing is taken up twice
        assert search.next().run not in (lost.run, failed.run)


def test_a_search_over_few_choices_ends_with_the_last_of_them(overrides):
    with opened([*overrides, "loss=infonce,supcon", "hydra.sweeper.n_trials=50"]) as search:
        trials = []
        while (trial := search.next()) is not None:
            trials.append(trial)
            search.record(finished(trial, 0.5))
    assert {trial.own_overrides[0] for trial in trials} == {"loss=infonce", "loss=supcon"}


def test_trials_at_once_are_never_the_same(overrides):
    with opened([*overrides, "loss=infonce,supcon,decoupled"]) as search:
        trials = [search.next(), search.next(), search.next()]
        assert len({trial.run for trial in trials}) == 3
        assert search.next() is None


@pytest.mark.parametrize(
    ("prune_by", "key", "good", "bad"),
    [
        ("auto", "retrieval/nDCG@10", 0.5, 0.25),
        ("auto", "similarity/mse", 0.25, 0.5),
        ("loss", "loss", 0.25, 0.5),
        (None, "loss", 0.25, math.inf),
    ],
)
def test_pruned_is_what_is_worse_by_the_metric_at_the_same_step(overrides, prune_by, key, good, bad):
    told = [*overrides, LR, "hydra.sweeper.pruner.n_startup_trials=2"]
    with opened(told, prune_by) as search:
        for value in (good, good, good):
            trial = search.next()
            measured(trial, key, value)
            assert not search.should_prune(trial)
            search.record(finished(trial, 0.5))
        worse = search.next()
        assert not search.should_prune(worse)  # it has not begun
        measured(worse, key, bad)
        assert search.should_prune(worse) == (prune_by is not None)
        search.record(TrialResult(worse, "interrupted", "pruned", "", None))
        assert search.study.trials[-1].state == optuna.trial.TrialState.PRUNED


def measured(trial, key, value):
    run = RunDirectory(trial.run)
    run.path.mkdir(parents=True, exist_ok=True)
    for step in (10, 20):
        run.append_metrics({"step": step, "other": 1.0})
        run.append_metrics({"step": step, key: value})


def test_a_trial_that_is_running_still_is_not_started_again(overrides):
    with opened([*overrides, LR]) as search:
        orphan = RunDirectory(search.next().run)
        orphan.path.mkdir(parents=True)
    with orphan.lock(), pytest.raises(FinetuneError, match="in use"), opened([*overrides, LR]):
        pass


def test_a_headline_that_is_to_be_small_is_made_small(overrides):
    with opened([*overrides, LR]) as search:
        trials = [search.next(), search.next()]
        for trial, value in zip(trials, (0.5, 0.25), strict=True):
            search.record(TrialResult(trial, "finished", "", "mse", value))
        assert search.study.best_trial.user_attrs["run"] == trials[1].run.name


def test_two_processes_do_not_share_a_search(overrides):
    with opened([*overrides, LR]), pytest.raises(FinetuneError, match="in use"), opened([*overrides, LR]):
        pass


def test_what_a_file_says_is_searched(overrides, tmp_path):
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/mine.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n"
        "      optimizer.lr: interval(1e-5,1e-3)\n      loss: infonce,supcon\n"
    )
    axes = read_search_space(Arguments([*overrides, "recipe=mine", "optimizer.lr=1e-4"]))
    assert [axis.overrides for axis in axes.axes if axis.varies] == [["loss=infonce", "loss=supcon"]]
    axes = read_search_space(Arguments([*overrides, "recipe=mine"]))
    assert [axis.key for axis in axes.axes if axis.varies] == ["optimizer.lr", "loss"]


def test_the_process_of_a_search_loads_no_torch(overrides):
    seen = (
        "import sys; from finetune.cli.train import main;"
        f"code = main(['-m', *{[*overrides, LR]!r}, 'check=true']);"
        "import optuna; import finetune.sweep.optuna_search;"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trials are fine" in done.stdout

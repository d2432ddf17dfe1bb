"""The parts of a sweep by themselves: which metric ranks, who gets which devices, why a trial ended."""

import json
import re
from types import SimpleNamespace

import pytest
import yaml
from omegaconf import OmegaConf

from finetune.config.compose import compose
from finetune.executors.from_config import check_resources
from finetune.executors.local import _reason
from finetune.executors.resources import check_slots, slots
from finetune.preflight.devices import uses_gpu, visible_gpus
from finetune.runner.run_setup import resolved
from finetune.runs.directory import RunDirectory
from finetune.runs.metrics import more_is_better
from finetune.sweep.ranking import Ranking, say_ranked, write_ranked
from finetune.sweep.trials import Trial, TrialResult, check_directory, directory_of
from tests.conftest import write_pairs


def result(name, value, tmp_path, state="finished"):
    return TrialResult(Trial([name], [name], tmp_path / name), state, "", "nDCG@10" if value is not None else "", value)


def test_the_best_trial_comes_first_and_the_failed_last(capsys, tmp_path):
    results = [result("a", 0.5, tmp_path), result("b", None, tmp_path, "failed"), result("c", 0.75, tmp_path)]
    say_ranked(Ranking(None, "auto").ranked(results))
    shown = capsys.readouterr().out
    assert re.findall(r"^ +\d\. .* (\w)$", shown, re.MULTILINE) == ["c", "a", "b"]
    assert "failed" in shown
    assert "no run directory was made" in shown
    order = [each.trial.run.name for each in Ranking(None, "minimize").ranked(results)]
    assert order == ["a", "c", "b"]


@pytest.mark.parametrize("name", ["loss", "retrieval/loss", "rmse", "cosine_distance", "mean_rank", "Uniformity"])
def test_what_is_to_be_small_is_known(name):
    assert not more_is_better(name)


@pytest.mark.parametrize(
    "name",
    ["nDCG@10", "rank_correlation", "f1", "-alignment", "geometry/-uniformity", "mteb/PoemSentiment accuracy"],
)
def test_what_is_to_be_large_is_known(name):
    assert more_is_better(name)


def test_a_metric_is_found_by_its_name_in_the_report_or_the_metrics(tmp_path):
    rows = [{"metric": "recall@1", "after": 0.25}, {"metric": "nDCG@10", "after": 0.5}]
    other = {"metric": "accuracy", "metrics": [{"metric": "accuracy", "value": 0.75}]}
    report = {"evaluations": {"search": {"metric": "nDCG@10", "metrics": rows}, "other": other}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3}\n')
    found = {
        metric: Ranking(metric, "auto").value_of(tmp_path)
        for metric in (None, "recall@1", "other/accuracy", "search/accuracy", "loss")
    }
    assert found == {
        None: ("nDCG@10", 0.5),
        "recall@1": ("recall@1", 0.25),
        "other/accuracy": ("accuracy", 0.75),
        "search/accuracy": ("search/accuracy", None),
        "loss": ("loss", 2.0),
    }


def test_the_table_survives_any_text(tmp_path):
    odd = TrialResult(Trial([], ["data.path='a|b\nc'"], tmp_path / "x|y"), "failed", "a | b\nc", "", None)
    write_ranked(tmp_path, [odd], "command", 3)
    rows = [line for line in (tmp_path / "sweep.md").read_text().splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [5, 5, 5]
    assert json.loads((tmp_path / "sweep.json").read_text())["waiting"] == 3


def config(accelerator, devices):
    trainer = {"accelerator": accelerator, "devices": devices}
    return OmegaConf.create({"trainer": trainer, "hydra": {"runtime": {"choices": {"hydra/launcher": "basic"}}}})


def test_cores_are_divided(monkeypatch):
    monkeypatch.setattr("finetune.executors.resources.visible_cores", lambda: (0, 1, 2, 4, 5))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    two = slots(2)
    assert [slot.cores for slot in two] == [(0, 1), (2, 4, 5)]
    assert [slot.environment(1)["OMP_NUM_THREADS"] for slot in two] == ["2", "3"]
    assert two[1].environment(2)["OMP_NUM_THREADS"] == "1"
    assert "LOCAL_RANK" not in two[0].environment(1)
    assert [slot.cores for slot in slots(7)] == [(0,), (1,), (2,), (4,), (5,), (0,), (1,)]
    assert [slot.cores for slot in slots(1)] == [None]


def test_no_two_trials_get_one_gpu_unless_asked(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 3,5,7")
    assert [slot.gpus for slot in slots(2, 2, uses_gpu=True)] == [("0", "3"), ("5", "7")]
    assert slots(2, 2, uses_gpu=True)[1].environment(2)["CUDA_VISIBLE_DEVICES"] == "5,7"
    assert not check_slots(2, [2], share_gpus=False)
    (problem,) = check_slots(3, [1, 2], share_gpus=False)
    assert (problem.where, problem.advice.split(",")[0]) == ("sweep.parallel", "Set sweep.parallel=2")
    assert not check_slots(3, [2], share_gpus=True)
    assert [slot.gpus for slot in slots(3, 2, uses_gpu=True)][2] == ("0", "3")
    (problem,) = check_slots(2, ["auto"], share_gpus=False)
    assert problem.where == "trainer.devices"
    assert not check_slots(9, [], share_gpus=False)
    assert slots(2)[0].gpus is None


def test_only_runs_that_train_on_a_gpu_need_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 3,5,7")
    cpu, gpu = config("cpu", 2), config("gpu", 2)
    assert (uses_gpu(cpu), uses_gpu(gpu)) == (False, True)
    assert not check_resources([cpu], 9, share_gpus=False)
    (problem,) = check_resources([cpu, gpu], 3, share_gpus=False)
    assert problem.where == "sweep.parallel"


def test_gpus_are_those_that_a_driver_shows(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert visible_gpus(tmp_path) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus(tmp_path) == []


@pytest.mark.parametrize(
    ("errors", "exit_code", "expected"),
    [
        ("Traceback\nValueError: early\n", -9, "ValueError: early"),
        ("Traceback\n[rank0]: ValueError: early\n", 1, "ValueError: early"),
        ("", -9, "killed by SIGKILL"),
        ("1 problem; nothing was started.\n\nseed\n    bad\n", 2, "1 problem; nothing was started. seed bad"),
        ("", 3, "it ended with exit code 3"),
    ],
)
def test_the_reason_of_a_trial_that_could_not_write_it_down(errors, exit_code, expected):
    assert _reason(errors, exit_code) == expected


def test_what_exists_where_a_trial_will_be_must_be_that_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.csv")
    cfg, other = (compose(["data.path=pairs.csv", f"seed={seed}"]) for seed in (1, 2))
    dataset = SimpleNamespace(fingerprint="x", sources=["pairs.csv"])
    run = RunDirectory(tmp_path / "run")
    assert check_directory(cfg, run.path, dataset) == []
    run.path.mkdir()
    (problem,) = check_directory(cfg, run.path, dataset)
    assert "not a run of finetune" in problem.what
    run.config_path.write_text(yaml.safe_dump(resolved(cfg)))
    run.data_path.write_text('{"fingerprint": "x"}')
    run.write_status("interrupted", "Ctrl-C")
    assert check_directory(cfg, run.path, dataset) == []
    (problem,) = check_directory(other, run.path, dataset)
    assert "seed was 1, now 2" in problem.what
    with run.lock():
        (problem,) = check_directory(cfg, run.path, dataset)
        assert "in use" in problem.what
    run.write_status("finished")
    assert check_directory(cfg, run.path, dataset) == []
    cfg.resume = "never"
    (problem,) = check_directory(cfg, run.path, dataset)
    assert "resume=never" in problem.what


def test_the_place_of_a_trial_follows_from_config_and_data_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg, other, named = (compose(["data.path=pairs.csv", text]) for text in ("seed=1", "seed=2", "name=mine"))
    place = directory_of(cfg, ["model.name='a/b c'"], "data")
    assert re.fullmatch(r"model\.name=b-c_[0-9a-f]{10}", place.name)
    place.mkdir(parents=True)
    # Wherever else it varies, it is the same trial.
    assert directory_of(cfg, ["seed=1"], "data") == place
    assert directory_of(compose(["data.path=pairs.csv", "seed=1", "sweep.parallel=2"]), [], "data") == place
    assert directory_of(cfg, ["seed=1"], "other data") != place
    assert directory_of(other, ["seed=2"], "data") != place
    assert directory_of(named, ["seed=1"], "data").name == "mine"


def test_the_directory_of_a_trial_does_not_depend_on_the_new_name_of_a_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = compose(["data.path=pairs.csv", "loss=cosent"])
    place = directory_of(cfg, ["seed=1"], "data")
    cfg.engine._target_ = "finetune.training.engine.Engine"
    cfg.loss._target_ = "finetune.losses.scored.CoSENT"
    assert directory_of(cfg, ["seed=1"], "data") == place
    cfg.loss._target_ = "finetune.losses.pairwise_scores.AnglE"
    assert directory_of(cfg, ["seed=1"], "data") != place

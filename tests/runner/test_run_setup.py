"""With what a run that exists is compared when it is resumed, and what is recorded of a new time limit."""

import shlex
from types import SimpleNamespace

import pytest
import yaml

from finetune.config.command_line import Arguments
from finetune.config.compose import compose
from finetune.config.differences import changes
from finetune.data.fingerprint import reader_versions
from finetune.errors import FinetuneError
from finetune.preflight.resume import composed
from finetune.runner import run_setup
from finetune.runs.directory import RunDirectory


def written(folder, overrides):
    run = RunDirectory(folder)
    run.path.mkdir(parents=True)
    run.config_path.write_text(yaml.safe_dump(run_setup.resolved(compose(overrides))))
    run.overrides_path.write_text(yaml.safe_dump(overrides))
    return run


def earlier(tree):
    """The config of a run as an earlier version wrote it."""
    del tree["data"]["decimal"], tree["data"]["score_values"], tree["trainer"]["max_time"]
    del tree["callbacks"]["checkpoint"]["every_n_minutes"]
    tree["loss"]["right_from"] = 0.5
    tree["model"]["normalize"] = True
    tree["engine"]["_target_"] = "finetune.training.engine.Engine"
    tree["loss"]["_target_"] = tree["loss"]["_target_"].replace("pairwise_scores", "scored")
    return tree


@pytest.mark.parametrize("loss", ["contrastive", "online_contrastive"])
def test_a_run_of_an_earlier_version_has_the_same_config(loss):
    words = ["model=static", f"loss={loss}"]
    then = earlier(run_setup.resolved(compose(words)))
    assert changes(then, run_setup.resolved(compose(words))) == []
    more = ["data.decimal=','", "loss.right_from=0.6", "model.normalize=false", "+trainer.min_steps=3"]
    keys = {line.partition(" ")[0] for line in changes(then, run_setup.resolved(compose([*words, *more])))}
    assert keys == {"data.decimal", "loss.right_from", "model.normalize", "trainer.min_steps"}


def test_data_that_another_version_read_is_not_compared(tmp_path, capsys):
    cfg = compose([])
    run = written(tmp_path / "run", [])
    run.write_status("interrupted", "Ctrl-C")
    dataset = SimpleNamespace(fingerprint="y", sources=["pairs.csv"])
    run.data_path.write_text('{"fingerprint": "x"}')
    assert run_setup.check_same_run(cfg, run, dataset) == "interrupted"
    assert "another version of finetune" in capsys.readouterr().out
    run.data_path.write_text(f'{{"fingerprint": "x", "versions": {reader_versions()}}}')
    with pytest.raises(FinetuneError, match="on other data"):
        run_setup.check_same_run(cfg, run, dataset)


@pytest.mark.parametrize(
    "started_with",
    [["trainer.max_time={hours: 12}"], ["++trainer.max_time={hours: 12}"], ["trainer.max_time.hours=12"], []],
    ids=["plain", "forced", "inner", "recipe"],
)
@pytest.mark.parametrize(
    ("typed", "limit"),
    [
        ("~trainer.max_time", None),
        ("trainer.max_time=null", None),
        ("++trainer.max_time='00:13:00:00'", "00:13:00:00"),
        ("trainer.max_time={hours: 13}", {"hours": 13}),
    ],
)
def test_a_run_keeps_the_time_limit_that_it_was_resumed_with(tmp_path, monkeypatch, started_with, typed, limit):
    monkeypatch.chdir(tmp_path)
    if started_with == ["trainer.max_time.hours=12"]:
        started_with = ["trainer.max_time={hours: 11}", *started_with]
    if not started_with:
        (tmp_path / "conf/recipe").mkdir(parents=True)
        (tmp_path / "conf/recipe/long.yaml").write_text("# @package _global_\ntrainer: {max_time: {hours: 12}}\n")
        started_with = ["recipe=long"]
    run = written(tmp_path / "outputs/default/run", ["seed=7", *started_with])
    run_setup.record_time_limit(compose(["seed=7", *started_with, typed]), run)
    assert yaml.safe_load(run.config_path.read_text())["trainer"]["max_time"] == limit
    _, cfg, problems = composed(Arguments([f"resume={run.path}"]))
    assert not problems
    assert run_setup.resolved(cfg)["trainer"]["max_time"] == limit
    run_setup.record_time_limit(
        compose([*yaml.safe_load(run.overrides_path.read_text()), "trainer.max_time=null"]), run
    )
    assert composed(Arguments([f"resume={run.path}"]))[1].trainer.max_time is None


def test_the_command_for_more_time_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = written(tmp_path / "outputs/my exp (a, b)/run", ["trainer.max_time={hours: 1}"])
    cfg = compose(["trainer.max_time={hours: 1}"])
    with pytest.raises(FinetuneError) as refused:
        run_setup._check_has_more_time(cfg, run, "Training ended.")
    words = shlex.split(refused.value.advice)
    first = next(place for place, word in enumerate(words) if word.startswith("resume="))
    _, resumed, problems = composed(Arguments(words[first:]))
    assert not problems and resumed.trainer.max_time is None
    assert resumed.hydra.run.dir == str(run.path)

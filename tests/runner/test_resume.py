"""A run is resumed by what it was started with, whichever file or word says so; its commands work when pasted."""

import json
import shlex
import shutil
from types import SimpleNamespace

import pytest
import yaml

from finetune.config import resolvers
from finetune.config.command_line import Arguments
from finetune.config.commands import resume_command
from finetune.errors import CheckFailed
from finetune.preflight.resume import composed
from finetune.runner.run_setup import resolved
from finetune.runs.directory import RunDirectory
from tests.conftest import quick, run_train, write_pairs
from tests.runs.made import make_run

GLOBAL = "# @package _global_\n"


@pytest.fixture(scope="module")
def stopped(tiny_model, tmp_path_factory):
    """A folder with a run that was started with a root config of its own, named by a recipe, and interrupted."""
    cwd = tmp_path_factory.mktemp("a folder's")
    write_pairs(cwd / "pairs.csv")
    recipes = cwd / "conf/recipe"
    recipes.mkdir(parents=True)
    (cwd / "conf/my root's.yaml").write_text("defaults: [train, _self_]\nseed: 7\n")
    (recipes / "named.yaml").write_text(GLOBAL + 'name: it\'s "one" ${now:%f}\ntrainer: {max_steps: 2}\n')
    more = ["recipe=named", "evaluation=none", "data.validation_fraction=0"]
    done = run_train("--config-name", "my root's", *quick(tiny_model, *more), cwd=cwd)
    assert done.returncode == 0, done.stderr
    (run,) = (cwd / "outputs/default").iterdir()
    (recipes / "again.yaml").write_text(GLOBAL + f"resume: {json.dumps(str(run.relative_to(cwd)))}\n")
    return cwd, run


def interrupt(run):
    status = json.loads((run / "status.json").read_text()) | {"state": "interrupted"}
    (run / "status.json").write_text(json.dumps(status))


def test_a_run_is_resumed_by_the_printed_command_or_by_a_recipe(stopped):
    cwd, run = stopped
    printed = shlex.split(resume_command(run.relative_to(cwd)))[-1:]
    for words in (printed, ["recipe=again"], [f"++{printed[0]}"]):
        interrupt(run)
        done = run_train(*words, cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert "resuming from" in done.stdout
        assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_the_command_for_another_run_like_it_has_the_root_and_not_the_name(stopped, monkeypatch):
    cwd, run = stopped
    monkeypatch.chdir(cwd)
    again = shlex.split(json.loads((run / "environment.json").read_text())["again"])
    words = again[again.index("--config-name") :]
    assert words[:2] == ["--config-name", "my root's"] and words[-1] == "name=null"
    _, cfg, problems = composed(Arguments(words[2:], config_name="my root's"))
    assert not problems and cfg.name is None and cfg.seed == 7


def test_the_moment_of_a_run_stays_when_it_is_resumed(stopped, monkeypatch):
    cwd, run = stopped
    interrupt(run)
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("FINETUNE_MOMENT", "1.5")
    written = yaml.safe_load((run / "config.yaml").read_text())
    arguments, cfg, problems = composed(Arguments(["recipe=again"]))
    assert not problems and arguments.config_name == "my root's"
    assert resolved(cfg) | {"name": written["name"]} == written
    assert written["name"].endswith(run.name[-6:]) and resolvers.moment() != 1.5


def test_a_run_that_was_renamed_is_resumed_under_its_new_name(stopped, tmp_path, monkeypatch):
    cwd, run = stopped
    interrupt(run)
    monkeypatch.chdir(cwd)
    renamed = shutil.copytree(run, tmp_path / "other")
    _, cfg, problems = composed(Arguments([f"resume={renamed}"]))
    assert not problems and cfg.hydra.run.dir == str(renamed)


def test_what_cannot_be_resumed_is_told_with_its_file(stopped):
    cwd, run = stopped
    interrupt(run)
    (cwd / "conf/recipe/nowhere.yaml").write_text(GLOBAL + "resume: outputs/none\n")
    mistakes = {
        ("recipe=nowhere",): "no run at 'outputs/none' (conf/recipe/nowhere.yaml:2)",
        ("++resume=outputs/none", "lr=1"): "no run at 'outputs/none'",
        ("recipe=again", "hydra.run.dir=elsewhere"): "hydra.run.dir another folder",
        ("recipe=again", "name=b"): f"resume names the run '{run.name}'",
    }
    for words, told in mistakes.items():
        done = run_train(*words, cwd=cwd)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert told in done.stderr


@pytest.mark.thorough
def test_hydras_folder_and_the_clock_are_the_same_in_all_processes_of_a_run(tiny_model, pairs_csv):
    cwd = pairs_csv.parent
    samples = "{_target_: finetune.training.callbacks.SampleEmbeddings, every_n_steps: 1, items: 3}"
    more = [
        *("experiment=${hydra:job.name}_${now:%f}", "data.path=${hydra:runtime.cwd}/pairs.csv", "trainer.devices=2"),
        *(f"+callbacks.samples={samples}", "+callbacks.samples.directory=${hydra:runtime.output_dir}/deep"),
        *("trainer.max_steps=1", "evaluation=none", "data.validation_fraction=0"),
    ]
    done = run_train(*quick(tiny_model, *more), cwd=cwd)
    assert done.returncode == 0, done.stderr
    (run,) = cwd.glob("outputs/train_*/*")
    assert (run / "deep").is_dir()
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["experiment"] == run.parent.name
    assert written["callbacks"]["samples"]["directory"] == "${hydra:runtime.output_dir}/deep"


def test_a_resumed_run_without_a_checkpoint_says_that_it_starts_over(tmp_path, monkeypatch, capsys):
    from finetune.runner import run

    started = []
    monkeypatch.setattr("finetune.training.fit.fit", lambda *given: started.append(given))
    monkeypatch.setattr("finetune.runner.run_setup.record_time_limit", lambda *_: None)
    cfg, checked = SimpleNamespace(resume="auto"), SimpleNamespace(notes=[], dataset=None)
    run._train(cfg, checked, RunDirectory(tmp_path), existed=True, has_run_before=True)
    assert "No checkpoint was written yet; training starts from the beginning." in capsys.readouterr().out
    assert started[0][-1] is None
    # A new run has no reason to say so, also in a directory that was created when it was submitted.
    run._train(cfg, checked, RunDirectory(tmp_path), existed=False, has_run_before=False)
    run._train(cfg, checked, RunDirectory(tmp_path), existed=True, has_run_before=False)
    assert "checkpoint" not in capsys.readouterr().out


@pytest.mark.parametrize("is_typed", [True, False])
def test_resume_of_a_finished_run_is_told_by_the_check(tmp_path, monkeypatch, is_typed):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "outputs", "default/done")
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/again.yaml").write_text(f"# @package _global_\nresume: {run.path}\n")
    with pytest.raises(CheckFailed) as refused:
        composed(Arguments([f"resume={run.path}" if is_typed else "recipe=again", "data.path=pairs.csv"]))
    (problem,) = refused.value.problems
    assert "is finished; it is not trained again" in problem.what
    assert problem.advice.startswith("Leave resume=... out" if is_typed else "Remove resume from the file")
    assert f"model.name={run.model}" in problem.advice and "name=other" not in problem.advice


def test_more_batches_in_a_step_than_an_epoch_has_are_said():
    from finetune.preflight.check import _batch_notes

    def notes(accumulated):
        data, trainer = SimpleNamespace(batch_size=16), {"accumulate_grad_batches": accumulated}
        return _batch_notes(SimpleNamespace(data=data, trainer=trainer), SimpleNamespace(train=range(100)))

    assert notes(7) == []
    (note,) = notes(8)
    assert "trainer.accumulate_grad_batches is 8, but an epoch has about 7 batches" in note

"""`import finetune`: checks and real runs of the tiny model, from a test that is like any program."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

import finetune
from finetune.runs.delete import delete_run
from finetune.runs.record import read_run
from tests.api.conftest import words

HOST = """
import json, os, signal, sys, threading
import hydra
from hydra.core.global_hydra import GlobalHydra

words = json.loads(sys.argv.pop())
hydra.initialize(config_path=None, version_base="1.2", job_name="host")
mine = GlobalHydra.instance()
import finetune


def state():
    handlers = [signal.getsignal(number) for number in (2, 15, 1)]
    return list(sys.argv), dict(os.environ), os.getcwd(), handlers, GlobalHydra.instance()


before, handles, results = state(), [], []


def cell():
    results.append(finetune.check(*[*words, "trainer.max_stepz=1"]))
    results.append(finetune.check(*words))
    handles.append(finetune.fit(*[*words, "name=thread"], wait=False))


thread = threading.Thread(target=cell)
thread.start()
thread.join()
handles.append(finetune.fit(*[*words, "name=main"], wait=False))
assert state() == before
assert hydra.compose(overrides=["+a=1"]).a == 1 and GlobalHydra.instance() is mine
print(json.dumps([[result.ok for result in results], [handle.wait(200).state for handle in handles]]))
"""


def test_importing_it_is_quick_and_loads_no_library():
    program = (
        "import sys, time; before = time.process_time(); import finetune; seconds = time.process_time() - before;"
        "heavy = {'torch', 'hydra', 'omegaconf', 'rich', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy; print(seconds)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1


def test_a_check_returns_what_is_wrong_or_what_is_known_and_prints_nothing(folder, tiny_model, capfd):
    result = finetune.check(*words(tiny_model))
    assert result.ok and result.problems == []
    assert result.facts["training_pairs"] == 108
    assert any("Held out of training" in note for note in result.notes)
    wrong = finetune.check(*words(tiny_model, "trainer.max_stepz=1", "loss.temperature=0"))
    assert not wrong.ok
    assert {problem.where for problem in wrong.problems} == {"trainer.max_stepz=1", "loss.temperature"}
    assert not wrong.notes and not wrong.facts
    for mistake in (
        "-m",
        "sweep.parallel=2",
        "dry_run=true",
        "model.name=",
        "resume=nowhere",
        "=",
        "data.path=none.csv",
    ):
        assert not finetune.check(*words(tiny_model, mistake)).ok, mistake
    assert not finetune.check(config_dir=Path("nowhere")).ok
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in folder.iterdir()] == ["pairs.csv"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_model_that_is_not_here_is_a_problem_where_the_hub_may_not_be_asked(folder, tiny_model, monkeypatch):
    for offline, found in ((True, ["model.name"]), (False, [])):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        result = finetune.check(*words("foo/bar"))
        assert [problem.where for problem in result.problems] == found
        assert result.ok == any("a run would download it" in note for note in result.notes)
        assert "foo/bar is not on this machine" in finetune.build_dataset("pairs.csv", "model.name=foo/bar").warnings[0]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sweep = [word for word in words("foo/bar") if not word.startswith("trainer.max_steps")]
    with pytest.raises(finetune.CheckFailed, match=r"foo/bar not found: .* HF_HUB_OFFLINE is set"):
        finetune.sweep(*sweep, "trainer.max_steps=1,2")


def test_a_chosen_evaluation_without_data_is_a_problem_or_a_note(folder, tiny_model):
    (problem,) = finetune.check(*words(tiny_model, "evaluation=[classification,similarity]")).problems
    needs = "classification needs labelled items, similarity needs scored pairs, and the data gives judgments."
    assert problem.where == "evaluation" and problem.what.endswith(needs)
    assert problem.advice == "Choose evaluation=retrieval."
    result = finetune.check(*words(tiny_model, "evaluation=[classification,retrieval]"))
    assert any("evaluation.classification is skipped" in note for note in result.notes)
    for overrides in (["evaluation=retrieval"], []):
        rest = ["data.validation_fraction=0", *overrides]
        chosen = [word for word in words(tiny_model, *rest) if word != "evaluation=none"]
        problems = finetune.check(*chosen).problems
        assert [problem.where for problem in problems] == ["evaluation"] * len(overrides)


def test_a_check_in_a_process_that_is_training_is_a_problem_not_an_error(folder, tiny_model):
    from finetune.runner.process_state import preserve_process_state

    with preserve_process_state():
        (problem,) = finetune.check(*words(tiny_model)).problems
        with pytest.raises(finetune.FinetuneError, match="already running finetune"):
            finetune.fit(*words(tiny_model), wait=False)
    assert "already running finetune" in problem.what


def test_a_run_is_started_waited_for_and_finished(folder, tiny_model, capfd):
    run = finetune.fit(*words(tiny_model, "name=first"), wait=False)
    assert run.path == folder / "outputs/debug/first"
    assert run.path.is_dir() and not run.status.has_ended
    with pytest.raises(TimeoutError, match="has not ended after 0"):
        run.wait(timeout=0)
    # From its start to its end the run belongs to its process: nothing else takes it for dead, or starts it again.
    assert read_run(run.path).state not in ("dead", "damaged")
    with pytest.raises(finetune.FinetuneError, match="is in use by process"):
        finetune.fit(*words(tiny_model, "name=first"), wait=False)
    with pytest.raises(finetune.FinetuneError, match="is in use by process"):
        delete_run(run.path, folder / "outputs")
    with pytest.raises(finetune.FinetuneError, match=r"exists \(\w+\) and resume=never"):
        finetune.fit(*words(tiny_model, "name=first", "resume=never"), wait=False)
    status = run.wait(timeout=200)
    assert (status.state, status.reason, status.step, status.has_ended) == ("finished", "", 3, True)
    assert (run.path / "model/model.safetensors").is_file()
    assert "training 3/3" in run.log_tail() and len(run.log_tail(2).splitlines()) == 2
    assert "was killed" not in (run.path / "run.log").read_text()
    again = json.loads((run.path / "environment.json").read_text())["again"]
    assert "-m finetune train " in again and "trainer.max_steps=3" in again
    run.cancel()  # does nothing any more
    assert run.status == status
    assert capfd.readouterr() == ("", "")
    with pytest.raises(finetune.FinetuneError, match="is finished; it is not trained again"):
        finetune.fit(*words(tiny_model, "name=first"), wait=False)
    for lines in (0, -1, "2"):
        with pytest.raises(finetune.FinetuneError, match="not a number of lines"):
            run.log_tail(lines)
    with pytest.raises(finetune.FinetuneError, match="timeout='3' is not a number of seconds"):
        run.wait(timeout="3")
    with pytest.raises(finetune.FinetuneError, match=r"not a folder\. Choose another folder\.$"):
        run.save_artifact("pairs.csv/in")
    check_that_it_can_be_deleted(run)


def check_that_it_can_be_deleted(run):
    run.delete()
    assert run.status.has_ended and str(run.status) == "deleted: Its directory was deleted or moved."
    assert finetune.LocalRun(run.path).wait().state == "deleted"
    for call in (run.delete, run.model, lambda: run.artifact):
        with pytest.raises(finetune.FinetuneError, match=r"there is no run .*first\. It was deleted or moved"):
            call()


def wait_until(condition, run):
    """Wait until a condition holds, while the run has not ended."""
    deadline = time.monotonic() + 100
    while not condition():
        assert not run.status.has_ended, run.status
        assert time.monotonic() < deadline, run.log_tail()
        time.sleep(0.05)


def test_a_cancelled_run_saves_and_is_resumed_by_the_next_start(folder, tiny_model):
    long = words(tiny_model, "name=long", "trainer.max_steps=100000")
    run = finetune.fit(*long, wait=False)
    wait_until(lambda: (run.path / "metrics.jsonl").exists(), run)
    run.cancel()
    stopped = run.wait(timeout=200)
    assert stopped.state == "interrupted"
    assert stopped.reason.startswith("Stopped by SIGTERM at step") and "it was cancelled, or" in stopped.reason
    assert (run.path / f"checkpoints/step-{stopped.step:08d}.ckpt").exists()
    again = finetune.fit(*long, wait=False)
    assert again.path == run.path
    wait_until(lambda: "resuming from step" in again.log_tail(1000), again)
    again.cancel()
    assert again.wait(timeout=200).state == "interrupted"


def test_a_run_that_is_cancelled_at_once_is_interrupted(folder, tiny_model):
    run = finetune.fit(*words(tiny_model, "name=early"), wait=False)
    run.cancel()
    status = run.wait(timeout=200)
    assert status.state == "interrupted"
    # On a busy machine the run may get far enough to notice it by itself.
    assert "before it started training" in status.reason or "while preparing" in status.reason
    written = json.loads((run.path / "status.json").read_text())
    assert (written["state"], written["cause"]) == ("interrupted", "stopped")


def test_a_run_that_cannot_be_started_raises_and_leaves_nothing(folder, tiny_model):
    with pytest.raises(finetune.CheckFailed) as refused:
        finetune.fit(*words(tiny_model, "optimizer.lrr=1"), wait=False)
    assert [problem.where for problem in refused.value.problems] == ["optimizer.lrr=1"]
    for mistake in ("check=true", "dry_run=true", "sweep.parallel=2"):
        with pytest.raises(finetune.CheckFailed):
            finetune.fit(*words(tiny_model, mistake), wait=False)
    assert [path.name for path in folder.iterdir()] == ["pairs.csv"]


@pytest.mark.thorough  # in `make test` tests/runner/test_process_state.py calls a run in the same way
def test_it_works_from_a_thread_beside_a_hydra_app_and_leaves_the_process_as_it_was(folder, tiny_model):
    (folder / "host.py").write_text(HOST)
    command = [sys.executable, "host.py", json.dumps(words(tiny_model))]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[False, True], ["finished", "finished"]]


def test_threads_that_check_at_the_same_time_wait_for_each_other(folder, tiny_model):
    results = []
    threads = [threading.Thread(target=lambda: results.append(finetune.check(*words(tiny_model)).ok)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 3


def test_a_job_is_submitted_to_slurm_and_followed_in_its_queue(folder, tiny_model, tmp_path, monkeypatch):
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, answer in {"sbatch": "7", "squeue": "7|PENDING|Priority", "sacct": "", "scancel": ""}.items():
        (commands / name).write_text(f'#!/bin/sh\necho "$@" >> "$0.calls"\necho "{answer}"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    run = finetune.fit(*words(tiny_model, "hydra/launcher=slurm", "name=job"), wait=False)
    assert run.path == folder / "outputs/debug/job"
    assert json.loads((run.path / "job.json").read_text())["id"] == "7"
    status = run.status
    assert (status.state, status.reason) == ("pending", "Job 7 is waiting in the queue (Priority).")
    with pytest.raises(finetune.FinetuneError, match="is pending as job 7"):
        finetune.fit(*words(tiny_model, "hydra/launcher=slurm", "name=job"), wait=False)
    run.cancel()
    assert (commands / "scancel.calls").read_text() == "7\n"
    (commands / "squeue").write_text("#!/bin/sh\necho '7|CANCELLED|None'\n")
    assert run.wait(timeout=20).state == "interrupted"


def test_an_override_that_is_no_text_is_a_type_error():
    for call in (finetune.check, finetune.fit, finetune.compose, finetune.sweep):
        with pytest.raises(TypeError, match="an override is a text"):
            call(3)
        with pytest.raises(TypeError, match=r"not of type DataFrame; data is passed as data=\.\.\.") as caught:
            call(pd.DataFrame({"anchor": ["red"] * 50}))
        assert len(str(caught.value)) < 200


def test_what_an_argument_and_an_override_set_is_refused(folder, tiny_model):
    for given, override in (("name", "name=x"), ("experiment", "++experiment=x")):
        with pytest.raises(finetune.CheckFailed, match=f"the {given} is given twice"):
            finetune.fit(*words(tiny_model, override), **{given: "y"})


def test_a_check_is_shown_as_on_the_command_line(folder, tiny_model):
    wrong = finetune.check(*words(tiny_model, "trainer.max_stepz=1"))
    assert str(wrong).startswith("1 problem; nothing was started.\n\ntrainer.max_stepz=1\n    there is no key")
    assert "<td>trainer.max_stepz=1</td>" in wrong._repr_html_()
    result = finetune.check(*words(tiny_model))
    assert "The config and the data are fine" in str(result) and "  training pairs: 108" in str(result)
    assert "<td>training_pairs</td><td>108</td>" in result._repr_html_() and "part=" not in repr(wrong)


def test_a_misspelled_attribute_of_the_package_is_answered_with_the_right_one():
    with pytest.raises(AttributeError, match=r"'get_modell'\. Did you mean get_model\?"):
        finetune.get_modell  # noqa: B018
    assert {"fit", "Run", "runs", "__version__"} <= set(dir(finetune))
    assert not {"Any", "TYPE_CHECKING", "import_module"} & set(dir(finetune))

"""Ctrl-C, kill and a full disk: the status says so, the checkpoint is whole, and the run can go on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from finetune import signals
from tests.conftest import ROOT, can_mount, quick, run_train, start_train, thorough, write_pairs

STEPS = 140


def overrides_of_a_long_run(tiny_model):
    return [*quick(tiny_model, "name=run", "callbacks.checkpoint.every_n_steps=4"), "trainer.max_epochs=20"]


@pytest.fixture
def started(tiny_model, tmp_path):
    """Start a run of some seconds, and wait until it has made some steps."""
    write_pairs(tmp_path / "pairs.csv")
    overrides = overrides_of_a_long_run(tiny_model)
    path = tmp_path / "outputs" / "default" / "run"
    process = start_train(*overrides, cwd=tmp_path)
    wait_for_steps(process, path)
    yield process, path, overrides
    process.kill()
    process.wait()


@pytest.fixture
def started_on_pipes(tiny_model, tmp_path):
    """Start the same run with pipes for what it prints."""
    write_pairs(tmp_path / "pairs.csv")
    command = [sys.executable, str(ROOT / "train.py"), *overrides_of_a_long_run(tiny_model)]
    path = tmp_path / "outputs" / "default" / "run"
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_steps(process, path)
    yield process, path
    process.kill()
    process.wait()


def wait_for_steps(process, path):
    deadline = time.monotonic() + 120
    while steps_of(path) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_of(path):
    try:
        return (path / "metrics.jsonl").read_text().count('"loss"')
    except FileNotFoundError:
        return 0


def status(path):
    return json.loads((path / "status.json").read_text())


def last_step(path):
    return torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), thorough(signal.SIGTERM, "SIGTERM")])
def test_a_signal_saves_and_resume_goes_on_to_the_end(started, tmp_path, number, name):
    process, path, _ = started
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"resume={path.relative_to(tmp_path)}" in err
    assert f"resume={path.relative_to(tmp_path)}" in (path / "run.log").read_text()
    assert (status(path)["state"], status(path)["cause"]) == ("interrupted", "stopped")
    assert name in status(path)["reason"]
    assert 5 <= last_step(path) < STEPS
    path = path.rename(path.with_name("it's renamed"))
    again = run_train(f'resume="{path.relative_to(tmp_path)}"', cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stdout
    assert status(path)["state"] == "finished"
    assert last_step(path) == STEPS
    losses = [row["step"] for row in map(json.loads, (path / "metrics.jsonl").open()) if "loss" in row]
    assert losses == list(range(1, STEPS + 1))


def test_a_terminal_that_closes_is_a_signal_sent_twice_and_no_more_output(started_on_pipes):
    process, path = started_on_pipes
    process.stdout.close()
    process.stderr.close()
    # The kernel sends it when the line is gone, and the shell to its jobs; the second one must not stop at once.
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    assert process.wait(timeout=60) == 130
    found = status(path)
    assert (found["state"], found["cause"]) == ("interrupted", "stopped")
    assert found["reason"].startswith(f"Stopped by SIGHUP at step {found['step']} of")
    assert last_step(path) == found["step"] >= 5
    assert "Resume it with: " in (path / "run.log").read_text()


def test_a_reader_that_goes_is_no_reason_to_stop_and_nohup_is_deaf_to_sighup(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    overrides = quick(tiny_model, "name=run", "evaluation=none")
    command = ["nohup", sys.executable, str(ROOT / "train.py"), *overrides]
    # ASCII: not even the line of the progress bar can be printed there as it is.
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        run.stdout.readline()
        run.stdout.close()
        path = tmp_path / "outputs" / "default" / "run"
        while steps_of(path) < 3:
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGHUP)
        err = run.stderr.read()
    assert (run.returncode, status(path)["state"]) == (0, "finished"), err
    assert b"Traceback" not in err and b"Error" not in err
    assert "training 21/21 steps \u00b7 loss" in (path / "run.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["validating", "evaluating", "trained"])
def test_a_run_that_is_stopped_outside_of_training_says_so(tmp_path, number, moment):
    from finetune.errors import Interrupted
    from finetune.runner.lifecycle import run_lifecycle
    from finetune.runs.directory import RunDirectory

    told = {
        "validating": "while preparing; no checkpoint was written yet.",
        "evaluating": "while evaluating before training; no checkpoint was written yet.",
        "trained": "while evaluating after training; all 3 steps are saved.",
    }
    run = RunDirectory(tmp_path / "run")
    run.saved.folder.mkdir(parents=True)
    before = signal.getsignal(number)
    signals.reset()
    with pytest.raises(Interrupted, match="resume="), run_lifecycle(run):
        if moment != "validating":
            run.write_status("running", step=3)
        if moment == "trained":
            run.write_status("running", stage="trained")
            run.saved.path(3).touch()
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGHUP)  # again, while what it interrupted is tidied up
    assert (status(run.path)["state"], status(run.path)["cause"]) == ("interrupted", "stopped")
    reason = f"Stopped by {signal.Signals(number).name} {told[moment]}"
    assert status(run.path)["reason"] == reason
    assert signal.getsignal(number) is before
    signals.reset()


def test_what_repeats_a_signal_is_no_second_request(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("finetune.signals.time.monotonic", lambda: now[0])
    signals.reset()
    assert not signals.is_repeat(signal.SIGINT)
    now[0] += 0.2
    assert signals.is_repeat(signal.SIGINT) and signals.is_repeat(signal.SIGTERM)  # passed on by a wrapper
    now[0] += 2
    assert signals.is_repeat(signal.SIGHUP)
    assert not signals.is_repeat(signal.SIGINT)
    signals.reset()
    assert not signals.stop_requested()


def test_an_ignored_signal_stays_ignored_and_a_thread_changes_none():
    import threading

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.Installed(signals.ALL, signals.raise_stop):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signals.raise_stop
    finally:
        signal.signal(signal.SIGHUP, before)
    found = []
    thread = threading.Thread(target=lambda: found.append(signals.install(signals.ALL, signals.raise_stop)))
    thread.start()
    thread.join()
    assert found == [{}] and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_killed_run_goes_on_under_its_name(started, tmp_path):
    process, path, overrides = started
    process.kill()
    process.wait()
    before = last_step(path)
    again = run_train(*overrides, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "before: The process was killed; the last recorded step is" in again.stdout
    assert "resuming from" in again.stdout
    assert status(path)["state"] == "finished"
    assert before < last_step(path) == STEPS
    assert [row["step"] for row in map(json.loads, (path / "metrics.jsonl").open()) if "loss" in row] == [
        *range(1, STEPS + 1)
    ]


def test_a_damaged_checkpoint_is_left_out_and_without_another_it_is_one_sentence(started, tmp_path):
    process, path, overrides = started
    while len(whole_steps(path)) < 2:
        time.sleep(0.01)
    process.kill()
    process.wait()
    *_, older, newest = whole_steps(path)
    file = path / "checkpoints" / f"step-{newest:08d}.ckpt"
    file.write_bytes(file.read_bytes()[:1000])
    # Not by last.ckpt: a kill between a manifest and that link leaves it at the one before, which is whole.
    stopped = run_train(*overrides, f"resume={file}", cwd=tmp_path)
    assert stopped.returncode == 2
    assert "cannot be used: it is damaged: it has 1,000 of" in stopped.stderr
    file.with_name(f"step-{older:08d}.json").write_text("{")
    again = run_train(*overrides, cwd=tmp_path)
    assert again.returncode == 2
    assert "has no usable checkpoint" in again.stderr
    assert "Traceback" not in again.stderr
    assert (status(path)["state"], status(path)["cause"]) == ("failed", "mistake")
    (path / "config.yaml").write_text("{ damaged")
    again = run_train(*overrides, cwd=tmp_path)
    assert again.returncode == 2
    assert "config.yaml cannot be read" in again.stderr


def whole_steps(path):
    return sorted(int(file.stem[5:]) for file in (path / "checkpoints").glob("step-*.json"))


def test_a_run_goes_on_from_the_checkpoint_that_is_chosen(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    some = ["name=run", "evaluation=none", "callbacks.checkpoint.every_n_steps=1", "trainer.max_steps=4"]
    overrides = quick(tiny_model, *some, "callbacks.checkpoint.keep_last=9")
    assert run_train(*overrides, cwd=tmp_path).returncode == 0
    path = tmp_path / "outputs" / "default" / "run"
    weights = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    reopen(path)
    newest = path / "checkpoints" / "step-00000004.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1])
    again = run_train("resume=outputs/default/run/checkpoints/step-00000002.ckpt", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming from step 2" in again.stdout
    again = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    reopen(path)
    newest.write_bytes(newest.read_bytes()[:-1])
    again = run_train(*overrides, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "left out: step-00000004.ckpt, it is damaged" in again.stdout
    assert "resuming from step 3" in again.stdout
    assert whole_steps(path) == [1, 2, 3, 4]


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
def test_a_run_on_a_disk_that_became_read_only_is_left_as_it_is(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    overrides = quick(tiny_model, "name=run", "evaluation=none", "trainer.max_steps=1")
    assert run_train(*overrides, cwd=tmp_path).returncode == 0
    reopen(tmp_path / "outputs" / "default" / "run")
    command = " ".join(f"'{word}'" for word in [sys.executable, str(ROOT / "train.py"), *overrides])
    script = f"mount --bind outputs outputs && mount -o remount,ro,bind outputs && {command}"
    words = ["unshare", "-rm", "sh", "-c", script]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2, run.stderr
    assert "read-only" in run.stderr.lower()
    assert "Traceback" not in run.stderr


def test_another_config_or_resume_never_is_refused(started, tmp_path):
    process, _, overrides = started
    process.kill()
    process.wait()
    other = run_train(*overrides, "optimizer.lr=2e-3", cwd=tmp_path)
    assert other.returncode == 2
    assert "optimizer.lr was 0.001, now 0.002" in other.stderr
    never = run_train(*overrides, "resume=never", cwd=tmp_path)
    assert never.returncode == 2
    assert "resume=never" in never.stderr


def test_a_config_of_other_parts_is_told_in_a_few_lines(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    overrides = quick(tiny_model, "name=run")
    assert run_train(*overrides, "trainer.max_steps=1", cwd=tmp_path).returncode == 0
    reopen(tmp_path / "outputs" / "default" / "run")
    other = run_train(*overrides, "evaluation=none", "scheduler=cosine", "seed=1", "model.dropout=0.1", cwd=tmp_path)
    assert other.returncode == 2
    lines = [line.strip() for line in other.stderr.splitlines()]
    assert "evaluation.retrieval was finetune.evaluation.retrieval.Retrieval, now missing" in lines
    assert "scheduler was finetune.training.schedules.Linear, now finetune.training.schedules.Cosine" in lines
    assert "model.dropout was null, now 0.1" in lines
    assert len(lines) < 10


def reopen(path):
    """Make a finished run one that can go on."""
    (path / "status.json").write_text(json.dumps(status(path) | {"state": "interrupted"}))


@pytest.mark.parametrize("changed", [thorough("pairs.csv"), "evaluation/corpus.jsonl"])
def test_other_data_is_refused_and_the_same_data_goes_on(tiny_model, tmp_path, changed):
    write_pairs(tmp_path / "pairs.csv")
    write_evaluation(tmp_path / "evaluation")
    assert run_train(*quick(tiny_model, "name=run", "trainer.max_steps=2"), cwd=tmp_path).returncode == 0
    path = tmp_path / "outputs" / "default" / "run"
    reopen(path)
    file = tmp_path / changed
    before = file.read_bytes()
    file.write_bytes(before + (b"red,blue\n" if changed == "pairs.csv" else b'{"_id": "more", "text": "sea"}\n'))
    for words in (["resume=outputs/default/run"], quick(tiny_model, "name=run", "trainer.max_steps=2")):
        refused = run_train(*words, cwd=tmp_path)
        assert refused.returncode == 2
        assert "started on other data: pairs.csv" in refused.stderr
        assert status(path)["state"] == "interrupted"
    file.write_bytes(before)
    assert run_train("resume=outputs/default/run", cwd=tmp_path).returncode == 0


def write_evaluation(folder):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "red"}\n{"_id": "d2", "text": "moon"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "blue"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")


@pytest.mark.parametrize("seconds", [0.15, *(thorough(seconds) for seconds in (0.1, 0.2, 0.3, 0.5))])
def test_ctrl_c_is_one_line_from_the_start(tmp_path, seconds):
    # Whole seconds of imports, of composing and of reading lie behind these moments.
    for command in (["train.py"], ["-m", "finetune.runner"], ["-m", "finetune", "train"]):
        program = [str(ROOT / word) if word == "train.py" else word for word in command]
        process = subprocess.Popen(
            [sys.executable, *program, "check=true"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        # On a busy machine Python itself may not have come as far as the first line of the program.
        if "<frozen site>" not in err and "from finetune.cli.train import main" not in err:
            assert (process.returncode, err) == (130, "Stopped by Ctrl-C.\n"), err


@pytest.mark.parametrize("state", ["created", "running"])
def test_ctrl_c_once_there_is_a_run_directory_says_how_to_go_on(tiny_model, tmp_path, state):
    write_pairs(tmp_path / "pairs.csv")
    process = start_train(*quick(tiny_model, "name=run"), cwd=tmp_path)
    path = tmp_path / "outputs" / "default" / "run"
    while not (path / "status.json").exists() or status(path)["state"] not in (state, "running"):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    if state == "created" and err == "Stopped by Ctrl-C.\n":  # it was not yet whole, or had just become so
        assert not path.exists() or status(path)["state"] == "created"
        return
    assert "resume=outputs/default/run" in err
    assert len(err.splitlines()) == 2
    assert status(path)["state"] == "interrupted"


def test_two_processes_cannot_have_the_same_run(started, tmp_path):
    _, path, overrides = started
    second = run_train(*overrides, cwd=tmp_path)
    assert second.returncode == 2
    assert "run directory" not in second.stdout
    assert "is in use by" in second.stderr
    assert "Traceback" not in second.stderr
    assert status(path)["state"] == "running"


def test_a_folder_that_is_no_run_is_not_touched(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    precious = tmp_path / "outputs" / "default" / "photos"
    precious.mkdir(parents=True)
    (precious / "holiday.jpg").write_text("")
    answer = run_train(*quick(tiny_model, "name=photos"), cwd=tmp_path)
    assert answer.returncode == 2
    assert "was not touched" in answer.stderr
    assert [path.name for path in precious.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("path", ["nowhere", "outputs/default/nothing"])
def test_resume_of_nothing(tmp_path, path):
    answer = run_train(f"resume={path}", cwd=tmp_path)
    assert answer.returncode == 2
    assert "there is no run" in answer.stderr


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
@pytest.mark.parametrize(
    ("kilobytes", "epochs", "doing"), [(600, 3, "save the checkpoint"), thorough(420, 1, "save the model")]
)
def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tiny_model, tmp_path, kilobytes, epochs, doing):
    overrides = quick(tiny_model, "name=run", "output_root=small", "evaluation=none", f"trainer.max_epochs={epochs}")
    run, kept = on_a_small_disk(tmp_path, f"{kilobytes}k", overrides)
    kept = kept / "default" / "run"
    sizes = {path.name: path.stat().st_size for path in kept.rglob("*") if path.is_file()}
    assert run.returncode == 1, (run.stdout, run.stderr, sizes)
    assert "the disk is full" in run.stderr
    assert doing in run.stderr
    assert "Then resume it with" in run.stderr
    assert "Traceback" not in run.stderr
    assert status(kept)["state"] == "failed"
    assert "the disk is full" in status(kept)["reason"]
    assert status(kept)["cause"] == "disk full"
    assert last_step(kept) == 7
    assert not list(kept.rglob("*.partial"))
    assert not (kept / "model").exists()
    assert status(kept)["step"] == (14 if epochs == 3 else 7)


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
def test_a_disk_that_is_full_at_the_start_is_left_as_it_was(tiny_model, tmp_path):
    run, kept = on_a_small_disk(tmp_path, "4k", quick(tiny_model, "name=run", "output_root=small"))
    assert run.returncode == 2
    assert "the disk is full" in run.stderr
    assert not list(kept.iterdir())


def on_a_small_disk(tmp_path, size, overrides):
    """Run with `small` as a disk of this size; returns the process and a folder with what was on it at the end."""
    write_pairs(tmp_path / "pairs.csv")
    (tmp_path / "small").mkdir()
    script = (
        f"mount -t tmpfs -o size={size} tmpfs small && {{ "
        + " ".join(f"'{word}'" for word in [sys.executable, str(ROOT / "train.py"), *overrides])
        + '; code=$?; cp -r small kept; exit "$code"; }'
    )
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    return run, tmp_path / "kept"


@pytest.mark.parametrize("more", [[], ["callbacks=none"]])
def test_the_step_of_a_run_that_diverged(tiny_model, tmp_path, more):
    write_pairs(tmp_path / "pairs.csv")
    overrides = quick(tiny_model, "name=run", "evaluation=none", "trainer.gradient_clip_val=null", "scheduler.warmup=0")
    run = run_train(
        *overrides, "optimizer.lr=1", "model.normalize=false", "loss.temperature=1e-38", *more, cwd=tmp_path
    )
    path = tmp_path / "outputs" / "default" / "run"
    assert run.returncode == 1, run.stderr
    assert f"at step {status(path)['step']}." in status(path)["reason"]
    assert status(path)["cause"] == "diverged"


@pytest.mark.parametrize("module", ["", "finetune.ranks"])
def test_ctrl_c_before_anything_is_imported(module):
    program = f"""
import signal, sys, types
import finetune.__main__
if {module!r}:
    sys.modules[{module!r}] = types.ModuleType({module!r})  # as it is while it is imported
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Stopped by Ctrl-C.\n")

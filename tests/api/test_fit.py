"""Waiting for a run: its progress, its failure, Ctrl-C; and runs that continue without the program."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import finetune
from finetune.api.progress import Progress
from finetune.api.run_status import RunStatus
from finetune.data.sources.snapshot import snapshot
from finetune.runs.directory import RunDirectory
from tests.api.conftest import no_data, words
from tests.models.tiny import tiny

SCRIPT = """
import json, sys, finetune

words = json.loads(sys.argv[1])
print(finetune.fit(*words, name="left_behind", wait=False).path, flush=True)
finetune.fit(*words, name="interrupted")
"""


def test_a_run_that_is_waited_for_prints_what_it_prints_in_a_shell(project):
    printed = (project / "printed.txt").read_text()
    for text in ("run directory: ", "training 3/3 steps", "nDCG@10      ", "95 % interval", "report: "):
        assert printed.count(text) >= 1, text
    assert "[INFO]" not in printed and "\r" not in printed
    assert "No checkpoint was written yet" not in printed
    skipped = "evaluation.similarity is skipped: it needs scored pairs, and the data gives judgments."
    assert printed.count(skipped) == printed.count("Held out of training") == 1
    assert len(list((project / "outputs/.data").iterdir())) == 1


def test_ctrl_c_stops_the_run_and_leaves_others_running(folder, tiny_model):
    (folder / "script.py").write_text(SCRIPT)
    overrides = json.dumps(words(tiny_model, "trainer.max_steps=100000"))
    command = [sys.executable, "script.py", overrides]
    script = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = [folder / "outputs/debug" / name for name in ("left_behind", "interrupted")]
    wait_for(lambda: all((run / "metrics.jsonl").exists() for run in runs), script)
    script.send_signal(signal.SIGINT)
    printed, errors = script.communicate(timeout=100)
    assert script.returncode != 0 and "KeyboardInterrupt" in errors
    assert "Stopping debug/interrupted, which saves first" in printed
    stopped, left = finetune.get_run("interrupted"), finetune.get_run("left_behind")
    assert (stopped.status.state, stopped.status.cause) == ("interrupted", "stopped")
    assert (stopped.path / f"checkpoints/step-{stopped.status.step:08d}.ckpt").exists()
    with pytest.raises(finetune.Interrupted, match="Stopped by Ctrl-C at step"):
        stopped.raise_unless_finished()
    # The other run belongs to no living program, and can be stopped from this one.
    assert left.status.state == "running"
    with pytest.raises(finetune.WaitTimeout, match="has not ended after 0 seconds: it is running"):
        left.wait(timeout=0)
    left.cancel()
    assert left.wait(timeout=100).state == "interrupted"
    check_that_it_resumes(stopped)


def check_that_it_resumes(run):
    step = run.status.step
    run.resume(wait=False)
    assert not run.status.has_ended
    assert any(f"resuming from step {step}" in line for line in run.stream_logs())
    run.cancel()
    assert run.wait(timeout=100).state == "interrupted"


def wait_for(condition, process):
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_that_fails_raises_its_reason_and_the_end_of_its_log(folder, tiny_model, monkeypatch, capsys):
    boom = "class Boom(Callback):\n    def on_train_start(self, *_):\n        raise ValueError('injected')\n"
    (folder / "mine.py").write_text(f"from pytorch_lightning import Callback\n\n{boom}")
    monkeypatch.setenv("FINETUNE_ALLOW", "mine")
    with pytest.raises(finetune.RunFailed) as failed:
        finetune.fit(*words(tiny_model, "+callbacks.boom._target_=mine.Boom", "name=boom"))
    error = failed.value
    assert (error.reason, error.cause, error.run) == ("ValueError: injected", "error", "debug/boom")
    assert "in on_train_start\n    raise ValueError('injected')" in error.log_tail
    assert "the run debug/boom failed: ValueError: injected" in str(error)
    assert "Traceback" not in capsys.readouterr().out  # it is in the error
    with pytest.raises(finetune.RunFailed, match="injected"):
        finetune.get_run("boom").raise_unless_finished()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_rewrites_one_line_in_a_terminal_and_prints_lines_elsewhere(tmp_path, monkeypatch, stream):
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    run = RunDirectory(tmp_path)
    run.log_path.write_text("[2026-11-30 03:18:50,035][finetune][INFO] an earlier line\n")
    progress = Progress(run)
    log = run.log_path.open("a")
    log.write("[2026-11-30 03:18:51,035][finetune][INFO] evaluating before 7/20 items\n")
    log.write("[2026-11-30 03:18:51,035][numba][INFO] noise\nmore noise\n")
    log.write("[2026-11-30 03:18:51,035][torch][WARNING] some warning\n[2026-11-30 03:18:52,1][fine")
    log.flush()
    progress.update(RunStatus("pending", "Job 7 is waiting in the queue."))
    log.write("tune][INFO] ünïcode\nsecond line\n")
    log.flush()
    run.append_metrics({"step": 5, "loss": 0.5})
    log.write("[2026-11-30 03:18:53,035][finetune][INFO] training 5/5 steps\n")
    log.flush()
    progress.update(RunStatus("running", step=2))  # an older step than that of the line
    progress.update(RunStatus("running", step=6, eta_seconds=61))
    progress.update(RunStatus("running", step=6, eta_seconds=61))
    progress.update(RunStatus("interrupted", "stopped"))
    printed = out.getvalue()
    texts = [text.strip() for text in printed.replace("\r", "\n").split("\n") if text.strip()]
    lines = ["evaluating before 7/20 items", "torch: some warning", "ünïcode", "second line"]
    if stream is Terminal:
        assert texts == [
            *lines[:2],
            "Job 7 is waiting in the queue.",
            *lines[2:],
            "training 5/5 steps",
            "training, step 6 · loss 0.500 · 0:01:01 left",
        ]
        assert printed.endswith(f"\r{' ' * len(texts[-1])}\r")
    else:
        assert texts == [*lines, "training 5/5 steps"] and "\r" not in printed


def test_a_model_that_is_missing_or_in_no_folder_is_not_evaluated(project, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for call in (finetune.get_model, lambda name: finetune.evaluate(name, data="pairs.csv")):
        with pytest.raises(finetune.FinetuneError, match=r"not found.* Did you mean default/first") as caught:
            call("default/frist")
        assert "model.name" not in str(caught.value)
    built = finetune.build_model("tiny", device="cpu", output_width=8)
    with pytest.raises(finetune.FinetuneError, match="built with output_width, and is not saved"):
        finetune.evaluate(built, data="pairs.csv")


@pytest.mark.parametrize("model", [[], "outputs/default/nothing", 3, [None]])
def test_an_evaluation_without_a_model_says_so(folder, model):
    with pytest.raises(finetune.FinetuneError, match=r"no model is given|nothing"):
        finetune.evaluate(model, "data.path=pairs.csv")


def test_models_are_evaluated_and_compared(project, capsys):
    before = sorted(project.iterdir())
    models = ["tiny", finetune.get_run("first").model(device="cpu")]
    found = finetune.evaluate(
        models, "data.max_length=16", data=[(f"red {i}", f"cat {i}") for i in range(40)],
        evaluation="retrieval", show_progress=True,
    )  # fmt: skip
    assert "Held out of training" in capsys.readouterr().out
    table = found.table
    run = str(project / "outputs/default/first")
    assert sorted(set(table["model"])) == sorted(["tiny", run]) and set(table["evaluation"]) == {"retrieval"}
    second = next(row for row in table.rows if row["model"] == run and row["metric"] == "nDCG@10")
    first = next(row for row in table.rows if row["model"] == "tiny" and row["metric"] == "nDCG@10")
    assert first["change"] is None and second["change"] == pytest.approx(second["value"] - first["value"])
    assert found.to_dict()["retrieval"]["models"]["tiny"]["nDCG@10"] == first["value"]
    assert "nDCG@10" in str(found) and "<td>nDCG@10</td>" in found._repr_html_()
    assert sorted(project.iterdir()) == before and len(list((project / "outputs/.data").iterdir())) == 1


def for_sweep(tiny_model):
    return [word for word in words(tiny_model) if "max_steps" not in word and "data.path" not in word]


def test_a_sweep_is_checked_before_it_is_started(folder, tiny_model):
    rows = [(f"red {i}", f"cat {i}") for i in range(40)]
    with pytest.raises(finetune.CheckFailed, match=r"optimizer\.lr: .*'x'"):
        finetune.sweep(*for_sweep(tiny_model), "optimizer.lr=1e-3,x", data=rows, experiment="two")
    with pytest.raises(finetune.CheckFailed, match=r"nothing to sweep.*or start one run with fit"):
        finetune.sweep(*for_sweep(tiny_model), "trainer.max_steps=1", data=rows)
    for override in ("check=true", "dry_run=true"):
        with pytest.raises(finetune.CheckFailed):
            finetune.sweep(*for_sweep(tiny_model), "optimizer.lr=1e-3,1e-4", override, data=rows)
    assert not (folder / "outputs").exists()


@pytest.mark.thorough  # the parts are tested in tests/sweep
def test_a_sweep_is_started_and_ranked(folder, tiny_model, capsys):
    overrides = for_sweep(tiny_model)
    rows = [(f"red {i}", f"cat {i}") for i in range(40)]
    ranked = [*overrides, "trainer.max_steps=1,2", "sweep.metric=loss", "experiment=two"]
    trials = finetune.sweep(*ranked, data=rows)
    assert trials.status.state == "finished" and "the trials, best first" in capsys.readouterr().out
    assert trials.table["overrides"] in (["trainer.max_steps=1", "trainer.max_steps=2"],
                                         ["trainer.max_steps=2", "trainer.max_steps=1"])  # fmt: skip
    assert trials.table["value"] == sorted(trials.table["value"]) and trials.table["metric"] == ["loss"] * 2
    assert trials.best.name == trials.runs[0].name == trials.table["run"][0]
    assert {run.status.state for run in trials.runs} == {"finished"}
    assert len(list((folder / "outputs/.data").iterdir())) == 1
    with pytest.raises(finetune.FinetuneError, match="not a number of seconds"):
        trials.wait(timeout="3")
    finetune.delete_experiment("two")
    assert list((folder / "outputs").iterdir()) == []


def test_images_in_memory_are_kept_with_the_run_by_their_content(folder):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (9, 9, 3), dtype=np.uint8) for _ in range(20)]
    rows = [{"anchor": Image.fromarray(array), "positive": f"red {n}"} for n, array in enumerate(pixels)]
    run = finetune.fit(*no_data(tiny("clip", folder / "clip"), "model=clip"), data=rows)
    assert run.status.state == "finished"
    assert run.model().encode(pixels).shape == (20, 24)
    arrays = [row | {"anchor": array} for row, array in zip(rows, pixels, strict=True)]
    assert Path(run.data["path"]).stem == snapshot(arrays).digest[:32]

"""`finetune runs` through the front door."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from finetune.cli import runs_curve, runs_tables
from finetune.cli.errors import exit_code_of
from finetune.runs.artifact import read_manifest
from finetune.runs.directory import RunDirectory
from finetune.runs.registry import OUTPUTS
from finetune.runs.selection import RunQuery, select
from tests.conftest import ROOT
from tests.runs.made import CONFIG, living, make_run

FINETUNE = [sys.executable, "-m", "finetune"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with spaces and markup in its name, with some runs."""
    outputs = tmp_path / "my [runs]" / "outputs"
    make_run(outputs, "one/good", score=0.3, days=3)
    make_run(outputs, "one/bad", "failed", days=2, reason="Memory ran out.", losses=[2.0, 0.5])
    other = {"optimizer": CONFIG["optimizer"] | {"lr": 1e-5}}
    make_run(outputs, "two/better [bold]", score=0.4, days=1, config=other)
    make_run(outputs, "two/gone", "running", losses=[9.0])
    broken = make_run(outputs, "two/broken", days=30)
    broken.status_path.write_text("{")
    os.utime(broken.config_path, (0, 0))
    return outputs.parent


def finetune(cwd: Path, *arguments: str, code: int = 0, given: str = "") -> str:
    process = subprocess.run(
        [*FINETUNE, *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        input=given,
        timeout=60,
        check=False,
    )
    assert process.returncode == code, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout + process.stderr


def test_the_list_shows_the_state_of_each_run(here: Path) -> None:
    lines = finetune(here, "runs").splitlines()
    assert lines[0].split() == ["run", "state", "step", "loss", "metric", "age"]
    assert [line.split("  ")[0].split(" dead")[0].strip()[:11] for line in lines[1:6]] == [
        "two/gone", "two/better ", "one/bad", "one/good", "two/broken",
    ]  # fmt: skip
    assert "two/better [bold] finished" in lines[2] and "nDCG@10 0.4000" in lines[2]
    assert lines[6] == "5 of 5 runs in outputs"
    assert lines[7].startswith("two/gone is dead: its process ended without a final status while it was running")
    assert lines[8] == "one/bad is failed: Memory ran out."
    assert lines[9].startswith("two/broken is damaged: status.json")


def test_a_run_without_a_checkpoint_says_that_it_starts_over_and_how(here: Path) -> None:
    text = finetune(here, "runs", "show", "gone")
    assert "No checkpoint was written yet; training starts from the beginning." in text
    assert text.rstrip().endswith("resume=outputs/two/gone")
    assert "resume=" not in finetune(here, "runs", "show", "good")


def test_a_narrow_terminal_lists_fewer_columns(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=48, file=StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(runs_tables, "console", console)
    outputs = here / "outputs"
    found = select(outputs, RunQuery())
    runs_tables.print_list(found, found.records, ["seed"], outputs)
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["run", "state", "metric", "seed"]
    assert lines[2].split()[-3:] == ["nDCG@10", "0.4000", "42"] and "two/better [bold] finished" in lines[2]


def test_filters_order_and_columns(here: Path) -> None:
    options = ["-s", "finished", "-w", "optimizer.lr<=1e-4", "-m", "nDCG@10>0.2", "--sort", "nDCG@10", "-r"]
    lines = finetune(here, "runs", *options, "-c", "optimizer.lr", "-n", "1").splitlines()
    assert lines[0].split() == ["run", "state", "step", "loss", "metric", "optimizer.lr", "age"]
    assert lines[1].split()[0] == "one/good" and "0.0001" in lines[1]
    assert lines[2:] == ["2 of 5 runs in outputs, 1 shown (-n 0 shows all)"]


def test_json_is_for_programs(here: Path) -> None:
    facts: list[dict[str, Any]] = json.loads(finetune(here, "runs", "--json", "-c", "optimizer.lr"))
    assert [one["state"] for one in facts] == ["dead", "finished", "failed", "finished", "damaged"]
    assert facts[1]["run"] == "two/better [bold]" and facts[1]["optimizer.lr"] == 1e-5
    assert facts[1]["path"] == str(here / "outputs" / "two" / "better [bold]")
    assert json.loads(finetune(here, "runs", "-s", "created", "--json")) == []
    one = json.loads(finetune(here, "runs", "show", "bad", "--json"))
    assert (one["reason"], one["metrics"]["loss"], one["config"]["seed"]) == ("Memory ran out.", 0.5, 42)
    two = json.loads(finetune(here, "runs", "compare", "good", "better", "--json"))
    assert two["config"] == {"optimizer.lr": [1e-4, 1e-5]}
    assert two["metrics"]["retrieval/after/nDCG@10"] == [0.3, 0.4]
    drawn = json.loads(finetune(here, "runs", "curve", "bad", "loss", "--smooth", "2", "--json"))
    assert drawn == {"one/bad": [[1, 2.0], [2, 1.25]]}


def test_a_living_run_is_shown_and_followed_to_its_end(here: Path) -> None:
    run = RunDirectory(here / "outputs" / "two" / "gone")
    with living(run) as process:
        line = finetune(here, "runs", "-s", "running").splitlines()[1]
        assert "two/gone running" in line and line.rstrip().endswith("1 minute left")
        assert "is in use by process" in finetune(here, "runs", "rm", "two/gone", "--yes", code=1)
        command = [*FINETUNE, "runs", "logs", "gone", "-f", "-n", "2"]
        with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None and follower.stderr is not None and process.stdin is not None
            assert [follower.stdout.readline() for _ in range(2)] == ["line 29\n", "line 30\n"]
            process.stdin.write("said now\n")
            process.stdin.flush()
            assert follower.stdout.readline() == "said now\n"
            process.stdin.write("last words\n")
            process.stdin.close()
            assert follower.stdout.read() == "last words\n"
            assert follower.stderr.read() == "two/gone is finished.\n"
            assert follower.wait() == 0


def test_one_run_in_full(here: Path) -> None:
    checkpoint = here / "outputs" / "one" / "bad" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    said = finetune(here, "runs", "show", "bad")
    assert "failed: Memory ran out." in said and "python train.py" in said
    assert said.splitlines()[-1].endswith("resume=outputs/one/bad")
    said = finetune(here, "runs", "show", "good")
    assert "retrieval: held out" in said and "+0.100" in said and "go on with" not in said
    assert "damaged: status.json" in finetune(here, "runs", "show", "broken")


def test_runs_side_by_side(here: Path) -> None:
    rows = [line.split() for line in finetune(here, "runs", "compare", "good", "better", "broken").splitlines()]
    assert ["optimizer.lr", "0.0001", "1e-05", "0.0001"] in rows
    assert ["retrieval/after/nDCG@10", "0.3", "0.4", "-"] in rows
    assert ["data:", "no", "difference"] in rows
    (here / "sweep.json").touch()  # as a pattern of the shell names it
    assert "Give two or more" in finetune(here, "runs", "compare", "good", "sweep.json", code=2)


@pytest.mark.parametrize("columns", [1, 24, 39, 40])
def test_a_curve_fits_into_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setattr(runs_curve, "console", Console(width=columns))
    runs_curve.draw({"e/a": [(1, 0.5), (2, 0.25)]}, "loss")
    printed = capsys.readouterr().out
    assert ("too narrow to plot" in printed) == (columns < 40)
    picture, _, last = re.sub("The terminal is too narrow.*\n", "", printed).rstrip().rpartition("e/a")
    assert last.startswith("  loss 0.5 at step 1")
    assert bool(picture) == (columns >= 40)
    assert all(len(line) <= columns for line in picture.splitlines())


def test_a_curve_is_a_picture(here: Path) -> None:
    lines = finetune(here, "runs", "curve", "one/good", "gone", "loss").splitlines()
    assert lines[0].split() == ["(loss)", "^"] and "(step)" in lines[-4]
    assert all(len(line) <= 80 for line in lines[:-2])
    assert lines[-2] == "one/good  loss 3 at step 1, 1 at step 3; lowest 1, highest 3"
    assert lines[-1] == "two/gone  loss 9 at step 1, 9 at step 1; lowest 9, highest 9"
    assert "Did you mean loss?" in finetune(here, "runs", "curve", "good", "los", code=2)
    missing = finetune(here, "runs", "curve", "one/good", code=2)
    assert "The metric to plot for one/good is missing." in missing and "loss, " in missing


def test_paths_and_logs(here: Path) -> None:
    path = finetune(here, "runs", "path", "better").rstrip("\n")
    assert Path(path) == here / "outputs" / "two" / "better [bold]"
    assert finetune(here / "outputs" / "one", "runs", "path", path).rstrip("\n") == path
    assert finetune(here, "runs", "logs", "good", "-n", "1") == "line 30\n"
    assert len(finetune(here, "runs", "logs", "good", "-n", "0").splitlines()) == 30
    assert finetune(here, "runs", "--root", "outputs", "path", "one/good") == f"{here}/outputs/one/good\n"
    assert finetune(here.parent, "runs", "path", "good", "--root", "my [runs]/outputs").endswith("/one/good\n")


def test_removing_asks_first(here: Path) -> None:
    left = len(list(here.glob("outputs/*/*")))
    said = finetune(here, "runs", "rm", "one/bad", given="y\n", code=2)
    assert "This needs a confirmation, and there is no terminal; nothing was removed." in said
    assert "there is no run 'goo'" in finetune(here, "runs", "rm", "goo", "--yes", code=2)
    outside = make_run(here, "elsewhere/e/a")
    assert "it is not a run in outputs" in finetune(here, "runs", "rm", str(outside.path), "one/bad", "--yes", code=2)
    assert len(list(here.glob("outputs/*/*"))) == left and outside.path.is_dir()
    said = finetune(here, "runs", "rm", "one/bad", "two/gone", "two/broken", "--yes")
    assert said.count("removed ") == 3
    assert sorted(path.name for path in here.glob("outputs/*/*")) == ["better [bold]", "good"]


def test_at_a_terminal_the_answer_counts(here: Path) -> None:
    import pty

    for answer, code, stays in ((b"n\n", 2, True), (b"y\n", 0, False)):
        terminal, theirs = pty.openpty()
        with subprocess.Popen(
            [*FINETUNE, "runs", "rm", "one/bad"], cwd=here, stdin=theirs, stdout=subprocess.PIPE, text=True
        ) as process:
            os.write(terminal, answer)
            said = process.communicate(timeout=60)[0]
        assert process.returncode == code and "failed at step 3" in said
        assert (here / "outputs" / "one" / "bad").exists() == stays


def test_without_a_run_it_says_how_to_train_one(tmp_path: Path) -> None:
    for words in (["runs"], ["report"], ["runs", "show", "x"]):
        said = finetune(tmp_path, *words, code=2)
        assert "there are no runs yet" in said and "finetune train data.path=" in said
    (tmp_path / "outputs").mkdir()
    assert "Train one: finetune train" in finetune(tmp_path, "runs")
    assert "Train one: finetune train" in finetune(tmp_path, "report", code=2)


def test_a_model_is_saved_as_an_artifact_whose_files_are_listed(here: Path) -> None:
    model = here / "outputs/one/good/model"
    (model / "onnx").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "onnx/model.onnx").write_bytes(bytes(2_000_000))
    said = finetune(here, "runs", "save", "one/good", "for others")
    assert "2.0 MB  onnx/model.onnx" in said and "good.zip: 2 files, 2.0 MB" in said
    assert set(read_manifest(here / "for others/good.zip").files) == {"config.json", "onnx/model.onnx"}
    assert "has no model yet" in finetune(here, "runs", "save", "one/bad", code=2)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--root", "nowhere"], "there is no folder nowhere with runs."),
        (["-s", "dad"], "Did you mean dead?"),
        (["-w", "seed"], "'seed' is not a condition."),
        (["show", "nothing"], "there is no run 'nothing' in outputs."),
        (["show", "o"], "'o' matches"),
        (["--sort", "nowhere"], "no run here has 'nowhere' to sort by."),
        (["shwo"], "No such command 'shwo'"),
    ],
)
def test_a_mistake_is_a_sentence(here: Path, arguments: list[str], answer: str) -> None:
    assert answer in finetune(here, "runs", *arguments, code=2)


def test_a_file_that_may_not_be_read_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "models/private")

    assert exit_code_of(command) == 1
    said = capsys.readouterr().err
    assert "could not use models/private: permission denied." in said and "Check who may read and write it." in said


def test_every_command_has_an_example(here: Path) -> None:
    for verb in ("", "show", "compare", "logs", "curve", "path", "save", "rm"):
        said = finetune(here, "runs", *verb.split(), "--help")
        example = next(line for line in said.splitlines() if "Example: " in line)
        assert f"finetune runs {verb}".strip() in example


@pytest.mark.parametrize("group", [[], ["runs"], ["data"], ["cache"]])
def test_the_summary_of_each_command_fits_into_80_columns(group: list[str], tmp_path: Path) -> None:
    said = finetune(tmp_path, *group, "--help")
    assert "Commands:" in said and "..." not in said.partition("Commands:")[2]


def test_a_thousand_runs_are_listed_in_a_moment_and_without_torch(tmp_path: Path) -> None:
    for i in range(1000):
        make_run(tmp_path / "outputs", f"e{i % 9}/run {i:04d}", "finished" if i % 5 else "running", score=i / 1000)
    started = time.monotonic()
    script = (
        "import sys; from finetune.cli.app import app; "
        "words = 'runs -w optimizer.lr<1 -m nDCG@10>0.5 --sort loss -n 3'.split(); app(words, standalone_mode=False);"
        "heavy = {'torch', 'pyarrow', 'numpy', 'transformers', 'hydra', 'plotille'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "499 of 1,000 runs in outputs, 3 shown" in process.stdout
    assert time.monotonic() - started < 10  # a second where nobody else computes


def test_the_folder_is_that_of_the_shipped_config() -> None:
    assert str(OUTPUTS) == yaml.safe_load((ROOT / "conf" / "train.yaml").read_text())["output_root"]

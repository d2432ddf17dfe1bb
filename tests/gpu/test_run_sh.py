"""`scripts/gpu/run.sh`: a part that fails or takes too long does not end the others; and everything on a CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

RUN = ROOT / "scripts/gpu/run.sh"
# A stub of the interpreter: tests fail, training starts a process and hangs, the other parts end at once.
STUB = """#!/bin/bash
case "$*" in
    *summary.py*) exec {python} "$@" ;;
    *"-m pytest"*) echo "1 failed, 2 passed"; exit 1 ;;
    *train.py*) sleep 300 & echo $! > {folder}/child; wait ;;
    *embed_device.py*) echo '{{"hits": 1}}' > {out}/evaluate.json; echo '| a table |' > {out}/evaluate.md ;;
    *step_profile.py*) echo "$@" ;;
esac
"""


@pytest.fixture
def stub(tmp_path):
    path = tmp_path / "python"
    path.write_text(STUB.format(python=sys.executable, folder=tmp_path, out=tmp_path / "out"))
    path.chmod(0o755)
    return {"PYTHON": str(path)}


def run(*arguments, env=None, timeout=60, cwd=None):
    return subprocess.run(
        [RUN, *map(str, arguments)],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
    )


def results(folder):
    return json.loads((folder / "results.json").read_text())["parts"]


def test_parts_that_fail_or_take_too_long_do_not_end_the_others(stub, tmp_path):
    out = tmp_path / "out"
    done = run("--out", out, "--limit", "train=1", "--pack", "none", env=stub)
    assert done.returncode == 0, done.stderr
    parts = results(out)
    states = {name: part["state"] for name, part in parts.items()}
    assert states == {"environment": "ok", "tests": "failed", "train": "timeout", "evaluate": "ok", "profile": "ok"}
    assert parts["tests"]["exit_code"] == 1 and parts["tests"]["log_end"] == ["1 failed, 2 passed"]
    assert parts["evaluate"]["results"] == {"hits": 1}
    assert "--device cuda" in parts["profile"]["last_line"]
    summary = (out / "summary.md").read_text()
    assert "| train | timeout |" in summary and "| a table |" in summary and "1 failed, 2 passed" in summary
    assert summary in done.stdout
    # What comes back from such a machine may be limited to few files.
    assert len(list(out.iterdir())) <= 8
    assert is_gone(int((tmp_path / "child").read_text()))


def is_gone(pid):
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_part_too(stub, tmp_path, number, code):
    arguments = [RUN, "--out", tmp_path / "out", "--parts", "train evaluate", "--pack", "none"]
    process = subprocess.Popen(arguments, env=os.environ | stub | {"TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL)
    child = tmp_path / "child"
    for _ in range(100):
        if child.exists() and child.read_text().strip():
            break
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(20) == code
    assert is_gone(int(child.read_text()))
    assert not list(tmp_path.glob("tmp.*"))  # its temporary folder


def test_only_files_of_its_own_are_replaced(stub, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("mine.log", "train.log"):
        (out / name).write_text("of before")
    assert run("--out", "out", "--parts", "profile", "--pack", "none", env=stub, cwd=tmp_path).returncode == 0
    assert (out / "mine.log").read_text() == "of before" and not (out / "train.log").exists()


def test_paths_may_be_relative(stub, tmp_path):
    (tmp_path / "pack").mkdir()
    install = tmp_path / "pack/install.sh"
    install.write_text("#!/bin/sh\nmkdir $1\n")
    install.chmod(0o755)
    done = run("--out", "out", "--parts", "profile", "--pack", "pack", env={"PYTHON": "./python"}, cwd=tmp_path)
    assert done.returncode == 0 and "could be installed" not in done.stderr, done.stderr
    assert results(tmp_path / "out")["profile"]["state"] == "ok"


def test_the_total_time_limits_all_parts(stub, tmp_path):
    start = time.monotonic()
    more = ["--seconds", 2, "--parts", "train evaluate", "--strict", "--pack", "none"]
    done = run("--out", tmp_path / "out", *more, env=stub)
    assert done.returncode == 1
    assert {name: part["state"] for name, part in results(tmp_path / "out").items()} == {
        "train": "timeout",
        "evaluate": "not started",
    }
    assert time.monotonic() - start < 20


def test_strict_exits_with_0_if_all_parts_are_ok(stub, tmp_path):
    assert run("--out", tmp_path / "out", "--parts", "profile", "--strict", env=stub).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--devise", "cpu"], "--devise"),
        (["--device", "tpu"], "tpu"),
        (["--device"], "needs a value"),
        (["--parts", "tests trian"], "trian"),
        (["--limit", "train"], "PART=SECONDS"),
        (["--limit", "trian=3"], "trian=3"),
        (["--seconds", "8m"], "8m"),
        (["--pack", "nowhere"], "nowhere/install.sh"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(arguments, word, tmp_path):
    done = run("--out", tmp_path / "out", *arguments)
    assert done.returncode == 2 and word in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_interpreter_that_does_not_exist_is_a_mistake(tmp_path):
    done = run("--out", tmp_path / "out", env={"PYTHON": "/nowhere/python"})
    assert done.returncode == 2 and "/nowhere/python" in done.stderr


def test_help_has_an_example():
    done = run("--help")
    assert done.returncode == 0 and "scripts/gpu/run.sh --device cpu --tiny" in done.stdout


def test_without_a_gpu_nothing_is_reported_as_done(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("--out", tmp_path / "out", "--parts", "environment", "--pack", "none",
               env={"PYTHON": sys.executable}, timeout=300)  # fmt: skip
    assert done.returncode == 0
    parts = results(tmp_path / "out")
    assert {part["state"] for part in parts.values()} == {"failed"}
    assert "no GPU" in parts["environment"]["last_line"]


STEP = ["tests/gpu/test_step.py", "-k", "packed and modernbert and fp32"]
ALL = [f"tests/gpu/test_{name}.py" for name in ("step", "runs", "search", "minilm")]


@pytest.mark.thorough
@pytest.mark.parametrize("chosen", [STEP, ALL], ids=["one", "all"])
def test_the_tests_of_a_gpu_run_on_a_cpu(chosen):
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *chosen]
    environment = os.environ | {"FINETUNE_TEST_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^[1-9]\d* passed", done.stdout, re.M), done.stdout
    skipped = re.search(r"(\d+) skipped", done.stdout)
    assert int(skipped[1] if skipped else 0) <= 1  # Lightning has no fp16 on a CPU


@pytest.mark.thorough
@pytest.mark.parametrize("part", ["evaluate", "profile"])
def test_a_part_on_a_cpu(tmp_path, part):
    done = run("--device", "cpu", "--tiny", "--out", tmp_path, "--parts", part, "--pack", "none",
               env={"PYTHON": sys.executable}, timeout=500)  # fmt: skip
    found = results(tmp_path)[part]
    assert found["state"] == "ok", done.stdout
    assert found["results"]["environment"]["device"] and "| ---|---:|" in found["markdown"]


@pytest.mark.slow
def test_everything_on_a_cpu(tmp_path):
    out = tmp_path / "out"
    done = run("--device", "cpu", "--tiny", "--out", out, "--seconds", 3000, "--pack", "none",
               env={"PYTHON": sys.executable}, timeout=3100)  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = results(out)
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(parts, "ok"), done.stdout
    assert len(parts) == 5
    for entry in parts["train"]["results"]["cases"]:
        assert all(found["rounds"] for found in entry["contestants"].values()), entry
    assert parts["evaluate"]["results"]["search"]["torch"]["rounds"][0]["agreement"] > 0.99
    assert len(parts["profile"]["results"]["kernels"]) == 10
    assert (out / "trace.json.gz").exists()

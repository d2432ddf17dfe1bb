import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import FinetuneError, RunError
from finetune.runs.directory import START_OF_OUTPUT, RunDirectory


def test_a_run_from_creation_to_reading(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "outputs" / 'it\'s an "experiment"', "my run", "unused")
    with run.lock():
        run.write_status("created")
        run.write_status("running", step=3, eta_seconds=12.5, texts_per_second=99)
        run.append_metrics({"step": 3, "loss": 0.5})
        run.write_status("failed", "the disk is full")
    status = RunDirectory.open(run.path).read_status()
    assert run.name == "my run"
    assert (status["state"], status["reason"], status["step"]) == ("failed", "the disk is full", 3)
    assert status["eta_seconds"] is None  # an old estimate is not kept for a failed run
    assert status["started_at"] <= status["time"]
    assert status["time"].endswith("+00:00")
    assert status["pid"] == os.getpid()
    assert run.read_metrics() == [{"step": 3, "loss": 0.5}]
    assert sorted(path.name for path in run.path.iterdir()) == ["lock", "metrics.jsonl", "status.json"]


def test_facts_are_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "a", "")
    run.write_status("running", texts_per_second=99)
    assert run.read_status()["texts_per_second"] == 99


def test_threads_never_create_the_same_directory(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda _: RunDirectory.create(tmp_path, None, "bert_csv"), range(64)))
    assert len({run.path for run in runs}) == 64
    assert all(run.path.is_dir() for run in runs)
    # Each creation takes well under a second, so some of the 64 have the same time.
    assert any(run.name.endswith("_bert_csv-2") for run in runs)


def _claim_in_process(parent: Path, count: int) -> list[str]:
    return [RunDirectory.create(parent, None, "x").name for _ in range(count)]


def test_processes_never_create_the_same_directory(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        names = pool.starmap(_claim_in_process, [(tmp_path, 50)] * 2)
    assert len(set(names[0] + names[1])) == 100


@pytest.mark.parametrize("stem", ["a/b", "../..", "", "x" * 300, "naïve", "a\0b", "~"])
def test_any_stem_makes_one_folder_under_the_parent(tmp_path: Path, stem: str) -> None:
    run = RunDirectory.create(tmp_path, None, stem)
    assert run.path.parent == tmp_path
    assert list(tmp_path.iterdir()) == [run.path]


def test_an_existing_name_is_an_error_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(FinetuneError, match="exists already") as caught:
        RunDirectory.create(tmp_path, "mine", "")
    assert "name=" in caught.value.advice
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for parent in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(RunError, match=r"file is a file\.") as caught:
            RunDirectory.create(parent, "a", "")
        assert "output_root=" in caught.value.advice


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="too long"):
        RunDirectory.create(tmp_path, "x" * 300, "")


@contextmanager
def _powerless():
    """Become an unprivileged user, since root may write anywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with _powerless(), pytest.raises(RunError, match="permission denied") as caught:
        RunDirectory.create(tmp_path / "outputs", "a", "")
    assert "output_root=" in caught.value.advice


def test_open_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match="no run directory"):
        RunDirectory.open(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"\0" * 100])
def test_an_invalid_status_is_empty(tmp_path: Path, content: bytes) -> None:
    run = RunDirectory.create(tmp_path, "a", "")
    run.status_path.write_bytes(content)
    assert run.read_status() == {}
    run.write_status("running")
    assert run.read_status()["state"] == "running"


def test_metrics_are_strict_json(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "a", "")
    run.append_metrics({"loss": float("nan"), "inner": {"lr": [float("inf"), 1.0]}, "ok": True, "at": tmp_path})

    def refuse(token: str) -> None:
        raise AssertionError(token)

    (line,) = run.metrics_path.read_text().splitlines()
    expected = {"loss": None, "inner": {"lr": [None, 1.0]}, "ok": True, "at": str(tmp_path)}
    assert json.loads(line, parse_constant=refuse) == expected


@given(
    st.lists(st.dictionaries(st.text(), st.none() | st.integers() | st.floats(allow_nan=False) | st.text())),
    st.data(),
)
def test_truncated_metrics_lose_only_the_last_line(tmp_path_factory, records, data) -> None:
    records = [{k: None if v in (float("inf"), float("-inf")) else v for k, v in r.items()} for r in records]
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    for record in records:
        run.append_metrics(record)
    content = run.metrics_path.read_bytes() if records else b""
    cut = data.draw(st.integers(0, len(content)))
    run.metrics_path.write_bytes(content[:cut])
    run.append_metrics({"step": "after"})
    whole = content[: cut + 1].count(b"\n")  # a line that lacks only its newline is complete too
    assert run.read_metrics() == [*records[:whole], {"step": "after"}]


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).read_metrics() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
class TestFullDisk:
    def test_metrics(self, tmp_path: Path) -> None:
        run = RunDirectory(tmp_path)
        run.metrics_path.symlink_to("/dev/full")
        with pytest.raises(RunError, match="the disk is full") as caught:
            run.append_metrics({"step": 1})
        assert "output_root=" in caught.value.advice
        assert caught.value.exit_code == 1

    def test_status_keeps_the_old_one(self, tmp_path: Path) -> None:
        run = RunDirectory(tmp_path)
        run.write_status("running", step=7)
        draft = tmp_path / f".status.json.{os.getpid()}-{threading.get_ident()}.tmp"
        draft.symlink_to("/dev/full")
        with pytest.raises(RunError, match="the disk is full"):
            run.write_status("finished")
        assert run.read_status()["state"] == "running"
        assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from finetune.runs.directory import START_OF_OUTPUT, RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    {before}
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def _holder(path: Path, before: str = "pass"):
    command = [sys.executable, "-c", HOLD.format(before=before), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_error_of_a_second_process_names_the_holder(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with _holder(tmp_path) as process:
        with pytest.raises(RunError, match=f"in use by process {process.pid} on ") as caught, run.lock():
            pass
        assert str(tmp_path) in caught.value.what


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with RunDirectory(tmp_path).lock():
            pass


@pytest.mark.parametrize(
    "child",
    [
        "subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL)",
        "r, w = os.pipe(); os.fork() or (os.write(w, b'x'), os.close(1), time.sleep(60), os._exit(0)); os.read(r, 1)",
    ],
    ids=["exec", "fork"],
)
def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path, child: str) -> None:
    # In its own session, so that the child can be killed with the test.
    with _holder(tmp_path, f"os.setsid(); {child}") as process:
        try:
            process.send_signal(signal.SIGKILL)
            process.wait()
            os.killpg(process.pid, 0)  # the child is alive
            with RunDirectory(tmp_path).lock():
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_lock_can_be_acquired_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for _ in range(2):
        with run.lock(), pytest.raises(RunError, match="in use"), run.lock():
            pass


def test_a_status_is_complete_at_every_moment(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from finetune.runs.directory import RunDirectory\n"
        "run = RunDirectory(Path(sys.argv[1]))\n"
        "while True: run.write_status('running', 'x' * 100_000)"
    )
    run = RunDirectory(tmp_path)
    run.write_status("running", "x" * 100_000)
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as process:
        try:
            seen = [run.read_status() for _ in range(500)]
        finally:
            process.kill()
    assert all(len(status["reason"]) == 100_000 for status in [*seen, run.read_status()])


def test_metrics_can_be_read_incrementally(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.read_metrics_from(0) == ([], 0)
    run.append_metrics({"step": 1})
    records, place = run.read_metrics_from(0)
    assert records == [{"step": 1}]
    with run.metrics_path.open("a") as file:
        file.write('{"step": 2}\n{"st')  # a line that is being written
    records, place = run.read_metrics_from(place)
    assert records == [{"step": 2}]
    with run.metrics_path.open("a") as file:
        file.write('ep": 3}\n')
    records, place = run.read_metrics_from(place)
    assert records == [{"step": 3}]
    assert run.read_metrics_from(place) == ([], place)
    run.remove_metrics_after(1)
    assert run.read_metrics_from(place)[0] == [{"step": 1}]


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("", []),
        ("one\n\ntwo\n", ["one", "two"]),
        ("".join(f"{number}\n" for number in range(50)), [str(number) for number in range(30, 50)]),
        # A crash: what faulthandler writes first is where.
        ("before\nFatal Python error: Aborted\n" + "  File x\n" * 50 + "Extension modules: a, b\n",
         ["Fatal Python error: Aborted", *["  File x"] * 19]),
        # That of a process before the run was resumed does not count.
        (f"Fatal Python error: Aborted\n{START_OF_OUTPUT}now\n", ["now"]),
        ("x" * 10**5 + "\nlast\n", None),
    ],
)  # fmt: skip
def test_the_last_output_of_a_process(tmp_path, written, lines):
    run = RunDirectory.create(tmp_path, "a", "")
    assert run.last_output(1) == []
    run.ranks.mkdir()
    run.rank_output(1).write_text(written)
    found = run.last_output(1)
    if lines is None:
        assert found == ["x" * 500, "last"]
    else:
        assert found == lines

import shutil
import threading
from pathlib import Path

import pytest

from finetune.runs.lock import hold_lock, is_locked
from finetune.runs.record import is_run, read_run
from tests.runs.made import living, make_run


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_an_ended_run_has_the_state_of_its_status(tmp_path: Path, state: str) -> None:
    record = read_run(make_run(tmp_path, "e/a", state, reason="so it is").path)
    assert (record.state, record.reason, record.step, record.name) == (state, "so it is", 3, "e/a")


@pytest.mark.parametrize("state", ["created", "validating", "running"])
def test_a_run_without_a_process_is_dead(tmp_path: Path, state: str) -> None:
    record = read_run(make_run(tmp_path, "e/a", state, pid=1).path)  # a process with this id always exists
    assert record.state == "dead"
    assert f"while it was {state}" in record.reason and "it ran on elsewhere" in record.reason


def test_a_run_is_running_as_long_as_its_process(tmp_path: Path) -> None:
    run = make_run(tmp_path, "e/a", "created")
    with living(run) as process:
        assert (read_run(run.path).state, read_run(run.path).step) == ("running", 7)
        process.kill()
        process.wait()
        assert read_run(run.path).state == "dead"
        # It was on this machine, so it is confirmed.
        assert "cannot be confirmed from here" not in read_run(run.path).reason
    with living(run) as process:
        assert read_run(run.path).state == "running"
        process.communicate("")
        assert read_run(run.path).state == "finished"


def test_a_run_that_ends_while_it_is_read_is_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, "e/a", "running")

    def ends_now(path: Path) -> bool:
        run.write_status("finished")
        return False

    monkeypatch.setattr("finetune.runs.record.is_locked", ends_now)
    assert read_run(run.path).state == "finished"


def test_without_locks_the_state_of_the_status_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, "e/a", "running")
    monkeypatch.setattr("finetune.runs.record.is_locked", lambda path: None)
    assert read_run(run.path).state == "running"
    assert "no locks" in read_run(run.path).reason


def test_checking_a_lock_never_blocks_acquiring_it(tmp_path: Path) -> None:
    lock, stop = tmp_path / "lock", threading.Event()
    lock.touch()

    def look() -> None:
        while not stop.is_set():
            is_locked(lock)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(200):
            with hold_lock(lock, "it"):
                assert is_locked(lock)
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()
    assert is_locked(lock) is False
    assert is_locked(tmp_path / "nowhere") is False


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"state": "melted"}', b'{"state": ["x"]}', b"{}"]
)
def test_a_damaged_status(tmp_path: Path, content: bytes | None) -> None:
    run = make_run(tmp_path, "e/a")
    run.status_path.unlink()
    if content is not None:
        run.status_path.write_bytes(content)
    record = read_run(run.path)
    assert record.state == "damaged" and "status.json" in record.reason
    assert record.facts()["state"] == "damaged" and is_run(run.path)


def test_other_damage_is_reported_or_ignored(tmp_path: Path) -> None:
    run = make_run(tmp_path, "e/a", score=0.3, started_at=17, time=None, step="many", eta_seconds="soon")
    run.report_data_path.write_text('{"evaluations": [1]}')
    run.metrics_path.write_bytes(b'{"loss": 1\n\xff\n[3]\n')
    facts = read_run(run.path).facts()
    assert (facts["headline"], facts["loss"], facts["step"], facts["state"]) == (None, None, None, "finished")
    run.config_path.write_text("a: [")
    assert read_run(run.path).config is None
    run.config_path.unlink()
    assert read_run(run.path).reason == "config.yaml is missing."
    shutil.rmtree(run.path)
    assert read_run(run.path).state == "damaged" and not is_run(run.path)


def test_facts_come_from_the_report_and_the_metrics(tmp_path: Path) -> None:
    facts = read_run(make_run(tmp_path, "e/a", score=0.3).path).facts()
    assert facts["loss"] == 1.0
    assert facts["headline"] == {"metric": "nDCG@10", "after": 0.3, "change": pytest.approx(0.1)}

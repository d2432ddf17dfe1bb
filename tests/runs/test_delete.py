import threading
from pathlib import Path

import pytest

from finetune.errors import FinetuneError
from finetune.runs.delete import delete_run
from finetune.runs.lock import LockHeld
from tests.runs.made import living, make_run


def test_a_run_is_deleted_completely_with_its_empty_experiment(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, "e/a"), make_run(tmp_path, "e/b", "running")
    (tmp_path / "e" / ".removed-of a killed removal").mkdir()
    delete_run(first.path, tmp_path)
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["b"]
    delete_run(second.path, tmp_path)  # dead
    assert list(tmp_path.iterdir()) == []


def test_an_active_run_is_not_deleted(tmp_path: Path) -> None:
    run = make_run(tmp_path, "e/a", "created")
    with living(run), pytest.raises(LockHeld, match="is in use by process"):
        delete_run(run.path, tmp_path)
    assert run.config_path.is_file()


def test_a_run_resumed_during_its_deletion_is_complete_or_deleted(tmp_path: Path) -> None:
    for _ in range(20):
        run = make_run(tmp_path, "e/a", "interrupted")
        removed = threading.Event()

        def take_away(path: Path = run.path, removed: threading.Event = removed) -> None:
            try:
                delete_run(path, tmp_path)
                removed.set()
            except LockHeld:
                pass

        thread = threading.Thread(target=take_away)
        thread.start()
        try:
            with run.lock():
                whole = run.config_path.is_file()
        except FinetuneError:
            whole = False
        thread.join()
        assert whole or removed.is_set()
        if not removed.is_set():
            delete_run(run.path, tmp_path)


def test_other_folders_are_not_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "e" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("mine: 1")
    with pytest.raises(FinetuneError, match="not a run of finetune"):
        delete_run(folder, tmp_path)
    assert (folder / "config.yaml").is_file()


def test_nothing_outside_the_root_is_deleted(tmp_path: Path) -> None:
    outside, root = make_run(tmp_path, "else/where/e/a"), tmp_path / "outputs"
    inside = make_run(root, "e/a")
    (root / "link").symlink_to(outside.path.parent)
    (root / "e" / "b").symlink_to(outside.path)
    (root / "e" / "c").symlink_to(inside.path)
    for path in (outside.path, root / "link" / "a", root / "e" / "b", root / "e" / "c", root / "e" / ".." / "e" / "b"):
        with pytest.raises(FinetuneError, match="is not removed"):
            delete_run(path, root)
    for path in (root, root / "e", inside.path / "checkpoints", root / "e" / "a" / ".."):
        with pytest.raises(FinetuneError, match="is not removed"):
            delete_run(path, root)
    assert inside.config_path.is_file() and outside.config_path.is_file()


def test_without_locks_only_ended_runs_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    running, ended = make_run(tmp_path, "e/a", "running"), make_run(tmp_path, "e/b", "failed")
    with pytest.raises(FinetuneError, match="this file system has no locks"):
        delete_run(running.path, tmp_path)
    delete_run(ended.path, tmp_path)
    assert running.path.is_dir() and not ended.path.is_dir()

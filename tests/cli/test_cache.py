from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.data.cache.entry_folder import MANIFEST
from finetune.data.cache.store import DAY, Cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Entries of 1 MB, used 0, 10, 20 … days ago."""
    cache = Cache(tmp_path / "the [cache]")
    for i, kind in enumerate(["tokens", "tokens", "tables"]):
        key = hashlib.sha256(str(i).encode()).hexdigest()
        folder = cache.entry(kind, key, lambda folder: (folder / "file").write_bytes(bytes(1_000_000)))
        used = time.time() - i * 10 * DAY - 5
        os.utime(folder / MANIFEST, (used, used))
    return cache


def finetune(cache: Cache, *arguments: str, code: int = 0) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "finetune", *arguments],
        env=os.environ | {"FINETUNE_CACHE": str(cache.root), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == code, process.stderr
    return process.stdout + process.stderr


def test_the_cache_is_listed(cache: Cache) -> None:
    (cache.root / "tokens" / f".{'0' * 64}.12345678").mkdir()
    lines = [line.split() for line in finetune(cache, "cache").splitlines()]
    key = hashlib.sha256(b"2").hexdigest()[:12]
    assert lines[0] == ["cache:", str(cache.root.parent / "the"), "[cache]"]
    assert lines[1] == ["kind", "entry", "size", "made", "last", "used"]
    assert lines[2] == ["tables", key, "1.0", "MB", "just", "now", "20", "days", "ago"]
    assert [line[0] for line in lines[3:5]] == ["tokens", "tokens"]
    assert lines[3][-2:] == ["just", "now"] and lines[4][-3:] == ["10", "days", "ago"]
    assert lines[5] == ["3", "entries,", "3.0", "MB"]
    assert lines[6][:2] == ["1", "unfinished:"]


def test_an_empty_cache_is_one_too(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "not there yet")
    assert finetune(cache, "cache") == f"cache: {cache.root}\n0 entries, 0 B\n"
    assert finetune(cache, "cache", "clean", "--all") == "removed 0 entries, 0 B\nleft:   0 entries, 0 B\n"
    assert not cache.root.exists()


def test_cleaning_without_a_choice_removes_only_what_killed_processes_left(cache: Cache) -> None:
    draft = cache.root / "tokens" / f".{'0' * 64}.12345678"
    draft.mkdir()
    (draft / "half").write_bytes(bytes(500_000))
    assert finetune(cache, "cache", "clean") == "removed 1 entry, 500.0 kB\nleft:   3 entries, 3.0 MB\n"
    assert cache.drafts() == []


@pytest.mark.parametrize(
    "options,left",
    [
        (["--older-than", "15"], 2),
        (["--older-than", "9.5"], 1),
        (["--keep-gb", "0.0011"], 1),
        (["--older-than", "15", "--keep-gb", "0.0011"], 1),
        (["--all"], 0),
    ],
)
def test_the_least_recently_used_entries_are_removed(cache: Cache, options: list[str], left: int) -> None:
    keys = [entry.key for entry in cache.entries()]
    said = finetune(cache, "cache", "clean", *options)
    assert [entry.key for entry in cache.entries()] == keys[3 - left :]
    assert said.startswith(f"removed {3 - left} ") and f"left:   {left} " in said


@pytest.mark.parametrize(
    "options,told",
    [
        (["--all", "--keep-gb", "1"], "--all cannot be combined with --older-than or --keep-gb."),
        (["--older-than", "-1"], "Invalid value for '--older-than'"),
        (["--keep-gb", "much"], "Invalid value for '--keep-gb'"),
        (["everything"], "unexpected extra argument"),
    ],
)
def test_a_mistake_is_a_sentence(cache: Cache, options: list[str], told: str) -> None:
    said = finetune(cache, "cache", "clean", *options, code=2)
    assert told in said and "Traceback" not in said
    assert len(cache.entries()) == 3


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments in (["cache"], ["cache", "clean"]):
        said = finetune(Cache(tmp_path / "file"), *arguments, code=2)
        assert said.splitlines()[0] == f"The cache {tmp_path}/file is not a folder."


def test_the_help_has_an_example(cache: Cache) -> None:
    assert "Example: finetune cache" in finetune(cache, "cache", "--help")
    assert "Example: finetune cache clean --older-than 30 --keep-gb 20" in finetune(cache, "cache", "clean", "--help")


def test_no_torch_is_loaded_for_it(cache: Cache) -> None:
    script = "import sys; from finetune.cli.app import app; app(['cache'], standalone_mode=False); print(*sys.modules)"
    env = os.environ | {"FINETUNE_CACHE": str(cache.root)}
    process = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    modules = process.stdout.split()
    assert "finetune.data.cache.store" in modules
    assert not {"torch", "pyarrow", "numpy", "transformers", "hydra"} & set(modules)

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.cache import store as module
from finetune.data.cache.entry_folder import MANIFEST, is_whole
from finetune.data.cache.store import Cache, CacheUnavailable, Removed
from tests.conftest import can_mount

KEY = hashlib.sha256(b"one").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()

# Makes an entry in the folder argv[1] out of two files and says what it does; `between` stands between the two.
BUILDER = """
import sys, time
from pathlib import Path
from finetune.data.cache.store import Cache

def build(folder):
    (folder / "first.bin").write_bytes(b"1" * 100_000)
    with (Path(sys.argv[1]).parent / "builds.txt").open("a") as log:
        log.write("built\\n")
    print("building", flush=True)
    {between}
    (folder / "second.bin").write_bytes(b"2" * 300_000)

print(Cache(Path(sys.argv[1])).entry("tokens", sys.argv[2], build), flush=True)
"""


def builder(between: str, root: Path, key: str = KEY, *before: str) -> subprocess.Popen[str]:
    script = [sys.executable, "-c", BUILDER.format(between=between), str(root), key]
    return subprocess.Popen([*before, *script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until_it_builds(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"


def write(folder: Path, content: bytes = b"content") -> None:
    (folder / "file.bin").write_bytes(content)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "another.bin").write_bytes(content[:3])


def must_not(_: Path) -> None:
    raise AssertionError("it was there already")


def everything_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "the cache"


def test_an_entry_is_made_once_and_nothing_else_stays(root: Path) -> None:
    cache = Cache(root)
    assert cache.entries() == [] and not root.exists()
    folder = cache.entry("tokens", KEY, write)
    assert folder == root / "tokens" / KEY
    assert cache.entry("tokens", KEY, must_not) == folder
    here = f"tokens/{KEY}"
    files = [f"{here}/deeper", f"{here}/deeper/another.bin", f"{here}/file.bin", f"{here}/{MANIFEST}"]
    assert everything_in(root) == ["tokens", here, *files]


@pytest.mark.parametrize("kind,key", [("..", KEY), ("a/b", KEY), ("tokens", "../../../etc"), ("tokens", "x"), ("", "")])
def test_no_key_leads_out_of_the_cache(root: Path, kind: str, key: str) -> None:
    with pytest.raises(ValueError, match="not a valid cache entry"):
        Cache(root).entry(kind, key, write)
    assert not root.exists()


def test_what_goes_wrong_while_making_leaves_nothing(root: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Cache(root).entry("tokens", KEY, fail)
    assert everything_in(root) == ["tokens"]


DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "cut": lambda content, at: content[:at],
    "longer": lambda content, at: content + b"x",
    "a byte": lambda content, at: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
    "zeros": lambda content, at: content[:at] + bytes(len(content) - at),
}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(min_size=4, max_size=200).filter(lambda content: content[-1] != 0),
    name=st.sampled_from(["file.bin", "deeper/another.bin", MANIFEST]),
    damage=st.sampled_from([*DAMAGES, "gone", "a link"]),
    data=st.data(),
)
def test_damage_is_noticed_and_mended(tmp_path_factory, content, name, damage, data):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    victim = cache.entry("tokens", KEY, lambda folder: write(folder, content)) / name
    before, changed = victim.read_bytes(), victim.stat().st_mtime_ns
    if damage in ("gone", "a link"):
        victim.unlink()
    if damage == "a link":
        victim.symlink_to("/etc/hostname")
    if damage in DAMAGES:
        at = data.draw(st.integers(0, len(before) - 1))
        after = DAMAGES[damage](before, at)
        victim.write_bytes(after)
        # A disk that loses bytes changes no times. The list's own words may say the same after a change of a byte.
        os.utime(victim, ns=(changed, changed))
        if after == before or (name == MANIFEST and damage in ("a byte", "longer", "zeros")):
            return
    built = []
    cache.entry("tokens", KEY, lambda folder: built.append(write(folder, content)))
    assert built and is_whole(victim.parents[len(Path(name).parts) - 1])
    assert victim.read_bytes()[:1] in (content[:1], b"{")


@pytest.mark.alone
def test_a_large_file_is_checked_fast_and_read_whole_only_after_a_change(root: Path) -> None:
    cache = Cache(root)
    size = 300_000_000

    def sparse(folder: Path) -> None:
        with (folder / "large.bin").open("wb") as file:
            file.write(b"start")
            file.truncate(size)

    large = cache.entry("tokens", KEY, sparse) / "large.bin"
    started = time.perf_counter()
    cache.entry("tokens", KEY, must_not)
    assert time.perf_counter() - started < 0.05
    changed = large.stat().st_mtime_ns
    os.utime(large)  # as a copy has another time: it is read whole, found right, and need not be read again
    cache.entry("tokens", KEY, must_not)
    assert large.stat().st_mtime_ns == changed
    with large.open("r+b") as file:  # where no glance reaches; but the time tells
        file.seek(size // 2 + size // 45)
        file.write(b"x")
    assert not is_whole(large.parent)
    built = []
    cache.entry("tokens", KEY, lambda folder: built.append(sparse(folder)))
    assert built
    with large.open("r+b") as file:
        file.truncate(size - 1)
    assert not is_whole(large.parent)


def test_a_killed_builder_leaves_what_the_next_one_removes(root: Path) -> None:
    process = builder("time.sleep(100)", root)
    until_it_builds(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    cache = Cache(root)
    assert len(cache.drafts()) == 1 and cache.entries() == []
    # One that makes another entry removes it as well.
    cache.entry("tokens", OTHER, write)
    assert cache.drafts() == []
    folder = cache.entry("tokens", KEY, write)
    assert is_whole(folder)
    assert sorted(path.name for path in (root / "tokens").iterdir() if path.is_dir()) == sorted([KEY, OTHER])


def test_an_interrupted_builder_leaves_nothing(root: Path) -> None:
    process = builder("time.sleep(100)", root)
    until_it_builds(process)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert everything_in(root) == ["tokens"]


def test_processes_that_start_together_build_once(root: Path) -> None:
    root.mkdir()
    processes = [builder("time.sleep(1)", root) for _ in range(4)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert (root.parent / "builds.txt").read_text() == "built\n"
    assert all(f"{root}/tokens/{KEY}\n" in each for each in said)
    assert sum("waiting for process" in each and "which makes the same tokens" in each for each in said) == 3
    assert everything_in(root / "tokens") == [KEY, *(f"{KEY}/{name}" for name in ("first.bin", MANIFEST, "second.bin"))]


def test_who_waits_for_a_builder_that_is_killed_builds(root: Path) -> None:
    first = builder("time.sleep(100)", root)
    until_it_builds(first)
    second = builder("pass", root)
    assert second.stdout is not None and second.stdout.readline().startswith(f"waiting for process {first.pid} on ")
    first.kill()
    first.wait()
    said, _ = second.communicate(timeout=60)
    assert said == f"building\n{root}/tokens/{KEY}\n"
    assert is_whole(root / "tokens" / KEY) and Cache(root).drafts() == []


def test_cleaning_goes_around_what_a_process_makes(root: Path) -> None:
    cache = Cache(root)
    cache.entry("tokens", OTHER, write)
    process = builder("time.sleep(100)", root)
    try:
        until_it_builds(process)
        removed = cache.remove_leftovers() + cache.remove(cache.stale(0, None))
        assert (removed.entries, removed.busy) == (1, 1) and len(cache.drafts()) == 1
        (root / "tokens" / f".{OTHER}.12345678").mkdir()  # and a builder goes around it too
        cache.entry("tokens", OTHER, write)
        assert len(cache.drafts()) == 1
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_damaged_entry_is_made_again_while_others_have_it_open(root: Path) -> None:
    cache = Cache(root)
    folder = cache.entry("tokens", KEY, lambda folder: write(folder, b"old"))
    with (folder / "file.bin").open("rb") as file:
        (folder / "deeper" / "another.bin").unlink()
        cache.entry("tokens", KEY, lambda folder: write(folder, b"new"))
        assert file.read() == b"old" and (folder / "file.bin").read_bytes() == b"new"


UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from transformers import AutoTokenizer
from finetune.data.cache.store import Cache
from finetune.data.items import Items
from finetune.data.tokens.token_store import Tokens

texts = pa.array([f"red cat {i}" for i in range(50_000)], pa.large_string())
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
if sys.argv[3:] == ["small files"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for _ in range(2):
    tokens = Tokens.cached(Items.of_texts(texts), tokenizer, 16, Cache(Path(sys.argv[1])))
    assert tokens.lengths.tolist() == Tokens.build(Items.of_texts(texts), tokenizer, 16).lengths.tolist()
print("went on")
"""


def under_a_limit(root: Path, model: Path, *before: str, more: str = "") -> str:
    script = [sys.executable, "-c", UNDER_A_LIMIT, str(root), str(model), *([more] if more else [])]
    process = subprocess.run([*before, *script], capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.thorough
def test_a_file_size_limit_leaves_nothing_and_the_run_continues(root: Path, tiny_model: Path) -> None:
    said = under_a_limit(root, tiny_model, more="small files")
    assert said == (
        f"continuing without the cache: could not write to {root}: the file is larger than the system allows. "
        "Raise the limit (ulimit -f).\nwent on\n"
    )
    assert everything_in(root) == ["tokens"]


@pytest.mark.thorough
def test_a_cache_where_no_folder_can_be_made_is_reported_with_advice(tiny_model: Path) -> None:
    said = under_a_limit(Path("/proc/nowhere/cache"), tiny_model)
    assert said == (
        "continuing without the cache: could not write to /proc/nowhere/cache: the system does not permit it. "
        "Choose another place for the cache with FINETUNE_CACHE=/path/to/a/disk.\nwent on\n"
    )


@pytest.mark.skipif(not can_mount(), reason="no mount namespaces here")
def test_a_full_disk_leaves_nothing_and_the_run_continues(root: Path, tiny_model: Path) -> None:
    root.mkdir()
    # The folder is listed inside: the disk goes with the processes that see it.
    shell = 'mount -t tmpfs -o size=500k tmpfs "$1" && shift && "$@" && find "$CACHE" -mindepth 1'
    before = ["env", f"CACHE={root}", "unshare", "-rm", "sh", "-ec", shell, "sh", str(root)]
    said = under_a_limit(root, tiny_model, *before)
    assert said == (
        f"continuing without the cache: could not write to {root}: the disk is full. Free some space there, or choose "
        f"another place for the cache with FINETUNE_CACHE=/path/to/a/disk.\nwent on\n{root}/tokens\n"
    )


@pytest.mark.skipif(not can_mount(), reason="no mount namespaces here")
def test_a_cache_that_may_only_be_read_is_read_and_not_written(root: Path, tiny_model: Path) -> None:
    Cache(root).entry("tokens", KEY, write)
    shell = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    before = ["unshare", "-rm", "sh", "-ec", shell, "sh", str(root)]
    said = under_a_limit(root, tiny_model, *before)
    assert said.startswith(f"continuing without the cache: could not write to {root}: the file system is read-only.")
    assert said.endswith("went on\n") and said.count("continuing") == 1
    reader = f"""
from pathlib import Path
from finetune.data.cache.store import Cache
from finetune.errors import RunError
cache = Cache(Path({str(root)!r}))
folder = cache.entry("tokens", {KEY!r}, None)
try:
    cache.remove([folder])
except RunError as error:
    print(error.what)
"""
    process = subprocess.run([*before, sys.executable, "-c", reader], capture_output=True, text=True, check=True)
    assert process.stdout == f"could not open {root}/tokens/.{KEY}.lock: the file system is read-only.\n"


def test_a_root_that_is_a_file_or_lies_below_one(root: Path) -> None:
    root.write_text("")
    for place in (root, root / "below"):
        with pytest.raises(CacheUnavailable, match="could not write to"):
            Cache(place).entry("tokens", KEY, write)


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = Cache(tmp_path / "elsewhere")
    target = elsewhere.entry("tokens", KEY, write)
    (root / "tokens").mkdir(parents=True)
    (root / "tokens" / KEY).symlink_to(target)
    cache = Cache(root)
    assert cache.entries() == []
    cache.entry("tokens", KEY, lambda folder: write(folder, b"mine"))
    assert not (root / "tokens" / KEY).is_symlink() and is_whole(target)
    (root / "tables").symlink_to(elsewhere.root / "tokens")
    with pytest.raises(CacheUnavailable):
        cache.entry("tables", OTHER, write)
    assert cache.remove(cache.stale(0, None)).entries == 1
    assert is_whole(target) and (root / "tables").is_symlink()


def test_what_is_not_of_the_cache_is_left_alone(root: Path) -> None:
    """Somebody may name a folder that holds more."""
    cache = Cache(root)
    cache.entry("tokens", KEY, write)
    (root / "Documents" / KEY).mkdir(parents=True)
    (root / "tokens" / OTHER).mkdir()  # has no list of files, so it was never made here
    (root / "tokens" / ".hidden").mkdir()
    (root / "notes.txt").write_text("")
    before = everything_in(root)
    removed = cache.remove_leftovers() + cache.remove(cache.stale(0, 0))
    assert removed.entries == 1
    assert everything_in(root) == [path for path in before if not path.startswith(f"tokens/{KEY}")]


@settings(deadline=None, max_examples=50)
@given(
    entries=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50_000)), max_size=6),
    days=st.none() | st.integers(0, 9),
    keep=st.none() | st.integers(0, 150_000),
)
def test_the_stale_are_the_old_and_then_those_used_longest_ago(tmp_path_factory, entries, days, keep):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    now = time.time()
    for i, (age, size) in enumerate(entries):
        key = hashlib.sha256(str(i).encode()).hexdigest()
        folder = cache.entry("tokens", key, lambda folder, size=size: (folder / "file").write_bytes(bytes(size)))
        used = now - age * module.DAY - 10
        os.utime(folder / MANIFEST, (used, used))
    found = cache.entries()
    assert [entry.used for entry in found] == sorted(entry.used for entry in found)
    stale = set(cache.stale(None if days is None else days * module.DAY, keep))
    stay = [entry for entry in found if entry.path not in stale]
    assert all(now - entry.used < days * module.DAY for entry in stay) if days is not None else True
    assert keep is None or sum(entry.size for entry in stay) <= keep
    if keep is None and days is None:
        assert not stale
    gone = [entry for entry in found if entry.path in stale]
    assert not gone or not stay or max(entry.used for entry in gone) <= min(entry.used for entry in stay)
    # No more goes than must: the last one that went was too old, or did not fit.
    if gone and (days is None or now - gone[-1].used < days * module.DAY):
        assert keep is not None and sum(entry.size for entry in stay) + gone[-1].size > keep
    removed = cache.remove(stale)
    assert removed == Removed(len(gone), sum(entry.size for entry in gone)) and len(cache.entries()) == len(stay)


def test_the_last_use_is_known(root: Path) -> None:
    cache = Cache(root)
    folder = cache.entry("tokens", KEY, write)
    os.utime(folder / MANIFEST, (1000, 1000))
    assert cache.entries()[0].used == 1000
    cache.entry("tokens", KEY, must_not)
    assert time.time() - cache.entries()[0].used < 60
    assert time.time() - cache.entries()[0].made < 60


def test_an_entry_that_goes_before_it_is_read_is_made_again(root: Path) -> None:
    cache, reads = Cache(root), []

    def read(folder: Path) -> bytes:
        reads.append(folder)
        if len(reads) == 1:
            cache.remove([folder])  # as somebody's `finetune cache clean` may at this very moment
        return (folder / "file.bin").read_bytes()

    assert cache.load("tokens", KEY, write, read) == b"content"
    assert len(reads) == 2


@pytest.mark.parametrize(
    "told,expected",
    [
        ({"FINETUNE_CACHE": "/a/place"}, "/a/place"),
        ({"FINETUNE_CACHE": "~/place"}, "/home/somebody/place"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/finetune"),
        ({"XDG_CACHE_HOME": "not/absolute", "FINETUNE_CACHE": ""}, "/home/somebody/.cache/finetune"),
    ],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, told: dict[str, str], expected: str) -> None:
    for name in ("FINETUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert Cache().root == Path(expected)


def test_a_file_system_without_locks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    cache = Cache(root)
    draft = root / "tokens" / f".{OTHER}.12345678"
    draft.mkdir(parents=True)

    def build(folder: Path) -> None:
        write(folder)
        if not (root / "tokens" / KEY).exists():
            Cache(root).entry("tokens", KEY, write)  # another process, a little faster

    assert is_whole(cache.entry("tokens", KEY, build))
    assert cache.drafts() == [draft]  # somebody may be at it
    os.utime(draft, (1000, 1000))
    assert cache.remove_leftovers().entries == 1 and cache.drafts() == []


def test_the_list_of_another_version_is_not_trusted(root: Path) -> None:
    folder = Cache(root).entry("tokens", KEY, write)
    said = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**said, "format": 99}))
    assert not is_whole(folder)


def test_removing_what_is_not_there(root: Path) -> None:
    (root / "tokens").mkdir(parents=True)
    assert Cache(root).remove([root / "tokens" / KEY]) == Removed()
    assert everything_in(root) == ["tokens"]

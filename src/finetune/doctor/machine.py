"""Memory, disks, caches, write access, limits and locale of this machine."""

from __future__ import annotations

import locale
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from finetune.doctor.finding import Finding
from finetune.host_memory import available_memory

_GB = 10**9
_LITTLE_MEMORY, _LITTLE_DISK = 4 * _GB, 5 * _GB  # below: doubtful
_NO_DISK = _GB // 2  # below: a checkpoint of a small model does not fit
_FEW_FILES = 1024


def memory_findings() -> Iterator[Finding]:
    """Yield the available main memory."""
    from rich.filesize import decimal

    available = available_memory()
    if available is None:
        yield Finding("memory", "main memory", "fine", "unknown on this system")
        return
    text = f"{decimal(available)} available"
    if available < _LITTLE_MEMORY:
        advice = "End other programs; engine.activation_mb=0 needs the least."
        yield Finding("memory", "main memory", "doubtful", text, advice)
    else:
        yield Finding("memory", "main memory", "fine", text)


def disk_findings(output_root: Path) -> Iterator[Finding]:
    """Yield free space and write access of the folders that runs write to, and the sizes of the caches."""
    from finetune.data.cache.store import Cache

    cache = Cache()
    folders = {"output folder": output_root, "cache": cache.root, "temporary files": Path(tempfile.gettempdir())}
    for name, folder in folders.items():
        yield _disk(name, folder)
    yield _cache_size("data cache", cache.root, "`finetune cache clean` removes what was not used.")
    yield _cache_size("model cache", _hub_cache(), "`hf cache prune` removes what is not referenced.")


def _disk(name: str, folder: Path) -> Finding:
    from rich.filesize import decimal

    advice = "Change its permissions, or choose another folder: output_root=, FINETUNE_CACHE=, TMPDIR=."
    if folder.exists() and not folder.is_dir():
        return Finding("disk", name, "wrong", f"{folder} is not a folder.", advice)
    existing = folder.absolute()
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        return Finding("disk", name, "wrong", f"{folder} cannot be written to: {error.strerror}.", advice)
    free = shutil.disk_usage(existing).free
    text = f"{decimal(free)} free in {folder}"
    if free < _NO_DISK:
        return Finding("disk", name, "wrong", text, "Free some space: not even a checkpoint fits.")
    if free < _LITTLE_DISK:
        return Finding("disk", name, "doubtful", text, "Free some space: checkpoints of large models need several GB.")
    return Finding("disk", name, "fine", text)


def _cache_size(name: str, folder: Path, advice: str) -> Finding:
    from rich.filesize import decimal

    size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return Finding("disk", name, "fine", f"{decimal(size)} in {folder}. {advice}" if size else f"empty ({folder})")


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def limit_findings() -> Iterator[Finding]:
    """Yield the limits of a process, and settings of the environment that slow runs down."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < _FEW_FILES:
        yield Finding("limits", "open files", "doubtful", str(files), f"ulimit -n {_FEW_FILES}")
    else:
        yield Finding("limits", "open files", "fine", str(files))
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads == "1":
        advice = "Unset it, unless several runs share the cores."
        yield Finding("limits", "OMP_NUM_THREADS", "doubtful", "1: a run on the CPU uses a single core.", advice)
    else:
        yield Finding("limits", "OMP_NUM_THREADS", "fine", threads or "not set")


def locale_findings() -> Iterator[Finding]:
    """Yield the encodings of text."""
    encodings = {"terminal": sys.stdout.encoding or "none", "files": locale.getpreferredencoding(False)}
    for name, encoding in encodings.items():
        if encoding.lower().replace("-", "") == "utf8":
            yield Finding("locale", name, "fine", encoding)
        else:
            advice = "export LC_ALL=C.UTF-8, or some characters are printed as ?. Data files are read as UTF-8 anyway."
            yield Finding("locale", name, "doubtful", encoding, advice)

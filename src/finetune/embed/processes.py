"""The processes of an embedding on this machine: this one and one for each further device.

They share no state but the output folder, as do those of other machines and jobs: see `claims.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finetune.config.home import expand_home
from finetune.console import say
from finetune.cores import visible_cores
from finetune.embed.corpus import TEXT, Corpus
from finetune.embed.files import ELSEWHERE, WorkFolder, write_json
from finetune.embed.manifest import Manifest, read_manifest, write_manifest
from finetune.embed.plan import Plan, make_plan, read_plan, read_texts
from finetune.embed.settings import DataSettings, EmbedSettings, settings_from
from finetune.embed.work import Task, embeddings, is_complete, with_facts, work_until_complete
from finetune.errors import CheckFailed, FinetuneError, ModelError, Problem
from finetune.inference.devices import find_devices
from finetune.inference.load import get_model
from finetune.inference.model import Model
from finetune.inference.quantize import Floats, ranges_of
from finetune.ranks import current_rank, describe_exit
from finetune.runs.atomic import explained, read_mapping
from finetune.runs.lock import hold_lock

_SAMPLE_SHARDS, _SAMPLE_TEXTS = 16, 256  # of which the ranges of int8 are found
_SECONDS_TO_END = 10


def run_processes(model: Any, corpus: Corpus, wanted: Manifest, data: DataSettings, settings: EmbedSettings) -> None:
    """Embed a corpus with one process for each device, of which this is one; returns when all vectors are there."""
    loaded, devices = load(model, settings)
    _limit_threads(devices)
    out = expand_home(settings.out)
    work = WorkFolder(out)
    with explained(f"make {work.path}", ELSEWHERE):
        work.path.mkdir(parents=True, exist_ok=True)

    def wait(holder: str) -> None:
        say(f"Waiting for {holder}, which reads the corpus.")

    with hold_lock(work.lock, str(out), wait=wait):
        try:
            task = _prepare(loaded, work, corpus, wanted, data, settings)
        except CheckFailed:
            _remove_if_new(out, work)
            raise
    if task is None:
        shutil.rmtree(work.path, ignore_errors=True)  # another process removed it, and this one made it again
        return
    plan = task.plan
    say(f"Rows: {plan.rows:,}, distinct texts: {plan.texts:,}, shards: {plan.shards:,}, on {_shown(devices)}.")
    with _others(out, devices[1:], len(devices)):
        work_until_complete(loaded, task)


def _remove_if_new(out: Path, work: WorkFolder) -> None:
    """Remove the folder of an embedding that was refused before anything was embedded."""
    if read_manifest(out) is None:
        shutil.rmtree(work.path, ignore_errors=True)
        with suppress(OSError):  # it has other files
            out.rmdir()


def load(model: Any, settings: EmbedSettings) -> tuple[Model, list[torch.device]]:
    """Return the model on the first device of the settings, and all of these devices.

    Raises:
        CheckFailed: with all problems: devices, length, dimensions and prompt.
        FinetuneError: the model cannot be loaded, or does not embed texts.
    """
    problems: list[Problem] = []
    devices = [torch.device("cpu")]
    with _collected(problems, "device"):
        devices = _devices(settings.device)
    loaded = _load(model, settings, devices[0], problems)
    _check_embeds_texts(loaded)
    if settings.dimensions is not None:
        with _collected(problems, "dimensions"):
            loaded.encode(["a"], dimensions=settings.dimensions)
    with _collected(problems, "prompt"):
        loaded.encode(["a"], settings.prompt)
    if problems:
        raise CheckFailed(problems)
    return loaded, devices


def _load(model: Any, settings: EmbedSettings, device: torch.device, problems: list[Problem]) -> Model:
    """Return the model; if it does not read texts of this length, that is added to the problems."""
    try:
        return get_model(model, device=device, dtype=settings.dtype, max_length=settings.max_length)
    except ModelError as error:
        if settings.max_length is None:
            raise
        loaded = get_model(model, device=device, dtype=settings.dtype)  # raises if it is the model that is wrong
        problems.append(_problem("max_length", error))
        return loaded


@contextmanager
def _collected(problems: list[Problem], key: str) -> Iterator[None]:
    """Add an error in the `with` block to the problems, as one of a setting."""
    try:
        yield
    except FinetuneError as error:
        problems.append(_problem(key, error))


def _problem(key: str, error: FinetuneError) -> Problem:
    return Problem(key, error.what.removeprefix(f"{key}="), error.advice)


def _check_embeds_texts(model: Model) -> None:
    """Raise FinetuneError if a model does not embed texts."""
    if model.scores_pairs:
        what = f"{model.name} is a cross-encoder: it scores pairs of texts and makes no embeddings."
        raise FinetuneError(what, "Use a model that embeds texts, and rerank what it finds with this one.")
    if model.kind in ("image", "points", "vectors"):
        what = f"{model.name} embeds no texts (its kind is {model.kind})."
        raise FinetuneError(what, "Use a model for texts; for other items see Model.encode.")


def _prepare(
    model: Model, work: WorkFolder, corpus: Corpus, wanted: Manifest, data: DataSettings, settings: EmbedSettings
) -> Task | None:
    """Read the corpus and decide what all processes share, unless it is there; None if all is done meanwhile."""
    out = work.path.parent
    if is_complete(out):
        return None
    with explained(f"make {work.path}", ELSEWHERE):
        work.make()
    plan = read_plan(work) or make_plan(work, corpus, settings.shard_rows, data.on_bad_rows)
    if not work.start.is_file():
        _write_start(model, work, plan, settings)
    task = task_of(work, plan, settings)
    write_manifest(out, with_facts(wanted, plan, model, task))
    return task


def _write_start(model: Model, work: WorkFolder, plan: Plan, settings: EmbedSettings) -> None:
    budget = model.token_budget if settings.batch_tokens == "auto" else settings.batch_tokens
    assert budget is not None
    ranges = None
    if settings.precision == "int8":
        ranges = _ranges(model, work, plan, settings, budget).tolist()
    write_json(work.start, {"batch_tokens": budget, "int8_ranges": ranges})


def task_of(work: WorkFolder, plan: Plan, settings: EmbedSettings) -> Task:
    """Return the task of a process, once `start.json` is there."""
    start = read_mapping(work.start)
    ranges = start["int8_ranges"]
    ranges_2D = None if ranges is None else np.array(ranges, np.float32)
    return Task(work.path.parent, work, plan, settings, start["batch_tokens"], ranges_2D)


def _ranges(model: Model, work: WorkFolder, plan: Plan, settings: EmbedSettings, budget: int) -> Floats:
    """Return the lowest and the highest value of each dimension over texts from all parts of the corpus."""
    shards = np.unique(np.linspace(0, plan.shards - 1, min(plan.shards, _SAMPLE_SHARDS)).astype(int))
    texts = [read_texts(work, int(shard))[TEXT].combine_chunks().slice(0, _SAMPLE_TEXTS) for shard in shards]
    return ranges_of(embeddings(model, pa.concat_arrays(texts), settings, budget))


def _devices(device: str | list[str]) -> list[torch.device]:
    """Return the devices of this process and of those that it starts."""
    rank = current_rank()
    count = torch.cuda.device_count()
    if device == "auto" and count and rank.world > 1:
        return [torch.device("cuda", rank.local_rank % count)]  # the others have the other devices
    if device == "auto" and count:
        return [torch.device("cuda", number) for number in range(count)]
    return find_devices(device)


def _limit_threads(devices: list[torch.device]) -> None:
    """Share the cores among processes that compute on the CPU."""
    on_cpu = Counter(device.type for device in devices)["cpu"]
    if on_cpu > 1:
        torch.set_num_threads(max(1, len(visible_cores()) // on_cpu))


@contextmanager
def _others(out: Path, devices: list[torch.device], total: int) -> Iterator[None]:
    """Have a process on each of the devices work on the same folder in the `with` block."""
    threads = str(max(1, len(visible_cores()) // total))
    processes = []
    for device in devices:
        words = [sys.executable, "-m", "finetune.embed.worker", str(out), str(device), str(os.getpid())]
        environment = {**os.environ, "OMP_NUM_THREADS": threads} if device.type == "cpu" else None
        processes.append(subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL))
    try:
        yield
        for device, process in zip(devices, processes, strict=True):
            with suppress(subprocess.TimeoutExpired):  # it may still load the model
                _report(device, process.wait(_SECONDS_TO_END))
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _report(device: torch.device, code: int) -> None:
    if code:
        say(f"The process on {device} {describe_exit(code)}; the others have done its work.")


def _shown(devices: list[torch.device]) -> str:
    return ", ".join(map(str, devices))


def continue_embedding(out: Path, device: str, parent: int) -> None:
    """Work on an embedding that another process has prepared, until it is complete or that process is gone.

    Raises:
        FinetuneError: the model has changed meanwhile.
    """
    manifest = read_manifest(out)
    if manifest is None or manifest.complete:
        return
    work = WorkFolder(out)
    settings = settings_from(manifest.settings, out, device)
    model, _ = load(manifest.model, settings)
    if model.digest != manifest.model_digest:
        raise FinetuneError(f"{manifest.model} has changed.", "Embed the corpus into another folder.")
    plan = read_plan(work)
    if plan is not None:
        work_until_complete(model, task_of(work, plan, settings), parent)

"""Finds the folder of a model by what a user gives: a run, a folder, a hub id, an artifact (zip); no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.home import expand_home
from finetune.data.cache.store import Cache
from finetune.errors import ModelError
from finetune.inference.adapters import merged_folder
from finetune.inference.errors import without_config_keys
from finetune.models.resolve import resolve
from finetune.runs.artifact import extract_artifact, is_artifact, read_manifest
from finetune.runs.directory import RunDirectory
from finetune.runs.registry import run_of, suggest_run


@dataclass(frozen=True)
class Location:
    """The folder of a model, what it was given as, and the run that trained it, None if there is none here."""

    folder: Path
    name: str
    run: RunDirectory | None = None


def locate(model: Any) -> Location:
    """Return where a model is; a hub id that is not on this machine is downloaded.

    `model` is the path of a run or its name below outputs, a folder, a hub id, the path of an artifact; or an object
    with such a `path`, as a run has it.

    Raises:
        ModelError: there is none, the run has no model yet, or the folder cannot be used.
        ArtifactError: the zip is damaged.
    """
    name = _name_of(model)
    path = expand_home(name)
    if is_artifact(path):
        return Location(_usable(open_artifact(path), name), name)
    run = run_of(path) if path.exists() else run_of(name)
    if run is None:
        return Location(_usable(_resolve(name), name), name)
    if not run.model.is_dir():
        raise ModelError(
            f"the run {run.path} has no model yet (it is {run.effective_status().get('state', 'unknown')}).",
            "Let it finish first, or give another one.",
        )
    return Location(_usable(run.model, name), name, run)


def _resolve(name: str) -> Path:
    try:
        with without_config_keys():
            return resolve(name, files=(), adapters=True)
    except ModelError as error:
        raise ModelError(error.what, suggest_run(name) or error.advice) from error.__cause__


def open_artifact(path: Path) -> Path:
    """Return a folder in the cache with the files of an artifact, extracted and checked once.

    Raises:
        ArtifactError: it is no artifact, is damaged, or has something that is never read.
        CacheUnavailable: the cache cannot be written.
    """

    def extract(folder: Path) -> None:
        (folder / "model").mkdir()
        extract_artifact(path, folder / "model")

    return Cache().entry("artifact", read_manifest(path).digest, extract) / "model"


def _name_of(model: Any) -> str:
    path = getattr(model, "path", model)
    if isinstance(path, str | Path) and str(path):
        return str(path)
    raise ModelError(
        f"a model is given by a {type(model).__name__}: {model!r:.80}.",
        "Give a run, a folder, a hub id such as sentence-transformers/all-MiniLM-L6-v2, or the path of an artifact.",
    )


def _usable(folder: Path, name: str) -> Path:
    """Return the folder itself, or if it holds an adapter one with the merged model.

    Raises:
        ModelError: the folder of an adapter is damaged.
    """
    try:
        return merged_folder(folder)
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{name}: its adapter_config.json is damaged.", "Get the model again.") from error

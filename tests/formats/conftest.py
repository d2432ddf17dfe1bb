"""A finished run in a folder of its own, and its exports, made once for all tests that only read them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune.formats.export import ExportResult, export_model
from tests.conftest import Ran


@dataclass(frozen=True)
class Exported:
    """A run that was exported: where, and the result."""

    cwd: Path
    model: Path
    result: ExportResult


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, where relative paths of a run's data begin."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def copied(ran: Ran, folder: Path) -> tuple[Path, Path]:
    """Copy the folder in which a run was made; return it and the run."""
    shutil.copytree(ran.cwd, folder, symlinks=True)
    return folder, folder / ran.path.relative_to(ran.cwd)


@pytest.fixture(scope="module")
def exported(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The run, exported to two ONNX files and to fp16."""
    cwd, run = copied(ran, tmp_path_factory.mktemp("exported") / "here")
    with inside(cwd):
        result = export_model(run, ["onnx", "onnx-int8", "fp16"])
    return Exported(cwd, run / "model", result)

"""What the tests of the API share. They use a `client`, so that one of a server can run the same tests."""

from pathlib import Path

import pytest

import finetune
from tests.conftest import write_pairs
from tests.parallel import build_once


def words(model, *more):
    """The overrides of a run of a few seconds, without evaluation."""
    return [
        f"model.name={model}", "debug=tiny", "data.path=pairs.csv", "data.max_length=16", "evaluation=none",
        "trainer.max_steps=3", "trainer.accelerator=cpu", "trainer.precision=32-true", *more,
    ]  # fmt: skip


def no_data(model, *more):
    """The same without data."""
    return [word for word in words(model, *more) if not word.startswith("data.path=")]


@pytest.fixture
def client():
    """The module itself is the client of this machine."""
    return finetune


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a data file."""
    write_pairs(tmp_path / "pairs.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_project(folder: Path, tiny_model: Path) -> Path:
    """Fit a model on a list of dicts, with an evaluation, and keep what was printed."""
    import contextlib
    import csv

    write_pairs(folder / "pairs.csv")
    (folder / "tiny").symlink_to(tiny_model)
    with (folder / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    overrides = [
        "model.name=tiny", "data.max_length=16", "data.batch_size=16", "trainer.max_steps=3",
        "trainer.accelerator=cpu", "trainer.precision=32-true", "evaluation=[retrieval,similarity]",
    ]  # fmt: skip
    with contextlib.chdir(folder), (folder / "printed.txt").open("w") as printed, contextlib.redirect_stdout(printed):
        finetune.fit(*overrides, data=rows, name="first")
    return folder


@pytest.fixture(scope="session")
def made_project(tiny_model, tmp_path_factory):
    """A folder with the finished run default/first, the same for all workers."""
    return build_once(tmp_path_factory, "project", lambda folder: make_project(folder, tiny_model))


@pytest.fixture
def project(made_project, monkeypatch):
    """The working directory is that folder, which is not to be changed."""
    monkeypatch.chdir(made_project)
    return made_project

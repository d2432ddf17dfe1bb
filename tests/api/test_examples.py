"""The examples in the docstrings of the API, run in a folder with a tiny model, a data file and a finished run."""

import doctest
import shutil
from importlib import import_module

import pytest

import finetune

# Functions with the name of a package that can be called; `runs` is `list_runs`.
OF_PACKAGES = {"embed": "vectors", "export": "publish", "sweep": "sweeps"}
FUNCTIONS = [getattr(finetune, name) for name in finetune.__all__ if name not in ("__version__", "runs", *OF_PACKAGES)]
FUNCTIONS += [getattr(import_module(f"finetune.api.{module}"), name) for name, module in OF_PACKAGES.items()]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for each in FUNCTIONS:
        if each.__module__.startswith("finetune.api") and each.__module__ != "finetune.api.protocols":
            for test in finder.find(each, each.__name__, globs={"finetune": finetune}):
                if test.examples:
                    marks = [pytest.mark.thorough] if test.name == "sweep" else []  # test_fit.py runs one
                    yield pytest.param(test, id=test.name, marks=marks)


def test_every_function_has_an_example():
    with_example = {case.id.split(".")[0] for case in examples()}
    # Those of models have examples of their own, in tests/inference.
    functions = {
        each.__name__
        for each in FUNCTIONS
        if callable(each) and not isinstance(each, type) and each.__module__.startswith("finetune.api")
    }
    assert functions <= with_example


@pytest.fixture(scope="module")
def own_project(made_project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples") / "project"
    shutil.copytree(made_project, folder, symlinks=True)
    return folder


@pytest.mark.parametrize("test", list(examples()))
def test_an_example_shows_what_happens(test, own_project, monkeypatch):
    monkeypatch.chdir(own_project)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    printed = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(test, out=printed.append, clear_globs=False)
    assert runner.failures == 0, "".join(printed)

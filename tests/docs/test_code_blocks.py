"""Every block of code of the documentation: commands pass the check, and in `make test-slow` everything is executed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

import finetune
from finetune.cli.app import app
from finetune.config.check import check as check_config
from finetune.config.command_line import Arguments
from finetune.runs.failure_causes import Cause
from finetune.sweep.search_space import read_search_space
from tests.conftest import ROOT, run_finetune, run_train
from tests.docs.pages import PAGES, blocks_of, training_overrides, write_files

EXAMPLES_OF_MISTAKES = ("trainer.max_epcohs=3",)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT / "docs").as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_passes_the_check(page, tmp_path, monkeypatch):
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page):
        if block.language in ("bash", "text"):
            for words in block.commands():
                check_command(words, executed=block.language == "bash")
        elif block.language == "python":
            compile(block.text, str(page), "exec")


def check_command(words: list[str], executed: bool) -> None:
    overrides = training_overrides(words)
    if overrides is None:
        if words[0] == "finetune":
            check_verb(words[1:], executed)
        return
    if "--cfg" in overrides or any(word in overrides for word in EXAMPLES_OF_MISTAKES):
        return
    if "-m" in overrides:  # the first run of the sweep
        overrides, _ = read_search_space(Arguments([word for word in overrides if word != "-m"])).one_at_a_time()[0]
    if executed:
        # With the data: the files that the page shows.
        found = finetune.check(*overrides)
        assert not found.problems, (overrides, found.problems)
    else:
        # Paths are those of the reader.
        cluster = ["hydra/launcher=slurm"] if words[1] == "submit" else []
        check_config([*cluster, *(word for word in overrides if not word.startswith(("resume=", "+callbacks.mine")))])


def check_verb(words: list[str], executed: bool) -> None:
    """Check that a verb and its options exist; `data show` is executed."""
    verbs = [word for word in words if not word.startswith("-")]
    depth = 2 if verbs[:1] and verbs[0] in ("data", "runs", "cache") and len(verbs) > 1 else 1
    if executed and verbs[:2] == ["data", "show"]:
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 0, shown.output
        return
    shown = CliRunner().invoke(app, [*verbs[:depth], "--help"])
    if shown.exit_code and depth == 2:  # the second word is a name, as in `finetune runs NAME`
        shown = CliRunner().invoke(app, [verbs[0], "--help"])
    assert shown.exit_code == 0, (words, shown.output)
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in shown.output, words


# Commands with such a word train only a little.
SHORT = ("trainer.max_steps=", "debug=tiny", "check=", "--cfg")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_can_be_executed(page, tmp_path):
    """Execute the commands and programs of a page one after another.

    A training stops after two steps, and is not evaluated on the bundled general set, which takes longer than the rest.
    """
    write_files(page, tmp_path)
    for block in blocks_of(page):
        if block.language == "bash":
            for words in block.commands():
                check_done(execute(words, tmp_path), " ".join(words))
        elif block.language == "python":
            words = [sys.executable, "-c", block.text]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            check_done(done, block.text)


def execute(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    if training_overrides(words) is not None and not any(word.startswith(SHORT) for word in words):
        words = [*words, "trainer.max_steps=2"]
        if not any(word.startswith("evaluation") for word in words):
            words.append("evaluation=fitting")
    if words[:2] == ["python", "train.py"]:
        return run_train(*words[2:], cwd=folder)
    assert words[0] == "finetune"
    return run_finetune(*words[1:], cwd=folder)


def check_done(done: subprocess.CompletedProcess[str], shown: str) -> None:
    assert done.returncode == 0, f"{shown}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs finetune[docs]")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    keys = (tmp_path / "site/reference/config.html").read_text()
    assert "temperature" in keys and "divides the cosine" in keys


def test_every_cause_of_a_run_that_ended_is_explained():
    text = (ROOT / "docs/errors.md").read_text()
    missing = [cause for cause in get_args(Cause) if f"`{cause}`" not in text]
    assert not missing

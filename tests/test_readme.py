"""What the documents say can be typed, can be typed."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from finetune.config.check import check
from finetune.config.command_line import Arguments
from finetune.sweep.search_space import read_search_space
from tests.conftest import ROOT, thorough, write_pairs

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"reference/config.md"}  # by `make docs`, from conf/
COMMAND = re.compile(r"(?:python train\.py|finetune (?:train|check))((?: [^`\n#]+)?)")


def commands() -> list[str | ParameterSet]:
    """Every train command in README.md and at the top of a YAML, without the ones that are to be answered as wrong.

    Those of a YAML alone are in `make test-all`.
    """
    readme = commands_of((ROOT / "README.md").read_text())
    others = set().union(*(commands_of(path.read_text()) for path in (ROOT / "conf").rglob("*.yaml"))) - readme
    return [*sorted(readme), *(thorough(text) for text in sorted(others))]


def commands_of(text: str) -> set[str]:
    found = {match[1].strip() for match in COMMAND.finditer(text)}
    return {command for command in found if "epcohs" not in command and "resume=outputs" not in command}


@pytest.mark.parametrize("text", commands())
def test_every_command_passes_the_check(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.csv")
    words = shlex.split(text)
    if "-m" in words:  # the first point of the sweep
        words, _ = read_search_space(Arguments([word for word in words if word != "-m"])).one_at_a_time()[0]
    if "--cfg" in words:
        return
    check(words)


def test_the_files_that_the_architecture_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    files = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if not {".venv", "outputs", "site"} & set(path.parts)
    ]
    named = re.findall(r"`([\w/]+\.(?:py|yaml|html|css|json))`", text)
    assert len(named) > 50
    written_by_runs = {"report.json", "status.json", "job.json", "trackers.json"}
    assert [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)] == [
        name for name in named if name in written_by_runs
    ]


def test_the_make_targets_of_the_documents_exist():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in listed.splitlines()}
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", document.read_text(), flags=re.MULTILINE))
        assert named <= targets, document


def test_the_two_commands_exist_and_run_what_the_readme_says():
    readme = (ROOT / "README.md").read_text()
    assert "    make train" in readme
    assert "    make test" in readme
    for target, words in (("train", "train.py model=bert data=csv"), ("test", "-m pytest")):
        plan = subprocess.run(["make", "-n", target, "ARGS=x=1"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"{words} x=1" in plan.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_link_is_dead(document):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists() or target.removeprefix("../") in GENERATED, target


def test_the_readme_is_one_screen_of_why_and_where_to_read_on():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_key_of_the_table_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = check([])
    table = (ROOT / "docs/configuration.md").read_text().split("| key | default | |")[1].split("\n\n")[0]
    keys = [key for row in table.splitlines()[2:] for key in re.findall(r"`([a-z_.]+)`", row.split("|")[1])]
    assert len(keys) > 12
    for key in keys:
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_the_files_that_a_run_leaves(ran):
    block = (ROOT / "docs/runs.md").read_text().split("outputs/<experiment>/<run>/\n")[1].split("\n\n")[0]
    names = [name for line in block.splitlines() for name in re.findall(r"^ {2}(\S+)|^ {2}\S+ {2}(\S+) ", line)]
    for name in {part for pair in names for part in pair if part}:
        assert (ran.path / Path(name)).exists(), name

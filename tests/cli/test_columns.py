"""What is said about the columns of the data, through the front door: the check, a run, its log and its report."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from finetune.cli.main import main
from tests.conftest import WORDS, Ran, quick, run_train

UNUSED = "Not used: the columns 'remark', 'origin'."
OPPOSED = "the similarity of the pairs falls as their score rises (Spearman -0."


def write_distances(path: Path) -> None:
    """Write pairs of texts with the number of words in which they differ, and two columns that say nothing."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text1", "text2", "score", "remark", "origin"])
        for i in range(150):
            words, others = draw.sample(WORDS[:12], 4), draw.sample(WORDS[12:24], i % 5 if i % 5 < 4 else 4)
            writer.writerow([" ".join(words), " ".join([*words[len(others) :], *others]), len(others), f"r{i}", "web"])


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run of two steps on distances, without an evaluation."""
    cwd = tmp_path_factory.mktemp("distances")
    write_distances(cwd / "pairs.csv")
    words = ["loss=cosent", "evaluation=none", "trainer.max_steps=2", "name=run"]
    return Ran(run_train(*quick(tiny_model, *words), cwd=cwd), cwd, cwd / "outputs/default/run")


def test_a_run_names_the_columns_that_it_does_not_use_everywhere(trained):
    assert trained.process.returncode == 0, trained.process.stderr
    assert UNUSED in trained.process.stdout
    assert UNUSED in (trained.path / "run.log").read_text(encoding="utf-8")
    assert UNUSED in json.loads((trained.path / "report.json").read_text(encoding="utf-8"))["notes"]
    for name in ("report.html", "report.md"):
        page = (trained.path / name).read_text(encoding="utf-8")
        assert all(word in page for word in ("Not used: the columns", "remark", "origin"))


def test_scores_that_contradict_the_original_model_are_reported_before_training_and_in_the_report(trained):
    printed = trained.process.stdout
    assert printed.count(OPPOSED) == 1
    assert printed.index(OPPOSED) < printed.index("training 2/2 steps")
    notes = json.loads((trained.path / "report.json").read_text(encoding="utf-8"))["notes"]
    assert [OPPOSED in note for note in notes].count(True) == 1
    assert OPPOSED in (trained.path / "run.log").read_text(encoding="utf-8")


def test_scores_that_agree_with_the_model_are_not_warned_of(tiny_model, tmp_path):
    write_distances(tmp_path / "pairs.csv")
    words = ["loss=cosent", "evaluation=similarity", "trainer.max_steps=1"]
    turned = "data.score_values={0:4,1:3,2:2,3:1,4:0}"
    process = run_train(*quick(tiny_model, *words, turned), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "Warning" not in process.stdout
    # The evaluator has looked at these pairs: nothing is embedded for the question once more.
    assert "looking at the scores" not in process.stdout


def test_the_check_names_the_columns_of_all_data(tiny_model, tmp_path, monkeypatch, capsys):
    write_distances(tmp_path / "pairs.csv")
    monkeypatch.chdir(tmp_path)
    source = "evaluation.similarity.data={path:pairs.csv}"
    words = quick(tiny_model, "loss=cosent", "evaluation=similarity", source, "check=true")
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert UNUSED in printed
    assert f"evaluation.similarity.data: {UNUSED}" in printed


def test_the_data_of_an_evaluation_is_asked_about_as_well(tiny_model, tmp_path, monkeypatch, capsys):
    write_distances(tmp_path / "pairs.csv")
    text = (tmp_path / "pairs.csv").read_text(encoding="utf-8")
    (tmp_path / "judged.csv").write_text(text.replace("score", "label"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    source = "evaluation.similarity.data={path:judged.csv}"
    assert main(quick(tiny_model, "loss=cosent", "evaluation=similarity", source, "check=true")) == 2
    told = capsys.readouterr().err
    assert "evaluation.similarity.data.columns" in told
    assert "the column 'label' has the values 0, 1, 2, 3, 4" in told
    assert "'++evaluation.similarity.data.score_values={" in told

"""Losses by name from the command line: listed, checked against the data, trained."""

import csv
import json
import random
import re

import pytest
from typer.testing import CliRunner

from finetune.cli.app import app
from tests.conftest import WORDS, quick, run_train, thorough

LISTED = re.compile(r"^(\w+)  ", re.M)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """One file of each layout."""
    folder, draw = tmp_path_factory.mktemp("tables"), random.Random(0)

    def text():
        return " ".join(draw.sample(WORDS, 4))

    def write(name, head, rows):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *rows])

    write("pairs.csv", ["anchor", "positive"], [[text(), text()] for _ in range(60)])
    write("triplets.csv", ["anchor", "positive", "negative"], [[text(), text(), text()] for _ in range(60)])
    write("scored.csv", ["text1", "text2", "score"], [[text(), text(), i % 11 / 2] for i in range(60)])
    write("labelled.csv", ["item", "label"], [[text(), "abcdef"[i % 6]] for i in range(60)])
    lines = [{"query": text(), "documents": [text() for _ in range(3)], "scores": [1.5, 3.0, i]} for i in range(60)]
    (folder / "lists.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def test_all_are_listed_with_a_line_each():
    result = CliRunner().invoke(app, ["losses"])
    assert result.exit_code == 0
    assert {"infonce", "cosent", "matryoshka"} < set(LISTED.findall(result.output))
    assert "learns from a score for each pair" in result.output
    assert all(len(line.split()) > 3 for line in result.output.splitlines())
    assert "bert" in CliRunner().invoke(app, ["models"]).output


@pytest.mark.parametrize(("file", "text"), [("loss/mine", "a: [1"), ("loss/mine", "a: \udcff"), ("train", "x: {")])
def test_a_broken_user_file_is_named(file, text, tmp_path, monkeypatch):
    path = tmp_path / f"conf/{file}.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["losses"])
    assert result.exit_code == 2
    assert f"conf/{file}.yaml" in result.output
    assert "Traceback" not in result.output


def test_a_user_loss_with_unusual_class_variables(tables, tiny_model, tmp_path):
    """Its `learns_from` may not be a plain tuple, and its settings may have the names of built-in ones."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Mine(torch.nn.Module):\n"
        "    learns_from = tuple(['scores'])\n"
        "    def __init__(self, dimensions: int = 1, lowest: str = 'a', highest: str = 'b'):\n"
        "        super().__init__()\n"
        "    def forward(self, emb_ND, batch):\n"
        "        return emb_ND.square().mean()\n"
    )
    node = "loss={_target_:mine.Mine,dimensions:3,lowest:a,highest:b}"
    asked = [*quick(tiny_model), f"data.path={tables / 'scored.csv'}", "~loss", f"+{node}", "check=true"]
    process = run_train(*asked, cwd=tmp_path, env={"FINETUNE_ALLOW": "mine", "PYTHONPATH": str(tmp_path)})
    assert process.returncode == 0, process.stderr


def test_scores_may_start_above_zero(tables, tiny_model, tmp_path):
    rows = [line for line in (tables / "scored.csv").read_text().splitlines() if not line.endswith((",0.0", ",0.5"))]
    (tmp_path / "high.csv").write_text("\n".join(rows))
    asked = [*quick(tiny_model), "data.path=high.csv", "loss=cosine_mse", "loss.highest=5", "check=true"]
    assert run_train(*asked, "loss.lowest=1", cwd=tmp_path).returncode == 0
    process = run_train(*asked, "loss.lowest=2", cwd=tmp_path)
    assert process.returncode == 2
    assert "the scores reach 1, beyond lowest=2" in process.stderr


def test_problems_of_a_loss_are_reported_with_all_others(tables, tiny_model, tmp_path):
    words = ["loss=matryoshka", "loss.dimensions=[64]", "data.max_length=1000"]
    process = run_train(*quick(tiny_model), f"data.path={tables / 'pairs.csv'}", *words, cwd=tmp_path)
    assert process.returncode == 2
    assert "loss.dimensions" in process.stderr
    assert "data.max_length" in process.stderr


# Of each layout at least one loss; the others are in `make test-all`, and in tests/losses against their definition.
TRAINED = [
    "pairs.csv loss=decoupled",
    thorough("pairs.csv loss=siglip"),
    thorough("pairs.csv loss=sum trainer.devices=2"),
    "pairs.csv loss=matryoshka loss.dimensions=[32,8] loss@loss.loss=siglip",
    "triplets.csv loss=triplet loss.negatives=given",
    thorough("triplets.csv loss=online_contrastive"),
    "scored.csv loss=cosent",
    thorough("scored.csv loss=matryoshka loss.dimensions=[32,8] loss@loss.loss=angle"),
    "labelled.csv loss=supcon",
    "lists.jsonl loss=margin_mse",
    thorough("lists.jsonl loss=list_kl"),
    "scored.csv loss=bce loss.highest=5",
    thorough("scored.csv loss=contrastive loss.right_from=3"),
    thorough("triplets.csv loss=ranknet"),
    thorough("triplets.csv loss=lambda_loss loss.weighting=lambdarank"),
    "lists.jsonl loss=listnet loss.scale=60",
    thorough("lists.jsonl loss=listmle loss.position_aware=true"),
]


@pytest.mark.parametrize("words", TRAINED)
def test_the_loss_falls(words, tables, tiny_model, tmp_path):
    path, *more = words.split()
    asked = [*quick(tiny_model), f"data.path={tables / path}", "evaluation=none", "name=run", *more]
    process = run_train(*asked, "trainer.max_epochs=12", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in (tmp_path / "outputs/default/run/metrics.jsonl").open(encoding="utf-8")]
    losses = [line["loss"] for line in lines if "loss" in line]
    size = len(losses) // 4
    assert sum(losses[-size:]) < sum(losses[:size])


REFUSED = [
    ("pairs.csv loss=cosent", r"cosent learns from a score for each pair, and these are pairs\.\n.*infonce.*siglip"),
    ("scored.csv loss=infonce", r"data\.min_score\n.*scored pairs.*\n.*data\.min_score=3;.*cosent"),
    ("scored.csv loss=cosine_mse", r"loss\.highest\n.*the scores reach 5.*\n.*loss\.highest=5"),
    ("scored.csv loss=contrastive", r"loss\.right_from\n.*the scores are 0 to 5.*\n.*loss\.right_from=3"),
    ("scored.csv loss=online_contrastive", r"loss\.right_from\n.*the scores are 0 to 5.*\n.*loss\.right_from=3"),
    ("scored.csv loss=matryoshka loss@loss.loss=contrastive loss.dimensions=[8]", r"loss\.loss\.right_from\n.*0 to 5"),
    ("lists.jsonl loss=contrastive", r"loss\.right_from\n.*the scores are 0 to 59"),
    ("scored.csv loss=bce", r"loss\.highest\n.*the scores reach 5.*\n.*loss\.highest=5"),
    ("triplets.csv loss=bce loss.lowest=1", r"loss\.highest\n.*must be above loss\.lowest.*\n.*Set loss\.lowest"),
    ("lists.jsonl loss=lambda_loss", r"loss\.weighting\n.*grades of 0 to 30.*0 to 59\.\n.*loss\.weighting=none"),
    ("pairs.csv loss=listmle", r"learns from negatives next to the positives or several scored documents"),
    ("pairs.csv loss=triplet loss.negatives=given", r"loss\.negatives\n.*there are none"),
    ("pairs.csv loss=contrastive", r"learns from negatives next to the positives or a score"),
    ("labelled.csv loss=list_kl", r"learns from several scored documents per query, and these are labelled items"),
    ("scored.csv loss=sum", r"InfoNCE learns from positive pairs"),
    ("pairs.csv loss=matryoshka loss.dimensions=[64]", r"64 dimensions are more than the 32 that the model has"),
    ("pairs.csv loss=triplet loss.negatives=all loss.soft=true", r"loss\.soft\n"),
    ("pairs.csv loss=siglip loss.temprature=1", r"Did you mean loss\.temperature"),
    ("pairs.csv loss=tripplet", r"Did you mean triplet"),
]


@pytest.mark.parametrize(("words", "answer"), REFUSED)
def test_what_does_not_fit_is_refused(words, answer, tables, tiny_model, tmp_path):
    path, *more = words.split()
    process = run_train(*quick(tiny_model), f"data.path={tables / path}", *more, cwd=tmp_path)
    assert process.returncode == 2
    assert re.search(answer, process.stderr), process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "outputs").exists()

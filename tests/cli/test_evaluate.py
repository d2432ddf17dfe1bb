"""`finetune evaluate`: any models side by side, through the front door."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import evaluation

from tests.conftest import WORDS, quick, run_finetune, run_train, write_pairs


def evaluate(*arguments, cwd, answer=0):
    process = run_finetune("evaluate", *arguments, cwd=cwd)
    assert process.returncode == answer, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout if answer == 0 else process.stderr


def write_beir(folder, random):
    """Write 40 queries and 200 documents of a few words; each query has two right ones that share words with it."""
    texts = [f"{' '.join(random.choice(WORDS, 3))} {i}" for i in range(200)]
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    asked = [{"_id": f"q{i}", "text": f"{texts[i]} {texts[i + 40]}"} for i in range(40)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    judged = "".join(f"q{i}\td{i}\t1\nq{i}\td{i + 40}\t1\n" for i in range(40))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return documents, asked


def test_the_numbers_are_those_of_sentence_transformers(tiny_model, tmp_path):
    documents, asked = write_beir(tmp_path / "beir", np.random.default_rng(0))
    more = ["evaluation=retrieval", "evaluation.retrieval.data={path: beir}", "data.max_length=32", "--json"]
    metrics = "evaluation.retrieval.metrics=[nDCG@10,MRR@10,recall@5,precision@5,MAP@100]"
    found = json.loads(evaluate(str(tiny_model), *more, metrics, cwd=tmp_path))["evaluations"]["retrieval"]
    theirs = evaluation.InformationRetrievalEvaluator(
        {one["_id"]: one["text"] for one in asked},
        {one["_id"]: one["text"] for one in documents},
        {f"q{i}": {f"d{i}", f"d{i + 40}"} for i in range(40)},
        ndcg_at_k=[10],
        mrr_at_k=[10],
        precision_recall_at_k=[5],
        accuracy_at_k=[5],
        map_at_k=[100],
        show_progress_bar=False,
    )(SentenceTransformer(str(tiny_model), device="cpu"))
    names = {"nDCG@10": "ndcg@10", "MRR@10": "mrr@10", "recall@5": "recall@5", "precision@5": "precision@5"}
    for ours, name in names.items():
        assert found["models"][str(tiny_model)][ours] == pytest.approx(theirs[f"cosine_{name}"], abs=1e-6)
    assert found["baselines"]["BM25"]["nDCG@10"] > 0.5
    assert found["counts"]["documents"] == 200


def test_a_run_beside_what_it_was_made_from(ran, tiny_model):
    more = ["data.path=pairs.csv", "data.max_length=16", "evaluation=[retrieval,geometry]"]
    before = sorted(ran.cwd.rglob("*"))
    output = evaluate(str(tiny_model), str(ran.path), *more, cwd=ran.cwd)
    report = json.loads((ran.path / "report.json").read_text())["evaluations"]["retrieval"]["metrics"][0]
    row = next(line for line in output.splitlines() if "nDCG@10" in line)
    assert f"{report['before']:.3f}" in row
    assert f"{report['after']:.3f} (" in row
    assert "BM25" in output
    assert "-uniformity" in output
    # Its name alone: measured by its evaluation, on what it held out.
    alone = json.loads(evaluate("my experiment/" + ran.path.name, "--json", cwd=ran.cwd))["evaluations"]
    assert list(alone) == ["retrieval", "forgetting"]
    assert next(iter(alone["retrieval"]["models"].values()))["nDCG@10"] == pytest.approx(report["after"], abs=1e-6)
    assert sorted(ran.cwd.rglob("*")) == before


def scored(folder):
    with (folder / "scored.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text1", "text2", "score"])
        writer.writerows([f"{WORDS[i % 20]} {i}", f"{WORDS[i * 7 % 20]} {i}", i % 11 / 10] for i in range(100))


def test_scored_pairs_are_measured_in_a_run_that_trains_on_the_others(tiny_model, tmp_path):
    scored(tmp_path)
    more = ["loss=cosent", "data.validation_fraction=0.3", "data.max_length=16", "data.batch_size=16"]
    own = ["+evaluation@evaluation.again=similarity", "evaluation.again.data={path: scored.csv}"]
    run = run_train(
        f"model.name={tiny_model}", "data.path=scored.csv", *more, *own, "trainer.max_steps=2", "name=run", cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "outputs/default/run/report.json").read_text())["evaluations"]
    assert list(report) == ["similarity", "again"]
    assert report["similarity"]["metrics"][0]["metric"] == "Spearman cosine"
    assert report["similarity"]["counts"]["scored pairs"] == 30
    assert report["again"]["counts"]["scored pairs"] == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluation.retrieval.metrics=[ndgc@10]"], ["there is no metric 'ndgc@10'", "Did you mean nDCG@10"]),
        (["evaluation.retrieval.dimensions=[64]"], ["64 dimensions are more than the 32 that the model has"]),
        (["evaluation.retrieval.data={path: no.csv}"], ["evaluation.retrieval.data.path", "no.csv"]),
        (
            ["evaluation=[similarity,classification]"],
            [
                "similarity needs scored pairs, classification needs labelled items, and the data gives judgments",
                "Choose evaluation=retrieval.",
            ],
        ),
        (["evaluation=retrieval", "data.validation_fraction=0"], ["no rows are held out", "data.validation_fraction"]),
        (["evaluation=none"], ["there is no evaluator"]),
        (["./no-such-model"], ["no-such-model", "does not exist"]),
        (["-m"], ["evaluate does not take -m"]),
        (
            ["evaluation=similarity", "evaluation.similarity.data={path: pairs.csv}"],
            ["evaluation.similarity needs scored pairs, but this source has judgments"],
        ),
    ],
)
def test_a_mistake_is_reported_before_anything_is_evaluated(tiny_model, tmp_path, arguments, words):
    write_pairs(tmp_path / "pairs.csv")
    answer = evaluate(str(tiny_model), "data.path=pairs.csv", "data.max_length=16", *arguments, cwd=tmp_path, answer=2)
    assert all(word in answer for word in words), answer
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.csv"]


def test_with_check_nothing_is_evaluated_and_mistakes_are_reported(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    typed = [str(tiny_model), "data.path=pairs.csv", "data.max_length=16", "check=true"]
    assert "nothing was evaluated" in evaluate(*typed, cwd=tmp_path)
    evaluate(*typed, "data.path=nowhere.csv", cwd=tmp_path, answer=2)


def test_help_has_examples(tmp_path):
    assert "finetune evaluate outputs/default/my_run" in evaluate("--help", cwd=tmp_path)


def test_rows_dropped_from_a_published_folder_are_printed_listed_and_reported(tiny_model, tmp_path):
    write_beir(tmp_path / "beir", np.random.default_rng(0))
    with (tmp_path / "beir/corpus.jsonl").open("a") as file:
        file.write('{"_id": "empty", "title": "", "text": ""}\n')
    with (tmp_path / "beir/qrels/test.tsv").open("a") as file:
        file.write("q0\tnowhere\t1\n")
    write_pairs(tmp_path / "pairs.csv")
    own, left_out = (
        "evaluation.retrieval.data={path: beir}",
        "left out 1 judgment of an id that is not there, 1 empty text",
    )
    output = evaluate(str(tiny_model), "evaluation=retrieval", own, "data.max_length=32", cwd=tmp_path)
    assert f"evaluation.retrieval.data: beir: {left_out}." in output
    assert "The skipped rows are listed in problems.jsonl." in output
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert kinds == ["dangling", "blank"]
    process = run_train(*quick(tiny_model, "evaluation=retrieval", own, "trainer.max_steps=2"), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert left_out in process.stdout
    (run,) = tmp_path.glob("outputs/default/*/report.json")
    report = json.loads(run.read_text())
    assert any(left_out in note for note in report["notes"])
    assert report["evaluations"]["retrieval"]["counts"]["right documents that are not in the corpus"] == 1
    assert len((run.parent / "problems.jsonl").read_text().splitlines()) == 2

"""scripts/tasks: the comparison of configurations, its store of results, and its tables."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

import finetune
from tests.conftest import ROOT, WORDS

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SCRIPTS = ROOT / "scripts" / "tasks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    names = ("store", "summary", "measure", "trainers")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in (*names, "fresh"):  # other folders of scripts have modules of the same names
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in names}
    for name in (*names, "fresh"):
        sys.modules.pop(name, None)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A BEIR folder with training pairs: two words, and the same with a third one."""
    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    rows = [(f"{a} {b}", f"{a} {b} {c}") for a, b, c in zip(WORDS, WORDS[5:], WORDS[9:], strict=False)]
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("query", "document"), *rows])
    for name, side in (("queries", 0), ("corpus", 1)):
        lines = [json.dumps({"_id": f"{name}{i}", "text": row[side]}) + "\n" for i, row in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    judged = "".join(f"queries{i}\tcorpus{i}\t1\n" for i in range(len(rows)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def run_compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "compare.py"), *map(str, arguments)]
    # Tests before this one, in the same process, may have left the addresses of ranks, which the peer would connect to.
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("RANK", "WORLD_SIZE"))}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept)


def result(task: str, configuration: str, values: Any, trainer: str = "finetune", **fields: Any) -> dict[str, Any]:
    known = {"task": task, "configuration": configuration, "definition": {"trainer": trainer}, "seed": 1, "limit": None}
    training = {"cpu_seconds": 10.0, "steps": 5, "pairs": 100}
    return {**known, "training": training, "ndcg": {"retrieval": values, "forgetting": [0.5, 0.5]}, **fields}


def test_a_line_that_was_cut_off_is_ignored_and_the_next_result_is_readable(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    store, path = modules["store"], tmp_path / "new" / "results.jsonl"
    first, second = result("a", "x", [0.1]), result("a", "y", [0.2])
    store.append(path, first)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-20])
    store.append(path, second)
    assert store.read_results([path]) == [first, second]


def test_results_differ_by_every_field_of_a_case_and_the_last_one_counts(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    store, path = modules["store"], tmp_path / "results.jsonl"
    different = [
        result("a", "x", [0.1]),
        result("a", "x", [0.2], seed=2),
        result("a", "x", [0.3], limit=50),
        result("a", "x", [0.4], definition={"trainer": "finetune", "overrides": ["seed=3"]}),
        result("a", "x", [0.5], max_length=256),
        result("a", "x", [0.6], data="another build"),
    ]
    for one in [*different, result("a", "x", [0.9])]:
        store.append(path, one)
    assert [one["ndcg"]["retrieval"] for one in store.read_results([path])] == [
        [0.9],
        [0.2],
        [0.3],
        [0.4],
        [0.5],
        [0.6],
    ]


def test_a_second_writer_of_the_same_results_is_refused(
    modules: dict[str, ModuleType], task: Path, tmp_path: Path
) -> None:
    path = tmp_path / "results.jsonl"
    with modules["store"].only_writer(path):
        refused = run_compare("--tasks", task, "--configurations", "default", "--results", path)
    assert refused.returncode == 2
    assert "another process writes to" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--configurations", "defualt"], "has no configuration defualt; it has default, peer-1"),
        (["--tasks", "no/such/task"], "no/such/task/corpus.jsonl is missing"),
        (["--file", "none.yaml"], "no such file: none.yaml"),
        (["--limit", "0"], "--limit must be at least 1"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_measured(
    task: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    refused = run_compare("--tasks", task, "--results", tmp_path / "results.jsonl", *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not (tmp_path / "results.jsonl").exists()


def test_the_tables_show_planted_changes_and_choose_without_the_task_left_out(modules: dict[str, ModuleType]) -> None:
    summary = modules["summary"]
    noise_Q = np.random.default_rng(0).uniform(0.2, 0.6, 200)
    results = []
    # `second` is best on the mean of all tasks, and where a is left out; `first` with a and only one of the others.
    for task, gains in {"a": (0.10, 0.02), "b": (-0.01, 0.05), "c": (-0.01, 0.05)}.items():
        results.append(result(task, "untouched", list(noise_Q), definition=None, seed=None, training={}))
        results.append(result(task, "peer-1", list(noise_Q), "sentence-transformers"))
        for name, gain in zip(("first", "second"), gains, strict=True):
            results += [
                result(task, name, list(noise_Q + gain + shift), seed=seed) for seed, shift in ((1, 0.01), (2, -0.01))
            ]
    tasks = summary.grouped(results)
    assert tasks["a"]["first"].ndcg["retrieval"].shape == (2, 200)
    row = next(line for line in summary.task_table(tasks["a"], "peer-1").splitlines() if "first" in line)
    assert row.split("|")[2].strip() == "2"
    assert row.split("|")[4].strip() == "1.4"  # standard deviation of the seeds
    assert row.count("**+10.0 [+10.0, +10.0]**") == 2  # against untouched, and against the reference
    means = summary.mean_table(tasks, "peer-1").splitlines()
    assert means[2] == "| second | 3 | +4.00 [+4.00, +4.00] | 3 | 0 | 1.00 |"
    assert means[3] == "| first | 3 | +2.67 [+2.67, +2.67] | 1 | 2 | 1.00 |"
    chosen = {line.split("|")[1].strip(): line.split("|")[2].strip()
              for line in summary.left_out_table(tasks, "peer-1").splitlines()[4:]}  # fmt: skip
    assert {task: chosen[task] for task in "abc"} == {"a": "second", "b": "first", "c": "first"}
    peer = {"trainer": "sentence-transformers"}
    longer = [
        result("a", "peer-3", list(noise_Q + 0.05), definition=peer, training={"cpu_seconds": 9.0, "steps": 9}),
        result("b", "peer-3", list(noise_Q + 0.05), definition=peer, training={"cpu_seconds": 11.0, "steps": 9}),
        result("c", "peer-1", list(noise_Q + 0.05), definition=peer, training={"cpu_seconds": 99.0, "steps": 9}),
    ]
    equal = summary.equal_time_table(summary.grouped([*results, *longer]), "first").splitlines()[2:]
    assert [[cell.strip() for cell in line.split("|")[1:6]] for line in equal] == [
        ["a", "peer-1", "10", "10", "**+10.0 [+10.0, +10.0]**"],
        ["b", "peer-1", "10", "10", "**-1.0 [-1.0, -1.0]**"],
        ["c", "peer-1", "10", "54", "**-3.5 [-3.5, -3.5]**"],  # all peers took longer
    ]
    fewer = [one for one in results if not (one["task"] == "b" and one["configuration"] == "first")]
    assert "Of 1 " in summary.left_out_table(summary.grouped(fewer), "peer-1")


def test_other_lengths_are_another_task_and_the_last_definition_of_a_configuration_counts(
    modules: dict[str, ModuleType],
) -> None:
    results = [
        result("a", "untouched", [0.1, 0.2], definition=None, seed=None, training={}, max_length=64),
        result("a", "x", [0.2, 0.3], max_length=64),
        result("a", "x", [0.4, 0.5], max_length=64, definition={"trainer": "finetune", "overrides": ["seed=3"]}),
        result("a", "x", [0.6, 0.7], max_length=128),
    ]
    tasks = modules["summary"].grouped(results)
    means = {task: {name: one.mean() for name, one in measured.items()} for task, measured in tasks.items()}
    assert means == {
        "a, max_length 64": {"untouched": pytest.approx(0.15), "x": pytest.approx(0.45)},
        "a, max_length 128": {"x": pytest.approx(0.65)},
    }


def test_results_of_an_older_build_of_a_task_are_left_out(modules: dict[str, ModuleType]) -> None:
    old = result("a", "default", [0.1, 0.2], data="old")
    new = [result("a", "peer-1", [0.3], data="new"), result("b", "peer-1", [0.4], data="any")]
    assert modules["summary"].of_last_data([old, *new]) == new


@pytest.mark.parametrize(("documents", "kept"), [(6, 6), (3, 4), (100, 11)])
def test_fewer_documents_keep_all_judged_ones(
    modules: dict[str, ModuleType], task: Path, tmp_path: Path, documents: int, kept: int
) -> None:
    judged = task / "qrels" / "test.tsv"
    judged.write_text("".join(judged.read_text().splitlines(keepends=True)[:5]))
    case = {"task_folder": str(task), "folder": str(tmp_path), "documents": documents}
    lines = (modules["measure"].judged_folder(case) / "corpus.jsonl").read_text().splitlines()
    names = [json.loads(line)["_id"] for line in lines]
    assert len(names) == kept
    assert set(names) >= {f"corpus{i}" for i in range(4)}


def test_training_pairs_are_a_sample_that_is_always_the_same(
    modules: dict[str, ModuleType], task: Path, tmp_path: Path
) -> None:
    def pairs(limit: int | None) -> list[list[str]]:
        path = modules["measure"].write_pairs({"task_folder": str(task), "folder": str(tmp_path), "limit": limit})
        with path.open(newline="") as file:
            return list(csv.reader(file))

    every = pairs(None)
    assert every[0] == ["anchor", "positive"]
    assert len(every) == 12
    some = pairs(4)
    assert len(some) == 5
    assert some == pairs(4)
    assert all(row in every for row in some)
    assert sorted(pairs(50)) == sorted(every)


@pytest.mark.thorough
def test_a_comparison_trains_both_evaluates_them_alike_and_is_continued(
    task: Path, tiny_model: Path, modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    configurations = tmp_path / "configurations.yaml"
    configurations.write_text(
        "ours: {trainer: finetune, overrides: [trainer.max_epochs=2, optimizer.lr=0.01], mix: [0, 1]}\n"
        "theirs: {trainer: sentence-transformers, epochs: 2, batch_size: 4}\n"
        "wrong: {trainer: finetune, overrides: [trainer.max_epcohs=2]}\n"
    )
    path = tmp_path / "results.jsonl"
    arguments = ["--tasks", task, "--file", configurations, "--model", tiny_model, "--max-length", 16, "--limit", 8,
                 "--documents", 5, "--results", path, "--fp32"]  # fmt: skip
    only_ours = run_compare(*arguments, "--configurations", "ours")
    assert only_ours.returncode == 0, only_ours.stdout
    both = run_compare(*arguments)
    assert both.returncode == 1
    assert "4 results are in" not in both.stdout
    assert "2 results are in" in both.stdout
    assert "max_epcohs" in both.stdout
    found = {one["configuration"]: one for one in modules["store"].read_results([path])}
    assert set(found) == {"untouched", "ours", "ours mix=0", "ours mix=1", "theirs"}, both.stdout + both.stderr
    assert found["ours mix=0"]["ndcg"] == found["untouched"]["ndcg"]
    assert found["ours mix=1"]["ndcg"] == found["ours"]["ndcg"]
    assert found["ours"]["ndcg"] != found["untouched"]["ndcg"]
    assert found["ours"]["training"]["steps"] == 2
    assert found["theirs"]["training"]["steps"] == 4
    assert found["ours"]["training"]["pairs"] == found["theirs"]["training"]["pairs"] == 8
    again = run_compare(*arguments, "--configurations", "ours", "theirs")
    assert "0 are to be measured" in again.stdout


@pytest.mark.thorough
def test_every_configuration_passes_the_check(modules: dict[str, ModuleType], task: Path, tmp_path: Path) -> None:
    definitions = yaml.safe_load((SCRIPTS / "configurations.yaml").read_text())
    case = {"task_folder": str(task), "folder": str(tmp_path / "it's here"), "limit": None, "model": MODEL,
            "max_length": 32, "precision": "32-true", "device": "cpu", "seed": 1}  # fmt: skip
    Path(case["folder"]).mkdir()
    case["train"] = str(modules["measure"].write_pairs(case))
    for name, definition in definitions.items():
        if definition["trainer"] == "finetune":
            overrides = modules["trainers"].overrides_of({**case, "definition": definition})
            assert finetune.check(*overrides).problems == [], name

"""The benchmark of embedding a corpus: its texts, the comparison of vectors, and a run with few texts."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

BENCH = ROOT / "scripts/bench"
CASE = {"kind": "short", "precision": "fp32", "duplicates": 0.3, "texts": 200}


@pytest.fixture
def bench(monkeypatch):
    """The module of the benchmark."""
    monkeypatch.syspath_prepend(str(BENCH))
    import embed

    return embed


def test_a_corpus_has_as_many_duplicates_as_asked(bench):
    texts = bench.corpus(CASE)
    assert len(texts) == 200 and len(set(texts)) == 140
    assert texts == bench.corpus(CASE)  # every contestant makes its own
    assert len(set(bench.corpus(CASE | {"duplicates": 0.0}))) == 200


@pytest.mark.parametrize(("precision", "change", "is_equal"), [
    ("fp32", 0, True), ("fp32", 1e-6, True), ("fp32", 1e-4, False), ("bf16", 1e-2, True), ("bf16", 1.0, False),
])  # fmt: skip
def test_vectors_that_differ_stop_the_benchmark(bench, tmp_path, precision, change, is_equal):
    emb_ND = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    np.save(tmp_path / "0-0.npy", emb_ND)
    emb_ND[3, 2] += change
    np.save(tmp_path / "0-1.npy", emb_ND)
    case = CASE | {"precision": precision}
    if is_equal:
        found = bench.check_equal(case, ["ours", "other"], tmp_path)
        assert found["ours"] == 0 and found["other"] == pytest.approx(change, rel=0.2)
    else:
        with pytest.raises(SystemExit, match="other differs from ours"):
            bench.check_equal(case, ["ours", "other"], tmp_path)


def test_memory_and_time_include_child_processes(bench):
    before, spent = bench.peak_mb(), bench.cpu_seconds()
    code = "held = bytearray(b'1' * (64 << 20)); sum(range(10**7)); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        assert bench.peak_mb() - before > 60
        assert bench.cpu_seconds() - spent > 0.05
        child.communicate("\n")


@pytest.mark.thorough
def test_all_contestants_run_and_their_vectors_are_equal(tiny_model, tmp_path):
    command = [sys.executable, BENCH / "embed.py", "--model", tiny_model, "--kinds", "short", "--precisions", "fp32",
               "--texts", "80", "--duplicates", "0.3", "--rounds", "1", "--threads", "1",
               "--out", tmp_path]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "embed.json").read_text())["cases"]
    assert list(case["medians"]) == ["ours", "finetune embed", "sentence-transformers", "ours, pool",
                                     "sentence-transformers, pool"]  # fmt: skip
    for found in case["medians"].values():
        assert found["seconds"] > 0 and found["own_peak_mb"] > 50 and found["difference"] <= 1e-5
    assert "| short, 80, fp32, 30% | ours |" in (tmp_path / "embed.md").read_text()


@pytest.mark.thorough
def test_the_profile_lists_operations(tiny_model):
    command = [sys.executable, BENCH / "embed.py", "--model", tiny_model, "--kinds", "short", "--precisions", "fp32",
               "--texts", "80", "--duplicates", "0", "--profile"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "short, 80, fp32, 0%" in done.stdout and "| aten::" in done.stdout

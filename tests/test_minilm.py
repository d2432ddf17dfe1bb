"""The literal command on the real weights and the shipped data, cut short."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from finetune.data.load import load
from finetune.data.settings import Data
from finetune.evaluation.retrieval import Retrieval
from tests.conftest import Ran, run_train


@pytest.fixture(scope="module")
def minilm_run(tmp_path_factory) -> Ran:
    cwd = tmp_path_factory.mktemp("minilm")
    more = [
        "name=run",
        "evaluation=retrieval",
        "data.limit=512",
        "data.batch_size=64",
        "trainer.precision=32-true",
        "trainer.max_steps=8",
    ]
    process = run_train("model=bert", "data=csv", *more, cwd=cwd)
    assert process.returncode == 0, process.stderr
    return Ran(process, cwd, cwd / "outputs/default/run")


def test_eight_steps_already_help_on_words_never_trained_on(minilm_run):
    report = json.loads((minilm_run.path / "report.json").read_text())
    evaluation = report["evaluations"]["retrieval"]
    headline = evaluation["metrics"][0]
    assert headline["metric"] == "nDCG@10"
    assert evaluation["counts"]["queries"] == 1500
    assert headline["low"] > 0
    assert "better" in minilm_run.process.stdout


@pytest.mark.thorough
def test_the_numbers_are_those_of_the_saved_model_in_sentence_transformers(minilm_run):
    """Encode with the independent library what the run said it measured, and measure again."""
    import yaml

    settings = yaml.safe_load((minilm_run.path / "config.yaml").read_text())
    keys = {key: value for key, value in settings["data"].items() if key != "_target_"}
    dataset = load(Data(**keys), settings["seed"])
    model = SentenceTransformer(str(minilm_run.path / "model"), device="cpu")
    evaluator = Retrieval(**{key: v for key, v in settings["evaluation"]["retrieval"].items() if key != "_target_"})
    again = evaluator.evaluate(
        dataset.validation, lambda rows: np.asarray(model.encode(dataset.items.take(rows), batch_size=64))
    )
    report = json.loads((minilm_run.path / "report.json").read_text())["evaluations"]["retrieval"]
    for metric in report["metrics"]:
        assert again.means[metric["metric"]] == pytest.approx(metric["after"], abs=2e-3)

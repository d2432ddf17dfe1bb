"""Notes on the data before a run starts, through the command line."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cli.test_evaluate import write_beir
from tests.conftest import run_train, write_pairs

UNUSED = "No evaluation uses the held-out part"


def checked(cwd, *overrides):
    answer = run_train("check=true", "data.path=pairs.csv", *overrides, cwd=cwd)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout + answer.stderr


@pytest.fixture
def here(tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    write_beir(tmp_path / "beir", np.random.default_rng(0))
    return tmp_path


def test_an_evaluation_with_its_own_data_leaves_the_held_out_part_unused(here):
    said = checked(here, "evaluation.retrieval.data={path: beir}")
    assert "Held out of training: 12 anchors" in said
    assert "evaluation.retrieval: 40 queries, 200 documents of beir." in said
    assert "evaluation.forgetting" not in said
    assert UNUSED in said
    assert "data.validation_fraction=0" in said
    assert "Evaluating on" not in said
    told = checked(here, "evaluation.retrieval.data={path: beir}", "data.validation_fraction=0")
    assert UNUSED not in told
    assert "training pairs: 120" in told


def test_no_note_if_the_held_out_part_is_used(here):
    assert UNUSED not in checked(here)

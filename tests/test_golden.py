"""The loss curve of a tiny model, number by number: a change that should change nothing must not change this.

After a change that is meant to change it, run `python -m tests.test_golden` and say why in the commit.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from tests.conftest import Ran, make_tiny_model, quick, run_train, write_pairs

GOLDEN = Path(__file__).with_name("golden_loss.json")


def losses_of(run: Path) -> list[float]:
    return [row["loss"] for row in map(json.loads, (run / "metrics.jsonl").open()) if "loss" in row]


def test_the_loss_curve_is_the_golden_one(ran: Ran):
    # Libraries of other processors add up in another order; a real change moves the third digit within a few steps.
    assert losses_of(ran.path) == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_pairs(Path("pairs.csv"))
        run_train(*quick(make_tiny_model(Path("tiny")), "name=golden"), cwd=Path(folder))
        GOLDEN.write_text(json.dumps([round(loss, 5) for loss in losses_of(Path("outputs/default/golden"))]) + "\n")

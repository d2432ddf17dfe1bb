"""What native libraries read from the environment is set before torch is imported, unless the user has set it."""

import json

import pytest

from finetune import native_libraries
from finetune.native_libraries import DEFAULTS
from tests.conftest import quick, run_train, thorough, write_pairs

CALLBACK = """
import json, os
from pathlib import Path
from pytorch_lightning import Callback

class Environment(Callback):
    def on_train_start(self, trainer, module):
        Path("environment.json").write_text(json.dumps(dict(os.environ)))
"""


@pytest.mark.parametrize(
    "own", [thorough({}, id="defaults"), pytest.param({"LRU_CACHE_CAPACITY": "7"}, id="the user's own")]
)
def test_a_run_has_the_defaults_that_the_user_did_not_set(own, tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    (tmp_path / "mine.py").write_text(CALLBACK)
    words = quick(tiny_model, "trainer.max_steps=1", "evaluation=none", "+callbacks.mine._target_=mine.Environment")
    done = run_train(*words, cwd=tmp_path, env={"FINETUNE_ALLOW": "mine", **own})
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "environment.json").read_text())
    assert {name: found.get(name) for name in DEFAULTS} == DEFAULTS | own


@pytest.mark.parametrize(
    ("load", "spins"),
    [
        ("0.10 0.2 0.3 1/200 99", "10000"),
        ("1.90 1.0 0.5 3/200 99", "1000"),
        ("1.90 1 1 1/200 99", "10000"),
        ("x", "10000"),
    ],
)
def test_threads_wait_shorter_next_to_busy_processes(load, spins, tmp_path, monkeypatch):
    (tmp_path / "loadavg").write_text(load)
    monkeypatch.setattr(native_libraries, "_LOAD", str(tmp_path / "loadavg"))
    monkeypatch.setattr(native_libraries.os, "environ", environment := {})
    native_libraries.set_defaults()
    assert environment["GOMP_SPINCOUNT"] == spins


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "5"}])
def test_how_threads_wait_is_left_to_who_says_it(own, monkeypatch):
    monkeypatch.setattr(native_libraries.os, "environ", environment := dict(own))
    native_libraries.set_defaults()
    assert {name: value for name, value in environment.items() if name not in DEFAULTS} == own

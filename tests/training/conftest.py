"""Fixtures for the tests of one run: a checked config with its data and a run directory."""

import pytest

from finetune.config.check import check
from finetune.config.command_line import Arguments
from finetune.data.load import load
from finetune.data.settings import data_settings
from finetune.runner.run_setup import find_run
from tests.conftest import quick, write_pairs


@pytest.fixture
def start(tiny_model, tmp_path, monkeypatch):
    """Make a checked config with its data and a fresh run directory."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.csv")

    def make(name, *more):
        overrides = quick(tiny_model, *more, f"name={name}", f"output_root={tmp_path}/outputs")
        cfg = check(overrides)
        dataset = load(data_settings(cfg), cfg.seed)
        return cfg, dataset, find_run(cfg, overrides, dataset, Arguments(overrides))[0]

    return make

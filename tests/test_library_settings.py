"""Variables of libraries are set before these are imported, and never over those of the user."""

import os
import re
from pathlib import Path

import pytest
import torch

from finetune import library_settings

HEADER = Path(torch.__file__).parent / "include/torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    """Restore the environment after a test, which starts without the variables."""
    for name in library_settings.DEFAULTS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_watchdog_of_nccl_is_set():
    library_settings.apply()
    assert library_settings.NCCL.items() <= os.environ.items()


def test_torch_has_these_variables():
    text = HEADER.read_text()
    assert all(f'"{name}"' in text for name in library_settings.NCCL)
    modes = dict(re.findall(r"^  (\w+) = (\d)", text[text.index("enum ErrorHandlingMode") :], re.MULTILINE))
    assert modes["SkipCleanUp"] == library_settings.NCCL["TORCH_NCCL_ASYNC_ERROR_HANDLING"]


def test_the_watchdog_ends_a_process_within_the_promised_time_but_after_finetune():
    """It sleeps four times the time for a dump, whether there is a dump or not (`Watchdog::runLoop`)."""
    from finetune.runner import rendezvous

    seconds = 4 * int(library_settings.NCCL["TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC"]) / 1000
    assert rendezvous._SECONDS_TO_END + 5 < seconds < 30


def test_a_variable_of_the_user_stays(monkeypatch):
    monkeypatch.setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO")
    library_settings.apply()
    assert (os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"], os.environ["TORCH_CPP_LOG_LEVEL"]) == ("1", "INFO")


def test_a_variable_under_its_former_name_counts_too(monkeypatch):
    """torch would ignore it if the new name were set."""
    monkeypatch.setenv("NCCL_ASYNC_ERROR_HANDLING", "1")
    library_settings.apply()
    assert "TORCH_NCCL_ASYNC_ERROR_HANDLING" not in os.environ

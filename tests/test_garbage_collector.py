"""A process that starts no run does not collect garbage at exit."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > before))  # handlers run in reverse order: this is the last one
from finetune import garbage_collector
garbage_collector.freeze_loaded_objects()
before = gc.get_freeze_count()
kept = [[] for _ in range(10_000)]
{}
"""


@pytest.mark.parametrize(("loaded", "spared"), [("", "True"), ("sys.modules['torch'] = None", "False")])
def test_a_run_collects_garbage_at_exit_and_a_refused_command_does_not(loaded: str, spared: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(loaded)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == spared


def test_a_program_that_calls_a_run_keeps_its_own_garbage() -> None:
    program = "import gc; from finetune.cli.train import main; main(['--version']); print(gc.get_freeze_count())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "0"

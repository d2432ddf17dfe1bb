"""A wrong word is answered before anything heavy is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import sys, resource
from finetune.config.check import check
from finetune.errors import CheckFailed
try:
    check(["modle=bert", "trainer.max_epcohs=3", "optimizer.lr=-1"])
except CheckFailed as failed:
    print(len(failed.problems))
heavy = {"torch", "pytorch_lightning", "lightning", "transformers", "pyarrow", "numpy", "tokenizers"}
print(sorted(heavy & set(sys.modules)))
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


def test_a_failing_check_imports_nothing_heavy_and_is_quick() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60, env=os.environ
    )
    problems, heavy, seconds = done.stdout.splitlines()
    assert problems == "3"
    assert heavy == "[]"
    # Processor time, because a busy machine is not the check's fault.
    assert float(seconds) < 1.0

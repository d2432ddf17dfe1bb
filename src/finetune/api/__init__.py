"""finetune for programs: check a config and start runs, without a command line and without changing the process.

    from finetune import api

    result = api.check(["data.path=pairs.csv"])
    if not result.problems:
        run = api.start(["data.path=pairs.csv", "name=first"])
        print(run.wait().state, run.path)

Overrides are those of `finetune train`. Importing this package imports neither torch nor Hydra.
"""

from finetune.api.launch import CheckResult, check, start
from finetune.api.run_handle import RunHandle, RunStatus
from finetune.errors import CheckFailed, FinetuneError, Problem

__all__ = [
    "CheckFailed",
    "CheckResult",
    "FinetuneError",
    "Problem",
    "RunHandle",
    "RunStatus",
    "check",
    "start",
]

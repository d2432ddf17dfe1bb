"""finetune for programs: check a config and start runs, without a command line.

    from finetune import api

    result = api.check(["data.path=pairs.csv"])
    if not result.problems:
        run = api.start(["data.path=pairs.csv", "name=first"])
        print(run.wait().state, run.path)

Overrides are those of `finetune train`. Importing this package imports neither torch nor Hydra.

`check` and `start` restore the state of the process when they return. Until then sys.stdout and sys.stderr, the filters
of warnings, logging, the environment variables and Hydra's global state are changed for all threads of the program:
what another thread prints, logs or starts meanwhile may be affected. Calls from several threads wait for each other.
In a process that is already running finetune (`finetune.cli.train.main` in another thread) `start` raises
FinetuneError, and `check` returns it as a problem.
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

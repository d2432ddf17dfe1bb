"""The Python API: what `import finetune` offers. Everything here is an attribute of the package `finetune`.

    import finetune

    result = finetune.check("model=bert", data="pairs.csv")
    run = finetune.fit("model=bert", data="pairs.csv", name="first")
    print(run.metrics)

Overrides are those of `finetune train`. A run is always a process of its own, or a job of a cluster.

While a function checks something, sys.stdout and sys.stderr, the filters of warnings, logging, the environment
variables and Hydra's global state are changed for all threads of the program, and restored afterwards: what another
thread prints, logs or starts meanwhile may be affected. Calls from several threads wait for each other. In a process
that is already running finetune (`finetune.cli.train.main` in another thread) they raise FinetuneError, and `check`
returns it as a problem.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import finetune
    from finetune.api.protocols import Client

    _client: Client = finetune  # so that the functions of this machine stay those of a server

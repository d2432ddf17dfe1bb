"""Settings of Python libraries that are made through the environment, before they are imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Of torch's NCCL watchdog, a thread that looks after collective operations on GPUs. Every process of a run is ended by
# finetune itself (runner/rendezvous.py) some seconds after one has failed; the watchdog may do so only later, since it
# aborts the process, which then cannot write why. Not set, because torch's defaults are right: TORCH_NCCL_BLOCKING_WAIT
# (0: the CPU does not wait for each operation), TORCH_NCCL_ENABLE_MONITORING (1) and TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC
# (480: ends a process whose watchdog hangs in CUDA), TORCH_NCCL_RETHROW_CUDA_ERRORS (1), TORCH_NCCL_PROPAGATE_ERROR
# (0: it only sets a flag that nothing here reads), TORCH_FR_BUFFER_SIZE (2000 operations, for the watchdog's message).
NCCL = {
    # On an error or a timeout it ends the process, without aborting the communicator first, which may hang.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    # It sleeps four times as long before that. The default of 15 seconds would make that a minute.
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "5000",
    # Otherwise each process writes a pickle to /tmp.
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}
DEFAULTS = {
    "HYDRA_FULL_ERROR": "1",  # else Hydra shortens the traceback
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # with several processes torch logs what no user can act on
    **NCCL,
}


def apply() -> None:
    """Set the variables that are not set, and where a user's own package is imported from."""
    for name, value in DEFAULTS.items():
        # torch still reads the names of its first version, and prefers the new one if both are set.
        if name.removeprefix("TORCH_") not in os.environ:
            os.environ.setdefault(name, value)
    if os.environ.get("FINETUNE_ALLOW"):
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does

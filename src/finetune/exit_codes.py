"""The exit code of a command: 0, 2 for a mistake of the user, 1 for a failure, 130 if it was interrupted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from finetune import garbage_collector, ranks, signals, streams
from finetune.console import be_quiet, complain
from finetune.errors import FinetuneError, Interrupted


def set_up_libraries() -> None:
    """Set the environment variables that libraries read, and where a user's own package is imported from."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra cuts the traceback
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # with several processes torch logs what no user can act on
    if os.environ.get("FINETUNE_ALLOW"):
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; a user's mistake is printed as text, a bug raises with its traceback."""
    if not ranks.should_print():
        be_quiet()  # the first process of the run prints the same
    if streams.is_program():
        garbage_collector.leave_out_what_is_loaded()
    set_up_libraries()
    try:
        return command()
    except FinetuneError as error:
        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        complain(Interrupted(signals.INTERRUPTED_MESSAGE))
        return Interrupted.exit_code
    except Exception:
        if not signals.stop_requested():
            raise
        complain(Interrupted(signals.INTERRUPTED_MESSAGE))  # a library replaced the KeyboardInterrupt by another error
        return Interrupted.exit_code

"""Settings of Python libraries that are made through the environment, before they are imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DEFAULTS = {
    "HYDRA_FULL_ERROR": "1",  # else Hydra shortens the traceback
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # with several processes torch logs what no user can act on
}


def apply() -> None:
    """Set the variables that are not set, and where a user's own package is imported from."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if os.environ.get("FINETUNE_ALLOW"):
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does

"""`${now:...}` and `${hydra:...}` with the same values in the check and in every process of a run.

Hydra's own `now` reads the clock of each process, and its `hydra` reads a global that is only set in a running job.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError

# Seconds since 1970, in the environment, so that child processes resolve ${now:} to the same time.
_MOMENT = "FINETUNE_MOMENT"
_inherited = _MOMENT in os.environ
_FOLDER = "runtime.output_dir"
FOLDER_UNKNOWN_YET = f"${{hydra:{_FOLDER}}}"
"""The value of the run directory before it exists, so that the config does not depend on it."""


def register() -> None:
    """Register these resolvers; must be repeated after Hydra is initialized, which registers its own."""
    OmegaConf.register_new_resolver("now", _now, replace=True)
    OmegaConf.register_new_resolver("hydra", _hydra, replace=True)


def reset_moment() -> None:
    """Reset the time of an earlier run of this process; a time inherited from the parent process is kept."""
    if not _inherited:
        os.environ.pop(_MOMENT, None)


def moment() -> float:
    """Return the time of `${now:...}`, in seconds since 1970."""
    return float(os.environ.setdefault(_MOMENT, str(datetime.now().timestamp())))


def set_moment(seconds: float) -> None:
    """Set the time of `${now:...}`, for this process and its child processes."""
    os.environ[_MOMENT] = str(seconds)


def _now(pattern: str) -> str:
    return datetime.fromtimestamp(moment()).strftime(pattern)


def _hydra(key: str, *, _root_: Any) -> Any:
    """Return a key of Hydra's node, which is part of a config during the check, and separate in a running job."""
    holder: Any = _root_ if isinstance(_root_, DictConfig) and "hydra" in _root_ else HydraConfig.instance().cfg
    parent, _, name = f"hydra.{key}".rpartition(".")
    node = OmegaConf.select(holder, parent)
    if not isinstance(node, DictConfig) or (name not in node and not OmegaConf.is_missing(node, name)):
        raise InterpolationKeyError(f"Interpolation key 'hydra.{key}' not found")
    if not OmegaConf.is_missing(node, name):
        return node[name]
    if key == _FOLDER:
        return FOLDER_UNKNOWN_YET
    raise InterpolationToMissingValueError(f"hydra.{key} has no value here")

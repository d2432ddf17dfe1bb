"""`${now:...}` and `${hydra:...}`, which mean the same when a config is checked and in every process of its run.

Hydra's own `now` reads the clock of each process, and its own `hydra` reads a global that is set in a running job only.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError

# Seconds since 1970, in the environment: processes that this one starts resolve ${now:} to the same moment.
_MOMENT = "FINETUNE_MOMENT"
_inherited = _MOMENT in os.environ
_FOLDER = "runtime.output_dir"
FOLDER_UNKNOWN_YET = f"${{hydra:{_FOLDER}}}"
"""What the run's folder resolves to until the run has one: such a config is the same wherever the run is."""


def register() -> None:
    """Use these resolvers from now on; Hydra registers its own whenever it is initialized."""
    OmegaConf.register_new_resolver("now", _now, replace=True)
    OmegaConf.register_new_resolver("hydra", _hydra, replace=True)


def reset_moment() -> None:
    """Forget the moment of an earlier run of this process; one that the process was started with stays."""
    if not _inherited:
        os.environ.pop(_MOMENT, None)


def moment() -> float:
    """The moment that `${now:...}` means, in seconds since 1970."""
    return float(os.environ.setdefault(_MOMENT, str(datetime.now().timestamp())))


def set_moment(seconds: float) -> None:
    """Resolve `${now:...}` to this moment, here and in processes that are started from here."""
    os.environ[_MOMENT] = str(seconds)


def _now(pattern: str) -> str:
    return datetime.fromtimestamp(moment()).strftime(pattern)


def _hydra(key: str, *, _root_: Any) -> Any:
    """The value of a key of Hydra's node, which is inside the config that is checked and next to the one of a job."""
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

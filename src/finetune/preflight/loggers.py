"""Packages that loggers need and that may not be installed; checked before a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune.config.static_source import class_attribute
from finetune.config.targets import resolve_target
from finetune.errors import Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig


def logger_problems(cfg: DictConfig) -> Iterator[Problem]:
    """Yield a problem for each logger whose package is not there."""
    for name, node in (cfg.logger or {}).items():
        definition, _ = resolve_target(node["_target_"], "logger", f"logger.{name}")
        needs = definition and class_attribute(definition, "needs")
        if isinstance(needs, str) and importlib.util.find_spec(needs) is None:
            advice = f"Install it: pip install 'finetune[{needs}]'."
            yield Problem(f"logger.{name}", f"it needs the package {needs}.", advice)

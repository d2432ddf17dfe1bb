"""finetune: fine-tune embedding models for search, matching or clustering on your own data.

    import finetune

    run = finetune.fit("model=bert", data="pairs.csv")
    print(run.metrics)

Importing this package imports no library; each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.api.artifact import Artifact
    from finetune.api.checks import CheckResult, check, compose
    from finetune.api.datasets import build_dataset
    from finetune.api.evaluation import Evaluation, evaluate
    from finetune.api.experiments import (
        LocalExperiment,
        create_experiment,
        delete_experiment,
        delete_run,
        get_experiment,
        get_run,
        list_experiments,
        list_runs,
    )
    from finetune.api.experiments import list_runs as runs
    from finetune.api.fit import create_training_run, fit
    from finetune.api.local_dataset import LocalDataset
    from finetune.api.protocols import Client, Dataset, Experiment, Run, Sweep
    from finetune.api.publish import export, push
    from finetune.api.report import Report
    from finetune.api.run import LocalRun
    from finetune.api.run_status import RunStatus
    from finetune.api.sweeps import LocalSweep, sweep
    from finetune.api.table import Table
    from finetune.api.vectors import embed, search_vectors
    from finetune.errors import CheckFailed, FinetuneError, Interrupted, Problem, RunFailed, WaitTimeout
    from finetune.inference.known_models import describe_models, list_models
    from finetune.inference.load import build_model, get_model
    from finetune.inference.model import Model

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "CheckFailed",
    "CheckResult",
    "Client",
    "Dataset",
    "Evaluation",
    "Experiment",
    "FinetuneError",
    "Interrupted",
    "LocalDataset",
    "LocalExperiment",
    "LocalRun",
    "LocalSweep",
    "Model",
    "Problem",
    "Report",
    "Run",
    "RunFailed",
    "RunStatus",
    "Sweep",
    "Table",
    "WaitTimeout",
    "__version__",
    "build_dataset",
    "build_model",
    "check",
    "compose",
    "create_experiment",
    "create_training_run",
    "delete_experiment",
    "delete_run",
    "describe_models",
    "embed",
    "evaluate",
    "export",
    "fit",
    "get_experiment",
    "get_model",
    "get_run",
    "list_experiments",
    "list_models",
    "list_runs",
    "push",
    "runs",
    "search_vectors",
    "sweep",
]

# The modules that define the public names.
_MODULES = {
    "finetune.api.artifact": ("Artifact",),
    "finetune.api.checks": ("CheckResult", "check", "compose"),
    "finetune.api.datasets": ("build_dataset",),
    "finetune.api.evaluation": ("Evaluation", "evaluate"),
    "finetune.api.experiments": (
        "LocalExperiment",
        "create_experiment",
        "delete_experiment",
        "delete_run",
        "get_experiment",
        "get_run",
        "list_experiments",
        "list_runs",
    ),
    "finetune.api.fit": ("create_training_run", "fit"),
    "finetune.api.local_dataset": ("LocalDataset",),
    "finetune.api.protocols": ("Client", "Dataset", "Experiment", "Run", "Sweep"),
    "finetune.api.publish": ("push",),
    "finetune.api.report": ("Report",),
    "finetune.api.run": ("LocalRun",),
    "finetune.api.run_status": ("RunStatus",),
    "finetune.api.sweeps": ("LocalSweep",),
    "finetune.api.table": ("Table",),
    "finetune.api.vectors": ("search_vectors",),
    "finetune.inference.known_models": ("describe_models", "list_models"),
    "finetune.inference.load": ("build_model", "get_model"),
    "finetune.inference.model": ("Model",),
    "finetune.errors": ("CheckFailed", "FinetuneError", "Interrupted", "Problem", "RunFailed", "WaitTimeout"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
# Packages that can be called (`callable_package.py`).
_PACKAGES = ("embed", "export", "runs", "sweep")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"finetune.{name}")
    if name not in _HOMES:
        suggestion = import_module("finetune.config.suggest").did_you_mean(name, __all__)
        raise AttributeError(f"module 'finetune' has no attribute '{name}'. {suggestion}".strip(), name=name)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES, *(name for name in globals() if name.startswith("__"))})

"""Sweeps: many runs of one config, as a grid or as a search with Optuna, each run a process of its own."""

from finetune.callable_package import make_callable

make_callable(__name__, "finetune.api.sweeps:sweep")

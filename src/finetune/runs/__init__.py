"""Run directories: their files, state and environment. Plain files, readable without this program."""

from finetune.callable_package import make_callable

make_callable(__name__, "finetune.api.experiments:list_runs")

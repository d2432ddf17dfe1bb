"""Evaluating and comparing models without training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.api.table import Table
from finetune.errors import CheckFailed, FinetuneError, Problem

if TYPE_CHECKING:
    from finetune.api.protocols import Run
    from finetune.evaluation.result import Result
    from finetune.inference.model import Model


@dataclass(frozen=True)
class Evaluation:
    """Results of models: for each evaluator, by its name, those of each model, by the name that was given."""

    results: Mapping[str, Mapping[str, Result]]

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain data, as `finetune evaluate --json` prints them."""
        from finetune.report.report_data import models_data

        return {name: models_data(by_model) for name, by_model in self.results.items()}

    @property
    def table(self) -> Table:
        """A row for each metric of each model, with the change against the first model and its 95 % interval.

        The columns are evaluation, model, metric, value, change, low, high and certain (the interval
        excludes zero, and the randomization test is significant at 5 %).
        """
        columns = ("evaluation", "model", "metric", "value", "change", "low", "high", "certain")
        rows = []
        for name, part in self.to_dict().items():
            for model, means in part["models"].items():
                changes = part["against the first"].get(model, {})
                for metric, value in means.items():
                    change = changes.get(metric, {})
                    row = change | {"evaluation": name, "model": model, "metric": metric, "value": value}
                    rows.append({column: row.get(column) for column in columns})
        return Table.from_rows(rows, columns)

    def __str__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def evaluate(
    models: str | Path | Run | Model | Iterable[str | Path | Run | Model],
    *overrides: str,
    data: Any = None,
    evaluation: str | list[str] | None = None,
    show_progress: bool = False,
    config_dir: str | Path | None = None,
    config_name: str = "train",
) -> Evaluation:
    """Evaluate one or more models without training, and compare them, as `finetune evaluate` does.

    Args:
        models: Runs, their names or directories, folders of models, hub ids, or what `get_model` returned, of which
            the folder is evaluated: `dimensions` and `precision` are settings of the evaluation.
        *overrides: Overrides of `finetune train`.
        data: As in `fit`; of it the part is used that a run would hold out. Without data and overrides that of the
            first run is used.
        evaluation: The names of evaluators, such as `"retrieval"` or `["retrieval", "geometry"]`.
        show_progress: Print the notes of the check, and the progress.
        config_dir: A folder of your own config groups, as the flag `--config-dir`.
        config_name: The root config, as the flag `--config-name`.

    Raises:
        CheckFailed: with everything that is wrong.
        FinetuneError: a model is missing or unusable, or there is nothing to evaluate on.

    Example:
        >>> models = ["tiny", "default/first"]
        >>> found = finetune.evaluate(models, "data.max_length=16", data="pairs.csv", evaluation="retrieval")
        >>> found.table["model"][0], found.table["metric"][0]
        ('tiny', 'nDCG@10')
    """
    from finetune.api.data_input import with_data
    from finetune.api.evaluate_models import evaluate_models
    from finetune.api.isolation import arguments_of, isolated

    names = _names_of(models)
    chosen = list(overrides)
    if evaluation is not None:
        listed = [evaluation] if isinstance(evaluation, str) else evaluation
        chosen.append(f"evaluation=[{','.join(listed)}]")
    with isolated(quiet=not show_progress), with_data(data, arguments_of(chosen, config_dir, config_name)) as arguments:
        results = evaluate_models(names, list(arguments.overrides), arguments)
    if results is None:
        what = "with check=true nothing is evaluated."
        raise CheckFailed([Problem("check", what, "Leave it out.")])
    return Evaluation(results)


def _names_of(models: Any) -> list[str]:
    """Return one or more models as the command line takes them."""
    given = list(models) if isinstance(models, Iterable) and not isinstance(models, str) else [models]
    names = [str(getattr(model, "path", model)) for model in given]
    if not names or not all(isinstance(model, str | Path) or hasattr(model, "path") for model in given):
        what = f"no model is given to evaluate: {models!r}."
        raise FinetuneError(what, "Give a run, a folder of a model, a hub id, or a list of these.")
    return names

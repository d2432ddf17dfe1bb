"""An evaluator's own data source: read as a source of the run would be, and all of it is evaluation data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from finetune.config.evaluators import evaluators_of
from finetune.data.beir_folder import BeirFolder, eval_beir_folder, is_beir, named_judgments
from finetune.data.keys import eval_source_keys
from finetune.data.open_sources import check_head
from finetune.data.paths import resolve
from finetune.data.settings import Data, check_values, data_settings, default_values, move_problem, source_types
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from finetune.data.holdout.eval_data import EvalData


@dataclass(frozen=True)
class EvalSource:
    """A source that `key` of the config names: `own` are its settings, `run` those that it shares with the run."""

    key: str
    own: Mapping[str, Any]
    run: Data

    def check(self) -> list[Problem]:
        """Return what is wrong with the settings and the first rows; fast for data of any size."""
        problems = self._wrong_settings()
        if problems:
            return problems
        try:
            if self._beir() is None:
                problems = check_head(self._data())
        except CheckFailed as failed:
            problems = failed.problems
        return [self._at_key(problem) for problem in problems]

    def load(self) -> EvalData:
        """Read everything.

        Raises:
            CheckFailed: with everything that is wrong.
        """
        from finetune.data.load import load_beir, load_eval_data

        problems = self._wrong_settings()
        if problems:
            raise CheckFailed(problems)
        try:
            data, folder = self._data(), self._beir()
            if folder is not None:
                return load_beir(folder, data)
            return load_eval_data(data)
        except CheckFailed as failed:
            raise CheckFailed(map(self._at_key, failed.problems)) from failed

    def _wrong_settings(self) -> list[Problem]:
        problems = []
        if "path" not in self.own:
            problems.append(Problem(f"{self.key}.path", "is not set.", f"As in '{self.key}={{path: judged.csv}}'"))
        problems += check_values(self.own, _types(), self.key, "a source has no such key.", "There are")
        return problems

    def _data(self) -> Data:
        """Return its settings as those of the only source of a run."""
        defaults = default_values()
        values = {key: defaults[key] for key in eval_source_keys("default")}
        values |= self.own
        values |= dict.fromkeys(eval_source_keys("unset"))
        return replace(self.run, **values)

    def _beir(self) -> BeirFolder | None:
        """Return the folder if it is a BEIR folder: then its whole corpus is searched, also what has no judgment.

        Raises:
            CheckFailed: it has several files of judgments, and none of them is the obvious one.
        """
        path = self.own["path"]
        if not isinstance(path, str) or "://" in path.replace("shipped://", ""):
            return None
        folder = resolve(path)
        if not is_beir(folder) and named_judgments(folder) is None:
            return None
        return eval_beir_folder(folder, path, "data.path")

    def _at_key(self, problem: Problem) -> Problem:
        if not problem.where.startswith("data."):
            return problem
        return move_problem(problem, self.key)


def _types() -> dict[str, Any]:
    """Return the type of each key that an evaluator's own source may set."""
    types = get_type_hints(Data, include_extras=True) | source_types()
    return {key: types[key] for key in eval_source_keys("default", "inherited")}


def eval_sources(cfg: DictConfig) -> dict[str, EvalSource]:
    """Return the sources of the evaluators that have their own, by the evaluators' names."""
    found = {}
    for name, node in evaluators_of(cfg).items():
        if node.get("data"):
            own: Any = OmegaConf.to_container(node.data, resolve=True)
            found[name] = EvalSource(f"evaluation.{name}.data", own, data_settings(cfg))
    return found

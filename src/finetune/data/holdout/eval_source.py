"""A source of its own that an evaluator has: read as a source of the run would be, and all of it is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.annotations import mismatch
from finetune.config.build import build
from finetune.config.evaluators import evaluators_of
from finetune.config.suggest import did_you_mean
from finetune.data.beir_folder import BeirFolder, is_beir, named_judgments, to_evaluate_on
from finetune.data.paths import resolve
from finetune.data.settings import OF_A_SOURCE, Data, OnBadRows, moved
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from finetune.data.holdout.eval_data import EvalData

_OF_TRAINING = ("weight", "batch_size", "items_per_class", "loss")
KEYS = {name: kind for name, kind in OF_A_SOURCE.items() if name not in _OF_TRAINING} | {"on_bad_rows": OnBadRows}
_OF_THE_RUN = ("prompts", "on_bad_rows")  # what it has of the run where it does not say it itself


@dataclass(frozen=True)
class OtherSource:
    """Where `key` of the config names a source: `own` are its settings, `run` those that it shares with the run."""

    key: str
    own: Mapping[str, Any]
    run: Data

    def check(self) -> list[Problem]:
        """Return what is wrong with the settings and the first rows; fast for any size."""
        if problems := self._wrong_settings():
            return problems
        try:
            found = [] if self._beir() else self._data().check_head()
        except CheckFailed as failed:
            found = list(failed.problems)
        return [self._placed(problem) for problem in found]

    def load(self) -> EvalData:
        """Read everything.

        Raises:
            CheckFailed: with everything that is wrong.
        """
        from finetune.data.load import load_beir, load_held

        if problems := self._wrong_settings():
            raise CheckFailed(problems)
        try:
            data, folder = self._data(), self._beir()
            return load_beir(folder, data) if folder else load_held(data)
        except CheckFailed as failed:
            raise CheckFailed(map(self._placed, failed.problems)) from failed

    def _wrong_settings(self) -> list[Problem]:
        problems = []
        if "path" not in self.own:
            problems.append(Problem(f"{self.key}.path", "is not set.", f"As in '{self.key}={{path: judged.csv}}'"))
        for name, value in self.own.items():
            if name not in KEYS:
                advice = did_you_mean(name, KEYS) or f"There are: {', '.join(KEYS)}."
                problems.append(Problem(f"{self.key}.{name}", "a source has no such key.", advice))
            elif (wrong := mismatch(value, KEYS[name])) is not None:
                problems.append(Problem(f"{self.key}.{name}", f"{wrong}."))
        return problems

    def _data(self) -> Data:
        import yaml

        # Not the columns of the run's file, but its prompts: the model is to be asked as it was trained.
        text = (files("finetune.conf") / "data" / "files.yaml").read_text(encoding="utf-8")
        whole = yaml.safe_load(text)
        defaults = {name: value for name, value in whole.items() if name in KEYS and name not in _OF_THE_RUN}
        return replace(self.run, **{**defaults, **self.own}, sources=None, limit=None, validation_path=None)

    def _beir(self) -> BeirFolder | None:
        """Return the folder if it is one of BEIR: all of its corpus is searched then, also what has no judgment.

        Raises:
            CheckFailed: it is open which of its judgments are meant.
        """
        path = self.own["path"]
        if not isinstance(path, str) or "://" in path.replace("shipped://", ""):
            return None
        folder = resolve(path)
        is_one = is_beir(folder) or named_judgments(folder) is not None
        return to_evaluate_on(folder, path, "data.path") if is_one else None

    def _placed(self, problem: Problem) -> Problem:
        return moved(problem, self.key) if problem.where.startswith("data.") else problem


def other_sources(cfg: DictConfig) -> dict[str, OtherSource]:
    """Return the sources that the evaluators of a config bring, by the evaluators' names."""
    found = {}
    for name, node in evaluators_of(cfg).items():
        if node.get("data"):
            own: Any = OmegaConf.to_container(node.data, resolve=True)
            found[name] = OtherSource(f"evaluation.{name}.data", own, build(cfg.data, "data"))
    return found

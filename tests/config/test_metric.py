"""Losses and miners of pytorch-metric-learning in the check: typos, and the package that is not there."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import pytest
from pytorch_metric_learning import losses, miners

from finetune.config.signatures import signature
from finetune.config.static_source import find_definition, load_module

from .conftest import problems_of

LOSS, MINER = "pytorch_metric_learning.losses", "pytorch_metric_learning.miners"

ANSWERS = [
    ("loss=arcface | loss.loss.margn=3", "loss.loss.margn=3", "Did you mean loss.loss.margin?"),
    ("loss=cosface | +loss.loss.num_clases=3", "loss.loss.num_clases", "Did you mean loss.loss.num_classes?"),
    ("loss=circle | +loss.loss.reducr=3", "loss.loss.reducr", "Did you mean loss.loss.reducer?"),
    ("loss=circle | +loss.loss.mat_based_loss=true", "loss.loss.mat_based_loss", "CircleLoss has no parameter"),
    ("loss=circle | loss.memroy=9", "loss.memroy=9", "Did you mean loss.memory?"),
    (f"loss=metric_learning | loss.loss._target_={LOSS}.ArcFaceLos", "loss.loss._target_", f"mean {LOSS}.ArcFaceLoss?"),
    (
        f"loss=metric_learning | loss.loss._target_={LOSS}.RankedListLoss | +loss.loss.Tn=1",
        "loss.loss.margin",
        "without 'margin'",
    ),
    (f"loss=metric_learning | loss.loss._target_={LOSS}.CrossBatchMemory", "loss.loss._target_", "loss.memory=1024"),
    (f"loss=metric_learning | loss.loss._target_={LOSS}.GenericPairLoss", "loss.loss._target_", "it is a base class"),
    (f"loss=metric_learning | loss.loss._target_={MINER}.HDCMiner", "loss.loss._target_", "loss may not build"),
    ("loss=margin | loss.loss.triplets_per_anchor=al", "loss.loss.triplets_per_anchor", "'all', found 'al'"),
    ("loss=circle | miner=bach_hard", "miner=bach_hard", "Did you mean batch_hard?"),
    ("loss=circle | miner=null", "miner=null", "miner=none"),
    ("~miner", "miner", "miner=none"),
    ("loss=circle | miner=hdc | miner.filter_percentage=2", "miner.filter_percentage", "at most 1"),
    ("loss=circle | miner=hdc | miner.filter_percent=1", "miner.filter_percent=1", "miner.filter_percentage"),
    (f"loss=circle | miner=hdc | miner._target_={MINER}.HDCMinner", "miner._target_", f"mean {MINER}.HDCMiner?"),
]


@pytest.mark.parametrize(("overrides", "where", "words"), ANSWERS)
def test_answers(overrides: str, where: str, words: str) -> None:
    (problem,) = problems_of(*overrides.split(" | "))
    assert problem.where == where
    assert words in str(problem)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    load_module.cache_clear()
    yield
    load_module.cache_clear()


def test_without_the_package(missing: None) -> None:
    found = problems_of("loss=arcface", "miner=batch_hard")
    assert {problem.where for problem in found} == {"loss.loss._target_", "miner._target_"}
    assert all("pip install 'finetune[metric]'" in problem.advice for problem in found)
    assert problems_of() == []


def arguments_of(kind: type) -> set[str]:
    """All that any `__init__` on the way to object names."""
    own = [vars(each)["__init__"] for each in kind.__mro__ if each.__module__.startswith("pytorch_metric_learning")
           and "__init__" in vars(each)]  # fmt: skip
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {word.name for each in own for word in inspect.signature(each).parameters.values() if word.kind in kinds}


@pytest.mark.parametrize("module", [losses, miners])
def test_arguments_of_bases_are_known(module: object) -> None:
    for name, kind in vars(module).items():
        if not isinstance(kind, type) or name in ("BaseLossWrapper", "CrossBatchMemory", "SelfSupervisedLoss"):
            continue
        known = signature(find_definition(f"{module.__name__}.{name}"))  # type: ignore[attr-defined]
        assert not known.is_open
        # What a class itself says to its bases cannot be given.
        said = {"CircleLoss": {"mat_based_loss"}, "BatchHardMiner": {"pos_strategy", "neg_strategy"}}.get(name, set())
        if "GenericPairLoss" in [base.__name__ for base in kind.__mro__[1:]]:
            said = {"mat_based_loss"}
        assert set(known.parameters) == arguments_of(kind) - {"self"} - said, name

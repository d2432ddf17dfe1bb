"""Building, and what is refused on the real object."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from finetune.config.build import build, parameters_of
from finetune.errors import CheckFailed

from .conftest import write


@pytest.fixture(autouse=True)
def fresh_import(own_code: Path) -> Iterator[None]:
    """Each test imports its own copy of `mine`."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_builds_nested_nodes_with_plain_values() -> None:
    node = OmegaConf.create(
        {
            "_target_": "mine.parts.Fields",
            "size": "${n}",
            "names": ["a"],
            "inner": [{"_target_": "mine.parts.Base", "size": 2}],
        }
    )
    root = OmegaConf.create({"n": 3, "model": node})
    built = build(root.model, "model")
    assert (built.size, built.names, built.inner[0].size) == (3, ["a"], 2)
    assert type(built.names) is list


def test_runtime_arguments_are_added() -> None:
    assert build({"_target_": "mine.parts.function"}, "model", size=5) == 5


def test_builds_a_real_optimizer() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    node = {"_target_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 0.99]}
    assert build(node, "optimizer", params=[weight]).defaults["lr"] == 0.1


def test_parameters_of_a_node_in_its_config() -> None:
    root = OmegaConf.create({"callbacks": {"x": {"_target_": "mine.parts.function"}}})
    assert parameters_of(root.callbacks.x) == {"size", "path"}


@pytest.mark.parametrize(
    ("node", "where", "words"),
    [
        ({"_target_": "os.system", "command": "ls"}, "model._target_", "may not build os.system"),
        ({"_target_": "mine.parts.os.system"}, "model._target_", "cannot be imported"),
        ({"_target_": "mine.sneaky.run"}, "model._target_", "it comes from subprocess.run"),
        ({"_target_": "mine.sneaky.value"}, "model._target_", "may not build"),
        ({"_target_": "mine.parts.Bsae"}, "model._target_", "Did you mean Base?"),
        ({"_target_": "mine.parts.Base", "sise": 1, "size": 1}, "model.sise", "Did you mean size?"),
        ({"_target_": "mine.parts.Base"}, "model", "missing a required argument: 'size'"),
        ({"_target_": "mine.parts.Base", "size": 1, "_partial_": True}, "model._partial_", "not allowed"),
        (
            {"_target_": "mine.parts.Fields", "size": 1, "inner": {"_target_": "os.getcwd"}},
            "model.inner._target_",
            "os",
        ),
        ({"_target_": None}, "model._target_", "may not build None"),
    ],
)
def test_refuses(own_code: Path, node: dict[str, object], where: str, words: str) -> None:
    write(own_code, {"sneaky.py": "from subprocess import run\nvalue = [1]\n"})
    with pytest.raises(CheckFailed) as failed:
        build(node, "model")
    assert failed.value.problems[0].where == where
    assert words in str(failed.value)


def test_an_argument_given_twice() -> None:
    with pytest.raises(CheckFailed, match="set by the run itself"):
        build({"_target_": "mine.parts.Base", "size": 1}, "model", size=2)


def test_a_group_may_not_build_what_another_may() -> None:
    with pytest.raises(CheckFailed, match="loss may not build"):
        build({"_target_": "torch.optim.AdamW"}, "loss")


def test_exceptions_of_the_object_are_passed_on(own_code: Path) -> None:
    write(own_code, {"bad.py": "class Bad:\n    def __init__(self):\n        raise TypeError('a bug')\n"})
    with pytest.raises(TypeError, match="a bug"):
        build({"_target_": "mine.bad.Bad"}, "model")

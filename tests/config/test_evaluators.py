"""What the check reads of classes from their source is what the classes have."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from finetune.config.evaluators import brings_texts, report_only
from finetune.config.targets import class_variable

from .conftest import problems_of

CONF = Path(__file__).parents[2] / "conf"
# The class variables that checks before a run read, by group.
READ = {
    "evaluation": ["brings_texts", "report_only", "takes_scores", "evaluates"],
    "model": ["reads", "scores_pairs", "files", "layout"],
    "loss": ["takes_scores", "learns_from"],
    "logger": ["needs"],
}


def targets(group):
    """Every class of ours that a file of the group names."""
    found = set()
    for path in sorted((CONF / group).glob("*.yaml")):
        content = yaml.safe_load(path.read_text()) or {}
        nodes = [content, *(value for value in content.values() if isinstance(value, dict))]
        found |= {node["_target_"] for node in nodes if str(node.get("_target_")).startswith("finetune.")}
    return sorted(found)


@pytest.mark.parametrize(("group", "target"), [(group, target) for group in READ for target in targets(group)])
def test_what_is_read_from_the_source_is_what_the_class_has(group, target):
    module, _, name = target.rpartition(".")
    built = getattr(importlib.import_module(module), name)
    for variable in READ[group]:
        in_source = class_variable({"_target_": target}, variable, group)
        if isinstance(in_source, list):
            in_source = tuple(in_source)
        assert in_source == getattr(built, variable, None), variable


@pytest.mark.parametrize("group", READ)
def test_every_class_variable_that_is_read_exists(group):
    for variable in READ[group]:
        assert any(class_variable({"_target_": each}, variable, group) is not None for each in targets(group)), variable


def test_forgetting_is_only_reported_and_mteb_has_texts_of_its_own():
    nodes = {target.rpartition(".")[2]: {"_target_": target} for target in targets("evaluation")}
    assert [name for name, node in nodes.items() if report_only(node)] == ["Forgetting"]
    assert [name for name, node in nodes.items() if brings_texts(node)] == ["Mteb"]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "callbacks").glob("*.yaml")))
def test_every_callback_gets_the_arguments_that_it_needs(name):
    chosen = dict.fromkeys(["default", "evaluate", name])
    assert problems_of(f"callbacks=[{','.join(chosen)}]") == []

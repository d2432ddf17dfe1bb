"""Every file of conf/recipe passes the check with data that it is for, and its values reach the config."""

import functools
import operator
from pathlib import Path

import pytest

import finetune
from tests.conftest import ROOT

PAIRS = "question,answer\n" + "".join(f"what is thing {i},thing {i} is a number\n" for i in range(40))
SAME = "text_a,text_b\n" + "".join(f"drill number {i},tool no {i}\n" for i in range(40))
CLASSES = "text,label\n" + "".join(f"text number {i},class {i % 4}\n" for i in range(80))
# The data that a recipe is for, None for the shipped data, and values of the config that come from it.
RECIPES = {
    "classes": (CLASSES, {"evaluation.clustering.data": None}),
    "code": (PAIRS, {"data.max_length": 256}),
    "few_pairs": (PAIRS, {"data.batch_size": 64, "callbacks.evaluate.every_n_steps": 20}),
    "matching": (SAME, {"data.transitive": True, "data.max_length": 64}),
    "reranker": (PAIRS, {"model.negatives": 4, "optimizer.lr": 2e-5}),
    "reverse_dictionary": (None, {"experiment": "reverse_dictionary"}),
    "search": (PAIRS, {"data.max_length": 256}),
}


def test_every_recipe_has_data_to_be_checked_with():
    assert set(RECIPES) == {path.stem for path in (ROOT / "conf" / "recipe").glob("*.yaml")}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_passes_the_check_and_its_values_reach_the_config(recipe: str, tmp_path: Path):
    text, values = RECIPES[recipe]
    overrides = [f"recipe={recipe}", f"output_root={tmp_path}"]
    if text is not None:
        data = tmp_path / "data.csv"
        data.write_text(text)
        overrides.append(f"data.path={data}")
    result = finetune.check(*overrides)
    assert result.problems == []
    cfg = finetune.compose(*overrides)
    assert {key: functools.reduce(operator.getitem, key.split("."), cfg) for key in values} == values
    typed = finetune.compose(*overrides, "data.max_length=77")
    assert typed["data"]["max_length"] == 77

"""Values that come from files are checked as those that are typed, and told with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.check import check, check_overrides
from finetune.errors import Problem

from .conftest import problems_of, write

GLOBAL = "# @package _global_\n"


def told(*overrides: str) -> dict[str, str]:
    return {problem.where: f"{problem.what} {problem.advice}" for problem in problems_of(*overrides)}


def test_a_key_that_a_file_requires_must_be_set_later(elsewhere: Path) -> None:
    demands = GLOBAL + "data:\n  path: ???\ntrainer:\n  max_steps: ???\n"
    later = GLOBAL + "defaults: [demands]\ntrainer: {max_steps: 3}\n"
    write(elsewhere / "conf/recipe", {"demands.yaml": demands, "later.yaml": later})
    answer = told("recipe=demands")
    assert set(answer) == {"data.path", "trainer.max_steps"}
    assert "conf/recipe/demands.yaml:3" in answer["data.path"] and "data.path=..." in answer["data.path"]
    assert set(told("recipe=later")) == {"data.path"}
    assert told("recipe=later", "data.path=x.csv") == {}
    assert told("recipe=later", "data={path: x.csv}") == {}
    assert set(told("recipe=demands", "++data.path=x.csv")) == {"trainer.max_steps"}


def test_a_users_root_config_can_require_any_key(elsewhere: Path) -> None:
    write(elsewhere / "conf", {"mine.yaml": "defaults: [train, _self_]\nname: ???\nhydra: {job: {name: '???'}}\n"})
    _, problems = check_overrides([], config_name="mine")
    assert {problem.where for problem in problems} == {"name", "hydra.job.name"}
    assert "conf/mine.yaml:2" in str(problems)
    assert check_overrides(["name=a", "hydra.job.name=b"], config_name="mine")[1] == []


@pytest.mark.parametrize("foreign", ["lr: 1\n", "defaults: [nothing_of_this_name]\n"])
def test_a_file_that_hides_the_shipped_root_is_named(elsewhere: Path, foreign: str) -> None:
    mine = "defaults: [train, _self_]\nname: mine\n"
    write(elsewhere / "conf", {"train.yaml": foreign, "mine.yaml": mine})
    first, *_ = check_overrides([], config_name="mine")[1]
    assert first.where == "conf/mine.yaml"
    assert "conf/train.yaml, which is not finetune's root config" in first.what
    assert first.advice.startswith("Rename conf/train.yaml")


def test_a_key_with_a_dot_in_a_file_gets_the_right_syntax_as_advice(elsewhere: Path) -> None:
    file = GLOBAL + "data: {path.x: 1}\noptimizer.lr: 0.5\nhydra.run.dir: x\n"
    write(elsewhere / "conf/recipe", {"dotted.yaml": file})
    answer = told("recipe=dotted")
    assert set(answer) == {f"conf/recipe/dotted.yaml:{line}" for line in (2, 3, 4)}
    assert "optimizer:\n          lr: 0.5" in answer["conf/recipe/dotted.yaml:3"]


def test_a_dot_in_a_name_of_the_data_or_of_a_search_is_none_of_a_key(elsewhere: Path) -> None:
    search = (
        "defaults: [override /hydra/sweeper: optuna]\nhydra: {sweeper: {params: {optimizer.lr: 'interval(1e-5,1)'}}}"
    )
    write(elsewhere / "conf/recipe", {"search.yaml": GLOBAL + search})
    write(
        elsewhere / "conf/data", {"mine.yaml": "defaults: [csv]\ncolumns: {the.text: anchor, other.text: positive}\n"}
    )
    assert not [problem for problem in problems_of("recipe=search", "data=mine") if "dot" in problem.what]


FOREIGN = "defaults: [{model: mnist}, _self_]\ntask_name: train\nckpt_path: null\nseed: null\n"


def test_a_root_config_of_another_program_is_one_problem(elsewhere: Path) -> None:
    write(elsewhere / "conf", {"train.yaml": FOREIGN, "model/mnist.yaml": "_target_: src.models.MNIST\n"})
    (problem,) = problems_of()
    assert problem.where == "conf/train.yaml" and "output_root" in problem.what and "--config-dir" in problem.advice
    write(elsewhere / "conf", {"train.yaml": FOREIGN.replace("mnist", "gone")})
    first, second = problems_of("data.path=x.csv")
    assert first.where == "conf/train.yaml" and "cannot be composed" in first.what
    assert second.where == "conf/train.yaml:1" or "gone" in second.what
    (elsewhere / "empty").mkdir()
    check([], elsewhere / "empty")


def test_an_invalid_group_is_reported_with_the_users_file(elsewhere: Path) -> None:
    write(elsewhere / "conf/trainer", {"default.yaml": "max_epochs: 3\n"})
    assert "(conf/trainer/default.yaml)" in told()["trainer"]


# What is written as a value, and words of the answer.
UNRESOLVED = [
    ("${nope}", ["'${nope}'", "'nope'"]),
    ("${HOME}", ["${oc.env:HOME}"]),
    ("${oc.env:NOT_SET_ANYWHERE}", ["'${oc.env:NOT_SET_ANYWHERE}'", "not set"]),
    ("${unknown:1}", ["'unknown'", "not a resolver"]),
    ("${hydra:nope}", ["'hydra.nope'"]),
    ("${hydra:job.id}", ["no value"]),
    ("${hydra.runtime.cwd}", ["${hydra:runtime.cwd}"]),
    ("${hydra:runtime.output_dir}", ["run directory"]),
]


@pytest.mark.parametrize("key", ["data.path", "loss.temperature", "hydra.output_subdir"])
@pytest.mark.parametrize(("value", "words"), UNRESOLVED)
def test_an_unresolvable_interpolation_is_reported_with_its_location(
    elsewhere: Path, key: str, value: str, words: list[str]
) -> None:
    if key.startswith("hydra.") and value.startswith(("${hydra.", "${hydra:runtime")):
        pytest.skip("Hydra itself can resolve it there")
    node = f"'{value}'"
    for part in reversed(key.split(".")):
        node = f"{{{part}: {node}}}"
    write(elsewhere / "conf/recipe", {"mine.yaml": GLOBAL + node})
    answer = told("recipe=mine")[key]
    assert all(word in answer for word in [*words, "conf/recipe/mine.yaml:2"]), answer
    assert all(word in told(f"{key}={value}")[key] for word in words)


def test_hydras_own_values_and_the_time_resolve(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_MOMENT", "0.25")
    typed = ["data.path=${hydra:runtime.cwd}/x.csv", "experiment=${hydra:job.name}", "name=${now:%f}"]
    config = check([*typed, "output_root=${hydra:runtime.choices.model}"])
    assert config.data.path == f"{elsewhere}/x.csv"
    assert (config.experiment, config.name, config.output_root) == ("train", "250000", "bert")


def test_a_wrong_value_is_reported_with_its_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBER", "3")
    assert "from '${oc.env:NUMBER}'" in told("seed=${oc.env:NUMBER}")["seed"]
    assert told('seed="${oc.decode:${oc.env:NUMBER}}"') == {}


# Keys of Hydra, whether they are of a sweep, and the key that is refused.
OF_HYDRA = [
    ("sweep: {dir: x}", "hydra.sweep.dir=x", "hydra.sweep.dir"),
    ("sweep: {subdir: x}", "hydra.sweep.subdir=x", "hydra.sweep.subdir"),
    ("job: {chdir: true}", "hydra.job.chdir=true", "hydra.job.chdir"),
    ("output_subdir: ../x", "hydra.output_subdir=../x", "hydra.output_subdir"),
    ("output_subdir: .", "hydra.output_subdir=.", "hydra.output_subdir"),
]


@pytest.mark.parametrize(("in_file", "typed", "key"), OF_HYDRA)
@pytest.mark.parametrize("multirun", [False, True])
def test_keys_of_hydra_without_effect_are_refused(
    elsewhere: Path, in_file: str, typed: str, key: str, multirun: bool
) -> None:
    write(elsewhere / "conf/recipe", {"mine.yaml": GLOBAL + f"hydra:\n  {in_file}\n"})
    for override, place in (("recipe=mine", "conf/recipe/mine.yaml:3"), (typed, "")):
        (problem,) = check_overrides([override], multirun=multirun)[1]
        assert problem.where == key and place in problem.what


def test_a_folder_of_the_run_is_refused_for_a_sweep(elsewhere: Path) -> None:
    write(elsewhere / "conf/recipe", {"mine.yaml": GLOBAL + "hydra: {run: {dir: x}}\n"})
    for override in ("recipe=mine", "hydra.run.dir=x"):
        assert check_overrides([override])[1] == []
        problems: list[Problem] = check_overrides([override], multirun=True)[1]
        assert [problem.where for problem in problems] == ["hydra.run.dir"]

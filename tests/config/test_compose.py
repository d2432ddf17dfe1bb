"""The user's groups before the shipped ones, and mistakes in YAML files."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config.check import check
from finetune.config.compose import compose, search_path, shipped_folder
from finetune.errors import CheckFailed

from .conftest import problems_of, write


def test_shipped_groups_alone(elsewhere: Path) -> None:
    assert search_path() == [shipped_folder()]
    config = compose(["model.name=x"])
    assert config.model.name == "x"
    assert config.hydra.runtime.choices.model == "bert"


def test_own_files_are_found_first_and_the_shipped_ones_stay(elsewhere: Path) -> None:
    own = "_target_: finetune.losses.infonce.InfoNCE\ntemperature: 0.5\n"
    write(elsewhere, {"conf/loss/infonce.yaml": own, "conf/loss/mine.yaml": own.replace("0.5", "0.7")})
    assert compose([]).loss.temperature == 0.5
    assert compose(["loss=mine"]).loss.temperature == 0.7
    assert compose(["scheduler=cosine"]).scheduler.floor == 0.0


def test_own_root_config(elsewhere: Path) -> None:
    write(elsewhere, {"conf/train.yaml": (shipped_folder() / "train.yaml").read_text().replace("seed: 42", "seed: 7")})
    assert compose([]).seed == 7


def test_config_dir_takes_the_place_of_conf(elsewhere: Path) -> None:
    write(
        elsewhere, {"conf/debug/here.yaml": "# @package _global_\nseed: 1\n", "o t'her/debug/there.yaml": "seed: 1\n"}
    )
    there = elsewhere / "o t'her"
    assert search_path(there) == [there, shipped_folder()]
    assert compose(["debug=there"], there).debug.seed == 1
    with pytest.raises(CheckFailed):
        compose(["debug=here"], there)


def test_the_shipped_folder_is_not_listed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert search_path(shipped_folder()) == [shipped_folder()]
    sources = compose([], shipped_folder()).hydra.runtime.config_sources
    assert [source.path for source in sources].count(str(shipped_folder())) == 1


def test_a_missing_config_dir() -> None:
    (problem,) = problems_of(config_dir=Path("nope"))
    assert problem.where == "--config-dir"


def test_a_missing_root_config() -> None:
    with pytest.raises(CheckFailed, match=r"no file 'trian\.yaml'"):
        compose([], config_name="trian")


def test_hydra_searchpath_adds_groups(elsewhere: Path) -> None:
    write(elsewhere, {"more/debug/more.yaml": "# @package _global_\nseed: 3\n"})
    assert compose([f"hydra.searchpath=[file://{elsewhere}/more]", "debug=more"]).seed == 3


def test_hydra_main_searches_the_same_folders(elsewhere: Path) -> None:
    write(elsewhere, {"conf/debug/own.yaml": "# @package _global_\nseed: 11\n"})
    program = """
        import sys
        from hydra.core.hydra_config import HydraConfig
        from finetune.config.compose import run_hydra
        words = ["debug=own", "scheduler=cosine", "hydra.run.dir=."]
        run_hydra(words, None, "train", lambda cfg: print(cfg.seed, cfg.scheduler.floor, HydraConfig.get().run.dir))
        print(len(sys.argv), HydraConfig.initialized())
    """
    write(elsewhere, {"main.py": program})
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["11", "0.0", ".", "1", "False"], done.stderr


@pytest.mark.parametrize(
    ("files", "typed", "where", "words"),
    [
        ({"model/x.yaml": "a: [1\nb: 2\n"}, "model=x", "conf/model/x.yaml:2", "not valid YAML"),
        ({"model/x.yaml": "a: 1\na: 2\n"}, "model=x", "conf/model/x.yaml:2", "duplicate key"),
        ({"model/x.yaml": "a: '${'\n"}, "model=x", "model=x", "cannot be parsed"),
        ({"model/x.yaml": "- a\n"}, "model=x", "model", "found ['a']"),
        ({"model/x.yaml": "text"}, "model=x", "model", "_target_"),
        ({"model/x.yaml": ""}, "model=x", "model", "a run needs one"),
        ({"model/x.yaml": ""}, "model=y", "model=y", "There are: bert, clip, "),
        (
            {"recipe/x.yaml": "# @package _global_\ndefaults:\n  - override /model: brt\n"},
            "recipe=x",
            "conf/recipe/x.yaml:3",
            "Did you mean bert?",
        ),
        (
            {"recipe/x.yaml": "# @package _global_\ndefaults:\n  - override /modle: bert\n"},
            "recipe=x",
            "conf/recipe/x.yaml:3",
            "Did you mean model?",
        ),
        (
            {"recipe/x.yaml": "# @package _global_\ntrainer:\n  max_epcohs: 3\n"},
            "recipe=x",
            "trainer.max_epcohs",
            "has no parameter 'max_epcohs' (conf/recipe/x.yaml:3). Did you mean trainer.max_epochs?",
        ),
        (
            {"recipe/x.yaml": "# @package _global_\ndata:\n  batch_size: 1\n"},
            "recipe=x",
            "data.batch_size",
            "found 1 (conf/recipe/x.yaml:3).",
        ),
        (
            {"recipe/x.yaml": "# @package _global_\noptimizer:\n  betas:\n  - 2\n  - 0.9\n"},
            "recipe=x",
            "optimizer.betas",
            "(conf/recipe/x.yaml:3).",
        ),
        (
            {"loss/x.yaml": "defaults:\n- base\n", "loss/base.yaml": "defaults: [infonce]\ntemperature: 0\n"},
            "loss=x",
            "loss.temperature",
            "(conf/loss/base.yaml:2).",
        ),
        ({"recipe/x.yaml": "trainer:\n  max_steps: 3\n"}, "recipe=x", "conf/recipe/x.yaml", "# @package _global_"),
        ({"debug/x.yaml": "seed: 1\n"}, "debug=x", "conf/debug/x.yaml", "# @package _global_"),
        ({"team/x.yaml": "a: 1\n"}, "+team=x", "conf/team/x.yaml", "# @package _global_"),
        ({"recipe/x.yaml": "- a\n"}, "recipe=x", "conf/recipe/x.yaml", "expected keys, found ['a']"),
        ({"recipe/x.yaml": "# @package _global_\n- a\n"}, "recipe=x", "conf/recipe/x.yaml", "expected keys"),
        ({"recipe/x.yaml": ""}, "recipe=x", "conf/recipe/x.yaml", "is empty"),
        (
            {"recipe/x.yaml": "# @package _global_\nzzz: 1\n"},
            "recipe=x",
            "zzz",
            "'zzz' (conf/recipe/x.yaml:2). There are: model, tuning, data, loss",
        ),
        (
            {"recipe/x.yaml": "# @package _global_\nzzz: 1\n"},
            "recipe=x",
            "zzz",
            "evaluation, sweep, debug, recipe, experiment",
        ),
        (
            {"recipe/x.yaml": "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: evil.CB\n"},
            "recipe=x",
            "hydra.callbacks.x",
            "cannot be changed: it could run arbitrary code (conf/recipe/x.yaml:4).",
        ),
        (
            {"hydra/launcher/x.yaml": "# @package hydra.launcher\n_target_: evil.Launcher\n"},
            "hydra/launcher=x",
            "hydra/launcher",
            "There are: basic, slurm.",
        ),
        (
            {"hydra/job_logging/run_log.yaml": "version: 1\nformatters:\n  x: {(): evil.F}\n"},
            "seed=1",
            "hydra.job_logging.formatters.x",
            "cannot be changed",
        ),
        (
            {"hydra/env/x.yaml": "FOO: bar\n", "recipe/x.yaml": "# @package _global_\nseed: 1\n"},
            "hydra/env=x",
            "hydra.env.FOO",
            "cannot be changed",
        ),
        ({"recipe/x.yaml": "# @package _global_\nopimizer: {}\n"}, "recipe=x", "opimizer", "Did you mean optimizer?"),
        ({"team/x.yaml": "a: 1\n"}, "team=x", "team=x", "with a plus"),
    ],
)
def test_mistakes_in_files(elsewhere: Path, files: dict[str, str], typed: str, where: str, words: str) -> None:
    write(elsewhere / "conf", files)
    problems = problems_of(typed)
    there = [problem for problem in problems if problem.where == where]
    assert there, problems
    assert words in str(there[0])


def test_a_file_that_is_not_utf8_is_named(elsewhere: Path) -> None:
    write(elsewhere, {"conf/model/x.yaml": ""})
    (elsewhere / "conf/model/x.yaml").write_bytes(b"name: caf\xe9\n")
    (problem,) = problems_of("model=x")
    assert (problem.where, problem.what) == ("conf/model/x.yaml", "this file is not UTF-8 text.")


def test_a_broken_file_does_not_hide_other_problems(elsewhere: Path) -> None:
    write(elsewhere, {"conf/model/x.yaml": "a: [1\n"})
    assert {problem.where.split(":")[0] for problem in problems_of("model=x", "seed=-1", "lr=3")} == {
        "conf/model/x.yaml",
        "seed",
        "lr=3",
    }


def test_a_launcher_is_not_taken_from_outside_the_search_path(elsewhere: Path) -> None:
    write(elsewhere, {"conf/x/y.yaml": "# @package hydra.launcher\n_target_: evil.Launcher\n"})
    assert any(problem.where == "hydra/launcher" for problem in problems_of("hydra/launcher=../../x/y"))


def test_problems_of_the_command_line_have_no_file_location(elsewhere: Path) -> None:
    write(elsewhere, {"conf/recipe/x.yaml": "# @package _global_\ndata:\n  batch_size: 1\n"})
    (problem,) = problems_of("recipe=x", "data.batch_size=0")
    assert problem.what.endswith("found 0.")


def test_advice_with_quotes_can_be_typed() -> None:
    (problem,) = problems_of("data.path=it's (new).csv")
    (word,) = [word for word in shlex.split(problem.advice) if word.startswith("data.path=")]
    assert check([word]).data.path == "it's (new).csv"

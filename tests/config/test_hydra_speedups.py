"""The shortcuts through Hydra compose what Hydra composes."""

from __future__ import annotations

import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

import hydra.conf
import pytest
import yaml
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf._utils import get_yaml_loader

from finetune.config import hydra_speedups
from finetune.config.compose import compose, composer, shipped_folder
from finetune.errors import CheckFailed

from .conftest import write


def by_hydra(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """Compose without the shortcuts."""
    with monkeypatch.context() as patch:
        types = SourcesRegistry.instance().types
        patch.setitem(types, "file", FileConfigSource)
        patch.setitem(types, "pkg", ImportlibResourcesConfigSource)
        patch.setattr(defaults_list, "_create_interpolation_map", hydra_speedups._hydras_map)
        loader = ConfigLoaderImpl(create_config_search_path(str(shipped_folder())))
        return loader.load_configuration("train", overrides, run_mode=RunMode.RUN, from_shell=False)


def in_full(node: Any) -> Any:
    """Everything that a node holds, with types and flags, because equality of configs ignores these."""
    facts = node._metadata
    own = (type(node), facts.ref_type, facts.object_type, facts.optional, facts.key, dict(facts.flags or {}))
    content = node._value()
    if isinstance(content, dict):
        return own, {key: in_full(inner) for key, inner in content.items()}
    return own, [in_full(inner) for inner in content] if isinstance(content, list) else content


def every_shipped_option() -> list[list[str]]:
    """Overrides that choose every option of every group: all that only has keys at once, the rest one of each group."""
    together: list[str] = []
    rest: list[list[str]] = []
    with composer() as compositor:
        for group in (*compositor.groups(), *(f"hydra/{inner}" for inner in compositor.groups("hydra"))):
            files = [shipped_folder() / group / f"{name}.yaml" for name in compositor.options(group)]
            ours = [file for file in files if file.is_file()]
            choosing = [file for file in ours if "defaults:" in file.read_text("utf-8")]
            rest.append([f"{group}={file.stem}" for file in choosing])
            package = f"all.{group.replace('/', '.')}"
            together += [f"+{group}@{package}.{file.stem}={file.stem}" for file in ours if file not in choosing]
    assert len(together) > 50
    return [together, *([choice for choice in row if choice] for row in zip_longest(*rest))]


def test_every_shipped_config_is_what_hydra_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for overrides in every_shipped_option():
        with composer() as compositor:
            compositor.compose(overrides)
            found = compositor.compose([*overrides, "seed=3"])  # of files that were merged before
            assert in_full(found) == in_full(by_hydra([*overrides, "seed=3"], monkeypatch)), overrides


@pytest.mark.parametrize("folder", [shipped_folder(), Path(hydra.conf.__file__).parent], ids=["ours", "hydra"])
def test_libyaml_reads_every_shipped_file_as_pyyaml_does(folder: Path) -> None:
    assert yaml.__with_libyaml__
    files = sorted(folder.rglob("*.yaml"))
    assert len(files) > 5
    for file in files:
        text = file.read_text("utf-8")
        assert yaml.load(text, hydra_speedups._fast_loader()) == yaml.load(text, get_yaml_loader()), file


@pytest.mark.parametrize(
    "text", ["a: 1e-3\nb: 1_000\nc: 2020-01-01\nd: .5\ne: on\nf: 0o17\ng: ~\n", "'a': [1, '2', null, {b: -.inf}]\n"]
)
def test_libyaml_takes_the_same_words_for_numbers(text: str) -> None:
    found, expected = (yaml.load(text, loader) for loader in (hydra_speedups._fast_loader(), get_yaml_loader()))
    assert repr(found) == repr(expected)


def test_libyaml_refuses_duplicate_keys() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="duplicate key a"):
        yaml.load("a: 1\na: 2\n", hydra_speedups._fast_loader())


def test_a_file_of_the_user_is_read_as_pyyaml_reads_it(elsewhere: Path) -> None:
    write(elsewhere, {"conf/debug/tab.yaml": "# @package _global_\nseed:\t1\n"})  # libyaml would accept it
    with pytest.raises(CheckFailed, match=r"tab\.yaml:2.*not valid YAML"):
        compose(["debug=tab"])


def test_a_file_that_changed_is_read_again(elsewhere: Path) -> None:
    write(elsewhere, {"conf/debug/mine.yaml": "# @package _global_\nseed: 1\n"})
    file = elsewhere / "conf" / "debug" / "mine.yaml"
    assert compose(["debug=mine"]).seed == 1
    file.write_text("# @package _global_\nseed: 2\n")
    os.utime(file, ns=(0, 0))  # of the same size, and written in the same tick of a coarse clock
    assert compose(["debug=mine"]).seed == 2


def test_a_config_that_was_changed_does_not_change_the_next(elsewhere: Path) -> None:
    with composer() as compositor:
        first = compositor.compose([])
        before = in_full(first)
        first.trainer.max_epochs = 99
        first.hydra.run.dir = "elsewhere"
        assert in_full(compositor.compose([])) == before


def test_a_choice_can_still_name_another(elsewhere: Path) -> None:
    defaults = "defaults:\n  - debug: null\n  - recipe: ${debug}\n  - _self_\n"
    write(elsewhere, {"conf/train.yaml": defaults, "conf/debug/a.yaml": "x: 1\n", "conf/recipe/a.yaml": "y: 2\n"})
    config = compose(["debug=a"])
    assert (config.debug.x, config.recipe.y) == (1, 2)

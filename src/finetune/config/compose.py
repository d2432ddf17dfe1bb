"""From the command line's overrides to one composed config, with the user's own groups found first."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig

from finetune.config import resolvers
from finetune.config.mishaps import as_problem
from finetune.errors import CheckFailed, FinetuneError, Problem

JOB_NAME = "train"  # ${hydra:job.name}, unless hydra.job.name is set


def compose(overrides: list[str], config_dir: Path | None = None, config_name: str = "train") -> DictConfig:
    """Compose the config, with its `hydra` node, as a run with these overrides would see it.

    Raises CheckFailed with the first problem that keeps it from being composed.
    """
    with composer(config_dir, config_name) as compositor:
        return compositor.compose(overrides)


def search_path(config_dir: Path | None = None) -> list[Path]:
    """The folders that hold config groups, the first one that has a file wins: the user's, then the shipped one.

    The user's folder is `config_dir`, or `conf` in the working directory when there is one.
    Raises CheckFailed when `config_dir` is not a folder.
    """
    own = Path.cwd() / "conf" if config_dir is None else Path(config_dir).absolute()
    if config_dir is not None and not own.is_dir():
        raise CheckFailed([Problem("--config-dir", f"there is no folder '{config_dir}'.", "Give a folder of groups.")])
    shipped = shipped_folder()
    # In a source checkout ./conf is what is shipped.
    return [own, shipped] if own.is_dir() and not own.samefile(shipped) else [shipped]


def shipped_folder() -> Path:
    """The folder of the groups that come with the package; raises FinetuneError if it is not installed."""
    spec = importlib.util.find_spec("finetune.conf")
    if spec is None or spec.origin is None:
        raise FinetuneError(
            "The config groups of finetune are not installed.", "Install it: pip install -e . in a checkout."
        )
    return Path(spec.origin).parent


def hydra_arguments(config_dir: Path | None = None) -> tuple[str, list[str]]:
    """What `hydra.main` needs to search the same folders: its `config_path`, and overrides to put before the user's."""
    _search_shipped_groups()
    return str(search_path(config_dir)[0]), []


class _Loader(ConfigLoaderImpl):
    """Hydra's loader, which keeps the list of files of its last config: finding it takes half of composing."""

    merged: list[ResultDefault]

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        self.merged = list(defaults)
        return super()._compose_config_from_defaults_list(defaults, repo)


class Composer:
    """Hydra's config loader over one search path."""

    def __init__(self, loader: _Loader, folders: list[Path], config_name: str | None) -> None:
        self._loader = loader
        self._folders = folders
        self._config_name = config_name
        self.overrides: list[str] = []  # of the last config that could be composed
        self._merged: list[ResultDefault] = []

    @property
    def own_root(self) -> Path | None:
        """The root config where it is a file of the user's; None if it is the shipped one."""
        file = self._folders[0] / f"{self._config_name}.yaml"
        return file if self._folders[0] != shipped_folder() and file.is_file() else None

    def compose(self, overrides: list[str], blame: str | None = None) -> DictConfig:
        """Compose with these overrides; raises CheckFailed, at `blame` unless the mistake is in a file."""
        try:
            with warnings.catch_warnings():
                # Hydra only warns of a hydra.searchpath that leads nowhere, and then does not find what is in it.
                warnings.filterwarnings("error", message=".*is not available")
                config: DictConfig = self._loader.load_configuration(
                    self._config_name, overrides, run_mode=RunMode.RUN, from_shell=False
                )
        except Exception as error:
            # Hydra answers odd input with whatever its internals raise, assertions and key errors included.
            where = blame or self._config_name or "hydra"
            raise CheckFailed([as_problem(error, where, self._folders)]) from error
        self.overrides, self._merged = list(overrides), self._loader.merged
        return config

    def compose_what_can_be(self, overrides: list[str]) -> tuple[DictConfig | None, list[str], list[Problem]]:
        """Compose with all overrides that Hydra takes: the config, these overrides, and a problem for each other.

        The config is None when there is none even without overrides.
        """
        try:
            return self.compose(overrides), overrides, []
        except CheckFailed:
            pass
        try:
            config = self.compose([])
        except CheckFailed as failed:
            return None, [], failed.problems
        kept: list[str] = []
        problems: list[Problem] = []
        for override in overrides:
            try:
                config = self.compose([*kept, override], blame=override)
                kept.append(override)
            except CheckFailed as failed:
                problems += failed.problems
        return config, kept, problems

    def parse(self, text: str) -> Override:
        """An override that knows the groups, as glob(*) over their options needs; raises HydraException."""
        # Only the parser of lists hands its loader on.
        return OverridesParser.create(config_loader=self._loader).parse_overrides([text])[0]

    def defaults(self) -> list[ResultDefault]:
        """The files that make up the last config that could be composed, in the order in which they are merged."""
        return self._merged

    def is_group(self, name: str) -> bool:
        """Whether some folder on the search path holds this group."""
        return bool(name) and bool(self.options(name) or self.groups(name))

    def groups(self, parent: str = "") -> list[str]:
        """The names of the groups directly in `parent`."""
        return self._list(parent, ObjectType.GROUP)

    def options(self, group: str) -> list[str]:
        """What can be chosen in a group, the user's own files included."""
        return self._list(group, ObjectType.CONFIG)

    def _list(self, parent: str, kind: ObjectType) -> list[str]:
        if any(part in (".", "..") for part in parent.split("/")) or parent.startswith("/"):
            return []  # a group is a name below the search path, never a way out of it
        try:
            return self._loader.get_group_options(parent, kind)
        except (OSError, ValueError, ModuleNotFoundError):
            return []


@contextmanager
def composer(config_dir: Path | None = None, config_name: str = "train") -> Iterator[Composer]:
    """A composer over the user's and the shipped groups; leaves Hydra's global state as it was."""
    folders = search_path(config_dir)
    _search_shipped_groups()
    with initialize_config_dir(str(folders[0]), job_name=JOB_NAME, version_base="1.3"):
        resolvers.register()  # after Hydra has registered its own
        yield Composer(_Loader(GlobalHydra.instance().config_loader().get_search_path()), folders, config_name)


def reference() -> Composer:
    """A composer over Hydra's own and the shipped files alone, without a root config: nothing of the user's."""
    shipped = shipped_folder()
    return Composer(_Loader(create_config_search_path(str(shipped))), [shipped], None)


class _ShippedGroups(SearchPathPlugin):
    """Puts the shipped groups behind the user's.

    A `hydra.searchpath` override would do so too, but Hydra looks for the root config before it reads
    that, and so a user's folder without a train.yaml of its own would not do.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        shipped = str(shipped_folder())
        if all(element.path != shipped for element in search_path.get_path()):
            search_path.append(provider="finetune", path=shipped)


@cache
def _search_shipped_groups() -> None:
    Plugins.instance().register(_ShippedGroups)

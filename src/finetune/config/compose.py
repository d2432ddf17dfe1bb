"""Composes a config from overrides, with the user's own groups before the shipped ones."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import hydra.version
from hydra import initialize_config_dir
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig

from finetune.config import hydra_speedups, resolvers
from finetune.config.hydra_errors import to_problem
from finetune.errors import CheckFailed, FinetuneError, Problem

JOB_NAME = "train"  # ${hydra:job.name}, unless hydra.job.name is set
_STATE: tuple[Any, ...] = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)  # Hydra's global state of one app


def compose(overrides: list[str], config_dir: Path | None = None, config_name: str = "train") -> DictConfig:
    """Compose the config of a run with these overrides, with its `hydra` node.

    Raises CheckFailed with the first problem that prevents it.
    """
    with composer(config_dir, config_name) as compositor:
        return compositor.compose(overrides)


def search_path(config_dir: Path | None = None) -> list[Path]:
    """Return the folders of config groups in order of precedence: the user's, then the shipped one.

    The user's folder is `config_dir`, or `conf` in the working directory when there is one.
    Raises CheckFailed when `config_dir` is not a folder.
    """
    own = Path.cwd() / "conf" if config_dir is None else Path(config_dir).absolute()
    if config_dir is not None and not own.is_dir():
        raise CheckFailed([Problem("--config-dir", f"there is no folder '{config_dir}'.", "Give a folder of groups.")])
    shipped = shipped_folder()
    if not own.is_dir() or own.samefile(shipped):  # in a source checkout ./conf is the shipped folder
        return [shipped]
    return [own, shipped]


def shipped_folder() -> Path:
    """Return the folder of the shipped groups; raises FinetuneError if it is not installed."""
    spec = importlib.util.find_spec("finetune.conf")
    if spec is None or spec.origin is None:
        raise FinetuneError(
            "The config groups of finetune are not installed.", "Install it: pip install -e . in a checkout."
        )
    return Path(spec.origin).parent


def run_hydra(words: list[str], config_dir: Path | None, config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Do the same as `hydra.main` with these flags and overrides, on the same search path.

    `hydra.main` itself reads `sys.argv`, which belongs to the calling program.
    """
    with own_hydra():
        _search_shipped_groups()
        hydra.version.setbase("1.3")
        parser = get_args_parser()
        _run_hydra(parser.parse_args(words), parser, task, str(search_path(config_dir)[0]), config_name)


@contextmanager
def own_hydra() -> Iterator[None]:
    """Use a separate global state of Hydra inside the `with`; another Hydra app in this process keeps its own."""
    before = Singleton._instances
    Singleton._instances = {kind: one for kind, one in before.items() if kind not in _STATE}
    _ShippedGroups.levels += 1
    try:
        yield
    finally:
        _ShippedGroups.levels -= 1
        # State that does not depend on the app (plugins, schemas) is kept.
        before.update({kind: one for kind, one in Singleton._instances.items() if kind not in _STATE})
        Singleton._instances = before


class Composer:
    """Hydra's config loader over one search path."""

    def __init__(self, loader: hydra_speedups.Loader, folders: list[Path], config_name: str | None) -> None:
        self._loader = loader
        self._folders = folders
        self._config_name = config_name
        self.overrides: list[str] = []  # of the last config that was composed
        self._merged: list[ResultDefault] = []

    @property
    def own_root(self) -> Path | None:
        """The user's own root config; None if the shipped one is used."""
        file = self._folders[0] / f"{self._config_name}.yaml"
        if self._folders[0] == shipped_folder() or not file.is_file():
            return None
        return file

    def compose(self, overrides: list[str], blame: str | None = None) -> DictConfig:
        """Compose with these overrides; raises CheckFailed, at `blame` unless the mistake is in a file."""
        try:
            with warnings.catch_warnings():
                # Hydra only warns about a missing folder in hydra.searchpath.
                warnings.filterwarnings("error", message=".*is not available")
                config: DictConfig = self._loader.load_configuration(
                    self._config_name, overrides, run_mode=RunMode.RUN, from_shell=False
                )
        except Exception as error:
            # Invalid input can raise any exception in Hydra, including AssertionError and KeyError.
            where = blame or self._config_name or "hydra"
            raise CheckFailed([to_problem(error, where, self._folders)]) from error
        self.overrides, self._merged = list(overrides), self._loader.merged
        return config

    def compose_valid(self, overrides: list[str]) -> tuple[DictConfig | None, list[str], list[Problem]]:
        """Compose with all overrides that Hydra accepts; return the config, these, and the problems of the others.

        The config is None if it cannot be composed without overrides either.
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
        """Parse an override with access to the groups, which glob(*) needs; raises HydraException."""
        # Only `parse_overrides` passes the loader on.
        return OverridesParser.create(config_loader=self._loader).parse_overrides([text])[0]

    def defaults(self) -> list[ResultDefault]:
        """Return the files of the last config that was composed, in merge order."""
        return self._merged

    def is_group(self, name: str) -> bool:
        """Return whether a folder on the search path has this group."""
        return bool(name) and bool(self.options(name) or self.groups(name))

    def groups(self, parent: str = "") -> list[str]:
        """Return the names of the groups directly in `parent`."""
        return self._list(parent, ObjectType.GROUP)

    def options(self, group: str) -> list[str]:
        """Return the options of a group, including the user's own."""
        return self._list(group, ObjectType.CONFIG)

    def _list(self, parent: str, kind: ObjectType) -> list[str]:
        if any(part in (".", "..") for part in parent.split("/")) or parent.startswith("/"):
            return []  # never outside of the search path
        try:
            # The loader's own method copies the repository first, which is not needed without overrides.
            return self._loader.repository.get_group_options(parent, kind)
        except (OSError, ValueError, ModuleNotFoundError):
            return []


@contextmanager
def composer(config_dir: Path | None = None, config_name: str = "train") -> Iterator[Composer]:
    """Provide a composer over the user's and the shipped groups; Hydra's global state is restored afterwards."""
    folders = search_path(config_dir)
    _search_shipped_groups()
    with own_hydra(), initialize_config_dir(str(folders[0]), job_name=JOB_NAME, version_base="1.3"):
        resolvers.register()  # after Hydra has registered its own
        yield Composer(
            hydra_speedups.Loader(GlobalHydra.instance().config_loader().get_search_path()), folders, config_name
        )


def reference() -> Composer:
    """Return a composer over Hydra's own and the shipped files only, without the user's and without a root config."""
    shipped = shipped_folder()
    return Composer(hydra_speedups.Loader(create_config_search_path(str(shipped))), [shipped], None)


class _ShippedGroups(SearchPathPlugin):
    """Appends the shipped groups to the search path, after the user's.

    A `hydra.searchpath` override does not suffice: Hydra looks for the root config before it reads it, so a user's
    folder would need its own train.yaml.
    """

    levels: ClassVar[int] = 0  # of nested `own_hydra`; at 0 the search path of another Hydra app is not changed

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if not self.levels:
            return
        shipped = str(shipped_folder())
        if all(element.path != shipped for element in search_path.get_path()):
            search_path.append(provider="finetune", path=shipped)


@cache
def _search_shipped_groups() -> None:
    Plugins.instance().register(_ShippedGroups)
    hydra_speedups.install(shipped_folder())

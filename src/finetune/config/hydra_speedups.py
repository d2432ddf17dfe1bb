"""Makes Hydra 1.3 compose the same configs in less time.

A command composes two to four times before it starts or is refused, which is most of its CPU time until then. So a file
is parsed once (shipped files by libyaml), files are merged once for the same choices, and a map that Hydra creates for
every file and rarely uses is skipped. `tests/config/test_hydra_speedups.py` compares the results with those of an
unchanged Hydra over all shipped configs.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import hydra.conf
import yaml
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.defaults_list import Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

_hydras_map = defaults_list._create_interpolation_map


@cache
def install(shipped: Path) -> None:
    """Install the faster implementations into Hydra; files below `shipped` are parsed by libyaml."""
    FileConfigSource.shipped = shipped.resolve()
    SourcesRegistry.instance().types.update(file=FileConfigSource, pkg=ImportlibResourcesConfigSource)
    defaults_list._create_interpolation_map = _interpolation_map


class Loader(ConfigLoaderImpl):
    """Hydra's loader with a cache of merged files; `merged` lists the files of its last config.

    A wrong override is found by composing with some of the overrides, which merges the same files repeatedly. The files
    must not change while it is used.
    """

    merged: list[ResultDefault]

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._configs: dict[str, DictConfig] = {}

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        self.merged = list(defaults)
        key = f"{defaults} {repo.get_sources()}"
        if key not in self._configs:
            self._configs[key] = super()._compose_config_from_defaults_list(defaults, repo)
        return copy.deepcopy(self._configs[key])


# These have the names of the classes they replace, because Hydra's registry compares names.
class FileConfigSource(file_config_source.FileConfigSource):
    """Parses a file once in a process, and again when it has changed."""

    shipped = Path()

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the config of a file as Hydra would."""
        file = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if not file.is_file():
            return super().load_config(config_path)  # which raises
        return _loaded(self, file, file.is_relative_to(self.shipped)) or super().load_config(config_path)


class ImportlibResourcesConfigSource(importlib_resources_config_source.ImportlibResourcesConfigSource):
    """Parses the files that come with Hydra once in a process."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the config of a resource as Hydra would."""
        file = Path(hydra.conf.__file__).parent / self._normalize_file_name(config_path)
        if self.path != hydra.conf.__name__ or not file.is_file():
            return super().load_config(config_path)
        return _loaded(self, file, by_libyaml=True) or super().load_config(config_path)


def _loaded(source: ConfigSource, file: Path, by_libyaml: bool) -> ConfigResult | None:
    """Return the config of a file; None unless it has keys."""
    state = file.stat()
    header, content = _parsed(file, state.st_mtime_ns, state.st_size, by_libyaml)
    if not isinstance(content, dict):
        return None
    path = f"{source.scheme()}://{source.path}"
    return ConfigResult(provider=source.provider, path=path, config=OmegaConf.create(content), header=dict(header))


@lru_cache(maxsize=512)
def _parsed(file: Path, _changed_ns: int, _size: int, by_libyaml: bool) -> tuple[dict[str, str | None], Any]:
    """Return Hydra's header of a file, and the file's content as plain dicts and lists."""
    with file.open(encoding="utf-8") as stream:
        header = ConfigSource._get_header_dict(stream.read(512))
        # libyaml accepts some texts that PyYAML refuses, and has other error messages.
        if by_libyaml:
            with suppress(yaml.YAMLError):
                stream.seek(0)
                return header, yaml.load(stream, _fast_loader())
        stream.seek(0)
        return header, yaml.load(stream, get_yaml_loader())


@cache
def _fast_loader() -> Any:
    """Return OmegaConf's YAML loader based on libyaml instead of PyYAML."""
    slow = get_yaml_loader()
    return type("Loader", (yaml.CSafeLoader, slow), {}) if yaml.__with_libyaml__ else slow


def _interpolation_map(overrides: Overrides, defaults_list: list[InputDefault], self_added: bool) -> DictConfig:
    """Return the values that a ${...} in a defaults list can use; empty if it has none."""
    if any(not default.is_self() and default.is_interpolation() for default in defaults_list):
        return _hydras_map(overrides, defaults_list, self_added)
    return OmegaConf.create()

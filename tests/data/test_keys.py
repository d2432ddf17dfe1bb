"""Every key of the `data` group is in one table, and has the effect that it has there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from finetune.data.batching.mixing import BatchSettings, SourceShare
from finetune.data.fingerprint import cache_key, fingerprint_of
from finetune.data.keys import KEYS, Effect, EvalSource, eval_source_keys, keys_affecting, source_keys
from finetune.data.open_sources import open_sources
from finetune.data.settings import Data, source_types
from finetune.data.source import ReadOptions
from tests.data.conftest import CONF, csv_data

TABLE = "question,answer,score\n" + "".join(f"q{i},a{i},0.{i}\n" for i in range(1, 9))
TABLES = {"labelled": "".join(f"the text {i},topic {i % 2}\n" for i in range(8))}  # has no header
# A value other than the default for each key that changes no content and no name. The result of parsing and roles is
# hashed, not the setting, so these are values that change it.
OTHER_VALUES: dict[str, Any] = {
    "columns": ["answer", "question"],
    "labelled": True,
    "header": False,
    "delimiter": ",",
    "decimal": ".",
    "encoding": "latin-1",
    "max_cell_characters": 999,
    "modality": "text",
    "prompts": {"anchor": "query: "},
    "transitive": True,
    "score_values": {0.1: 1.0},
    "min_score": 0.3,
    "on_bad_rows": "skip",
    "mix_temperature": 2.0,
    "one_source_per_batch": False,
    "limit": 4,
    "batch_size": 3,
    "unique": True,
    "encode_once": False,
    "items_per_class": 2,
    "max_length": 7,
    "validation_path": "auto",
    "validation_fraction": 0.5,
    "near_leaks": True,
    "cache": False,
}
NOT_COMPARED = {"path", "sources", "format"}  # with another value of these, this file is not read
READING = {"parsing", "roles", "items"}


def own_keys() -> list[str]:
    return [name for name, key in KEYS.items() if not key.only_per_source]


def digests(path: Path, **changes: Any) -> tuple[str, str]:
    """Return the fingerprint and the cache key of a table with these settings."""
    settings = csv_data(path, **changes)
    opened, folder = open_sources(settings)
    fingerprint = fingerprint_of(opened, folder)
    return fingerprint, cache_key(fingerprint, settings, opened)


def test_every_key_of_the_settings_is_in_the_table():
    assert own_keys() == [each.name for each in fields(Data)]


@pytest.mark.parametrize("file", sorted(CONF.parent.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_key_of_the_config_files_is_in_the_table(file):
    keys = set(yaml.safe_load(file.read_text(encoding="utf-8"))) - {"_target_", "defaults"}
    assert keys <= set(own_keys())


def test_the_default_file_has_every_key():
    assert list(yaml.safe_load(CONF.read_text(encoding="utf-8"))) == ["_target_", *own_keys()]


@pytest.mark.parametrize("name", KEYS)
def test_a_key_has_effects_and_a_rule_for_evaluators(name):
    key = KEYS[name]
    assert key.affects
    assert set(key.affects) <= set(get_args(Effect))
    assert key.eval_source in get_args(EvalSource)
    assert not key.only_per_source or key.per_source


def test_keys_are_the_fields_of_what_is_derived_from_them():
    assert keys_affecting("parsing") == [each.name for each in fields(ReadOptions)]
    assert {*keys_affecting("batching"), "shares"} == {each.name for each in fields(BatchSettings)}
    assert {*source_keys("batching"), "name"} == {each.name for each in fields(SourceShare)}
    assert list(source_types()) == source_keys()
    assert all(KEYS[name].per_source or name == "on_bad_rows" for name in eval_source_keys("default", "inherited"))


def test_batch_settings_have_the_values_of_the_settings():
    sources = {"a": {"path": "a.csv", "weight": 2.0, "batch_size": 5}, "b": {"path": "b.csv", "items_per_class": 3}}
    changes = {name: OTHER_VALUES[name] for name in keys_affecting("batching")}
    found = BatchSettings.from_data(csv_data(None, sources=sources, **changes))
    assert {name: getattr(found, name) for name in changes} == changes
    assert found.shares == [SourceShare("a", 2.0, 5, None), SourceShare("b", None, None, 3)]


@pytest.mark.parametrize("name", [name for name in own_keys() if name not in NOT_COMPARED])
def test_the_fingerprint_changes_exactly_with_the_keys_that_affect_reading(name, write: Callable[..., Path]):
    path = write(TABLES.get(name, TABLE))
    before, after = digests(path), digests(path, **{name: OTHER_VALUES[name]})
    affects = set(KEYS[name].affects)
    assert (before[0] != after[0]) == bool(affects & READING)
    assert (before[1] != after[1]) == bool(affects & {*READING, "checks"})

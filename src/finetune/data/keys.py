"""Every key of the `data` group and what it affects.

A new key is added here, to the signature of `data/settings.py:Data` and, with its default, to `conf/data/files.yaml`.
So that runs from before can be resumed, its default is also added to `_SAME_AS_BEFORE` in `config/differences.py`.
The fingerprint, the cache key, the settings of one of several sources, those of an evaluator's own source and the batch
settings are all derived from `KEYS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Effect = Literal[
    "location",  # which data is read; its content is part of `Source.fingerprint`
    "parsing",  # how files are parsed: a field of `ReadOptions`, part of `Source.fingerprint`
    "roles",  # what the columns are; the roles that were found are part of the fingerprint
    "items",  # how items and relations are made of the rows; the value is part of the fingerprint
    "checks",  # what is asked or rejected while reading; the value is part of the cache key only
    "holdout",  # which rows are used and which are held out, after the cache
    "batching",  # a field of `BatchSettings`, of `SourceShare` where one source may set it
    "loss",  # what the rows are trained with
    "tokens",  # how texts are tokenized; part of the key of the token cache
    "storage",  # whether the cache is used
]
EvalSource = Literal[
    "default",  # an evaluator's own source may set it; where it does not, the default of `conf/data/files.yaml` holds
    "inherited",  # an evaluator's own source may set it; where it does not, the value of the run holds
    "run",  # the value of the run always holds
    "unset",  # always null
]


@dataclass(frozen=True)
class DataKey:
    """What one key affects, and where it may be set: for one of `data.sources`, for an evaluator's own source.

    `only_per_source` are keys of a source that the `data` group itself does not have.
    """

    affects: tuple[Effect, ...]
    per_source: bool = False
    eval_source: EvalSource = "run"
    only_per_source: bool = False


def _of_source(*affects: Effect, eval_source: EvalSource = "default") -> DataKey:
    return DataKey(affects, per_source=True, eval_source=eval_source)


KEYS: dict[str, DataKey] = {
    "path": _of_source("location"),
    "format": _of_source("parsing"),
    "columns": _of_source("roles"),
    "labelled": _of_source("roles"),
    "header": _of_source("parsing"),
    "delimiter": _of_source("parsing"),
    "decimal": _of_source("parsing", "checks"),
    "encoding": _of_source("parsing"),
    "on_bad_rows": DataKey(("checks",), eval_source="inherited"),
    "max_cell_characters": DataKey(("parsing",)),
    "modality": _of_source("items"),
    # The model is evaluated with the prompts that it was trained with.
    "prompts": _of_source("items", eval_source="inherited"),
    "transitive": _of_source("items"),
    "score_values": _of_source("roles", "items"),
    "min_score": _of_source("items"),
    "sources": DataKey(("location",), eval_source="unset"),
    "mix_temperature": DataKey(("batching",)),
    "one_source_per_batch": DataKey(("batching",)),
    "limit": DataKey(("holdout",), eval_source="unset"),
    "weight": DataKey(("batching",), per_source=True, only_per_source=True),
    "batch_size": _of_source("batching", eval_source="run"),
    "unique": DataKey(("batching",)),
    "encode_once": DataKey(("items", "batching")),
    "items_per_class": _of_source("batching", eval_source="run"),
    "loss": DataKey(("loss",), per_source=True, only_per_source=True),
    "max_length": DataKey(("tokens",)),
    "validation_path": DataKey(("holdout",), eval_source="unset"),
    "validation_fraction": DataKey(("holdout",)),
    "near_leaks": DataKey(("holdout",)),
    "cache": DataKey(("storage",)),
}


def keys_affecting(effect: Effect) -> list[str]:
    """Return the keys of the `data` group with this effect, in the order of `KEYS`."""
    return [name for name, key in KEYS.items() if effect in key.affects and not key.only_per_source]


def source_keys(effect: Effect | None = None) -> list[str]:
    """Return the keys that one of several sources may set, in the order of `KEYS`; with `effect` only those with it."""
    return [name for name, key in KEYS.items() if key.per_source and effect in (None, *key.affects)]


def eval_source_keys(*rules: EvalSource) -> list[str]:
    """Return the keys for which one of these rules holds in an evaluator's own source, in the order of `KEYS`."""
    return [name for name, key in KEYS.items() if key.eval_source in rules]

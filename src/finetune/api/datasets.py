"""Data to train on, read and described before a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.api.local_dataset import LocalDataset
from finetune.api.table import Table
from finetune.data.paths import names_files
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset


def build_dataset(
    data: Any,
    *overrides: str,
    columns: Any = None,
    config_dir: str | Path | None = None,
    config_name: str = "train",
    **options: Any,
) -> LocalDataset:
    """Read data completely and describe it, as `finetune data show` does: layout, counts, bad rows, leaks, examples.

    Args:
        data: As in `fit`: a path, a frame, a table, a list of dicts or tuples, ...
        *overrides: Overrides of `finetune train`, such as `"model=bert"`, whose tokens the lengths are counted in.
        columns: The columns by role, as `data.columns`: `["question", "answer"]`, or
            `{"anchor": "question", "positive": "answer", "score": "stars"}`; None recognizes them.
        config_dir: A folder of your own config groups, as the flag `--config-dir`.
        config_name: The root config, as the flag `--config-name`.
        **options: The other keys of the group `data`, such as `delimiter=";"`, `encoding="latin-1"`,
            `on_bad_rows="skip"`, `header=False`, `validation_fraction=0.2` (`conf/data/files.yaml` explains them).

    Raises:
        CheckFailed: with everything that is wrong, and the first bad rows unless `on_bad_rows="skip"`, with which they
            are in `problems`.

    Example:
        >>> rows = [("red cat", "cat", 0.9), ("red dog", "tree", 0.1), ("blue sea", "sea", 0.8)] * 10
        >>> finetune.build_dataset(rows).columns["role"]
        ['anchor', 'positive', 'score']
    """
    from finetune.api.data_input import with_data
    from finetune.api.isolation import arguments_of, isolated
    from finetune.config.command_line import key_of

    options = options if columns is None else options | {"columns": columns}
    chosen = [*overrides, *_as_overrides(options)]
    with isolated():
        from finetune.data.sources.snapshot import snapshot
        from finetune.preflight.check import check_quickly

        content = data if names_files(data) else snapshot(data)
        with with_data(content, arguments_of(chosen, config_dir, config_name)) as arguments:
            cfg, problems = check_quickly(arguments, arguments.overrides)
            if cfg is None or problems:
                raise CheckFailed(problems)
            facts, dataset = describe_data(cfg)
    of_data = [override for override in chosen if key_of(override).partition(".")[0] == "data"]
    return LocalDataset(content, of_data, facts, dataset.fingerprint, _bad_rows(dataset.problems))


def _as_overrides(options: dict[str, Any]) -> list[str]:
    """Return keys of the group `data` as overrides; raises CheckFailed for values that no config can have."""
    from finetune.config.quoting import literal

    overrides = []
    for key, value in options.items():
        try:
            overrides.append(f"data.{key}={literal(value)}")
        except TypeError as error:
            raise CheckFailed([Problem(f"data.{key}", f"{error}.", "Give text, a number, a list or a dict.")]) from None
    return overrides


def describe_data(cfg: DictConfig) -> tuple[dict[str, Any], Dataset]:
    """Return a JSON-serializable description of the data of a checked config, and the data.

    Problems that would only prevent training are warnings in the description.

    Raises:
        CheckFailed: with all problems of the data.
        ModelError: the model's tokenizer is damaged.
    """
    from finetune.data.inspect.describe import describe
    from finetune.data.load import load
    from finetune.data.open_sources import open_sources
    from finetune.data.settings import data_settings
    from finetune.preflight.check import check_fit

    settings = data_settings(cfg)
    dataset = load(settings, cfg.seed)
    heads = [(source.head, source.roles) for source in open_sources(settings)[0]]
    tokenizer, no_tokenizer = None, ""
    if len(dataset.items.texts):
        tokenizer, no_tokenizer = _tokenizer(cfg)
    facts = describe(dataset, heads, tokenizer, cfg.data.max_length, cfg.seed)
    warnings = list(facts.get("warnings", []))
    if no_tokenizer:
        warnings.append(no_tokenizer)
    for problem in check_fit(cfg, dataset):
        warnings.append(f"A run would stop here: {problem.what} {problem.advice}")
    if warnings:
        facts["warnings"] = warnings
    return facts, dataset


def _tokenizer(cfg: DictConfig) -> tuple[Any | None, str]:
    """Return the model's tokenizer if it is on this machine, else None and a sentence that says so."""
    from finetune.models.resolve import find_local

    name = cfg.model.get("name")
    folder = None
    if name:
        folder = find_local(name, pickles=bool(cfg.model.get("allow_pickle")))
    if folder is None:
        what = f"{name} is not on this machine, so lengths are in characters; a run would download it from the hub."
        return None, what
    from finetune.models.tokenizer import load_tokenizer

    return load_tokenizer(folder, name), ""


def _bad_rows(listing: Path | None) -> Table:
    """Return the rows that were left out: file, line, column, kind of problem, sentence, text."""
    import json

    columns = ("file", "line", "column", "kind", "what", "text")
    if listing is None:
        return Table.from_rows([], columns)
    with listing.open(encoding="utf-8") as lines:
        return Table.from_rows([json.loads(line) for line in lines], columns)

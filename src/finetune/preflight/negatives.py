"""Checks of the hard negatives of a run, before it: of the settings, and of the data that they are for; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune.config.targets import class_variable
from finetune.errors import CheckFailed, Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset


def negatives_problems(cfg: DictConfig) -> Iterator[Problem]:
    """Yield problems of the settings, of the models that they name, and of the first rows of a corpus or a file."""
    from finetune.config.build import build
    from finetune.data.open_sources import check_head
    from finetune.data.settings import data_settings
    from finetune.mining.checks import settings_problems
    from finetune.mining.corpus import open_documents
    from finetune.mining.inputs import at_negatives_path, file_settings
    from finetune.mining.settings import OWN, MinedFile

    settings, data = build(cfg.negatives, "negatives"), data_settings(cfg)
    if data.unique:
        what = "mined negatives are texts of other rows, which may occur twice in a batch."
        yield Problem("data.unique", what, "Set data.unique=false: no loss takes a known positive as a negative.")
    if isinstance(settings, MinedFile):
        yield from map(at_negatives_path, check_head(file_settings(settings, data)))
        return
    yield from settings_problems(settings)
    if OWN in settings.retrievers and class_variable(cfg.model, "scores_pairs", "model"):
        what = "the model scores pairs, and makes no embeddings to search in."
        yield Problem("negatives.retrievers", what, "Use negatives=bm25, or name a model that embeds texts.")
    if settings.corpus is not None:
        try:
            open_documents(settings.corpus)
        except CheckFailed as failed:
            yield from failed.problems


def mined_data_problems(cfg: DictConfig, dataset: Dataset) -> list[Problem]:
    """Return why negatives cannot be mined for this data; reads the corpus or the file."""
    from finetune.config.build import build
    from finetune.data.settings import data_settings
    from finetune.mining.inputs import mining_inputs

    try:
        mining_inputs(build(cfg.negatives, "negatives"), dataset, data_settings(cfg))
    except CheckFailed as failed:
        return list(failed.problems)
    return []

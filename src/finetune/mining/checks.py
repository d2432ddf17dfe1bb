"""What can be wrong with the settings of a mining, found before anything is read; imports no torch."""

from __future__ import annotations

import importlib.util
import string
from collections.abc import Iterator

from finetune.data.dataset import Dataset
from finetune.data.items import ABSENT, Items
from finetune.errors import CheckFailed, FinetuneError, Problem
from finetune.mining.settings import BM25, OWN, Judge, Mining

_FIELDS = {"anchor", "document"}


def settings_problems(settings: Mining) -> Iterator[Problem]:
    """Yield what is wrong with settings whose values fit one by one."""
    first, last, count = settings.first_rank, settings.last_rank, settings.count
    if first > last:
        what = f"first_rank is {first} and last_rank is {last}."
        yield Problem("negatives.last_rank", what, "The first rank is the smaller one: negatives.first_rank=1")
    elif count > last - first + 1:
        what = f"{count} negatives of a row cannot be among {last - first + 1} ranks."
        yield Problem("negatives.count", what, f"Set a higher negatives.last_rank, as {first + 10 * count - 1}.")
    low, high = settings.min_score, settings.max_score
    if low is not None and high is not None and low > high:
        what = f"it is {low:g}, and negatives.max_score is {high:g}: no candidate would be left."
        yield Problem("negatives.min_score", what, "Exchange the two.")
    for name in settings.retrievers:
        if settings.retrievers.count(name) > 1:
            yield Problem("negatives.retrievers", f"'{name}' is listed twice.", "List each one once.")
            break
    if settings.index == "usearch" and importlib.util.find_spec("usearch") is None:
        what = "an approximate index needs the package usearch."
        yield Problem(
            "negatives.index", what, "Install it: pip install 'finetune[index]', or set negatives.index=exact"
        )
    yield from _model_problems(settings)
    yield from _judge_problems(settings.judge)


def _model_problems(settings: Mining) -> Iterator[Problem]:
    for name in settings.retrievers:
        if name not in (BM25, OWN):
            yield from _unusable(name, "negatives.retrievers", pairs=False)
    if settings.judge.model is not None and settings.judge.endpoint is None:
        yield from _unusable(settings.judge.model, "negatives.judge.model", pairs=True)


def _unusable(name: str, key: str, *, pairs: bool) -> Iterator[Problem]:
    """Yield why a model cannot retrieve, or with `pairs` not judge."""
    from finetune.inference.locate import locate
    from finetune.models.kinds import kind_of_folder

    try:
        kind = kind_of_folder(locate(name).folder)
    except FinetuneError as error:
        yield Problem(key, error.what, error.advice)
        return
    if pairs and kind != "pairs":
        yield Problem(key, f"{name} embeds items and scores no pairs.", "Name a cross-encoder.")
    if not pairs and kind == "pairs":
        what = f"{name} is a cross-encoder, which scores pairs and makes no embeddings to search in."
        yield Problem(
            key, what, f"Name a model that embeds texts, and this one as the judge: negatives.judge.model={name}"
        )


def _judge_problems(judge: Judge) -> Iterator[Problem]:
    if judge.model is None:
        if judge.relabel:
            what = "there is no judge that could find a candidate right."
            yield Problem("negatives.judge.relabel", what, "Name one: negatives.judge.model=...")
        if judge.endpoint is not None:
            yield Problem(
                "negatives.judge.model", "it names no model of the endpoint.", "Set negatives.judge.model=..."
            )
        return
    if judge.endpoint is None:
        return
    if not judge.endpoint.startswith(("http://", "https://")):
        what = f"'{judge.endpoint}' is not an address."
        yield Problem("negatives.judge.endpoint", what, "Write it as http://localhost:8000/v1")
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(judge.prompt) if name is not None}
    except ValueError:
        fields = set()
    if fields != _FIELDS:
        what = "it has to have the places {anchor} and {document}, and no others."
        yield Problem("negatives.judge.prompt", what, "Double other braces: {{ and }}.")


def check_rows(dataset: Dataset) -> None:
    """Check that a data set has pairs to mine for.

    Raises:
        CheckFailed: it has none.
    """
    if (dataset.train.positive != ABSENT).any():
        return
    layouts = ", ".join(dict.fromkeys(dataset.layouts))
    what = f"the data has no pairs ({layouts}), and negatives are mined for pairs."
    raise CheckFailed([Problem("data.columns", what, "Name an anchor and a positive: data.columns=[question,answer]")])


def check_items(settings: Mining, items: Items, documents: int) -> None:
    """Check that these items can be mined with these settings; `documents` is the number of documents.

    Raises:
        CheckFailed: there are other items than texts where words are compared, or too few documents.
    """
    problems = []
    if len(items) > len(items.texts):
        if BM25 in settings.retrievers:
            what = "bm25 compares words, and the data has other items than texts."
            problems.append(Problem("negatives.retrievers", what, "Use negatives=dense."))
        if settings.judge.model is not None:
            what = "a judge reads texts, and the data has other items."
            problems.append(Problem("negatives.judge.model", what, "Leave it out."))
    if settings.count >= documents:
        what = f"{settings.count} negatives of a row are asked for, and there are {documents:,} documents."
        problems.append(Problem("negatives.count", what, "Set fewer, or a corpus: 'negatives.corpus={path: ...}'"))
    elif settings.first_rank > documents:
        what = f"it is {settings.first_rank}, and there are {documents:,} documents."
        problems.append(Problem("negatives.first_rank", what, "Set a lower one."))
    if problems:
        raise CheckFailed(problems)

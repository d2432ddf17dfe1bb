"""`finetune mine`: the pairs of data with negatives, in a file; everything is checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.home import expand_home
from finetune.console import say
from finetune.data.dataset import Dataset
from finetune.data.holdout.holdout import NOTHING
from finetune.data.items import ABSENT
from finetune.errors import CheckFailed, FinetuneError, Problem
from finetune.mining.checks import check_items, check_rows, settings_problems
from finetune.mining.corpus import open_documents, read_documents, with_documents
from finetune.mining.mined import Mined
from finetune.mining.output import FORMATS, Format
from finetune.mining.settings import OWN, Mining
from finetune.runs.atomic import write_json_atomically

if TYPE_CHECKING:
    from finetune.data.settings import Data


@dataclass(frozen=True)
class Output:
    """The file to write, its format, and the device to compute on; `report` is written next to the file."""

    out: str
    form: str = "ntuples"
    device: str = "auto"

    @property
    def path(self) -> Path:
        """The file."""
        return expand_home(self.out)

    @property
    def report(self) -> Path:
        """The file of counts and examples."""
        return self.path.with_suffix(".json")


def check_mining(model: str | None, data: Data, settings: Mining, output: Output) -> None:
    """Check everything that can be checked without reading all of the data.

    Raises:
        CheckFailed: with all problems.
    """
    from finetune.data.open_sources import check_head

    problems = [*_output_problems(output), *settings_problems(settings), *check_head(data)]
    if OWN in settings.retrievers and model is None:
        what = "negatives are mined by a model (own), and none is named."
        problems.append(Problem("negatives.retrievers", what, "finetune mine MODEL data.path=..., or negatives=bm25"))
    if model is not None and OWN not in settings.retrievers:
        what = f"'{model}' is named, and the retrievers are {', '.join(settings.retrievers)}."
        problems.append(Problem("negatives.retrievers", what, "Add own, as negatives=fused, or leave the model out."))
    if settings.every_n_steps is not None:
        what = "only a training mines again."
        problems.append(Problem("negatives.every_n_steps", what, "Leave it out."))
    if settings.corpus is not None:
        try:
            open_documents(settings.corpus)
        except CheckFailed as failed:
            problems += failed.problems
    if problems:
        raise CheckFailed(problems)


def _output_problems(output: Output) -> Iterator[Problem]:
    if output.form not in FORMATS:
        yield Problem("format", f"there is no format '{output.form}'.", f"Choose one of {', '.join(FORMATS)}.")
    if output.path.suffix != ".parquet":
        yield Problem("out", f"'{output.out}' is not a name of a Parquet file.", "Name it as out=mined.parquet")
        return
    for path in (output.path, output.report):
        if path.exists():
            yield Problem("out", f"'{path}' exists.", "Choose another name, or remove it.")
    if not output.path.absolute().parent.is_dir():
        yield Problem("out", f"there is no folder '{output.path.parent}'.", "Create it first.")


def mine_to_file(model: str | None, data: Data, settings: Mining, output: Output, seed: int) -> Mined:
    """Mine negatives for all pairs of the data, and write them; returns what was mined.

    Raises:
        CheckFailed: with all problems of the settings and the data.
        FinetuneError: a model cannot be used; an embedding is not finite.
        RunError: the judge does not answer; the file cannot be written.
    """
    check_mining(model, data, settings, output)
    from finetune.data.load import load

    if model is not None:
        _check_own(model)
    dataset = load(data, seed)
    for note in dataset.notes:
        if not note.startswith(NOTHING):  # nothing is evaluated here
            say(note)
    check_rows(dataset)
    from finetune.mining.build import build_judge, build_retrievers, model_retriever
    from finetune.mining.mine import documents_of, mine
    from finetune.mining.output import write_mined

    items, known, documents = dataset.items, dataset.known, documents_of(dataset.train)
    if settings.corpus is not None:
        texts = read_documents(settings.corpus)
        items, known, documents = with_documents(items, known, texts, _document_prompt(dataset))
    check_items(settings, items, len(documents))
    if len(items) > len(items.texts):
        what = "finetune mine writes texts, and the data has other items."
        raise CheckFailed([Problem("data.path", what, "Mine for them in a training: negatives=dense")])
    prompts, device = list(dataset.prompts.values()), output.device
    own = None if model is None else model_retriever(model, OWN, settings, items, prompts, device)
    retrievers = build_retrievers(settings, items, own, prompts, device)
    judge = build_judge(settings.judge, items, prompts, device)
    mined = mine(dataset.train, items, known, documents, retrievers, settings, seed, prompts=prompts, judge=judge)
    form: Format = output.form  # type: ignore[assignment]  # it was checked
    write_mined(output.path, dataset.train, items, mined, form, prompts)
    write_json_atomically(output.report, {"documents": len(documents), **mined.facts(items)})
    return mined


def _check_own(model: str) -> None:
    from finetune.inference.locate import locate
    from finetune.models.kinds import kind_of_folder

    if kind_of_folder(locate(model).folder) == "pairs":
        what = f"{model} is a cross-encoder, which makes no embeddings to search in."
        raise FinetuneError(what, f"Name a model that embeds texts, and this one as negatives.judge.model={model}")


def _document_prompt(dataset: Dataset) -> str:
    return dataset.prompts.get("document", "")


def summary(mined: Mined) -> Iterator[str]:
    """Yield sentences that say what was mined and left out."""
    rows, count = mined.negatives.shape
    found = int((mined.negatives != ABSENT).sum())
    yield f"{found:,} negatives of {rows:,} rows; {mined.short:,} rows have fewer than {count}."
    for name, filtered in mined.filtered.items():
        if filtered.candidates:
            yield f"left out by {name}: {filtered.candidates:,} candidates of {filtered.rows:,} rows"
    if len(mined.relabelled):
        yield f"{len(mined.relabelled):,} candidates became positives."

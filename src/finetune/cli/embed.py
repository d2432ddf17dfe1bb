"""`finetune embed` and `finetune search`: a corpus in vectors, and a first look at what they find."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.cli.errors import exit_code_of
from finetune.cli.words import split_models
from finetune.config.suggest import did_you_mean
from finetune.console import console, say
from finetune.data.bad_rows import cut
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.embed.search import Found

_SHOWN_CHARACTERS = 120


def embed(words: Sequence[str], index: str | None) -> int:
    """Embed the corpus that the words name, and return the exit code."""
    return exit_code_of(lambda: _embed(list(words), index))


def _embed(words: list[str], index: str | None) -> int:
    model, overrides = split_one_model(words)
    from finetune import signals
    from finetune.embed.settings import settings_of

    data, settings = settings_of(overrides)
    if index is not None:
        from finetune.embed.index import check_kind

        check_kind(index)
    from finetune.embed.run import embed_corpus

    signals.raise_on_interrupt()
    done = embed_corpus(model, data, settings)
    counts = f"vectors: {done.rows:,}, distinct texts: {done.texts:,}, shards: {done.shards:,}"
    say(f"{done.out} is complete; {counts}.", "bold green")
    if index is not None:
        from finetune.embed.index import build_index
        from finetune.ranks import is_first

        if is_first():
            say(f"Index: {build_index(done.out)}")
    say(f'`finetune search {shlex.quote(str(done.out))} "a query"` searches in them.')
    return 0


def split_one_model(words: list[str]) -> tuple[str, list[str]]:
    """Return the model and the overrides of a command line.

    Raises:
        FinetuneError: there is not exactly one model, a word is a file with data, or there is no such option.
    """
    flags = [word for word in words if word.startswith("-")]
    if flags:
        advice = did_you_mean(flags[0], ["--index", "--help"]) or "Settings are written KEY=VALUE; see --help."
        raise FinetuneError(f"there is no option {flags[0]}.", advice)
    models, overrides = split_models(words)
    if len(models) != 1:
        what = "no model is named." if not models else f"{len(models)} models are named: {', '.join(models)}."
        advice = (
            "Name one model, and the corpus with data.path=: finetune embed MODEL data.path=corpus.parquet out=vectors"
        )
        raise FinetuneError(what, advice)
    return models[0], overrides


def search(
    folder: Path, query: str, k: int, *, prompt: str, index: bool, model: str | None, device: str | None, as_json: bool
) -> int:
    """Print the documents in a folder of vectors that are most similar to a query, and return the exit code."""

    def run() -> int:
        from finetune.embed.search import search_folder

        found = search_folder(folder, query, k, prompt=prompt, index=index, model=model, device=device)
        if as_json:
            entries = [{"id": each.id, "score": each.score, **each.columns} for each in found]
            sys.stdout.write(json.dumps(entries, indent=1, default=str) + "\n")
        else:
            _print_table(found)
        return 0

    return exit_code_of(run)


def _print_table(found: Sequence[Found]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("score", justify="right")
    table.add_column("id")
    for name in found[0].columns:
        table.add_column(Text(name))
    for each in found:
        cells = [Text("" if value is None else cut(str(value), _SHOWN_CHARACTERS)) for value in each.columns.values()]
        table.add_row(f"{each.score:.4f}", Text(cut(str(each.id))), *cells)
    console.print(table)

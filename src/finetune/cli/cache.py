"""`finetune cache`: list and clean the cache. Imports lazily, like `cli/app.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import typer

from finetune.cli.errors import reports_errors
from finetune.config.durations import ago
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.data.cache.store import Cache, Entry

SHOWN = 20  # entries of each kind that are listed, most recently used first

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@reports_errors
def cache(ctx: typer.Context) -> None:
    """List the contents of the cache.

    It has parsed and tokenized data, and opened artifacts, for later runs. All of it can be rebuilt.

    It is in $FINETUNE_CACHE, else $XDG_CACHE_HOME/finetune, else ~/.cache/finetune.

    Example: finetune cache
    """
    if ctx.invoked_subcommand is None:
        _show(_open())


@app.command()
@reports_errors
def clean(
    older_than: float | None = typer.Option(None, min=0, metavar="DAYS", help="Entries not used for this many days."),
    keep_gb: float | None = typer.Option(
        None, min=0, metavar="N", help="Least recently used entries, until at most N GB are left."
    ),
    everything: bool = typer.Option(False, "--all", help="All entries."),
) -> None:
    """Remove leftovers of killed processes, and selected entries.

    Runs in progress are not affected.

    Example: finetune cache clean --older-than 30 --keep-gb 20
    """
    if everything and (older_than is not None or keep_gb is not None):
        raise FinetuneError("--all cannot be combined with --older-than or --keep-gb.", "Give only one of them.")
    if everything:
        older_than = 0
    _clean(_open(), older_than, keep_gb)


def _open() -> Cache:
    from finetune.data.cache.store import ELSEWHERE, Cache

    cache = Cache()
    if cache.root.exists() and not cache.root.is_dir():
        raise FinetuneError(f"The cache {cache.root} is not a folder.", ELSEWHERE)
    return cache


def _show(cache: Cache) -> None:
    from rich.table import Table

    from finetune.console import console, format_size, say

    entries = cache.entries()
    say(f"cache: {cache.root}")
    table = Table("kind", "entry", box=None)
    for name in ("size", "made", "last used"):
        table.add_column(name, justify="right")
    entries.sort(key=lambda entry: (entry.kind, -entry.used))
    for kind, group in groupby(entries, lambda entry: entry.kind):
        for row in _rows(kind, list(group)):
            table.add_row(*row)
    if entries:
        console.print(table)
    say(f"{_count(len(entries))}, {format_size(_sum(entries))}")
    drafts = len(cache.drafts())
    if drafts:
        say(f"{drafts} unfinished: being written now, or left by a killed process (finetune cache clean).")


def _rows(kind: str, entries: list[Entry]) -> Iterator[tuple[str, ...]]:
    from finetune.console import format_size

    for entry in entries[:SHOWN]:
        yield kind, entry.key[:12], format_size(entry.size), ago(entry.made), ago(entry.used)
    more = entries[SHOWN:]
    if more:
        yield kind, f"{len(more):,} more", format_size(_sum(more)), "", ""


def _clean(cache: Cache, older_than: float | None, keep_gb: float | None) -> None:
    from finetune.console import format_size, say
    from finetune.data.cache.store import DAY

    seconds = None if older_than is None else older_than * DAY
    keep_bytes = None if keep_gb is None else int(keep_gb * 1e9)
    removed = cache.remove_leftovers() + cache.remove(cache.stale(seconds, keep_bytes))
    say(f"removed {_count(removed.entries)}, {format_size(removed.size)}")
    if removed.busy:
        say(f"kept {_count(removed.busy)} that another process is writing")
    left = cache.entries()
    say(f"left:   {_count(len(left))}, {format_size(_sum(left))}")


def _count(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"


def _sum(entries: Sequence[Entry]) -> int:
    return sum(entry.size for entry in entries)

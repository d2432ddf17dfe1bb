"""`finetune cache`: what the cache holds, and cleaning it. Imports lazily, as the command line does."""

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

SHOWN = 20  # entries of a kind that are shown one by one, those used last first

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@reports_errors
def cache(ctx: typer.Context) -> None:
    """Show what the cache holds: data that was read and tokenised, kept for the next run. Nothing in it is needed.

    It is in $FINETUNE_CACHE, else $XDG_CACHE_HOME/finetune, else ~/.cache/finetune.

    Example: finetune cache
    """
    if ctx.invoked_subcommand is None:
        _show(_open())


@app.command()
@reports_errors
def clean(
    older_than: float | None = typer.Option(None, min=0, metavar="DAYS", help="What was not used for so many days."),
    keep_gb: float | None = typer.Option(None, min=0, metavar="N", help="What was used longest ago, until N GB stay."),
    everything: bool = typer.Option(False, "--all", help="All that is in it."),
) -> None:
    """Remove what killed processes left in the cache, and what the options say. Runs that use it go on undisturbed.

    Example: finetune cache clean --older-than 30 --keep-gb 20
    """
    if everything and (older_than is not None or keep_gb is not None):
        raise FinetuneError("--all leaves nothing for --older-than or --keep-gb to choose.", "Give one of them.")
    _clean(_open(), 0 if everything else older_than, keep_gb)


def _open() -> Cache:
    from finetune.data.cache.store import ELSEWHERE, Cache

    cache = Cache()
    if cache.root.exists() and not cache.root.is_dir():
        raise FinetuneError(f"The cache {cache.root} is no folder.", ELSEWHERE)
    return cache


def _show(cache: Cache) -> None:
    from rich.table import Table

    from finetune.console import console, say

    entries = cache.entries()
    say(f"cache: {cache.root}")
    table = Table("kind", "entry", box=None)
    for name in ("size", "made", "last used"):
        table.add_column(name, justify="right")
    for kind, group in groupby(sorted(entries, key=lambda entry: (entry.kind, -entry.used)), lambda entry: entry.kind):
        for row in _rows(kind, list(group)):
            table.add_row(*row)
    if entries:
        console.print(table)
    say(f"{len(entries):,} {'entry' if len(entries) == 1 else 'entries'}, {_size(_sum(entries))}")
    if drafts := len(cache.drafts()):
        say(f"{drafts} unfinished: made just now, or left by a killed process (finetune cache clean).")


def _rows(kind: str, entries: list[Entry]) -> Iterator[tuple[str, ...]]:
    for entry in entries[:SHOWN]:
        yield kind, entry.key[:12], _size(entry.size), ago(entry.made), ago(entry.used)
    if more := entries[SHOWN:]:
        yield kind, f"{len(more):,} more", _size(_sum(more)), "", ""


def _clean(cache: Cache, older_than: float | None, keep_gb: float | None) -> None:
    from finetune.console import say
    from finetune.data.cache.store import DAY

    seconds = None if older_than is None else older_than * DAY
    keep = None if keep_gb is None else int(keep_gb * 1e9)
    removed = cache.remove_leftovers() + cache.remove(cache.stale(seconds, keep))
    say(f"removed {removed.entries:,} {'entry' if removed.entries == 1 else 'entries'}, {_size(removed.size)}")
    if removed.busy:
        say(f"{removed.busy} that a process makes just now {'stays' if removed.busy == 1 else 'stay'}")
    left = cache.entries()
    say(f"left:   {len(left):,} {'entry' if len(left) == 1 else 'entries'}, {_size(_sum(left))}")


def _sum(entries: Sequence[Entry]) -> int:
    return sum(entry.size for entry in entries)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"

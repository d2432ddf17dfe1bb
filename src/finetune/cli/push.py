"""`finetune push`: show what would be uploaded to the hub, ask for confirmation, and upload it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from finetune.cli.errors import exit_code_of
from finetune.console import say
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.formats.push import Upload


def main(model: str, repo: str, *, public: bool, update: bool, yes: bool, dry_run: bool) -> int:
    """Upload a model; returns the exit code."""
    return exit_code_of(lambda: _push(model, repo, public=public, update=update, yes=yes, dry_run=dry_run))


def _push(model: str, repo: str, *, public: bool, update: bool, yes: bool, dry_run: bool) -> int:
    from finetune.formats.push import planned_upload, prepare_push, push

    if dry_run:
        upload = planned_upload(model, repo, public=public, update=update)
        _show(upload)
        _show_card(upload)
        say("Nothing was uploaded, and the hub was not asked.", style="bold green")
        return 0
    upload = prepare_push(model, repo, public=public, update=update)
    _show(upload)
    if not yes:
        _confirm()
    say(f"uploaded and checked: {push(upload)}", style="bold green")
    return 0


def _show(upload: Upload) -> None:
    from finetune.console import format_size

    for name, size in upload.files.items():
        say(f"{format_size(size):>12}  {name}")
    visibility = "private" if upload.is_private else "PUBLIC"
    say(f"{len(upload.files)} files, {format_size(upload.size)}, to the {visibility} repository {upload.repo}")


def _show_card(upload: Upload) -> None:
    if not upload.card.is_file():
        say("There is no card (README.md).")
        return
    say(f"The card, {upload.card}:")
    say(upload.card.read_text(encoding="utf-8", errors="replace"))


def _confirm() -> None:
    if not sys.stdin.isatty():
        what = "This needs a confirmation, and there is no terminal; nothing was uploaded."
        raise FinetuneError(what, "Use --yes to upload without confirmation.")
    if not typer.confirm("Upload them?"):
        raise FinetuneError("Nothing was uploaded.")

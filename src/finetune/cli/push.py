"""`finetune push`: show what would be uploaded to the hub, ask, and upload it."""

from __future__ import annotations

import sys

import typer

from finetune.cli.errors import exit_code_of
from finetune.console import say
from finetune.errors import FinetuneError


def main(model: str, repo: str, *, public: bool, update: bool, yes: bool) -> int:
    """Upload a model; returns the exit code."""
    return exit_code_of(lambda: _push(model, repo, public=public, update=update, yes=yes))


def _push(model: str, repo: str, *, public: bool, update: bool, yes: bool) -> int:
    from finetune.formats.push import prepare_push, push
    from finetune.formats.targets import format_size

    upload = prepare_push(model, repo, public=public, update=update)
    for name, size in upload.files.items():
        say(f"{format_size(size):>12}  {name}")
    visibility = "private" if upload.is_private else "PUBLIC"
    say(f"{len(upload.files)} files, {format_size(upload.size)}, to the {visibility} repository {upload.repo}")
    if not yes:
        _confirm()
    say(f"uploaded and checked: {push(upload)}", style="bold green")
    return 0


def _confirm() -> None:
    if not sys.stdin.isatty():
        what = "This needs a confirmation, and there is no terminal; nothing was uploaded."
        raise FinetuneError(what, "Use --yes to upload without confirmation.")
    if not typer.confirm("Upload them?"):
        raise FinetuneError("Nothing was uploaded.")

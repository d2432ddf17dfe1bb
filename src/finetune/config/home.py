"""Paths that begin with the home directory of a user."""

from __future__ import annotations

from pathlib import Path


def expand_home(path: str | Path) -> Path:
    """Return a path with `~` expanded; unchanged if there is no such user (`~unknown/x`), where pathlib raises."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)

"""What a run hands out: its trained model, as a list of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Artifact:
    """The trained model of a run: `files` are the sizes of its files in bytes, by name relative to its folder."""

    run: str
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(self.files.values())

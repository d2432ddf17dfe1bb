"""The files of a device benchmark: JSON and Markdown of the same name, written again after every measurement."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Deadline:
    """The seconds that a benchmark may take, counted from its creation."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Return the seconds that are left, negative after the end."""
        return self.start + self.seconds - time.monotonic()


def write(folder: Path | None, name: str, facts: dict[str, Any], markdown: str) -> None:
    """Write `name.json` and `name.md`; a process that is killed meanwhile leaves the versions before them."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in ((f"{name}.json", json.dumps(facts, indent=1) + "\n"), (f"{name}.md", markdown + "\n")):
        new = folder / f".{file}.new"
        new.write_text(text, encoding="utf-8")
        new.replace(folder / file)

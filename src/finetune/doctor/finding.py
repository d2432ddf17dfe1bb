"""One line of `finetune doctor`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["fine", "doubtful", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What was examined (`name`, of `topic`) and found (`text`), and for anything not fine what to do (`advice`)."""

    topic: str
    name: str
    state: State
    text: str
    advice: str = ""

    def facts(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

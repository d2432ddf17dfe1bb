"""An empty working directory for every test, and code of a user's own to check configs against."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from finetune.config.check import check
from finetune.config.static_source import load_module
from finetune.errors import CheckFailed, Problem


def problems_of(*overrides: str, config_dir: Path | None = None) -> list[Problem]:
    """What `check` finds wrong; an empty list if it is content."""
    try:
        check(list(overrides), config_dir)
    except CheckFailed as failed:
        assert failed.problems
        assert len(set(failed.problems)) == len(failed.problems), "a problem is told once"
        return failed.problems
    return []


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees a ./conf that it has not made itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_ALLOW", raising=False)
    return tmp_path


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package `mine`, importable and allowed; whoever imports it leaves a mark."""
    package = tmp_path / "code" / "mine"
    write(
        package,
        {
            "__init__.py": "from .parts import Inherits as Renamed\nfrom .parts import *\nimport os\n",
            "parts.py": """
                import os
                import subprocess
                from dataclasses import dataclass, field
                from typing import Annotated, ClassVar, Literal, Optional
                from finetune.config.types import PositiveInt, Range
                from finetune.config.types import Fraction as Share

                Mode = Literal["fast", "exact"]

                class Base:
                    def __init__(self, size: PositiveInt, mode: Mode = "fast", share: Share | None = None) -> None:
                        self.size, self.mode, self.share = size, mode, share

                class Inherits(Base):
                    pass

                class Open(Base):
                    def __init__(self, *args: int, size: int = 3, **rest: int) -> None:
                        super().__init__(size)
                        self.rest = rest

                @dataclass
                class Fields:
                    size: Annotated[int, Range(at_least=2, below=10)]
                    names: list[str] = field(default_factory=list)
                    inner: object = None
                    kind: ClassVar[str] = "x"
                    made: int = field(default=0, init=False)

                @dataclass
                class MoreFields(Fields):
                    deep: "Optional[dict[str, float]]" = None

                def function(size: int, *, path: str = "") -> int:
                    return size

                class Unreadable(getattr(os, "PathLike")):
                    pass

                alias = Base
            """,
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("FINETUNE_ALLOW", "elsewhere., mine.")
    load_module.cache_clear()
    return package


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files by their relative path, texts dedented."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder

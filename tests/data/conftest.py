from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.data.csv import CsvData
from finetune.errors import CheckFailed

SETTINGS: dict[str, Any] = {
    "columns": None,
    "delimiter": ",",
    "encoding": "utf-8",
    "on_bad_rows": "error",
    "max_cell_characters": 1_000_000,
    "limit": None,
    "batch_size": 8,
    "max_length": 32,
    "validation_path": None,
    "validation_fraction": 0.0,
}


def csv_data(path: Path | str, **changes: Any) -> CsvData:
    return CsvData(path=str(path), **{**SETTINGS, **changes})


def told(data: CsvData) -> str:
    """What a person reads when the data are refused."""
    with pytest.raises(CheckFailed) as failed:
        data.load()
    return "\n".join(str(problem) for problem in failed.value.problems)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_file(content: str | bytes, name: str = "pairs.csv") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write_file

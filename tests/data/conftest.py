from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.data.load import load
from finetune.data.settings import Data
from finetune.errors import CheckFailed

CONF = Path(__file__).parents[2] / "conf" / "data" / "files.yaml"
SETTINGS: dict[str, Any] = {
    **{key: value for key, value in yaml.safe_load(CONF.read_text()).items() if key != "_target_"},
    "batch_size": 8,
    "max_length": 32,
    "validation_path": None,
    "validation_fraction": 0.0,
}


def csv_data(path: object, **changes: Any) -> Data:
    """Return the settings of a run with these changes; without a held-out part, unless one is asked for."""
    return Data(**{**SETTINGS, "path": str(path) if isinstance(path, Path) else path, **changes})


def told(data: Data) -> str:
    """What a person reads when the data are refused."""
    with pytest.raises(CheckFailed) as failed:
        load(data)
    return "\n".join(str(problem) for problem in failed.value.problems)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of bad rows are written where a command is typed."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_file(content: str | bytes, name: str = "pairs.csv") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write_file

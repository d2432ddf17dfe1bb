from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.paths import resolve
from finetune.errors import CheckFailed


def test_plain_paths_stay_as_they_are():
    assert resolve("a/b c.csv") == Path("a/b c.csv")
    assert resolve("~/x.csv") == Path.home() / "x.csv"


def test_shipped_data_are_found():
    assert resolve("shipped://reverse_dictionary/train.csv").is_file()
    assert resolve("shipped://reverse_dictionary/evaluation").is_dir()


@pytest.mark.parametrize(
    "path",
    [
        "shipped://nothing/train.csv",
        "shipped://",
        "shipped://../errors.py",
        "shipped:///etc/passwd",
        "shipped://reverse_dictionary/../../errors.py",
        "shipped://a\\b",
        "shipped://a\0b",
    ],
)
def test_what_does_not_ship_is_answered_with_what_does(path):
    with pytest.raises(CheckFailed, match=r"data.validation_path: .*shipped://reverse_dictionary/train.csv"):
        resolve(path, "data.validation_path")

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.paths import resolve, suggest_siblings
from finetune.errors import CheckFailed


def test_plain_paths_stay_as_they_are():
    assert resolve("a/b c.csv") == Path("a/b c.csv")
    assert resolve("~/x.csv") == Path.home() / "x.csv"


def test_a_url_is_refused_by_its_key():
    with pytest.raises(CheckFailed, match=r"^data.validation_path: 'https://x.org/a' is a URL, which only data.path"):
        resolve("https://x.org/a", "data.validation_path")


def test_files_next_to_a_missing_file_are_suggested(tmp_path):
    for name in ("pairs.jsonl.gz", "photo.jpg", "notes.md", "x.parquet"):
        (tmp_path / name).touch()
    assert suggest_siblings(tmp_path / "zzz.csv") == f"In {tmp_path} there is: pairs.jsonl.gz, x.parquet."
    assert suggest_siblings(tmp_path / "pears.jsonl.gz") == f"In {tmp_path} there is: pairs.jsonl.gz."


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
def test_missing_shipped_data_lists_what_ships(path):
    with pytest.raises(CheckFailed, match=r"data.validation_path: .*shipped://reverse_dictionary/train.csv"):
        resolve(path, "data.validation_path")

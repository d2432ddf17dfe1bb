import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import RunError
from finetune.runs.atomic import explain, explained, to_json, write_json_atomically, write_text_atomically


def test_text_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    write_text_atomically(path, "first, longer\n")
    write_text_atomically(path, "שני\n")
    assert path.read_text(encoding="utf-8") == "שני\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"could not write .*: the folder no longer exists, or cannot be made there\. Was it moved or deleted\?",
    ):
        write_text_atomically(tmp_path / "nowhere" / "file", "text")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(RunError, match="there is a folder of that name"):
        write_text_atomically(tmp_path / "file", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_accepts_all_values_of_a_run(tmp_path: Path) -> None:
    content = {
        "number": np.float32(0.5),
        "count": np.int64(3),
        "array": np.array([1.0, np.nan]),
        "flag": np.bool_(True),
        "pair": (1, None),
        3: Path("a/b"),
        "nan": float("nan"),
    }
    write_json_atomically(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "number": 0.5,
        "count": 3,
        "array": [1.0, None],
        "flag": True,
        "pair": [1, None],
        "3": "a/b",
        "nan": None,
    }


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    write_json_atomically(tmp_path / "x.json", {"name": name})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": name}


def test_json_is_readable_in_other_scripts() -> None:
    assert to_json({"a": "日本"}) == '{"a": "日本"}'


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_explanations_name_what_was_done_and_why_it_failed(number: int, words: str) -> None:
    error = explain(OSError(number, os.strerror(number)), "save the checkpoint last.ckpt")
    assert error.what.startswith("could not save the checkpoint last.ckpt: ")
    assert words in error.what
    assert error.advice


def test_an_error_without_a_number_is_explained_too() -> None:
    assert "it broke" in explain(OSError("it broke"), "write").what


def test_only_os_errors_are_explained() -> None:
    with pytest.raises(ValueError, match="a bug"), explained("write"):
        raise ValueError("a bug")

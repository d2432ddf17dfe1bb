"""Hugging Face data sets: saved folders, written by the datasets library and read without it; the hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tests.conftest import ROOT
from tests.data.sources.conftest import error_message, head_of, read, rows_of, tuples

COLUMNS = {"anchor": ["a", "b", "c"], "positives": [["x"], [], ["y", "z"]]}
ROWS = list(zip(*COLUMNS.values(), strict=True))


def dataset() -> datasets.Dataset:
    return datasets.Dataset.from_dict(COLUMNS)


def test_a_saved_folder(tmp_path):
    dataset().save_to_disk(tmp_path / "saved", num_shards=2)
    assert head_of(tmp_path / "saved").names == list(COLUMNS)
    for form in ("auto", "arrow", "hub"):
        assert rows_of(tmp_path / "saved", format=form) == ROWS


def test_a_selection_of_rows_is_kept(tmp_path):
    dataset().select([2, 0]).save_to_disk(tmp_path / "saved")
    assert rows_of(tmp_path / "saved") == [ROWS[2], ROWS[0]]


def test_an_old_folder_with_its_order_in_a_separate_file(tmp_path):
    dataset().save_to_disk(tmp_path / "saved")
    datasets.Dataset.from_dict({"indices": [2, 0]}).save_to_disk(tmp_path / "order")
    shutil.copy(tmp_path / "order" / "data-00000-of-00001.arrow", tmp_path / "saved" / "indices.arrow")
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    assert rows_of(tmp_path / "saved") == [ROWS[2], ROWS[0]]


def test_several_splits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets.DatasetDict({"test": dataset().select([1]), "train": dataset()}).save_to_disk("both")
    assert rows_of("both") == ROWS
    assert rows_of("both/test") == [ROWS[1]]
    datasets.DatasetDict({"dev": dataset()}).save_to_disk("one")
    assert rows_of("one") == ROWS
    datasets.DatasetDict({"dev": dataset(), "test": dataset()}).save_to_disk("none")
    assert (
        "'none' has no split 'train', but 'dev', 'test'. Name the folder of one: data.path=none/dev."
        in error_message("none")
    )


def test_damage_is_one_problem(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset().save_to_disk("saved")
    file = Path("saved/data-00000-of-00001.arrow")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert error_message("saved").startswith("saved/data-00000-of-00001.arrow: is a damaged or incomplete Arrow file")
    file.unlink()
    assert "there is no file 'saved/data-00000-of-00001.arrow'" in error_message("saved")
    Path("saved/state.json").write_text("{")
    assert "saved: its file state.json is missing or damaged. Save the data set again" in error_message("saved")


def test_images_are_not_changed(tmp_path):
    from PIL import Image

    picture = Image.new("RGB", (2, 2))
    data = datasets.Dataset.from_dict({"image": [picture, picture], "label": [0, 1]}).cast_column(
        "image", datasets.Image()
    )
    data.save_to_disk(tmp_path / "saved")
    for what in (tmp_path / "saved", data):
        reading, _ = read(what)
        assert str(reading.table.schema.field("image").type) == "struct<bytes: binary, path: string>"
        assert tuples(reading)[0][0]["bytes"].startswith(b"\x89PNG")


def test_a_saved_folder_needs_no_library(tmp_path):
    dataset().save_to_disk(tmp_path / "saved")
    code = (
        "import sys; sys.modules['datasets'] = None\nfrom tests.data.sources.conftest import rows_of\n"
        f"print(rows_of({str(tmp_path / 'saved')!r}) == {ROWS!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "True"


def test_the_hub_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    answer = error_message("user/data", format="hub")
    assert (
        answer == "data.path: data sets of the hub need the package datasets. Install it: pip install 'finetune[hub]'."
    )


def test_a_data_set_of_the_hub(monkeypatch):
    asked = []

    def load(name: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    for path in ("user/data", "user/data:pair", "user/data:pair:dev", "user/data::dev"):
        assert rows_of(path, format="hub") == ROWS
    expected = [(None, "train"), ("pair", "train"), ("pair", "dev"), (None, "dev")]
    assert list(dict.fromkeys(asked)) == [("user/data", *one) for one in expected]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionError("Couldn't reach the Hub\nmore"), "the Hugging Face hub cannot be reached for 'user/data'"),
        (datasets.exceptions.DatasetNotFoundError("Dataset doesn't exist."), "there is no data set 'user/data'"),
        (ValueError("Config name is missing.\nPlease pick one"), "Name one: data.path=user/data:CONFIG."),
        (ValueError('Unknown split "train".'), "Name one: data.path=user/data:default:SPLIT."),
        (RuntimeError("what"), "the data set 'user/data' cannot be loaded: what."),
    ],
)
def test_an_error_of_the_hub_is_one_problem(error, expected, monkeypatch):
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    answer = error_message("user/data", format="hub")
    assert expected in answer
    assert len(answer.splitlines()) == 1

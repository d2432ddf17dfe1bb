from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from finetune.data.modalities import recognize
from finetune.data.modalities.detect import detect_modality
from tests.data.modalities.conftest import picture

URI = "data:image/png;base64," + base64.b64encode(picture()).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.JPG", "c.png", "m.off"):
        (tmp_path / name).write_bytes(picture())
    return tmp_path


def of(values: Any, folder: Path, name: str = "x", kind: pa.DataType | None = None) -> str:
    column = pa.chunked_array([pa.array(values, kind)])
    found = recognize(name, column, folder)
    assert detect_modality(name, None, values, folder) == found or kind is not None
    return found


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["a.png", "b.JPG", None, "c.png"], "image"),
        (["a.png", "b.JPG", "c.png", "gone.png", "./a.png"], "image"),  # a missing one is a bad row
        (["gone.png", "lost.png"], "text"),
        (["see a.png", "b.JPG", "and then", "more words"], "text"),
        (["open the file a.png", "how to make a.png"], "text"),
        (["https://a.org/1.png", "http://a.org/2.jpeg?size=3"], "image"),
        (["https://a.org/1", "https://a.org/page.html"], "text"),
        (["https://[broken/1.png"] * 3, "text"),
        ([URI, URI], "image"),
        (["data:text/plain,hello"], "text"),
        (["data:model/obj;base64,AAAA"], "mesh"),
        (["m.off", "m.off"], "mesh"),
        (["https://a.org/m.ply"], "mesh"),
        ([picture(), picture(form="JPEG")], "image"),
        ([picture(form="WEBP"), b""], "image"),
        ([b"ply\nformat", b"OFF\n3 1 0"], "mesh"),
        ([b"whatever", b"else"], "text"),
        ([{"bytes": picture(), "path": None}], "image"),
        ([{"bytes": None, "path": "far/away.jpg"}], "image"),
        ([{"bytes": b"OFF\n", "path": "x.off"}], "mesh"),
        ([{"a": 1}], "text"),
        ([[0.1, 0.2], [0.3, 0.4]], "vector"),
        ([[1, 2], [3, 4]], "vector"),
        ([["a", "b"]], "text"),
        ([[True, False]], "text"),
        (["[0.1, 0.2]", "[1, -2e3]"], "vector"),
        (["[0.1, 0.2]", "[sic] as said"], "text"),
        (["[1]", "[2]"], "text"),
        (["0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8"] * 2, "vector"),
        (["555 12 34", "555 98 76"], "text"),
        (["1, 2, 3"], "text"),
        ([1, 2], "text"),
        ([0.5], "text"),
        ([], "text"),
        ([None], "text"),
        (["", " "], "text"),
        (["x" * 5000 + ".png"] * 3, "text"),
        (["a\0.png"] * 3, "text"),
    ],
)
def test_modalities(values: Any, wanted: str, folder: Path) -> None:
    assert of(values, folder) == wanted


@pytest.mark.parametrize("name", ["image", "image_path", "Photo", "product image", "img_file"])
def test_a_column_name_needs_no_files(name: str, folder: Path) -> None:
    assert of(["gone.png", "lost.png"], folder, name) == "image"
    assert of(["a sentence", "of words"], folder, name) == "text"


def test_a_column_name_makes_vectors_of_numbers(folder: Path) -> None:
    assert of(["1 2 3", "4 5 6"], folder, "embedding") == "vector"
    assert of(["1 2 3", "4 5 6"], folder, "answer") == "text"


def test_types_decide_where_there_are_no_values(folder: Path) -> None:
    assert of([], folder, kind=pa.list_(pa.float32())) == "vector"
    assert of([], folder, kind=pa.list_(pa.float32(), 3)) == "vector"
    assert of([], folder, kind=pa.list_(pa.string())) == "text"
    assert of(["a.png"] * 3, folder, kind=pa.dictionary(pa.int8(), pa.string())) == "image"
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 3), np.float32))
    assert recognize("x", pa.chunked_array([tensors]), folder) == "vector"


def test_python_values_are_detected_too(folder: Path) -> None:
    assert detect_modality("x", None, [np.zeros(3), np.ones(3)], folder) == "vector"
    assert detect_modality("x", None, [(1.0, 2.0)], folder) == "vector"
    assert detect_modality("x", None, [bytearray(picture())], folder) == "image"

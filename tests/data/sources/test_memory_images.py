"""Images of Pillow and arrays of pixels in a table in memory: one content whatever holds them, and clear refusals."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from finetune.data.load import read
from finetune.data.modalities import load
from finetune.data.sources.snapshot import snapshot
from finetune.errors import CheckFailed

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 5, 7, 3), dtype=np.uint8)
IMAGES = [Image.fromarray(pixels) for pixels in PIXELS]
CAPTIONS = [f"picture {number}" for number in range(len(IMAGES))]
COLUMNS: dict[str, Any] = {"anchor": IMAGES, "positive": CAPTIONS}
ROWS = [{"anchor": image, "positive": caption} for image, caption in zip(IMAGES, CAPTIONS, strict=True)]
SAME = {
    "dicts": ROWS,
    "arrays in dicts": [row | {"anchor": np.asarray(row["anchor"])} for row in ROWS],
    "columns": COLUMNS,
    "one array": COLUMNS | {"anchor": PIXELS},
    "pandas": pd.DataFrame(COLUMNS),
    "polars": pl.DataFrame(COLUMNS),
}


@pytest.mark.parametrize("data", SAME.values(), ids=SAME)
def test_images_have_the_same_pixels_and_the_same_digest_whatever_holds_them(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert snapshot(data).digest == snapshot(ROWS).digest != snapshot(ROWS[1:]).digest
    found = read(data, batch_size=2, validation_fraction=0.0)
    part = next(part for part in found.items.parts if part.modality == "image")
    assert sorted(np.asarray(image).tobytes() for image in load(part)) == sorted(pixels.tobytes() for pixels in PIXELS)


def test_an_image_is_stored_upright_and_on_white():
    turned = Image.new("RGB", (4, 2), "red")
    turned.getexif()[0x0112] = 6
    transparent = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    table = snapshot([{"image": turned, "text": "a"}, {"image": transparent, "text": "b"}, {"text": "c"}]).table
    first, second, third = table["image"].to_pylist()
    assert Image.open(io.BytesIO(first)).size == (2, 4) and third is None
    assert Image.open(io.BytesIO(second)).getpixel((0, 0)) == (255, 255, 255)


def damaged() -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(np.tile(PIXELS[0], (20, 20, 1))).save(file, "JPEG")
    return Image.open(io.BytesIO(file.getvalue()[:-500]))


REFUSED = {
    "a truncated image": ([*ROWS, {"anchor": damaged(), "positive": "x"}], "rows:7.*the image is truncated or damaged"),
    "a gray array": ([{"anchor": PIXELS[0, :, :, 0], "positive": "x"}] * 4, "holds a numpy.ndarray.*images of Pillow"),
    "an array of floats": ([*ROWS, {"anchor": PIXELS[0] / 255, "positive": "x"}], "rows:7.*holds a numpy.ndarray"),
    "an object": ([{"anchor": object(), "positive": "x"}] * 4, "holds a builtins.object, which cannot be read"),
    "among texts": ([{"anchor": "x", "positive": "y"}] * 3 + ROWS[:1], "rows:4.*is the bytes of a file.*it is text"),
    "a text among images": ([*ROWS, {"anchor": "x", "positive": "y"}], "rows:7.*it is not an image"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_image_is_refused_with_its_row(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckFailed, match=message):
        read(data, batch_size=2, validation_fraction=0.0)


def test_images_in_a_list_are_refused():
    with pytest.raises(CheckFailed, match="'positives': holds a PIL"):
        snapshot([{"anchor": "x", "positives": IMAGES}] * 4)


def test_vectors_of_numpy_are_lists_of_numbers_also_where_values_differ_in_type():
    rows = [{"a": np.arange(3.0), "n": np.float32(1.5)}, {"a": [1, 2, 3], "n": 2}]
    assert snapshot(rows).table.to_pylist() == [{"a": [0, 1, 2], "n": 1.5}, {"a": [1, 2, 3], "n": 2}]

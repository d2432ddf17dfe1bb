"""From files to items and relations, as a run reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.data.dataset import Dataset
from finetune.data.load import read
from finetune.data.modalities import facts, load
from finetune.errors import CheckFailed


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images[:120], found.target[:120]


def opened(what: Any, **settings: Any) -> Dataset:
    return read(what, batch_size=8, validation_fraction=0.0, **settings)


def part(dataset: Dataset, modality: str) -> Any:
    return next(one for one in dataset.items.parts if one.modality == modality)


def test_handwritten_digits_in_folders(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, classes = digits
    for i, (image, label) in enumerate(zip(images, classes, strict=True)):
        Path(f"digits/{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).resize((32, 32)).save(f"digits/{label}/{i}.png")
    found = opened("digits")
    assert found.notes[0] == "120 images in 10 folders, each a class."
    stored = part(found, "image")
    assert facts(stored) == {"image_formats": "PNG 120", "image_width": "32 to 32", "image_height": "32 to 32"}
    assert [image.size for image in load(stored)] == [(32, 32)] * 120
    labels = [Path(path).parent.name for path in stored.values.to_pylist()]
    numbers = found.train.label
    assert numbers is not None
    by_label = {labels[anchor]: label for anchor, label in zip(found.train.anchor, numbers, strict=True)}
    assert len(by_label) == 10
    Path("digits/0/new.png").write_bytes(Path("digits/1/1.png").read_bytes() + b" ")
    assert len(part(opened("digits"), "image").values) == 121  # the cache does not hide it


def test_images_with_captions_and_bad_rows() -> None:
    for name, colour in (("a b.png", "red"), ("ü.jpg", "blue"), ("c.png", "green")):
        Image.new("RGB", (9, 9), colour).save(name)
    Path("broken.png").write_bytes(Path("c.png").read_bytes()[:50])
    rows = [("a b.png", "red"), ("ü.jpg", "blue"), ("broken.png", "half"), ("c.png", "green"), ("gone.png", "lost")]
    lines = [json.dumps({"image": image, "caption": caption}) for image, caption in rows]
    Path("pairs.jsonl").write_text("\n".join(lines))
    with pytest.raises(CheckFailed) as failed:
        opened("pairs.jsonl")
    message = "\n".join(map(str, failed.value.problems))
    assert "pairs.jsonl:3: column 'image': the image is truncated or damaged: broken.png" in message
    assert "pairs.jsonl:5: column 'image': there is no such file: gone.png" in message
    found = opened("pairs.jsonl", on_bad_rows="skip")
    assert len(found.train) == 3
    assert len(part(found, "image").values) == 3


def test_vectors_as_anchors_and_positives() -> None:
    vectors = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    np.savez("pairs.npz", anchor=vectors, positive=vectors[::-1])
    found = opened("pairs.npz")
    stored = load(part(found, "vector"))
    anchor = found.train.anchor - len(found.items.texts)
    assert np.array_equal(np.unique(stored[anchor], axis=0), np.unique(vectors, axis=0))


def test_meshes_by_class() -> None:
    for label in ("bed", "desk"):
        for i in range(3):
            Path(f"meshes/{label}/train").mkdir(parents=True, exist_ok=True)
            corner = f"{10 * i + len(label)} 0 0"
            Path(f"meshes/{label}/train/{i}.off").write_text(f"OFF\n3 1 0\n0 0 0\n{corner}\n0 1 0\n3 0 1 2\n")
    found = opened("meshes")
    assert load(part(found, "mesh")).shape == (6, 1024, 3)

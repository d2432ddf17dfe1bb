"""Where a model is looked for, and what is downloaded: pickled weights are only accepted if the user allows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from finetune.errors import ModelError
from finetune.models.cross_encoder import CrossEncoder
from finetune.models.encoder import Encoder
from finetune.models.image import ImageEncoder
from finetune.models.model_config import max_tokens
from finetune.models.resolve import find_local, resolve
from finetune.models.text import TextEncoder
from finetune.models.text_image import TextImageEncoder
from finetune.models.weight_files import check_not_quantized, check_weights

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"


class Hub:
    """A hub with one model, and a cache that may hold a part of it."""

    def __init__(self, folder: Path, *cached: str) -> None:
        self.folder, self.wanted = folder, []
        for file in ("config.json", "tokenizer.json", *cached):
            (folder / file).write_text(json.dumps({}))
        self.is_cached, self.is_reached = bool(cached), True

    def __call__(self, name: str, local_files_only: bool = False, **settings: Any) -> str:
        if local_files_only and not self.is_cached:
            raise LocalEntryNotFoundError(name)
        if not local_files_only and not self.is_reached:
            raise ConnectionError
        if not local_files_only:
            self.wanted = settings["allow_patterns"]
            (self.folder / SAFETENSORS).touch()
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that replaces the hub by a fake one, with these weights in its cache."""

    def started(*cached: str) -> Hub:
        made = Hub(tmp_path, *cached)
        monkeypatch.setattr("huggingface_hub.snapshot_download", made)
        return made

    return started


def test_safetensors_are_downloaded_in_spite_of_cached_pickles(hub):
    there = hub(PICKLE)
    assert find_local("org/model") is None
    assert (resolve("org/model") / SAFETENSORS).is_file()
    assert PICKLE not in " ".join(there.wanted).replace("*", "")


def test_cached_pickles_are_named_where_the_hub_cannot_be_reached(hub, monkeypatch):
    there = hub(PICKLE)
    monkeypatch.setattr(there, "is_reached", False)
    with pytest.raises(ModelError, match="only pickles") as caught:
        resolve("org/model")
    assert "model.allow_pickle=true" in caught.value.advice


MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("all-MiniLM-L6-v2", f"^Did you mean {MINILM}\\?$"),
        ("sentence-transformers/all-MiniLM-L6-v3", f"^Did you mean {MINILM}\\?$"),
        (
            "sentence-transformers/all-MiniLM-L12-v2",
            rf"hf download sentence-transformers/all-MiniLM-L12-v2\).*{MINILM}",
        ),
        ("mine", r"hf download OWNER/mine\)"),
        ("mine.zip", "Give a folder"),
    ],
)
def test_a_model_that_is_not_found_is_answered_with_a_way_to_get_it(hub, monkeypatch, name, advice):
    monkeypatch.setattr(hub(), "is_reached", False)
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert re.search(advice, caught.value.advice), caught.value.advice
    assert "pip install" not in caught.value.advice  # the package with MiniLM is installed


@pytest.mark.parametrize("header", [[1], {"bert.weight": 5}, "x", {"a.position_embeddings.weight": {"shape": "x"}}])
def test_a_header_of_another_type_is_a_damaged_file(tmp_path, header):
    encoded = json.dumps(header).encode()
    (tmp_path / SAFETENSORS).write_bytes(len(encoded).to_bytes(8, "little") + encoded + b"0")
    (tmp_path / "config.json").write_text("{}")
    assert max_tokens({"model_type": "bert", "max_position_embeddings": 20}, tmp_path) in (20, None)
    check_not_quantized(tmp_path, "it", {})
    with pytest.raises(ModelError, match="cut off or damaged"):
        check_weights(tmp_path, "it")


def test_cached_pickles_are_enough_where_they_are_allowed(hub):
    there = hub(PICKLE)
    assert resolve("org/model", pickles=True) == find_local("org/model", pickles=True) == there.folder
    assert not there.wanted


def test_cached_safetensors_are_enough(hub):
    there = hub(SAFETENSORS)
    assert resolve("org/model") == there.folder
    assert not there.wanted


@pytest.mark.parametrize("kind", [TextEncoder, ImageEncoder, CrossEncoder, TextImageEncoder])
@pytest.mark.parametrize("allowed", [True, False])
def test_an_encoder_downloads_pickles_where_they_are_allowed(hub, kind: type[Encoder], allowed: bool):
    there = hub()
    with pytest.raises(ModelError):  # this hub has no valid model
        kind("org/model", allow_pickle=allowed)
    assert any("pytorch_model" in pattern for pattern in there.wanted) == allowed
    assert any(SAFETENSORS in pattern.replace("*", "") for pattern in there.wanted)

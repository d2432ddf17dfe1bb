"""Exports of every kind of model: the embeddings, or scores, that the files compute, and the names in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.formats.export import export_model
from finetune.models.cross_encoder import CrossEncoder
from finetune.models.static import StaticEncoder
from tests.conftest import thorough
from tests.models.tiny import tiny

OUTPUTS = {
    "pairs": {"model": "logits"},
    "static": {"model": "sentence_embedding"},
    "clip": {"text_model": "text_embeds", "vision_model": "image_embeds"},
    "siglip": {"text_model": "text_embeds", "vision_model": "image_embeds"},
    "resnet": {"model": "pooler_output"},
}


def saved(kind: str, folder: Path) -> Path:
    """Write a tiny model of a kind, as a run saves it."""
    if kind not in ("pairs", "static"):
        return tiny(kind, folder)
    base = str(tiny("bert", folder.with_name("base")))
    encoder = CrossEncoder(base) if kind == "pairs" else StaticEncoder(base, output_width=16)
    folder.mkdir()
    encoder.save(folder, 16, {})
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "pairs",
        "static",
        thorough("clip"),
        thorough("siglip"),
        thorough("vit"),
        thorough("resnet"),
        thorough("mpnet"),
        thorough("xlm-roberta"),
        thorough("modernbert"),
        thorough("qwen3"),
        thorough("t5"),
    ],
)
def test_every_kind_of_model_computes_the_same_after_its_export(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = saved(kind, tmp_path / "model")
    difference = export_model(folder, ["onnx"], evaluation=False).formats["onnx"].difference
    assert difference.largest < 1e-5
    for graph, output in OUTPUTS.get(kind, {"model": "last_hidden_state"}).items():
        session = onnxruntime.InferenceSession(str(folder / f"onnx/{graph}.onnx"))
        assert [each.name for each in session.get_outputs()] == [output]

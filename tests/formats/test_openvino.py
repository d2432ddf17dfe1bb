"""Exports to OpenVINO: the files as OpenVINO reads them, and nothing sent or printed by its tools."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from finetune.formats.export import export_model
from tests.models.tiny import TEXTS

pytest.importorskip("openvino", reason="needs finetune[openvino]")
pytest.importorskip("nncf", reason="needs finetune[openvino]")


@pytest.mark.thorough
def test_openvino_computes_the_embeddings_of_sentence_transformers(tiny_model, tmp_path, capfd):
    import openvino

    folder = tmp_path / "model"
    result = export_model(tiny_model, ["openvino", "openvino-int8"], folder, evaluation=False)
    printed = capfd.readouterr()
    assert "INFO:nncf" not in printed.out and "Weight compression" not in printed.out + printed.err
    model = openvino.Core().compile_model(
        str(folder / "openvino/openvino_model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    names = [each.get_any_name() for each in model.inputs]
    assert set(names) <= {"input_ids", "attention_mask", "token_type_ids"}
    assert "last_hidden_state" in model.outputs[0].get_names()
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, return_tensors="np")
    inputs.setdefault("token_type_ids", np.zeros_like(inputs["input_ids"]))
    states, mask = model({name: inputs[name] for name in names})[0], inputs["attention_mask"][:, :, None]
    mean = (states * mask).sum(1) / mask.sum(1)
    oracle = SentenceTransformer(str(tiny_model), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(mean, oracle, atol=1e-5)
    assert '"INFERENCE_PRECISION_HINT": "f32"' in (folder / "README.md").read_text()
    assert result.formats["openvino"].difference.largest < 1e-5 < result.formats["openvino-int8"].difference.largest


@pytest.mark.thorough
def test_neither_openvino_nor_nncf_can_send_statistics():
    code = (
        "import sys; from finetune.formats.sessions import import_openvino; import_openvino(); import nncf;"
        "from nncf.telemetry.wrapper import telemetry; from unittest.mock import MagicMock;"
        "assert sys.modules['openvino_telemetry'] is None;"
        "assert isinstance(telemetry, MagicMock), telemetry"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

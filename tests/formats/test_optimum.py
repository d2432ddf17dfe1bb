"""`SentenceTransformer(folder, backend="onnx")`, in an environment with the older transformers that optimum needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from finetune.formats.export import export_model
from tests.models.tiny import TEXTS

REQUIREMENTS = [
    "torch==2.13.0",
    "optimum-onnx==0.1.0",
    "onnxruntime==1.32.0",
    "transformers==4.57.6",
    "sentence-transformers==5.7.0",
]


@pytest.mark.slow
def test_sentence_transformers_loads_the_exports_by_backend_onnx(minilm, tmp_path):
    python = os.environ.get("FINETUNE_OPTIMUM_PYTHON") or str(_environment(tmp_path / "venv"))
    folder = tmp_path / "model"
    export_model(minilm, ["onnx", "onnx-int8"], folder, evaluation=False)
    oracle = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(_embed(python, folder, "onnx/model.onnx"), oracle, atol=1e-5)
    rough = _embed(python, folder, "onnx/model_qint8.onnx")
    assert ((rough * oracle).sum(1) > 0.95).all()


def _environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    return python


def _embed(python: str, folder: Path, file_name: str) -> np.ndarray:
    script = Path(__file__).with_name("optimum_venv.py")
    done = subprocess.run(
        [python, str(script), str(folder), file_name],
        input=json.dumps(TEXTS),
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.array(json.loads(done.stdout.splitlines()[-1]))

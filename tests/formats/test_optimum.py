"""`backend="onnx"` and `backend="openvino"` of sentence-transformers load what `finetune export` writes.

They run in another environment, with optimum and the older transformers that it needs: see optimum.txt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from finetune.formats.export import export_model
from finetune.models import cross_encoder
from finetune.models.text import TextEncoder
from tests.models.tiny import TEXTS, tiny

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent
PROMPTS = {"query": "cat "}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
PAIRS = [[left, right] for left in TEXTS[:4] for right in TEXTS[:4]]
# OpenVINO computes in bf16 on processors that are made for it, unless the precision is set.
SETTINGS: dict[str, dict[str, Any]] = {"onnx": {}, "openvino": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}}
FILES = {
    "onnx": ("onnx/model.onnx", "onnx/model_qint8.onnx"),
    "openvino": ("openvino/openvino_model.xml", "openvino/openvino_model_qint8_quantized.xml"),
}


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    """A back end whose files can be written here."""
    for package in {"onnx": ("onnxruntime",), "openvino": ("openvino", "nncf")}[request.param]:
        pytest.importorskip(package, reason=f"needs finetune[{request.param}]")
    return str(request.param)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment with optimum."""
    given = os.environ.get("FINETUNE_OPTIMUM_PYTHON")
    if given:
        return given
    folder = tmp_path_factory.mktemp("optimum")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [folder / "bin/python", "-m", "pip", "install", "--quiet", "-r", FOLDER / "optimum.txt"]
    subprocess.run(command, check=True)
    return str(folder / "bin/python")


def run(python: str, jobs: list[dict[str, Any]]) -> list[np.ndarray]:
    """Return what sentence-transformers computes there."""
    done = subprocess.run(
        [python, str(FOLDER / "optimum_jobs.py")],
        input=json.dumps(jobs),
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [np.array(each) for each in json.loads(done.stdout.splitlines()[-1])]


def job(folder: Path, backend: str, inputs: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return the job of embedding texts; `settings` are the model_kwargs of sentence-transformers."""
    arguments = {"model_name_or_path": str(folder), "backend": backend, "model_kwargs": settings}
    return {"model_class": "SentenceTransformer", "arguments": arguments, "method": "encode", "inputs": inputs}


def test_the_files_compute_the_embeddings_of_the_model(backend, python, minilm, tmp_path):
    folder = tmp_path / "model"
    export_model(minilm, [backend, f"{backend}-int8"], folder, evaluation=False)
    oracle = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    inputs = {"sentences": TEXTS}
    jobs = [job(folder, backend, inputs, file_name=file, **SETTINGS[backend]) for file in FILES[backend]]
    exact, rough, unnamed = run(python, [*jobs, job(folder, backend, inputs)])
    np.testing.assert_allclose(exact, oracle, atol=1e-5)
    assert ((rough * oracle).sum(1) > 0.95).all()
    assert np.abs(rough - oracle).max() > 1e-5, "this is another file"
    assert ((unnamed * oracle).sum(1) > 0.9999).all(), "without a name it is the file in fp32"


def with_head(folder: Path) -> None:
    TextEncoder(str(tiny("bert", folder / "base")), head="mlp", output_width=16).save(folder / "model", 16, PROMPTS)


def both_directions(folder: Path) -> None:
    TextEncoder(str(tiny("qwen3", folder / "base")), bidirectional=True).save(folder / "model", 16, PROMPTS)


def t5(folder: Path) -> None:
    TextEncoder(str(tiny("t5", folder / "base"))).save(folder / "model", 16, PROMPTS)


def in_a_subfolder(folder: Path) -> None:
    """Save a model whose backbone is in a folder of its own, as older versions of sentence-transformers saved it."""
    model, backbone = folder / "model", folder / "model/0_Transformer"
    TextEncoder(str(tiny("xlm-roberta", folder / "base"))).save(model, 16, PROMPTS)
    modules = json.loads((model / "modules.json").read_text())
    modules[0]["path"] = backbone.name
    (model / "modules.json").write_text(json.dumps(modules))
    backbone.mkdir()
    for file in ("config.json", "model.safetensors", "sentence_bert_config.json", *TOKENIZER):
        (model / file).rename(backbone / file)


def of_transformers_5(folder: Path) -> None:
    """Save a model whose base has a tokenizer class and a setting that only transformers 5 can read."""
    base = tiny("modernbert", folder / "base")
    settings = json.loads((base / TOKENIZER[1]).read_text())
    settings |= {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["dog"]}
    (base / TOKENIZER[1]).write_text(json.dumps(settings))
    TextEncoder(str(base)).save(folder / "model", 16, PROMPTS)


def of_pairs(folder: Path) -> None:
    cross_encoder.CrossEncoder(str(tiny("bert", folder / "base"))).save(folder / "model", 16, {})


def test_models_as_they_are_saved(backend, python, tmp_path):
    expected, jobs = {}, []
    for save in (with_head, both_directions, t5, in_a_subfolder, of_transformers_5, of_pairs):
        folder = tmp_path / save.__name__ / "model"
        folder.mkdir(parents=True)
        save(folder.parent)
        export_model(folder, [backend], evaluation=False)
        inputs: dict[str, Any] = {"sentences": TEXTS, "prompt_name": "query"}
        if save is of_pairs:
            inputs = {"sentences": PAIRS}
            expected[save.__name__] = CrossEncoder(str(folder), device="cpu").predict(**inputs)
            scoring = {"model_class": "CrossEncoder", "method": "predict"}
            jobs.append(job(folder, backend, inputs, **SETTINGS[backend]) | scoring)
        else:
            expected[save.__name__] = SentenceTransformer(str(folder), device="cpu").encode(**inputs)
            jobs.append(job(folder, backend, inputs, **SETTINGS[backend]))
    for (name, oracle), found in zip(expected.items(), run(python, jobs), strict=True):
        np.testing.assert_allclose(found, oracle, atol=1e-5, err_msg=name)

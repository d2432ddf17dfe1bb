"""Exports of a trained run: the files as other programs read them, what was measured, and what is refused."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.errors import FinetuneError, RunError
from finetune.formats import export as export_module
from finetune.formats.card import write_export
from finetune.formats.export import export_model
from finetune.formats.measure import ExportFailed
from finetune.formats.publish import staging
from finetune.models.digest import digest_of
from finetune.models.text import TextEncoder
from finetune.models.vectors import VectorEncoder
from tests.conftest import make_tiny_model
from tests.formats.conftest import copied, inside
from tests.models.tiny import TEXTS


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def pooled_with_onnxruntime(file: Path, folder: Path, texts: list[str]) -> np.ndarray:
    """Embed texts with ONNX Runtime and tokenizers alone: the mean of the hidden states, to unit length."""
    import onnxruntime
    from tokenizers import Tokenizer

    session = onnxruntime.InferenceSession(str(file))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    mask = np.array([each.attention_mask for each in encodings])
    given = {
        "input_ids": np.array([each.ids for each in encodings]),
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }
    names = [each.name for each in session.get_inputs()]
    (states,) = session.run(["last_hidden_state"], {name: given[name] for name in names})
    mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_onnx_runtime_alone_computes_the_embeddings_of_sentence_transformers(exported):
    oracle = SentenceTransformer(str(exported.model), device="cpu").encode(TEXTS)
    emb = pooled_with_onnxruntime(exported.model / "onnx/model.onnx", exported.model, TEXTS)
    np.testing.assert_allclose(emb, oracle, atol=1e-5)
    rough = pooled_with_onnxruntime(exported.model / "onnx/model_qint8.onnx", exported.model, TEXTS)
    assert 1e-4 < np.abs(rough - oracle).max() < 0.1


def test_inputs_and_outputs_have_the_names_that_optimum_expects(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported.model / "onnx/model.onnx"))
    assert {each.name for each in session.get_inputs()} <= {"input_ids", "attention_mask", "token_type_ids"}
    assert [each.name for each in session.get_outputs()] == ["last_hidden_state"]


def test_another_precision_is_a_folder_that_loads_as_it_is(exported):
    folder = exported.result.formats["fp16"].folder
    assert folder == exported.model.with_name("model-fp16")
    weights = (folder / "model.safetensors").stat().st_size
    assert weights < 0.7 * (exported.model / "model.safetensors").stat().st_size
    oracle = SentenceTransformer(str(exported.model), device="cpu").encode(TEXTS)
    loaded = SentenceTransformer(str(folder), device="cpu")
    assert next(loaded.parameters()).dtype == torch.float16
    np.testing.assert_allclose(loaded.encode(TEXTS).astype(np.float32), oracle, atol=5e-3)
    assert not (folder / "onnx").exists()


def test_what_was_measured_is_in_the_result_in_export_json_and_in_the_card(exported):
    result = exported.result
    exact, rough = result.formats["onnx"], result.formats["onnx-int8"]
    assert exact.difference.largest < 1e-5 < rough.difference.largest
    assert exact.difference.min_cosine > 0.99999
    assert exact.difference.items > 100
    assert exact.speed.milliseconds > 0 and exact.speed.items_per_second > 0
    change = exact.changes["retrieval", "nDCG@10"]
    report = json.loads((exported.model.parent / "report.json").read_text())["evaluations"]["retrieval"]["metrics"][0]
    assert change.mean_before == pytest.approx(report["after"])  # what the run measured after its training
    assert change.mean_after == pytest.approx(change.mean_before)

    content = json.loads((exported.model / "export.json").read_text())
    assert set(content["formats"]) == {"onnx", "onnx-int8"}
    assert content["formats"]["onnx"]["files"] == ["onnx/model.onnx"]
    assert content["formats"]["onnx"]["bytes"] == (exported.model / "onnx/model.onnx").stat().st_size
    assert content["formats"]["onnx"]["metrics"][0]["metric"] == "nDCG@10"
    assert content["machine"]["cpu_usable"] and content["packages"]["onnxruntime"]
    card = (exported.model / "README.md").read_text()
    assert "| onnx-int8 | retrieval | nDCG@10 |" in card and "## How it was made" in card


def test_exporting_again_replaces_the_section_of_the_card(exported, tmp_path):
    (tmp_path / "README.md").write_text("# mine\n\ntext\n")
    (tmp_path / "onnx").mkdir()
    for name in ("model.onnx", "model_qint8.onnx"):
        (tmp_path / "onnx" / name).touch()
    results = exported.result.formats
    write_export(tmp_path, exported.result.original, [results["onnx"]])
    first = (tmp_path / "README.md").read_text()
    write_export(tmp_path, exported.result.original, [results["onnx-int8"]])
    both = (tmp_path / "README.md").read_text()
    assert first.startswith("# mine\n\ntext\n\n<!-- exports") and both.count("## Exports") == 1
    assert "| onnx |" in both and "| onnx-int8 |" in both
    (tmp_path / "onnx/model.onnx").unlink()  # what is gone is no longer described
    write_export(tmp_path, exported.result.original, [results["onnx-int8"]])
    assert "| onnx |" not in (tmp_path / "README.md").read_text()


def test_no_path_of_this_machine_is_in_a_file_and_the_digest_is_that_of_the_model(exported, ran):
    for name in ("onnx/model.onnx", "onnx/model_qint8.onnx", "export.json"):
        content = (exported.model / name).read_bytes()
        assert b"site-packages" not in content and str(exported.cwd).encode() not in content
    assert digest_of(exported.model) == digest_of(ran.path / "model")
    assert not [name for name in tree(exported.cwd) if "/.export" in name]


@pytest.fixture
def run(ran, tmp_path):
    """A copy of the run that a test may change, in the working directory."""
    cwd, run = copied(ran, tmp_path / "here")
    with inside(cwd):
        yield run


def spoil(monkeypatch, change) -> None:
    """Write other weights than those of the model: each parameter is changed before."""
    write = export_module.write_onnx

    def write_spoiled(graph, path):
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in graph.module.parameters():
                change(weight)
        write(graph, path)

    monkeypatch.setattr(export_module, "write_onnx", write_spoiled)


def test_a_wrong_export_fails_and_nothing_of_it_is_kept(run, monkeypatch):
    spoil(monkeypatch, lambda weight: weight.add_(0.01 * torch.randn_like(weight)))
    before = tree(run)
    with pytest.raises(ExportFailed, match=r"embeddings of 131 items differ by up to .* at most .* fp32"):
        export_model(run, ["onnx"], evaluation=False)
    assert tree(run) == before


def test_an_export_that_loses_too_much_fails_with_the_figures_unless_more_is_allowed(run, monkeypatch):
    spoil(monkeypatch, lambda weight: weight.zero_())
    monkeypatch.setattr("finetune.formats.measure._TOLERANCE", {"int8": 10.0})
    before = tree(run)
    answer = CliRunner().invoke(app, ["export", str(run), "onnx-int8"])
    assert answer.exit_code == 1
    said = " ".join(answer.output.split())
    assert "nDCG@10 falls from 1.000 to 0." in said and "95 % interval of the change -" in said
    assert "a loss of more than 0.01" in said and "--max-loss" in said
    assert tree(run) == before
    answer = CliRunner().invoke(app, ["export", str(run), "onnx-int8", "--max-loss", "1"])
    assert answer.exit_code == 0, answer.output
    assert (run / "model/onnx/model_qint8.onnx").is_file()
    measured = json.loads((run / "model/export.json").read_text())["formats"]["onnx-int8"]["metrics"]
    assert measured[0]["metric"] == "nDCG@10" and measured[0]["change"] < -0.01
    number = r"([-+]\d\.\d{3})"
    line = rf"onnx-int8: retrieval nDCG@10 1\.000 -> (0\.\d{{3}}) \({number}, 95 % interval {number} to {number}\)"
    printed = re.search(f"^{line}$", answer.output, re.MULTILINE)
    assert printed, answer.output
    after, change, low, high = map(float, printed.groups())
    assert low <= change <= high and change == pytest.approx(after - 1, abs=2e-3)


@pytest.mark.parametrize("name", ["onnx", "fp16"], ids=["a file that is written", "a folder that is copied"])
def test_a_full_disk_leaves_the_folder_as_it_was(run, name):
    before = tree(run)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # the file has 120,000 bytes
    try:
        with pytest.raises(RunError, match=r"could not export to .*: the file is larger than the system allows"):
            export_model(run, [name], evaluation=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(run) == before


def test_a_second_export_to_a_folder_is_refused(tmp_path):
    advice = r"in use by process .*\. Wait for it, or choose another folder with --out\.$"
    with staging(tmp_path), pytest.raises(RunError, match=advice), staging(tmp_path):
        pass


def test_what_a_killed_export_left_is_removed_by_the_next_one(tmp_path):
    (tmp_path / ".export-abc/plain").mkdir(parents=True)
    (tmp_path / "model.safetensors").touch()
    with staging(tmp_path) as stage:
        assert [path.name for path in tmp_path.glob(".export-*")] == [stage.name]
        with pytest.raises(RunError, match="is in use by"), staging(tmp_path):
            pass
    assert tree(tmp_path) == {"model.safetensors"}


def test_a_copy_has_the_model_and_its_exports_and_takes_only_more_of_the_same_model(tiny_model, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "modeling.py").write_text("raise SystemExit")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    before = tree(model)
    out = tmp_path / "out"
    export_model(model, ["onnx"], out, evaluation=False)
    assert tree(model) == before
    assert {"onnx/model.onnx", "export.json", "README.md", "model.safetensors", "config.json"} <= tree(out)
    assert not {"modeling.py", "pytorch_model.bin"} & tree(out)
    assert SentenceTransformer(str(out), device="cpu").encode(TEXTS).shape == (len(TEXTS), 32)
    other = make_tiny_model(tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    with pytest.raises(FinetuneError, match="holds something else"):
        export_model(other, ["onnx"], out, evaluation=False)


def refused(model: object, *formats: str, **options: object) -> str:
    with pytest.raises(FinetuneError) as caught:
        export_model(model, formats, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_mistakes_are_answered_before_anything_is_loaded(ran, tiny_model, tmp_path, monkeypatch):
    assert "'onxx'. Did you mean" in refused(tiny_model, "onxx").replace("there is no format ", "")
    assert "openvino-int8" in refused(tiny_model, "tflite")
    assert "no format was given" in refused(tiny_model)
    for wrong in (-0.1, float("nan")):
        assert "is not a loss" in refused(tiny_model, "onnx", max_loss=wrong)
    assert "by itself" in refused(tiny_model, "onnx", "fp16", out=tmp_path / "out")
    (tmp_path / "file").touch()
    assert "is a file" in refused(tiny_model, "onnx", out=tmp_path / "file")
    assert "--out: could not write to /proc" in refused(tiny_model, "onnx", out=Path("/proc/x"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").touch()
    assert "holds something else" in refused(tiny_model, "onnx", out=tmp_path / "full")
    assert "--out" in refused("sentence-transformers/all-MiniLM-L6-v2", "onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    assert "needs onnxscript, which is not installed. pip install 'finetune[onnx]'" in refused(tiny_model, "onnx")


def test_a_run_without_a_model_yet_says_so(ran, tmp_path):
    _, run = copied(ran, tmp_path / "here")
    (run / "model").rename(run / "elsewhere")
    assert "has no model yet" in refused(run, "onnx")
    answer = CliRunner().invoke(app, ["export", str(run), "onnx"])
    assert answer.exit_code == 2 and "Traceback" not in answer.output


def test_what_cannot_be_exported_says_why(tiny_model, tmp_path):
    vectors = tmp_path / "vectors"
    vectors.mkdir()
    VectorEncoder(input_width=8).save(vectors, 0, {})
    assert "a VectorEncoder cannot be exported: it is an adapter" in refused(vectors, "onnx", evaluation=False)
    learned = tmp_path / "learned"
    learned.mkdir()
    TextEncoder(str(tiny_model), pooling="attention").save(learned, 16, {})
    assert "its learned pooling" in refused(learned, "onnx", evaluation=False)
    assert not (learned / "onnx").exists()

"""The trained model of a run: used at once, and as a zip on another machine."""

import numpy as np

import finetune


def test_the_model_of_a_run_encodes(project):
    vectors = finetune.get_run("first").model(device="cpu").encode(["red cat", "blue sea"])
    assert vectors.shape == (2, 32) and np.isfinite(vectors).all()


def test_an_artifact_of_a_run_is_the_same_model(project, tmp_path):
    from finetune.inference.load import get_model
    from finetune.runs.artifact import read_manifest

    run = finetune.get_run("first")
    path = run.save_artifact(tmp_path / "new folder")
    assert path == tmp_path / "new folder" / "first.zip"
    manifest = read_manifest(path)
    assert manifest.about == {"run": "default/first"}
    assert {name: size for name, (size, _) in manifest.files.items()} == run.artifact.files
    texts = ["red cat", "blue sea"]
    assert (get_model(path, device="cpu").encode(texts) == run.model(device="cpu").encode(texts)).all()


def test_an_artifact_needs_a_model(folder):
    import pytest

    from tests.runs.made import make_run

    make_run(folder / "outputs", "default/early", "interrupted")
    with pytest.raises(finetune.FinetuneError, match="has no model yet"):
        finetune.get_run("early").save_artifact("here")
    assert not (folder / "here").exists()

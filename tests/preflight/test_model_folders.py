"""Model folders in a run: refused before it starts, reported before it starts, and kept in the saved model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sentence_transformers import SentenceTransformer

from finetune.data.tokens.token_store import key_of
from finetune.errors import CheckFailed, ModelError
from finetune.models.text import TextEncoder
from finetune.models.tokenizer import load_tokenizer
from finetune.preflight import models
from tests.conftest import quick, run_train, write_pairs
from tests.data.tokens.test_token_store import items_of
from tests.models.test_encoders import embed_texts
from tests.models.test_folders import MEAN, TEXT_ONLY, build, cased, dense, edit
from tests.models.test_model_config import made

__all__ = ["cased"]  # a fixture


def checked(folder, cwd, *more):
    """Return the result of `check=true` for a model in `folder`."""
    write_pairs(cwd / "pairs.csv")
    answer = run_train(*quick(folder, "check=true", *more), cwd=cwd)
    assert "Traceback" not in answer.stderr
    assert not (cwd / "outputs").exists()
    return answer


def quantized(folder):
    edit(folder / "config.json", lambda config: config.update(quantization_config={"quant_method": "gptq", "bits": 4}))


def pickled(folder):
    torch.save({}, folder / "2_Dense" / "pytorch_model.bin")
    (folder / "2_Dense" / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("made_of", "change", "named"),
    [
        ({"after": [("pylate.models.Dense.Dense", {})]}, None, "pylate.models.Dense.Dense"),
        ({"after": [dense(32, 20)]}, pickled, "model.allow_pickle=true"),
        ({"pooling": {**MEAN, "include_prompt": False}}, None, "include_prompt"),
        ({"pooling": None}, None, "model.pooling=mean"),
        ({"model": {"similarity_fn_name": "manhattan"}}, None, "model.normalize=true"),
        ({"transformer": {"modality_config": {"message": TEXT_ONLY["text"]}}}, None, "modality_config"),
        ({}, quantized, "quantized (gptq, 4 bits)"),
    ],
)
def test_a_folder_that_is_not_supported_is_refused_before_a_run(cased, tmp_path, made_of, change, named):
    made_of = dict(made_of)
    folder = build(cased, tmp_path / "model", *made_of.pop("after", ()), **made_of)
    if change:
        change(folder)
    answer = checked(folder, tmp_path)
    assert answer.returncode == 2
    assert named in " ".join(answer.stderr.split())


def test_more_tokens_than_there_are_positions(tiny_model, tmp_path):
    made("roberta-prelayernorm", tmp_path / "model", vocab_size=96)
    for file in tiny_model.glob("token*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    answer = checked(tmp_path / "model", tmp_path, "data.max_length=20")
    assert answer.returncode == 2
    assert "Set data.max_length=18 or less." in answer.stderr


def test_prompts_and_length_of_the_model_are_reported_before_a_run(cased, tmp_path):
    own = {"prompts": {"task": "t: ", "passage": "d: "}, "default_prompt_name": "task"}
    folder = build(cased, tmp_path / "model", model=own, transformer={"max_seq_length": 12})
    answer = checked(folder, tmp_path)
    output = " ".join((answer.stdout + answer.stderr).split())
    assert answer.returncode == 0
    assert """'data.prompts={anchor: "t: ", positive: "d: "}'""" in output
    assert "saved without them" in output
    assert "12 tokens (max_seq_length)" in output
    answer = checked(folder, tmp_path, 'data.prompts={anchor: "t: ", positive: "d: "}', "data.max_length=12")
    assert "of its own" not in answer.stdout + answer.stderr
    assert "max_seq_length" not in answer.stdout + answer.stderr


def test_a_run_keeps_the_settings_of_its_base_model(cased, tmp_path):
    pooling = {**MEAN, "pooling_mode_cls_token": True}
    own = {"prompts": {"query": "q: ", "task": "t: "}, "default_prompt_name": "query"}
    lower = {"max_seq_length": 32, "do_lower_case": True}
    after = [("LayerNorm", {"dimension": 64}), dense(64, 20, use_residual=True), ("Normalize", {})]
    folder = build(cased, tmp_path / "base", *after, pooling=pooling, model=own, transformer=lower)
    write_pairs(tmp_path / "pairs.csv")
    answer = run_train(*quick(folder, "name=kept", "evaluation=none", "trainer.max_steps=2"), cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    saved = next(tmp_path.glob("outputs/**/kept/model"))
    settings = json.loads((saved / "sentence_bert_config.json").read_text())
    assert settings == {"max_seq_length": 16, "do_lower_case": True}
    texts = ["RED Cat", "red cat", "Small OLD dog " * 9]
    ours = embed_texts(TextEncoder(str(saved)), texts, 16)
    theirs = SentenceTransformer(str(saved), device="cpu")
    np.testing.assert_allclose(theirs.encode(texts), ours, atol=1e-5)
    np.testing.assert_allclose(theirs.encode_query(texts), ours, atol=1e-5)
    np.testing.assert_array_equal(ours[0], ours[1])
    assert theirs.prompts["task"] == "t: "


def test_lowercased_texts_have_their_own_cache_entry(cased):
    texts = items_of(["RED Cat"]).texts
    assert key_of(texts, load_tokenizer(cased, "it", True), 16) != key_of(texts, load_tokenizer(cased, "it"), 16)


def asked_of(folder, **model):
    """Return the part of a config of a text encoder in this folder that the checks of folders read."""
    target = {"_target_": "finetune.models.text.TextEncoder", "name": str(folder)}
    loss = {"_target_": "finetune.losses.infonce.InfoNCE"}
    return OmegaConf.create({"model": target | model, "loss": loss, "data": {"max_length": 24}})


@pytest.mark.parametrize("after", [(), (dense(32, 20),)])
@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_the_width_depends_on_the_pooling(cased, tmp_path, after, pooling):
    both = {**MEAN, "pooling_mode_cls_token": not after}
    folder = build(cased, tmp_path / "model", *after, pooling=both)
    cfg = asked_of(folder, pooling=pooling)
    width = models.width(cfg, models.models_of(cfg))
    assert width == TextEncoder(str(folder), pooling=pooling).width
    assert not models.inspect_models(asked_of(folder, pooling=pooling, output_width=width))[1]
    problems = models.inspect_models(asked_of(folder, pooling=pooling, output_width=width + 1))[1]
    assert [problem.where for problem in problems] == ["model.output_width"]


def test_downloaded_models_are_checked_before_a_run(cased, tmp_path, monkeypatch):
    folder = build(cased, tmp_path / "model", model={"similarity_fn_name": "manhattan"})
    here: list[Path] = []
    monkeypatch.setattr(models, "find_local", lambda *_: here[0] if here else None)
    monkeypatch.setattr(models, "resolve", lambda *_: here.append(folder) or folder)
    cfg = OmegaConf.create(
        {
            "model": {"_target_": "finetune.models.text.TextEncoder", "name": "user/it", "normalize": "auto"},
            "loss": {"_target_": "finetune.losses.infonce.InfoNCE"},
            "data": {"max_length": 99},
        }
    )
    with pytest.raises(CheckFailed) as caught:
        models.download_missing(cfg)
    assert [problem.where for problem in caught.value.problems] == ["model.name"]
    assert "manhattan" in caught.value.problems[0].what
    (folder / "config_sentence_transformers.json").write_text("{}")
    with pytest.raises(CheckFailed) as caught:
        here.clear()
        models.download_missing(cfg)
    assert [problem.where for problem in caught.value.problems] == ["data.max_length"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="only pickles or nothing"):
        here.clear()
        models.download_missing(cfg)


def test_a_run_directory_as_a_model_names_its_model_folder(tmp_path):
    from finetune.errors import ModelError
    from finetune.models.resolve import find_local

    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "overrides.yaml").touch()
    with pytest.raises(ModelError, match=f"this is a run; its model is {tmp_path}/run/model"):
        find_local(str(tmp_path / "run"))

"""sentence-transformers loads a saved model folder."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from finetune.errors import RunError
from finetune.export.card import CardFacts, model_card
from finetune.export.folder import save
from finetune.models.text import TextEncoder
from tests.models.test_text import TEXTS, embed

CARD = model_card(
    CardFacts(
        run="my run",
        base_model="base/model",
        command="python train.py",
        pairs=12_000,
        about="It maps texts.",
        results=[("nDCG@10", 0.3, 0.4, 0.05, 0.15)],
        version="0.1.0",
        data="pairs.csv",
        evaluated_on=["held out (40 queries)"],
    )
)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last", "weighted_mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_saved_model_encodes_the_same(tiny_model, tmp_path, pooling, normalize):
    encoder = TextEncoder(str(tiny_model), pooling=pooling, normalize=normalize)
    save(encoder, tmp_path / "model", 16, CARD)
    oracle = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert oracle.max_seq_length == 16
    assert oracle.similarity_fn_name == ("cosine" if normalize else "dot")
    np.testing.assert_allclose(oracle.encode(TEXTS), embed(encoder, TEXTS, 16), atol=1e-5)


def test_a_trained_real_model_encodes_the_same_and_loads_again(minilm, tmp_path):
    encoder = TextEncoder(str(minilm))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    save(encoder, tmp_path / "model", 64, CARD)
    ours = embed(encoder, TEXTS)
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS), ours, atol=1e-5
    )
    again = TextEncoder(str(tmp_path / "model"))
    assert again.pooling.mode == "mean"
    np.testing.assert_allclose(embed(again, TEXTS), ours, atol=1e-6)


def test_a_folder_has_no_pickle_and_a_card_with_front_matter(tiny_model, tmp_path):
    save(TextEncoder(str(tiny_model)), tmp_path / "model", 16, CARD)
    names = {path.name for path in (tmp_path / "model").rglob("*")}
    assert "model.safetensors" in names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "| nDCG@10 | 0.3000 | 0.4000 |" in card


def test_replaces_an_older_model_and_leaves_no_other_files(tiny_model, tmp_path):
    for _ in range(2):
        save(TextEncoder(str(tiny_model)), tmp_path / "model", 16, CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_unwritable_folder_raises(tiny_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="save the model"):
        save(TextEncoder(str(tiny_model)), tmp_path / "file" / "model", 16, CARD)

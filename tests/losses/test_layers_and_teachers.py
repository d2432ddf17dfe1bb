"""Losses over several layers, and with another model's embeddings."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from finetune.encoding.teacher import teacher_embeddings
from finetune.errors import CheckFailed
from finetune.losses.composed import Layers, Matryoshka
from finetune.losses.distillation import EmbeddingMSE
from finetune.losses.infonce import InfoNCE
from finetune.models.text import TextEncoder
from tests.losses.batches import batch_of
from tests.models.test_encoders import embed_texts
from tests.models.tiny import TEXTS, tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(tiny("bert", tmp_path_factory.mktemp("layers") / "bert"))


def pairs_batch():
    """A batch of four rows, two of which share a positive, and the number of its items."""
    return batch_of([(0, 4), (1, 5), (2, 6), (3, 6)]), 7


def test_layers_by_hand():
    batch, items = pairs_batch()
    emb = normalize(torch.randn(items, 3, 8, dtype=torch.float64), dim=2)
    loss, inner = Layers(InfoNCE(), [1, 3], weight=0.5, alignment=2.0, temperature=0.3), InfoNCE()
    expected = inner(emb[:, 2], batch)
    target = torch.softmax(emb[:, 2] @ emb[:, 2].T / 0.3, 1)
    for layer in (0, 1):
        ours = torch.softmax(emb[:, layer] @ emb[:, layer].T / 0.3, 1)
        divergence = (target * (target.log() - ours.log())).sum(1).mean()
        expected = expected + (0.5 * inner(emb[:, layer], batch) + 2.0 * divergence) / 2
    torch.testing.assert_close(loss(emb, batch), expected)
    shares = [loss(emb, batch, rank, 3) for rank in range(3)]
    torch.testing.assert_close(sum(shares), expected)
    emb.requires_grad_()
    assert torch.isfinite(torch.autograd.grad(Layers(Matryoshka(InfoNCE(), [8, 4]), [1])(emb, batch), emb)[0]).all()


def test_embeddings_of_layers_equal_models_with_fewer_layers(bert):
    encoder = TextEncoder(bert, dropout=0.0).train()
    encoder.set_output_layers([1])
    rows = [encoder.tokenizer(text)["input_ids"] for text in TEXTS]
    ids, lengths = torch.tensor([i for row in rows for i in row]), np.array([len(row) for row in rows])
    found = encoder(ids, lengths).detach().numpy()
    assert found.shape == (len(TEXTS), 2, 32)
    np.testing.assert_allclose(found[:, 0], embed_texts(TextEncoder(bert, keep_layers=1)), atol=1e-5)
    np.testing.assert_allclose(found[:, 1], embed_texts(TextEncoder(bert)), atol=1e-5)
    assert encoder.eval()(ids, lengths).shape == (len(TEXTS), 32)
    with pytest.raises(CheckFailed, match="not before the last"):
        encoder.set_output_layers([2])


def test_a_guide_removes_candidates_nearer_than_the_positive():
    batch, items = pairs_batch()
    emb = normalize(torch.randn(items, 8, dtype=torch.float64), dim=1).requires_grad_()
    guide = torch.randn(items, 5)
    batch.teacher_ND = guide
    guide_unit = normalize(guide.double(), dim=1)
    cosine, guided = emb @ emb.T, guide_unit @ guide_unit.T
    known = {tuple(pair) for pair in batch.known_E2.tolist()}
    documents = {*batch.positive_B.tolist(), *batch.negatives_Bn[batch.negatives_Bn >= 0].tolist()}
    lost = []
    for a, p in zip(batch.anchor_B.tolist(), batch.positive_B.tolist(), strict=True):
        there = [i for i in documents if i != a and (a, i) not in known and guided[a, i] <= guided[a, p]]
        logits = cosine[a, [p, *(i for i in there if i != p)]] / 0.05
        lost.append(logits.logsumexp(0) - logits[0])
    expected = torch.stack(lost).mean()
    ours = InfoNCE(symmetric=False, guide="some model")(emb, batch)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, emb, retain_graph=True)[0] for x in (ours, expected)))


@pytest.mark.parametrize("of", ["own", "anchor"])
def test_embedding_mse(of):
    batch, items = pairs_batch()
    emb = torch.randn(items, 6, dtype=torch.float64, requires_grad=True)
    batch.teacher_ND = torch.randn(items, 6)
    target = batch.teacher_ND.double()
    mse = torch.nn.functional.mse_loss
    anchor, positive = batch.anchor_B, batch.positive_B
    right = target[anchor] if of == "anchor" else target[positive]
    expected = (mse(emb[anchor], target[anchor]) + mse(emb[positive], right)) / 2
    ours = EmbeddingMSE("some model", of)(emb, batch)
    torch.testing.assert_close(ours, expected)
    assert torch.autograd.gradcheck(lambda x: EmbeddingMSE("some model", of)(x, batch), emb)
    with pytest.raises(CheckFailed, match="6 dimensions"):
        EmbeddingMSE("some model", of)(emb[:, :4], batch)


def test_the_teacher_embeds_once_and_is_kept(bert, tmp_path, monkeypatch):
    import pyarrow as pa

    from finetune.data.items import Items

    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    items = Items.of_texts(pa.array(TEXTS, pa.large_string()))
    expected = embed_texts(TextEncoder(bert))
    for cache in (False, True, True):
        found = teacher_embeddings(bert, items, 32, torch.device("cpu"), cache)
        np.testing.assert_allclose(found, expected, atol=1e-3)
    assert len(list((tmp_path / "cache" / "teacher").glob("*/embeddings.arrow"))) == 1

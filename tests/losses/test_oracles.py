"""Every loss against sentence-transformers, or a direct implementation of its formula; values and gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer import losses as theirs
from sentence_transformers.util import pairwise_angle_sim, pairwise_cos_sim
from torch.nn.functional import cosine_similarity, normalize

from finetune.errors import CheckFailed
from finetune.losses.composed import Matryoshka, Sum
from finetune.losses.distillation import ListKL, MarginMSE
from finetune.losses.infonce import Decoupled, InfoNCE
from finetune.losses.loss import local_loss
from finetune.losses.pairwise_scores import AnglE, Contrastive, CoSENT, CosineMSE, Pearson
from finetune.losses.regularizers import SpreadOut, Uniformity
from finetune.losses.siglip import SigLIP
from finetune.losses.supcon import SupCon
from finetune.losses.triplet import Triplet
from tests.losses.batches import batch_of, embeddings, labelled, scored

PAIRS = [(i, 20 + i) for i in range(12)]


def same(ours, oracle, emb_ND):
    """The same value and gradient."""
    gradients = [torch.autograd.grad(value, emb_ND, retain_graph=True)[0] for value in (ours, oracle)]
    torch.testing.assert_close(ours, oracle.to(ours), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("ours", "oracle", "similarity"),
    [(CoSENT(), theirs.CoSENTLoss, pairwise_cos_sim), (AnglE(), theirs.AnglELoss, pairwise_angle_sim)],
)
def test_order_of_scores(ours, oracle, similarity, seed):
    batch = scored(PAIRS, seed)
    emb = embeddings(batch, seed)
    expected = oracle(None, scale=20.0).compute_loss_from_embeddings([emb[:12], emb[12:]], batch.score_Bk[:, 0])
    same(ours(emb, batch), expected, emb)


def test_rows_without_weight_do_not_count_in_the_order():
    batch = scored(PAIRS)
    emb = embeddings(batch)
    some = replace(batch, weight_B=torch.tensor([1.0] * 6 + [0.0] * 6))
    only = replace(
        batch, anchor_B=batch.anchor_B[:6], positive_B=batch.positive_B[:6], score_Bk=batch.score_Bk[:6],
        negatives_Bn=batch.negatives_Bn[:6],
    )  # fmt: skip
    same(CoSENT()(emb, some), CoSENT()(emb, only), emb)


def test_cosine_mse():
    batch = scored(PAIRS)
    emb = embeddings(batch)
    score = batch.score_Bk[:, 0]
    cosine = cosine_similarity(emb[:12], emb[12:])
    same(CosineMSE()(emb, batch), ((cosine - score) ** 2).mean(), emb)
    stretched = replace(batch, score_Bk=batch.score_Bk * 4 + 1)
    same(CosineMSE(1, 5)(emb, stretched), CosineMSE()(emb, batch), emb)
    with pytest.raises(CheckFailed):
        CosineMSE(1, 1)


def test_pearson():
    batch = scored(PAIRS)
    emb = embeddings(batch)
    cosine = cosine_similarity(emb[:12], emb[12:])
    expected = 1 - torch.corrcoef(torch.stack([cosine, batch.score_Bk[:, 0]]))[0, 1]
    same(Pearson()(emb, batch), expected, emb)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ones", [0, 1, 2, 6, 11, 12])
@pytest.mark.parametrize(
    ("only_hard", "oracle"), [(False, theirs.ContrastiveLoss), (True, theirs.OnlineContrastiveLoss)]
)
def test_contrastive(only_hard, oracle, ones, seed):
    batch = scored(PAIRS, seed)
    emb = embeddings(batch, seed)
    labels = (torch.arange(12) < ones).double()
    batch = replace(batch, score_Bk=labels.unsqueeze(1))
    expected = oracle(None, margin=0.5).compute_loss_from_embeddings([emb[:12], emb[12:]], labels)
    same(Contrastive(0.5, only_hard=only_hard)(emb, batch), expected, emb)


def test_contrastive_uses_given_negatives():
    batch = batch_of([(i, 10 + i, 20 + i) for i in range(6)])
    emb = embeddings(batch)
    left, right = emb[:6].repeat(2, 1), emb[6:]
    labels = torch.tensor([1.0] * 6 + [0.0] * 6)
    expected = theirs.ContrastiveLoss(None, margin=0.5).compute_loss_from_embeddings([left, right], labels)
    same(Contrastive(0.5)(emb, batch), expected, emb)


LABELS = st.lists(st.integers(0, 3), min_size=4, max_size=14).filter(lambda labels: len(set(labels)) > 1)
MINING = st.sampled_from(["all", "hard", "semi_hard"])


@settings(max_examples=60, deadline=None)
@given(
    LABELS,
    st.sampled_from(["cosine", "euclidean"]),
    st.sampled_from(["all", "hard", "semi_hard"]),
    st.booleans(),
    st.integers(0, 999),
)
def test_triplets_in_the_batch(labels, distance, negatives, soft, seed):
    if soft and negatives == "all":
        with pytest.raises(CheckFailed, match="every triplet has one"):
            Triplet("all", soft=True)
        return
    batch = labelled(labels)
    emb = embeddings(batch, seed)
    d = 1 - normalize(emb) @ normalize(emb).T if distance == "cosine" else torch.cdist(emb, emb)
    lost = torch.nn.functional.softplus if soft else lambda excess: (excess + 0.3).clamp(min=0)
    terms = []
    for a in range(len(labels)):
        right = [p for p in range(len(labels)) if p != a and labels[p] == labels[a]]
        wrong = [n for n in range(len(labels)) if labels[n] != labels[a]]
        if not right:
            continue
        if negatives == "all":
            terms += [lost(d[a, p] - d[a, n]) for p in right for n in wrong if d[a, p] - d[a, n] + 0.3 > 0]
        elif negatives == "hard":
            terms.append(lost(max(d[a, p] for p in right) - min(d[a, n] for n in wrong)))
        else:
            for p in right:
                farther = [d[a, n] for n in wrong if d[a, n] > d[a, p]]
                terms.append(lost(d[a, p] - (min(farther) if farther else max(d[a, n] for n in wrong))))
    ours = Triplet(negatives, distance, 0.3, soft)(emb, batch)
    if not terms:
        assert ours.item() == 0
        return
    same(ours, torch.stack(terms).mean(), emb)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_given_triplets(distance):
    batch = batch_of([(i, 10 + i, 20 + i) for i in range(6)])
    emb = embeddings(batch)
    metric = getattr(theirs.TripletDistanceMetric, distance.upper())
    oracle = theirs.TripletLoss(None, distance_metric=metric, triplet_margin=0.7)
    expected = oracle.compute_loss_from_embeddings([emb[:6], emb[6:12], emb[12:]], None)
    # The reference adds 1e-6 to every difference in its euclidean distance.
    torch.testing.assert_close(Triplet("given", distance, 0.7)(emb, batch), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(LABELS, st.integers(0, 999))
def test_supcon(labels, seed):
    batch = labelled(labels)
    emb = embeddings(batch, seed)
    logits = emb @ emb.T / 0.1
    terms = []
    for a in range(len(labels)):
        others = [i for i in range(len(labels)) if i != a]
        right = [i for i in others if labels[i] == labels[a]]
        if right:
            spread = torch.logsumexp(logits[a, others], 0)
            terms.append(torch.stack([spread - logits[a, p] for p in right]).mean())
    ours = SupCon(0.1)(emb, batch)
    if terms:
        same(ours, torch.stack(terms).mean(), emb)
    else:
        assert ours.item() == 0


def test_siglip_equals_the_paper():
    batch = batch_of(PAIRS)
    emb = embeddings(batch)
    logits = 10 * emb[:12] @ emb[12:].T - 10
    signs = 2 * torch.eye(12) - 1
    expected = -torch.nn.functional.logsigmoid(signs * logits).sum() / 12
    same(SigLIP()(emb, batch), expected, emb)


def test_siglip_uses_all_known_positives():
    batch = batch_of([(0, 2), (0, 3), (1, 3)])
    emb = embeddings(batch)
    logits = 10 * emb @ emb.T - 10
    signs = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    of = -torch.nn.functional.logsigmoid(signs * logits[:2, 2:]).sum(1)
    same(SigLIP()(emb, batch), (2 * of[0] + of[1]) / 3, emb)


def test_decoupled():
    batch = batch_of(PAIRS)
    emb = embeddings(batch)
    logits = emb[:12] @ emb[12:].T / 0.1
    negatives = logits.masked_fill(torch.eye(12, dtype=torch.bool), float("-inf"))
    same(Decoupled(0.1, symmetric=False)(emb, batch), (negatives.logsumexp(1) - logits.diag()).mean(), emb)
    alone = batch_of([(0, 1), (0, 2)])
    lonely = embeddings(alone)
    value = Decoupled()(lonely, alone)
    value.backward()
    assert value.item() == 0
    assert (lonely.grad == 0).all()


def test_hardness():
    batch = batch_of(PAIRS)
    emb = embeddings(batch)
    oracle = theirs.MultipleNegativesRankingLoss(None, hardness_mode="all_negatives", hardness_strength=5.0)
    expected = oracle.compute_loss_from_embeddings([emb[:12], emb[12:]], None)
    same(InfoNCE(0.05, False, hardness=5.0)(normalize(emb), batch), expected, emb)


def test_margin_and_false_negatives_and_given_negatives():
    batch = batch_of([(i, 10 + i, 20 + i) for i in range(6)])
    emb = embeddings(batch)
    cosine = emb[:6] @ emb[6:].T
    margin = cosine - 0.2 * torch.eye(6, 12)
    labels = torch.arange(6)
    cross_entropy = torch.nn.functional.cross_entropy
    same(InfoNCE(0.1, False, margin=0.2)(emb, batch), cross_entropy(margin / 0.1, labels), emb)
    likely = cosine > cosine.diag().unsqueeze(1) + 0.1
    expected = cross_entropy((cosine / 0.1).masked_fill(likely, float("-inf")), labels)
    assert likely.any()
    same(InfoNCE(0.1, False, false_negative_margin=0.1)(emb, batch), expected, emb)
    own = torch.stack([cosine.diag(), cosine[:, 6:].diag()], 1) / 0.1
    same(InfoNCE(0.1, negatives="given")(emb, batch), cross_entropy(own, torch.zeros(6, dtype=torch.long)), emb)


def test_a_learned_temperature_has_a_gradient_and_a_minimum():
    batch = batch_of(PAIRS)
    emb = embeddings(batch).float()
    loss = InfoNCE(0.05, learn_temperature=True)
    torch.testing.assert_close(loss(emb, batch), InfoNCE(0.05)(emb, batch))
    loss(emb, batch).backward()
    assert loss.log_scale.grad.abs() > 0
    loss.log_scale.data += 10
    torch.testing.assert_close(loss(emb, batch), InfoNCE(0.01)(emb, batch))


def lists(seed=0):
    batch = batch_of([(i, 10 + i, 20 + i, 30 + i) for i in range(5)])
    return replace(batch, score_Bk=torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).double())


def test_margin_mse():
    batch = lists()
    emb = embeddings(batch)
    anchor, *documents = emb.split(5)
    margins = batch.score_Bk[:, :1] - batch.score_Bk[:, 1:]
    expected = theirs.MarginMSELoss(None).compute_loss_from_embeddings([anchor, *documents], margins)
    same(MarginMSE()(emb, batch), expected, emb)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_list_kl(temperature):
    batch = lists()
    emb = embeddings(batch)
    expected = theirs.DistillKLDivLoss(None, temperature=temperature).compute_loss_from_embeddings(
        [*emb.split(5)], batch.score_Bk
    )
    same(ListKL(temperature)(emb, batch), expected, emb)


@pytest.mark.parametrize("loss", [MarginMSE(), ListKL()])
def test_absent_documents_have_no_effect(loss):
    batch = lists()
    emb = embeddings(batch)
    score, negatives = batch.score_Bk.clone(), batch.negatives_Bn.clone()
    score[:, 2], negatives[:, 1] = float("nan"), -1
    less = replace(batch, score_Bk=score, negatives_Bn=negatives)
    short = replace(batch, score_Bk=score[:, :2], negatives_Bn=negatives[:, :1])
    same(loss(emb, less), loss(emb, short), emb)


def test_regularizers():
    batch = batch_of(PAIRS)
    emb = embeddings(batch)
    distances = torch.pdist(normalize(emb)) ** 2
    same(Uniformity()(emb, batch), (-2 * distances).exp().mean().log(), emb)
    cosine = normalize(emb) @ normalize(emb).T
    apart = ~torch.eye(24, dtype=torch.bool)
    apart[torch.arange(12), torch.arange(12, 24)] = apart[torch.arange(12, 24), torch.arange(12)] = False
    values = cosine[apart]
    expected = values.mean() ** 2 + ((values**2).mean() - 1 / 6).clamp(min=0)
    same(SpreadOut()(emb, batch), expected, emb)


def test_matryoshka_is_the_sum_over_widths():
    batch = batch_of(PAIRS)
    emb = embeddings(batch)
    inner = InfoNCE()
    expected = sum(w * inner(normalize(emb[:, :d]), batch) for d, w in [(6, 1.0), (2, 0.5)])
    same(Matryoshka(inner, [6, 2], [1.0, 0.5])(emb, batch), expected, emb)
    with pytest.raises(CheckFailed, match="8 dimensions are more than the 6"):
        Matryoshka(inner, [8]).check_width(6)
    with pytest.raises(CheckFailed, match="2 weights for 1 dimensions"):
        Matryoshka(inner, [8], [1.0, 2.0])


def test_a_sum_and_its_parts():
    batch = batch_of(PAIRS)
    emb = embeddings(batch)
    parts = {"main": InfoNCE(), "regular": Uniformity(), "supcon": SupCon()}
    loss = Sum(parts, {"regular": 0.5})
    expected = parts["main"](emb, batch) + 0.5 * parts["regular"](emb, batch) + parts["supcon"](emb, batch)
    same(loss(emb, batch), expected, emb)
    same(sum(local_loss(loss, emb, batch, rank, 3) for rank in range(3)), expected, emb)
    with pytest.raises(CheckFailed, match="no loss named mian"):
        Sum(parts, {"mian": 1.0})


EVERY = [
    (InfoNCE(0.5, margin=0.1, hardness=0.0), batch_of(PAIRS[:4])),
    (Decoupled(0.5), batch_of(PAIRS[:4])),
    (SigLIP(0.5, -1.0).double(), batch_of(PAIRS[:4])),
    (SupCon(0.5), labelled([0, 0, 1, 1, 2])),
    (CoSENT(0.5), scored(PAIRS[:5])),
    (AnglE(0.5), scored(PAIRS[:5])),
    (CosineMSE(), scored(PAIRS[:5])),
    (Pearson(), scored(PAIRS[:5])),
    (Contrastive(), scored(PAIRS[:5])),
    (Contrastive(only_hard=True), scored(PAIRS[:5])),
    (Triplet("all"), labelled([0, 0, 1, 1, 2])),
    (Triplet("hard"), labelled([0, 0, 1, 1, 2])),
    (Triplet("semi_hard", "euclidean"), labelled([0, 0, 1, 1, 2])),
    (Triplet("given", soft=True), batch_of([(0, 3, 6), (1, 4, 7)])),
    (MarginMSE(), lists()),
    (ListKL(), lists()),
    (Uniformity(), batch_of(PAIRS[:4])),
    (SpreadOut(), batch_of(PAIRS[:4])),
]


@pytest.mark.parametrize(("loss", "batch"), EVERY, ids=lambda value: type(value).__name__)
def test_gradcheck(loss, batch):
    emb = (embeddings(batch).detach() * 1.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda emb: loss(emb, batch), emb)


@pytest.mark.parametrize(("loss", "batch"), EVERY, ids=lambda value: type(value).__name__)
def test_zero_weights_and_equal_embeddings_are_finite(loss, batch):
    emb = torch.ones(len(batch.items_N), 4, dtype=torch.float64).requires_grad_()
    for weight in (None, torch.zeros(len(batch))):
        value = loss(emb, replace(batch, weight_B=weight))
        assert value.isfinite()
        assert torch.autograd.grad(value, emb)[0].isfinite().all()

"""Losses over lists against sentence-transformers' for cross-encoders, values and gradients."""

from dataclasses import replace

import pytest
import torch
from sentence_transformers.cross_encoder import CrossEncoder
from sentence_transformers.cross_encoder import losses as theirs
from sentence_transformers.cross_encoder.losses import lambda_loss as weightings

from finetune.errors import CheckFailed
from finetune.losses.bce import BCE
from finetune.losses.distillation import ListKL, MarginMSE
from finetune.losses.ranking import LambdaLoss, ListMLE, ListNet, RankNet
from tests.losses.batches import batch_of, embeddings

ROWS, DOCUMENTS = 6, 5
LENGTHS = [5, 5, 3, 5, 2, 4]  # the number of documents of each row


class Scores(CrossEncoder):
    """A cross-encoder that returns a given score for each document, by its name."""

    def __init__(self, score_P):
        torch.nn.Module.__init__(self)
        self.score_P = score_P

    num_labels, device = 1, torch.device("cpu")

    def preprocess(self, pairs, **_):
        return {"place": torch.tensor([int(document) for _, document in pairs])}

    def forward(self, inputs):
        return {"scores": self.score_P[inputs["place"]]}


def graded(seed=0, grades=4):
    """Rows of documents, some absent, with grades of which many are equal."""
    rows = [[i, *(10 + i * DOCUMENTS + j if j < LENGTHS[i] else -1 for j in range(DOCUMENTS))] for i in range(ROWS)]
    batch = batch_of(rows)
    draw = torch.Generator().manual_seed(seed)
    grade_Bk = torch.stack([torch.randperm(DOCUMENTS * 2, generator=draw)[:DOCUMENTS] for _ in range(ROWS)])
    grade_Bk = (grade_Bk % grades if grades else grade_Bk).double()
    absent = torch.arange(DOCUMENTS) >= torch.tensor(LENGTHS).unsqueeze(1)
    return replace(batch, score_Bk=grade_Bk.masked_fill(absent, float("nan")))


def scores(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(ROWS, DOCUMENTS, generator=draw).double() * 2).requires_grad_()


def their_mean(make, score_Bk, batch):
    """The mean over the rows of their loss of each row; for several rows they average over all pairs."""
    each = []
    for row, length in enumerate(LENGTHS):
        model = Scores(score_Bk[row])
        names = [str(j) for j in range(length)]
        each.append(make(model)([["query"], [names]], [batch.score_Bk[row, :length]]))
    return torch.stack(each).mean()


def same(ours, oracle, leaf):
    """The same value and gradient, up to fp32 precision, in which the reference computes."""
    gradients = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (ours, oracle)]
    torch.testing.assert_close(ours, oracle.to(ours), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def lambda_oracle(scheme, **settings):
    return lambda model: theirs.LambdaLoss(model, weighting_scheme=scheme, **settings)


ORACLES = [
    (RankNet(), 4, lambda model: theirs.RankNetLoss(model, reduction_log="natural")),
    (RankNet(2.0), 4, lambda model: theirs.RankNetLoss(model, sigma=2.0, reduction_log="natural")),
    (LambdaLoss("none", k=2), 4, lambda model: theirs.RankNetLoss(model, k=2)),
    (LambdaLoss("ndcg1"), 4, lambda_oracle(weightings.NDCGLoss1Scheme())),
    (LambdaLoss("ndcg2", sigma=0.5), 4, lambda_oracle(weightings.NDCGLoss2Scheme(), sigma=0.5)),
    (LambdaLoss("ndcg2", k=2), 4, lambda_oracle(weightings.NDCGLoss2Scheme(), k=2)),
    (LambdaLoss("lambdarank"), 4, lambda_oracle(weightings.LambdaRankScheme())),
    (LambdaLoss("lambdarank", k=3), 4, lambda_oracle(weightings.LambdaRankScheme(), k=3)),
    (ListNet(), 4, theirs.ListNetLoss),
    (ListMLE(), None, lambda model: theirs.ListMLELoss(model, respect_input_order=False)),
    (ListMLE(position_aware=True), None, lambda model: theirs.PListMLELoss(model, respect_input_order=False)),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("loss", "grades", "make"), ORACLES, ids=lambda value: type(value).__name__)
def test_equals_sentence_transformers(loss, grades, make, seed):
    batch, score_Bk = graded(seed, grades), scores(seed)
    same(loss.from_scores(score_Bk, batch), their_mean(make, score_Bk, batch), score_Bk)


@pytest.mark.parametrize("pos_weight", [1.0, 3.0])
def test_bce_equals_sentence_transformers(pos_weight):
    batch, score_Bk = graded(), scores()
    batch = replace(batch, score_Bk=batch.score_Bk / 3)
    loss = BCE(pos_weight)

    def one_row(row, length):
        oracle = theirs.BinaryCrossEntropyLoss(Scores(score_Bk[row]), pos_weight=torch.tensor(pos_weight))
        return oracle([["query"] * length, [str(j) for j in range(length)]], batch.score_Bk[row, :length])

    expected = torch.stack([one_row(*where) for where in enumerate(LENGTHS)]).mean()
    same(loss.from_scores(score_Bk, batch), expected, score_Bk)
    stretched = replace(batch, score_Bk=batch.score_Bk * 4 + 1)
    same(BCE(pos_weight, 1, 5).from_scores(score_Bk, stretched), expected, score_Bk)
    with pytest.raises(CheckFailed, match=r"must be above loss\.lowest"):
        BCE(lowest=1, highest=1)


def test_margin_mse_equals_sentence_transformers():
    batch, score_Bk = graded(), scores()
    batch = replace(batch, negatives_Bn=batch.negatives_Bn.clamp(min=0), score_Bk=batch.score_Bk.nan_to_num(1.0))
    columns = [[str(row * DOCUMENTS + j) for row in range(ROWS)] for j in range(DOCUMENTS)]
    oracle = theirs.MarginMSELoss(Scores(score_Bk.flatten()))
    expected = oracle([["query"] * ROWS, *columns], [*batch.score_Bk])
    same(MarginMSE().from_scores(score_Bk, batch), expected, score_Bk)


EVERY = [BCE(highest=3.0), *(loss for loss, *_ in ORACLES), MarginMSE(), ListKL()]
every = pytest.mark.parametrize("loss", EVERY, ids=lambda loss: type(loss).__name__)


@every
def test_embeddings_are_scored_by_dot_products(loss):
    batch = graded()
    emb = embeddings(batch)
    document_Bk = torch.cat([batch.positive_B.unsqueeze(1), batch.negatives_Bn], 1)
    dots_Bk = (emb[batch.anchor_B].unsqueeze(1) * emb[document_Bk]).sum(2)
    same(loss(emb, batch), loss.from_scores(loss.scale * dots_Bk, batch), emb)


@every
def test_gradcheck(loss):
    batch = graded()
    assert torch.autograd.gradcheck(lambda score: loss.from_scores(score, batch), scores())
    emb = embeddings(batch)
    assert torch.autograd.gradcheck(lambda emb: loss(emb, batch), emb)


@every
def test_without_scores_the_positive_is_one_and_negatives_are_zero(loss):
    batch = graded()
    target_Bk = torch.zeros(ROWS, DOCUMENTS).double()
    target_Bk[:, 0] = 3 if isinstance(loss, BCE) else 1
    without = loss.from_scores(scores(), replace(batch, score_Bk=None))
    absent = batch.score_Bk.isnan()
    with_targets = loss.from_scores(scores(), replace(batch, score_Bk=target_Bk.masked_fill(absent, float("nan"))))
    torch.testing.assert_close(without, with_targets)
    # With two sources in one table, the rows of one may have no scores.
    some = batch.score_Bk.clone()
    some[:3] = float("nan")
    mixed = torch.where(torch.arange(ROWS).unsqueeze(1) < 3, target_Bk, batch.score_Bk)
    mixed = mixed.masked_fill(absent, float("nan"))
    student = scores()
    same(*(loss.from_scores(student, replace(batch, score_Bk=given)) for given in (some, mixed)), student)


@every
def test_weights_processes_and_chunks(loss, monkeypatch):
    batch, score_Bk = graded(), scores()
    batch = replace(batch, weight_B=torch.rand(ROWS, generator=torch.Generator().manual_seed(1)).double())
    ones = torch.eye(ROWS).double()
    each = torch.stack([loss.from_scores(score_Bk, replace(batch, weight_B=one)) for one in ones])
    expected = (each * batch.weight_B).sum() / batch.weight_B.sum()
    same(loss.from_scores(score_Bk, batch), expected, score_Bk)
    same(sum(loss.from_scores(score_Bk, batch, rank, 4) for rank in range(4)), expected, score_Bk)
    monkeypatch.setattr("finetune.losses.per_row._MAX_ENTRIES", 2 * ROWS)
    same(loss.from_scores(score_Bk, batch), expected, score_Bk)


@every
def test_scores_of_absent_documents_do_not_matter(loss):
    batch, score_Bk = graded(), scores()
    absent = batch.score_Bk.isnan()
    for strange in (float("nan"), float("inf"), -1e30):
        replaced = score_Bk.masked_fill(absent, strange)
        same(loss.from_scores(replaced, batch), loss.from_scores(score_Bk, batch), score_Bk)


@every
def test_extreme_scores_are_finite(loss):
    batch = graded()
    zero = replace(batch, score_Bk=batch.score_Bk * 0, weight_B=torch.zeros(ROWS))
    for student in (torch.zeros(ROWS, DOCUMENTS), torch.full((ROWS, DOCUMENTS), 200.0), scores().float() * 100):
        leaf = student.detach().requires_grad_()
        for one in (batch, zero):
            value = loss.from_scores(leaf, one)
            assert value.isfinite()
            assert torch.autograd.grad(value, leaf)[0].isfinite().all()


def test_the_longest_possible_list():
    batch = batch_of([range(66)])
    student = torch.randn(1, 65, generator=torch.Generator().manual_seed(0)).requires_grad_()
    batch = replace(batch, score_Bk=torch.arange(65.0, 0, -1).unsqueeze(0))
    for loss in (ListMLE(position_aware=True), LambdaLoss("none"), ListNet()):
        value = loss.from_scores(student, batch)
        assert value > 0
        assert torch.autograd.grad(value, student)[0].isfinite().all()

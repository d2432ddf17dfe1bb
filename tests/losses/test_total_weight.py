"""The weights of batches in gradient accumulation: together they give the loss of one large batch."""

from dataclasses import replace

import pytest
import torch

from finetune.data.items import ABSENT
from finetune.losses.composed import Layers, Matryoshka, Sum
from finetune.losses.distillation import MarginMSE
from finetune.losses.infonce import InfoNCE
from finetune.losses.loss import total_weight
from finetune.losses.pairwise_scores import Contrastive, CosineMSE
from finetune.losses.supcon import SupCon
from finetune.losses.triplet import Triplet
from tests.losses.batches import batch_of, embeddings, labelled, scored

PAIRS = [(n, n + 5) for n in range(5)]
# Rows with different numbers of negatives.
NO = ABSENT
GIVEN = [(0, 5, 10, NO), (1, 6, 10, 11), (2, 7, NO, NO), (3, 8, 11, 12), (4, 9, 12, NO)]
LISTS = replace(batch_of(GIVEN), score_Bk=torch.arange(15, dtype=torch.float64).view(5, 3) % 4 / 3)


def part(batch, rows):
    """Some rows of a batch, over the same items."""
    columns = ("anchor_B", "positive_B", "negatives_Bn", "score_Bk", "weight_B")
    values = {name: getattr(batch, name) for name in columns}
    return replace(batch, **{name: value if value is None else value[rows] for name, value in values.items()})


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("loss", "batch"),
    [
        (CosineMSE(), scored(PAIRS)),
        (Contrastive(), batch_of(GIVEN)),
        (Triplet("given", soft=True), batch_of(GIVEN)),
        (MarginMSE(), LISTS),
        (Matryoshka(CosineMSE(), [4, 2]), scored(PAIRS)),
        (Sum({"first": CosineMSE()}), scored(PAIRS)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parts_of_a_batch_add_up_to_the_whole(loss, batch, weighted):
    weight = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0], dtype=torch.float64)
    batch = replace(batch, weight_B=weight) if weighted else batch
    emb = embeddings(batch)
    parts = [part(batch, slice(0, 2)), part(batch, slice(2, 5))]
    counts = [total_weight(loss, each) for each in parts]
    mean = sum(count * loss(emb, each) for count, each in zip(counts, parts, strict=True)) / sum(counts)
    torch.testing.assert_close(mean, loss(emb, batch))


def test_other_losses_count_rows():
    batch = batch_of(PAIRS)
    assert total_weight(torch.nn.Linear(1, 1), batch) == total_weight(InfoNCE(), batch) == 5
    assert total_weight(Triplet("hard"), batch) == total_weight(Layers(InfoNCE(), [1]), batch) == 5
    assert total_weight(SupCon(), labelled([0, 0, 1, 1, 2])) == 4  # the last item has no other of its class

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.batching.batches import Batches
from finetune.data.batching.mixing import BatchSettings, SourceShare
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.data.tokens.token_store import Tokens
from finetune.losses.infonce import InfoNCE

rows = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-1, 9)), min_size=1, max_size=40)


def tokens_for(count: int) -> Tokens:
    """Item i has i % 4 + 1 tokens, all with the id i."""
    lengths = np.arange(count) % 4 + 1
    return Tokens(np.repeat(np.arange(count), lengths).astype(np.int32), np.concatenate([[0], lengths.cumsum()]))


def batches_of(table: Any, batch_size: int = 4, seed: int = 0) -> Batches:
    table = np.array(table, np.int64)
    relations = Relations(table[:, 0], table[:, 1], table[:, 2:])
    return Batches(
        relations,
        tokens_for(int(table.max()) + 1),
        KnownPositives.of_relations(relations, int(relations.columns().max()) + 1),
        BatchSettings(batch_size),
        seed,
    )


def rows_of(batch: Any) -> list[tuple[int, ...]]:
    """The relations of a batch as item numbers, read back through its places."""
    items = batch.items_N.tolist()
    places = torch.column_stack([batch.anchor_B, batch.positive_B, batch.negatives_Bn]).tolist()
    return [tuple(items[place] if place >= 0 else -1 for place in row) for row in places]


@given(table=rows, batch_size=st.integers(2, 9), seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_an_epoch_has_every_relation_once_in_even_batches(table, batch_size, seed, epoch):
    batches = batches_of(table, batch_size, seed)
    batches.set_epoch(epoch)
    found = [rows_of(batch) for batch in batches]
    assert sorted(chain.from_iterable(found)) == sorted(table)
    sizes = [len(batch) for batch in found]
    assert len(found) == len(batches)
    # No batch of one, which would have no negatives, even where that takes one row more.
    assert max(sizes) <= max(batch_size, 3) and max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(2, len(table))


@given(table=rows, batch_size=st.integers(2, 9))
def test_a_batch_has_each_text_once_with_its_tokens_and_known_positives(table, batch_size):
    batches = batches_of(table, batch_size)
    graph = {(a, b) for x, y, _ in table for a, b in ((x, y), (y, x)) if a != b}
    for batch in batches:
        items = batch.items_N.tolist()
        assert items == sorted({item for row in rows_of(batch) for item in row if item >= 0})
        assert batch.lengths_cpu == batch.lengths_N.tolist() == [item % 4 + 1 for item in items]
        assert batch.ids_T.tolist() == [item for item in items for _ in range(item % 4 + 1)]
        known = [(items[i], items[j]) for i, j in batch.known_E2.tolist()]
        assert known == sorted((a, b) for a in items for b in items if (a, b) in graph)


@settings(deadline=None)
@given(table=rows, seed=st.integers(0, 3), data=st.data())
def test_a_resume_continues_with_exactly_the_next_batch(table, seed, data):
    full = batches_of(table, 4, seed)
    expected = [rows_of(batch) for _ in range(3) for batch in full]
    at = data.draw(st.integers(0, len(expected)))
    first = batches_of(table, 4, seed)
    stream = (batch for _ in range(3) for batch in first)
    for _ in range(at):
        next(stream)
    resumed = batches_of(table, 4, seed)
    resumed.load_state_dict(first.state_dict())
    rest: list[Any] = []
    while len(rest) < len(expected) - at:
        rest += [rows_of(batch) for batch in resumed]
    assert rest == expected[at:]


def test_epochs_and_seeds_differ():
    table = [(i, i + 50) for i in range(50)]
    orders = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        batches = batches_of(table, 50, seed)
        batches.set_epoch(epoch)
        orders.append(rows_of(next(iter(batches))))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_batch_moves_whole():
    batch = next(iter(batches_of([(0, 1, -1), (2, 3, 1)])))
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in vars(moved).values() if isinstance(tensor, torch.Tensor)} == {"meta"}
    assert moved.lengths_cpu == batch.lengths_cpu
    assert all(t.dtype == torch.int64 for t in vars(batch).values() if isinstance(t, torch.Tensor))


class Recorder(pl.LightningModule):
    """Notes which items each step saw; saves a checkpoint after step `save_at`."""

    def __init__(self, save_at: int = -1, path: str = "") -> None:
        super().__init__()
        self.weight = torch.nn.Linear(1, 1)
        self.seen: list[list[int]] = []
        self.save_at, self.path = save_at, path

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append(batch.items_N.tolist())
        return self.weight(torch.ones(1, 1)).sum()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == self.save_at:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Recorder, checkpoint: str | None = None, **settings: Any) -> list[list[int]]:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", enable_checkpointing=False, **quiet, **settings)
    trainer.fit(module, batches_of([(i, i + 26) for i in range(26)], 7, seed=3), ckpt_path=checkpoint)
    return module.seen


@pytest.mark.parametrize("extra", [{}, {"limit_train_batches": 3}, {"max_steps": 10}], ids=str)
def test_lightning_resumes_at_any_step(extra, tmp_path):
    full = fit(Recorder(), **extra)
    assert len(full) == {"limit_train_batches": 9, "max_steps": 10}.get(*[*extra, ""][:1], 12)
    assert len({str(batch) for batch in full}) == len(full)  # every epoch has its own order
    for at in range(1, len(full)):
        path = str(tmp_path / f"{at}.ckpt")
        fit(Recorder(at, path), **extra)
        torch.load(path, weights_only=True)
        assert fit(Recorder(), path, **extra) == full[at:]


def test_labelled_rows_become_pairs_of_their_class():
    label = np.repeat(np.arange(3), 4)
    relations = Relations(np.arange(12), np.full(12, -1), label=label)
    nobody = np.empty(0, np.int64)
    known = KnownPositives.of_pairs(nobody, nobody, 12, label)
    batches = Batches(relations, tokens_for(12), known, BatchSettings(6, items_per_class=2), 0)
    for batch in batches:
        for anchor, positive in rows_of(batch):
            assert anchor != positive and label[anchor] == label[positive]
        assert batch.label_B.tolist() == [label[anchor] for anchor, _ in rows_of(batch)]
        assert batch.group_N.tolist() == [label[item] for item in batch.items_N]
        assert len(batch) == 6


def test_scores_weights_and_sources_are_handed_on():
    score = np.array([[0.5, np.nan], [1.0, 0.25]], np.float32)
    relations = Relations(
        np.array([0, 2]),
        np.array([1, 3]),
        np.array([[-1], [4]]),
        score,
        weight=np.array([1, 2], np.float32),
        source=np.array([0, 1]),
    )
    settings = BatchSettings(2, shares=[SourceShare("a"), SourceShare("b")])
    batches = Batches(relations, tokens_for(5), KnownPositives.of_relations(relations, 5), settings, 0)
    found = {batch.source: batch for batch in batches}
    assert found.keys() == {0, 1}
    np.testing.assert_array_equal(found[1].score_Bk, score[1:])
    assert found[1].weight_B.tolist() == [2.0]
    assert found[0].group_N is None


def test_items_that_are_no_texts_have_numbers_and_no_tokens():
    relations = Relations(np.array([0, 1]), np.array([7, 8]))  # items 7 and 8 are images, behind five texts
    batches = Batches(relations, tokens_for(5), KnownPositives.of_relations(relations, 9), BatchSettings(2), 0)
    batch = batches.batch(np.array([0, 1]))
    assert batch.items_N.tolist() == [0, 1, 7, 8]
    assert batch.lengths_cpu == [1, 2]
    assert batch.ids_T.tolist() == [0, 1, 1]


def test_rows_of_mixed_batches_say_where_they_are_from():
    relations = Relations(np.arange(8), np.arange(8) + 8, source=np.arange(8) // 4)
    settings = BatchSettings(4, shares=[SourceShare("a"), SourceShare("b")], one_source_per_batch=False)
    for batch in Batches(relations, tokens_for(16), KnownPositives.of_relations(relations, 16), settings, 0):
        assert batch.source is None
        anchors = batch.items_N[batch.anchor_B]
        assert batch.source_B.tolist() == (anchors // 4).tolist()


def pairs_and_classes() -> tuple[Relations, KnownPositives]:
    """Pairs with texts in common, and classes of two to four members, from three sources."""
    rows = np.arange(60)
    source = np.repeat([0, 1, 2], [30, 20, 10])
    label = np.where(source == 1, 100 + rows // 3, -1)
    relations = Relations(rows // 2 * 2, np.where(source == 1, -1, rows + 60), label=label, source=source)
    relations = replace(relations, anchor=np.where(source == 1, rows, relations.anchor))
    return relations, KnownPositives.of_relations(relations.take(source != 1), 120)


ways = [
    BatchSettings(7, unique=True),
    BatchSettings(7, unique=True, mix_temperature=3.0),
    BatchSettings(7, one_source_per_batch=False),
    BatchSettings(7, one_source_per_batch=False, mix_temperature=3.0),
]


@pytest.mark.parametrize("way", ways, ids=str)
@pytest.mark.parametrize("weights", [(None, None, None), (1.0, 2.0, 3.0)])
def test_a_resume_with_several_sources_continues_with_exactly_the_next_batch(way, weights):
    relations, known = pairs_and_classes()
    shares = [SourceShare(name, weight) for name, weight in zip("abc", weights, strict=True)]

    def start() -> Batches:
        return Batches(relations, tokens_for(120), known, replace(way, shares=shares), 4)

    whole = start()
    expected = [rows_of(batch) for _ in range(3) for batch in whole]
    assert len(expected) == 3 * len(whole)
    for at in range(len(expected)):
        first, resumed = start(), start()
        stream = (batch for _ in range(3) for batch in first)
        for _ in range(at):
            next(stream)
        resumed.load_state_dict(first.state_dict())
        rest: list[Any] = []
        while len(rest) < len(expected) - at:
            rest += [rows_of(batch) for batch in resumed]
        assert rest == expected[at:]


@pytest.mark.parametrize("classes", [False, True])
def test_a_resume_of_one_source_continues_with_exactly_the_next_batch(classes):
    rows = np.arange(40)
    no_pair = np.full(40, -1)
    relations = Relations(rows, no_pair, label=rows // 4) if classes else Relations(rows // 2, rows + 40)
    known = KnownPositives.of_relations(relations, 80)
    settings = BatchSettings(7, unique=True, items_per_class=2)
    whole = Batches(relations, tokens_for(80), known, settings, 1)
    expected = [rows_of(batch) for _ in range(2) for batch in whole]
    resumed = Batches(relations, tokens_for(80), known, settings, 1)
    for at in range(len(whole)):
        resumed.load_state_dict({"epoch": 1, "position": at})
        assert [rows_of(batch) for batch in resumed] == expected[len(whole) + at :]


@given(table=rows, seed=st.integers(0, 3))
def test_without_encode_once_every_use_has_a_place_of_its_own(table, seed):
    once = batches_of(table, len(table) + 1, seed)
    once.set_epoch(0)
    apart = Batches(once.relations, once.tokens, once.known, BatchSettings(len(table) + 1, encode_once=False), seed)
    for shared, own in zip(once, apart, strict=True):
        cells = [item for row in rows_of(shared) for item in row if item >= 0]
        assert rows_of(own) == rows_of(shared)
        assert own.items_N.tolist() == sorted(cells)
        assert own.uses == shared.uses == len(cells) == len(own.items_N)
        places = torch.cat([own.anchor_B, own.positive_B, own.negatives_Bn[own.negatives_Bn >= 0]])
        assert sorted(places.tolist()) == list(range(len(cells)))
        assert own.lengths_cpu == [item % 4 + 1 for item in own.items_N.tolist()]
        # Known of each other: the copies of one item, and those of items that are.
        known = {tuple(pair) for pair in shared.items_N[shared.known_E2].tolist()}
        items = own.items_N.tolist()
        expected = {
            (a, b)
            for a in range(len(items))
            for b in range(len(items))
            if (items[a], items[b]) in known or (items[a] == items[b] and items.count(items[a]) > 1)
        }
        assert {tuple(pair) for pair in own.known_E2.tolist()} == expected


def test_two_views_of_one_text_find_each_other_among_the_others():
    """SimCSE: anchor and positive are the same text, encoded twice."""
    table = [(0, 0, -1), (1, 1, -1), (2, 2, -1)]
    relations = Relations(*np.array(table, np.int64)[:, :2].T)
    known = KnownPositives.of_relations(relations, 3)
    batch = next(iter(Batches(relations, tokens_for(3), known, BatchSettings(3, encode_once=False), 0)))
    assert batch.items_N.tolist() == [0, 0, 1, 1, 2, 2]
    emb_ND = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    anchors, positives = emb_ND[batch.anchor_B], emb_ND[batch.positive_B]
    expected = torch.nn.functional.cross_entropy(anchors @ positives.T / 0.1, torch.arange(3))
    torch.testing.assert_close(InfoNCE(0.1, symmetric=False)(emb_ND, batch), expected)


def test_groups_reach_the_copies():
    relations = Relations(np.array([0, 1]), np.array([1, 2]))
    known = KnownPositives(np.zeros(4, np.int64), np.empty(0, np.int64), group=np.array([5, 5, -1]))
    batch = next(iter(Batches(relations, tokens_for(3), known, BatchSettings(2, encode_once=False), 0)))
    assert batch.items_N.tolist() == [0, 1, 1, 2]
    assert batch.group_N is not None
    assert (batch.group_N == batch.group_N.unsqueeze(1)).sum() == 10

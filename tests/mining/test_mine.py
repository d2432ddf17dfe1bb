from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.items import ABSENT
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.errors import FinetuneError
from finetune.mining import mine as mine_module
from finetune.mining.bm25 import BM25
from finetune.mining.dense import Dense, approximate
from finetune.mining.mine import documents_of, mine
from finetune.mining.settings import Mining
from tests.mining.made import Vectors, counted, items_of, mined, pairs, settings_of

ROWS = 12


def table_of(count: int, seed: int, width: int = 6) -> np.ndarray:
    table = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def brute_force(relations: Relations, known: KnownPositives, table: np.ndarray, chosen: Mining) -> list[list[int]]:
    """Return the negatives of each row, by loops over all documents."""
    documents = documents_of(relations)
    expected = []
    for row in range(len(relations)):
        anchor, positive = int(relations.anchor[row]), int(relations.positive[row])
        score = {int(d): float(table[anchor] @ table[d]) for d in documents}
        ranked = sorted(score, key=lambda d: (-score[d], d))[: chosen.last_rank][chosen.first_rank - 1 :]
        right = set(known.neighbors[known.offsets[anchor] : known.offsets[anchor + 1]].tolist())
        kept = [d for d in ranked if d != anchor and d not in right]
        of_positive = float(table[anchor] @ table[positive])
        if chosen.max_share_of_positive is not None:
            most = of_positive - abs(of_positive) * (1 - chosen.max_share_of_positive)
            kept = [d for d in kept if score[d] <= most]
        if chosen.margin is not None:
            kept = [d for d in kept if score[d] <= of_positive - chosen.margin]
        if chosen.max_score is not None:
            kept = [d for d in kept if score[d] <= chosen.max_score]
        if chosen.min_score is not None:
            kept = [d for d in kept if score[d] >= chosen.min_score]
        expected.append(kept[: chosen.count])
    return expected


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    edges=st.lists(st.tuples(st.integers(0, 9), st.integers(5, 24)), min_size=1, max_size=30, unique=True),
    count=st.integers(1, 4),
    ranks=st.tuples(st.integers(1, 6), st.integers(6, 30)),
    share=st.sampled_from([None, 0.5, 0.95, 1.0]),
    margin=st.sampled_from([None, 0.0, 0.2]),
    bounds=st.sampled_from([(None, None), (0.0, None), (-0.2, 0.4)]),
)
def test_negatives_are_those_of_a_brute_force_search(seed, edges, count, ranks, share, margin, bounds) -> None:
    edges = [(anchor, positive) for anchor, positive in edges if anchor != positive] or [(0, 5)]
    relations = pairs(*zip(*edges, strict=True))
    table = table_of(25, seed)
    chosen = settings_of(
        count=count,
        first_rank=ranks[0],
        last_rank=ranks[1],
        max_share_of_positive=share,
        margin=margin,
        min_score=bounds[0],
        max_score=bounds[1],
    )
    items = items_of([f"text {i}" for i in range(25)])
    found = mined(relations, items, [Dense(Vectors(table))], chosen)
    expected = brute_force(relations, KnownPositives.of_relations(relations, 25), table, chosen)
    assert [[d for d in row if d != ABSENT] for row in found.negatives.tolist()] == expected
    assert found.short == sum(len(row) < count for row in expected)
    for row, negatives in enumerate(expected):
        anchor = relations.anchor[row]
        scores = [table[anchor] @ table[d] for d in [relations.positive[row], *negatives]]
        np.testing.assert_allclose(found.scores[row, : 1 + len(negatives)], scores, atol=1e-6)
        assert np.isnan(found.scores[row, 1 + len(negatives) :]).all()


class TestWhatIsNeverANegative:
    def test_a_positive_of_another_row_and_of_the_other_direction(self) -> None:
        # Rows: 0 with 1 and 2, and 2 with 3. All vectors are equal, so all documents are candidates.
        relations = pairs([0, 0, 2, 5], [1, 2, 3, 4])
        items = items_of(["a", "b", "c", "d", "e", "f"])
        found = mined(relations, items, [Dense(Vectors(np.ones((6, 2), np.float32)))], settings_of(count=5))
        assert [set(row) - {ABSENT} for row in found.negatives.tolist()] == [{3, 4}, {3, 4}, {1, 4}, {1, 2, 3}]
        assert counted(found)["known_positives"] == 2 + 2 + 1 + 1

    def test_members_of_the_same_group(self) -> None:
        relations = pairs([0, 4], [1, 5])
        group = np.array([7, 7, 7, ABSENT, 8, 8])
        known = KnownPositives.of_relations(relations, 6, group)
        items = items_of(["a", "b", "c", "d", "e", "f"])
        dense = Dense(Vectors(np.ones((6, 2), np.float32)))
        found = mine(relations, items, known, np.arange(6), [dense], settings_of(count=5), 0)
        assert [set(row) - {ABSENT} for row in found.negatives.tolist()] == [{3, 4, 5}, {0, 1, 2, 3}]

    def test_equal_text_in_other_case_punctuation_and_under_another_prompt(self) -> None:
        texts = ["query: red cat", "passage: A feline", "passage: Red  cat!", "passage: a feline.", "passage: dog"]
        relations = pairs([0, 0], [1, 1])
        known = KnownPositives.of_relations(relations, 5)
        dense = Dense(Vectors(np.ones((5, 2), np.float32)))
        prompts = ["query: ", "passage: "]
        arguments = relations, items_of(texts), known, np.arange(1, 5), [dense], settings_of(count=4), 0
        assert mine(*arguments, prompts=prompts).negatives[0].tolist() == [4, ABSENT, ABSENT, ABSENT]
        assert mine(*arguments).negatives[0].tolist() == [2, 4, ABSENT, ABSENT]  # by other prompts other texts

    def test_texts_without_letters_are_only_equal_to_themselves(self) -> None:
        relations = pairs([0], [1])
        items = items_of(["?", "yes", "!", "..."])
        known = KnownPositives.of_relations(relations, 4)
        dense = Dense(Vectors(np.ones((4, 2), np.float32)))
        found = mine(relations, items, known, np.arange(1, 4), [dense], settings_of(count=3), 0)
        assert found.negatives[0].tolist() == [2, 3, ABSENT]

    def test_near_duplicates_of_the_anchor_and_of_all_its_positives(self) -> None:
        positive = "The quick brown fox jumps over the lazy dog near the river bank every day"
        other = "A completely different sentence about the weather in the mountains of Peru"
        texts = ["who jumps?", positive, f"{positive}s", other, other.replace("Peru", "Perú x"), "unrelated words only"]
        relations = pairs([0, 0], [1, 3])
        items = items_of(texts)
        known = KnownPositives.of_relations(relations, 6)
        dense = Dense(Vectors(np.ones((6, 2), np.float32)))
        arguments = relations, items, known, np.arange(1, 6), [dense]
        found = mine(*arguments, settings_of(count=1, near_duplicates=True), 0)
        assert found.negatives.tolist() == [[5], [5]]  # each that is left out is replaced by the next
        assert counted(found)["near_duplicates"] == 4
        assert {example.document for example in found.filtered["near_duplicates"].examples} == {2, 4}
        assert mine(*arguments, settings_of(count=1), 0).negatives.tolist() == [[2], [2]]

    def test_negatives_that_the_row_has_already(self) -> None:
        relations = Relations(np.array([0]), np.array([1]), np.array([[2]]))
        dense = Dense(Vectors(np.ones((4, 2), np.float32)))
        known = KnownPositives.of_relations(relations, 4)
        found = mine(relations, items_of(list("abcd")), known, np.arange(1, 4), [dense], settings_of(count=2), 0)
        assert found.negatives.tolist() == [[3, ABSENT]]


def test_rows_without_a_positive_get_none() -> None:
    relations = Relations(
        np.array([0, 1, 2]), np.array([3, ABSENT, 4]), score=np.array([[1.0], [1.0], [0.0]], np.float32)
    )
    found = mined(relations, items_of(list("abcde")), [Dense(Vectors(table_of(5, 0)))], settings_of())
    assert (found.negatives[1:] == ABSENT).all()
    assert found.negatives[0, 0] == 4


def test_each_row_has_the_threshold_of_its_own_positive() -> None:
    table = np.zeros((4, 2), np.float32)
    table[:, 0] = [1, 0.9, 0.5, 0.7]  # the anchor, two positives, another document
    relations = pairs([0, 0], [1, 2])
    known = KnownPositives.of_relations(relations, 4)
    chosen = settings_of(count=1, max_share_of_positive=0.95)
    arguments = relations, items_of(list("abcd")), known, np.arange(1, 4), [Dense(Vectors(table))], chosen, 0
    assert mine(*arguments).negatives.tolist() == [[3], [ABSENT]]
    (example,) = mine(*arguments).filtered["max_share_of_positive"].examples
    assert (example.anchor, example.positive, example.document) == (0, 2, 3)
    assert (example.score, example.positive_score) == pytest.approx((0.7, 0.5))


class TestRandom:
    relations = pairs(range(ROWS), range(ROWS, 2 * ROWS))
    items = items_of([f"text {i}" for i in range(2 * ROWS)])
    chosen = settings_of(pick="random", count=2, last_rank=8)

    def mined(self, seed: int) -> np.ndarray:
        return mined(self.relations, self.items, [Dense(Vectors(table_of(24, 3)))], self.chosen, seed).negatives

    def test_is_the_same_for_one_seed(self) -> None:
        assert self.mined(5).tolist() == self.mined(5).tolist()
        assert self.mined(5).tolist() != self.mined(6).tolist()

    def test_draws_from_all_ranks_evenly(self) -> None:
        top = mined(self.relations, self.items, [Dense(Vectors(table_of(24, 3)))], settings_of(count=8, last_rank=8))
        drawn = [self.mined(seed) for seed in range(150)]
        for row in range(ROWS):
            candidates = [d for d in top.negatives[row].tolist() if d != ABSENT]
            counts = {d: sum(d in found[row] for found in drawn) for d in candidates}
            assert min(counts.values()) > 0.5 * 300 / len(candidates), counts
            assert sum(counts.values()) == 300


def test_results_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    relations = pairs([0, 0, 1, 2, 2, 2, 3], [5, 6, 7, 8, 9, 10, 11])
    items = items_of([f"text number {i}" for i in range(12)])
    for pick in ("top", "random"):
        chosen = settings_of(pick=pick, max_share_of_positive=0.9, near_duplicates=True)
        whole = mined(relations, items, [Dense(Vectors(table_of(12, 4)))], chosen)
        with monkeypatch.context() as patch:
            patch.setattr(mine_module, "_SCORES_AT_ONCE", 1)
            patch.setattr(mine_module, "_ANCHOR_UNIT", 1)
            patch.setattr(mine_module, "_ROW_SCORES_AT_ONCE", 1)
            parts = mined(relations, items, [Dense(Vectors(table_of(12, 4)))], chosen)
        assert whole.negatives.tolist() == parts.negatives.tolist()
        assert whole.scores.tobytes() == parts.scores.tobytes()
        assert whole.filtered == parts.filtered


def test_each_item_is_embedded_once() -> None:
    vectors = Vectors(table_of(24, 3))
    mined(pairs(range(12), range(12, 24)), items_of([str(i) for i in range(24)]), [Dense(vectors)], settings_of())
    assert vectors.embedded == 24


def test_an_approximate_index_finds_the_same_in_a_small_corpus() -> None:
    relations = pairs(range(12), range(12, 24))
    items = items_of([str(i) for i in range(24)])
    exact = mined(relations, items, [Dense(Vectors(table_of(24, 3)))], settings_of())
    index = mined(relations, items, [Dense(Vectors(table_of(24, 3)), search=approximate)], settings_of())
    assert exact.negatives.tolist() == index.negatives.tolist()
    assert exact.scores.tobytes() == index.scores.tobytes()


def test_vectors_that_are_not_finite_are_an_error() -> None:
    table = table_of(4, 0)
    table[2] = np.nan
    with pytest.raises(FinetuneError, match="not finite"):
        mined(pairs([0, 1], [2, 3]), items_of(list("abcd")), [Dense(Vectors(table))], settings_of())


def test_fusion_is_by_reciprocal_rank() -> None:
    # Documents by the dense ranking: 1 2 3 4; by words: 4 3 (the others share no word with the anchor).
    items = items_of(["red cat food", "w", "x", "red y1", "red cat z"])
    table = np.zeros((5, 2), np.float32)
    table[:, 0] = [1, 0.9, 0.8, 0.7, 0.6]
    dense, words = Dense(Vectors(table)), BM25(items)
    relations = pairs([0], [1])
    known = KnownPositives.of_relations(relations, 5)
    found = mine(relations, items, known, np.arange(1, 5), [words, dense], settings_of(count=3), 0)
    points = {2: 1 / 62, 3: 1 / 63 + 1 / 62, 4: 1 / 64 + 1 / 61}
    assert found.negatives[0].tolist() == sorted(points, key=lambda d: -points[d])
    np.testing.assert_allclose(found.scores[0], [0.9, *(table[d, 0] for d in found.negatives[0])])  # of the model


class StubJudge:
    """Finds some pairs right."""

    gives_scores = True

    def __init__(self, right: set[tuple[int, int]]) -> None:
        self.right, self.asked = right, []

    def score(self, anchors_P, documents_P):
        asked = list(zip(anchors_P.tolist(), documents_P.tolist(), strict=True))
        self.asked += asked
        return np.array([0.9 if pair in self.right else 0.1 for pair in asked], np.float32)


class TestJudge:
    relations = pairs([0, 0, 1], [2, 3, 4])
    items = items_of(list("abcdefg"))

    def mined(self, judge: StubJudge, *, relabel: bool) -> object:
        chosen = settings_of(
            count=2, judge=settings_of().judge.__class__(**vars(settings_of().judge) | {"relabel": relabel})
        )
        table = np.ones((7, 2), np.float32)
        known = KnownPositives.of_relations(self.relations, 7)
        dense = Dense(Vectors(table))
        return mine(self.relations, self.items, known, np.arange(2, 7), [dense], chosen, 0, judge=judge)

    def test_what_it_finds_right_is_replaced_and_counted(self) -> None:
        judge = StubJudge({(0, 4), (1, 3)})
        found = self.mined(judge, relabel=False)
        assert found.negatives.tolist() == [[5, 6], [5, 6], [2, 5]]
        assert found.filtered["judge"].candidates == 3
        assert not len(found.relabelled)
        assert len(judge.asked) == len(set(judge.asked))
        np.testing.assert_allclose(found.scores[:, 1:], 0.1)

    def test_what_it_finds_right_becomes_a_positive(self) -> None:
        found = self.mined(StubJudge({(0, 4), (1, 3)}), relabel=True)
        assert found.relabelled.tolist() == [[0, 4], [1, 3]]
        more = found.add_to(self.relations)
        assert more.anchor.tolist() == [0, 0, 1, 0, 1]
        assert more.positive.tolist() == [2, 3, 4, 4, 3]
        assert more.negatives.tolist() == [[5, 6], [5, 6], [2, 5], [5, 6], [2, 5]]
        known = KnownPositives.of_relations(self.relations, 7).with_pairs(*found.relabelled.T)
        assert known.of(np.array([0]))[1].tolist() == [2, 3, 4]
        assert known.of(np.array([3]))[1].tolist() == [0, 1]


def test_mined_negatives_come_after_those_of_the_data() -> None:
    score = np.array([[1.0, 0.2]], np.float32)
    relations = Relations(np.array([0]), np.array([1]), np.array([[2]]), score)
    dense = Dense(Vectors(np.ones((4, 2), np.float32)))
    known = KnownPositives.of_relations(relations, 4)
    found = mine(relations, items_of(list("abcd")), known, np.arange(1, 4), [dense], settings_of(count=1), 0)
    more = found.add_to(relations)
    assert more.negatives.tolist() == [[2, 3]]
    np.testing.assert_array_equal(more.score, [[1.0, np.float32(0.2), np.nan]])


def test_facts_have_the_texts_of_the_examples() -> None:
    found = mined(
        pairs([0, 1], [2, 3]),
        items_of(["q1", "q2", "d1", "d2"]),
        [Dense(Vectors(np.ones((4, 2), np.float32)))],
        settings_of(count=2),
    )
    facts = found.facts(items_of(["q1", "q2", "d1", "d2"]))
    assert (facts["rows"], facts["negatives"], facts["short_rows"]) == (2, 2, 2)
    (first, second) = facts["filtered"]["known_positives"]["examples"]
    assert (first["anchor"], first["positive"], first["document"]) == ("q1", "d1", "d1")
    assert second["anchor"] == "q2"

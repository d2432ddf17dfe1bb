"""Pairs joined from texts that were tokenized by themselves are what the tokenizer itself makes of two texts."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from finetune.data.batching.batches import Batches
from finetune.data.batching.mixing import BatchSettings
from finetune.data.batching.pair_collator import Pairing, SpecialTokenLayout
from finetune.data.items import Items
from finetune.data.known_positives import KnownPositives
from finetune.data.relations import Relations
from finetune.data.tokens.token_store import Tokens
from finetune.models.tokenizer import special_tokens
from tests.conftest import WORDS


def frame_of(tokenizer):
    (before, between, behind), types = special_tokens(tokenizer, 2)
    alone = special_tokens(tokenizer, 1)[0]
    return SpecialTokenLayout(before, between, behind, tuple(types), (len(alone[0]), len(alone[1])))


@pytest.fixture(scope="module")
def real(minilm):
    return AutoTokenizer.from_pretrained(minilm)


words = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


@settings(max_examples=60, deadline=None)
@example(left="red red red red red", right="red red red red", max_length=6)
@example(left="red red red red", right="red red red red red", max_length=6)
@given(left=words, right=words, max_length=st.integers(5, 30))
def test_as_the_tokenizer_itself(real, left, right, max_length):
    import pyarrow as pa

    whole = [real(text, add_special_tokens=False)["input_ids"] for text in (left, right)]
    stored = max_length - 2  # tokens of a text by itself, without [CLS] and [SEP]
    if min(map(len, whole)) >= stored:
        # The tokenizer would give an odd token to the longer text; here both count as equally long.
        left, right = (real.decode(ids[:stored]) for ids in whole)
    expected = real([left], [right], truncation="longest_first", max_length=max_length)
    items = Items.of_texts(pa.array(list(dict.fromkeys([left, right])), pa.large_string()))
    tokens = Tokens.build(items, real, max_length)
    rows = np.array([0]), np.array([len(items) - 1])
    ids, lengths = Pairing(frame_of(real), max_length, 0).of_items(tokens, *rows)
    assert ids[:, 0].tolist() == expected["input_ids"][0]
    assert ids[:, 1].tolist() == expected["token_type_ids"][0]
    assert lengths.tolist() == [len(ids)]


def batch_of(relations, items, real, negatives=2):
    import pyarrow as pa

    texts = pa.array([f"{WORDS[i % 20]} {i}" for i in range(items)], pa.large_string())
    tokens = Tokens.build(Items.of_texts(texts), real, 16)
    known = KnownPositives.of_relations(relations, items)
    pairing = Pairing(frame_of(real), 16, negatives)
    return next(iter(Batches(relations, tokens, known, BatchSettings(len(relations)), 0, None, pairing)))


def test_negatives_are_from_other_rows_and_never_positives(real):
    # Item 0 is right for 4 and for 5; 8 is both anchor and positive.
    relations = Relations(np.array([0, 0, 2, 8]), np.array([4, 5, 6, 7]))
    batch = batch_of(relations, 9, real, negatives=5)
    assert batch.negatives_Bn.shape == (4, 3)  # there are no more rows
    pairs = batch.pair_Bk
    assert (pairs[:, 0] >= 0).all()
    assert int((pairs >= 0).sum()) == len(batch.lengths_cpu) == 4 + 3 * 4 - 2  # 0-5 and 0-4 are left out
    assert sorted(pairs[pairs >= 0].tolist()) == list(range(len(batch.lengths_cpu)))


def test_given_negatives_and_scores_are_scored_as_they_are(real):
    score = np.array([[1.0, 0.5], [2.0, np.nan]], np.float32)
    relations = Relations(np.array([0, 1]), np.array([2, 3]), np.array([[4], [-1]]), score=score)
    batch = batch_of(relations, 5, real, negatives=3)
    assert batch.negatives_Bn.shape == (2, 1)
    assert len(batch.lengths_cpu) == 3
    assert torch.equal(batch.pair_Bk < 0, torch.from_numpy(np.isnan(batch.score_Bk.numpy())))

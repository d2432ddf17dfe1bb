"""Pairs of texts as one sequence each, for an encoder that reads both at once.

P pairs, B relations, k documents of each, N items of a batch, T tokens of all pairs in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from finetune.data.arrays import Ints, flat_ranges
from finetune.data.batching.batch import Batch
from finetune.data.tokens.token_store import Tokens
from finetune.data.tokens.tokenize import TokenIds


@dataclass(frozen=True)
class SpecialTokenLayout:
    """How a tokenizer joins two texts: the tokens before the first, between them, and behind the second.

    `types` are what it says of the tokens of these and of the two texts, in the order in which they stand.
    `alone` is how many tokens stand before and behind a text by itself.
    """

    before: Sequence[int]
    between: Sequence[int]
    behind: Sequence[int]
    types: tuple[int, int, int, int, int]
    alone: tuple[int, int]

    @property
    def marks(self) -> int:
        """The number of tokens that are no text's."""
        return len(self.before) + len(self.between) + len(self.behind)


class Pairing:
    """Joins texts that were tokenised one by one, cut to `max_length` tokens together.

    What a row of a batch is scored for are its positive and its negatives, and `negatives` positives of other rows
    where rows have no scores: those that follow it, since the order is random anyway; never a known positive.
    """

    def __init__(self, frame: SpecialTokenLayout, max_length: int, negatives: int) -> None:
        self.frame = frame
        self.max_length = max_length
        self.negatives = negatives

    def join(self, left: tuple[TokenIds, Ints], right: tuple[TokenIds, Ints]) -> tuple[TokenIds, Ints]:
        """Return pairs of texts `(T, 2)`, token ids and their types, and the length of each pair, `(P,)`.

        Each side is the token ids of P texts in a row, as they stand alone, and the length of each.
        """
        frame, (first, last) = self.frame, self.frame.alone
        marks = np.array([*frame.before, *frame.between, *frame.behind], np.int64)
        source = np.concatenate([marks, left[0].astype(np.int64), right[0].astype(np.int64)])
        starts_P5 = np.zeros((len(left[1]), 5), np.int64)
        lengths_P5 = np.zeros_like(starts_P5)
        lengths_P5[:, [0, 2, 4]] = len(frame.before), len(frame.between), len(frame.behind)
        starts_P5[:, [2, 4]] = len(frame.before), len(frame.before) + len(frame.between)
        for column, lengths_P, offset in ((1, left[1], len(marks)), (3, right[1], len(marks) + len(left[0]))):
            starts_P5[:, column] = offset + np.cumsum(lengths_P) - lengths_P + first
            lengths_P5[:, column] = np.maximum(0, lengths_P - first - last)
        lengths_P5[:, 1], lengths_P5[:, 3] = _cut(lengths_P5[:, 1], lengths_P5[:, 3], self.max_length - frame.marks)
        ids_T = source[flat_ranges(starts_P5.ravel(), lengths_P5.ravel())]
        types_T = np.repeat(np.tile(np.array(frame.types), len(lengths_P5)), lengths_P5.ravel())
        return np.column_stack([ids_T, types_T]), lengths_P5.sum(axis=1)

    def of_items(self, tokens: Tokens, left: Ints, right: Ints) -> tuple[TokenIds, Ints]:
        """Return the pairs of these items, as `join` does."""
        return self.join(tokens.take(left), tokens.take(right))

    def batch(self, batch: Batch, tokens: Tokens) -> Batch:
        """Return a batch whose items are the pairs to score; `pair_Bk` says where each document's stands."""
        if self.negatives and batch.score_Bk is None:
            batch = _with_negatives(batch, self.negatives)
        documents_Bk = np.column_stack([batch.positive_B.numpy(), batch.negatives_Bn.numpy()])
        row_P, column_P = np.nonzero(documents_Bk >= 0)
        items_N = batch.items_N.numpy()
        left, right = items_N[batch.anchor_B.numpy()[row_P]], items_N[documents_Bk[row_P, column_P]]
        ids_T2, lengths_P = self.of_items(tokens, left, right)
        pair_Bk = np.full(documents_Bk.shape, -1)
        pair_Bk[row_P, column_P] = np.arange(len(row_P))
        return replace(
            batch,
            items_N=torch.arange(len(row_P)),
            ids_T=torch.from_numpy(ids_T2),
            lengths_N=torch.from_numpy(lengths_P),
            lengths_cpu=lengths_P.tolist(),
            uses=len(row_P),
            pair_Bk=torch.from_numpy(pair_Bk),
        )


def _cut(left_P: Ints, right_P: Ints, room: int) -> tuple[Ints, Ints]:
    """Return how much of two texts fits: the longer one is cut until both are equally long, then both."""
    short_P, long_P = np.minimum(left_P, right_P), np.maximum(left_P, right_P)
    long_P = np.minimum(long_P, np.maximum(short_P, room - short_P))
    over = short_P + long_P > room
    short_P, long_P = np.where(over, room // 2, short_P), np.where(over, room - room // 2, long_P)
    swap = left_P > right_P
    return np.where(swap, long_P, short_P), np.where(swap, short_P, long_P)


def _with_negatives(batch: Batch, count: int) -> Batch:
    """Give each row the positives of the `count` rows that follow it, -1 where they are right for it."""
    rows, items = len(batch), len(batch.items_N)
    anchor_B, positive_B = batch.anchor_B.numpy(), batch.positive_B.numpy()
    places = (np.arange(rows)[:, None] + 1 + np.arange(min(count, rows - 1))) % rows
    found_Bn = positive_B[places]
    known = batch.known_E2.numpy()
    right_Bn = np.isin(anchor_B[:, None] * items + found_Bn, known[:, 0] * items + known[:, 1])
    right_Bn |= (found_Bn == anchor_B[:, None]) | (found_Bn == positive_B[:, None])
    if batch.group_N is not None:
        group_N = batch.group_N.numpy()
        right_Bn |= group_N[found_Bn] == group_N[anchor_B][:, None]
    more_Bn = torch.from_numpy(np.where(right_Bn, -1, found_Bn))
    return replace(batch, negatives_Bn=torch.cat([batch.negatives_Bn, more_Bn], 1))

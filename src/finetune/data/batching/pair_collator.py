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
    """How a tokenizer joins two texts: the special tokens before the first, between them, and after the second.

    `types` are the token types of these and of the two texts, in their order in the sequence. `alone` is the number of
    special tokens before and after a single text.
    """

    before: Sequence[int]
    between: Sequence[int]
    after: Sequence[int]
    types: tuple[int, int, int, int, int]
    alone: tuple[int, int]

    @property
    def special_tokens(self) -> int:
        """The number of special tokens around two texts."""
        return len(self.before) + len(self.between) + len(self.after)


class Pairing:
    """Joins pairs of texts that were tokenized one by one, truncated to `max_length` tokens per pair.

    Each row of a batch is scored against its positive and its negatives, and where rows have no scores also against
    `negatives` positives of other rows: those of the rows that follow, since the order is random; never a known
    positive.
    """

    def __init__(self, layout: SpecialTokenLayout, max_length: int, negatives: int) -> None:
        self.layout = layout
        self.max_length = max_length
        self.negatives = negatives

    def join(self, left: tuple[TokenIds, Ints], right: tuple[TokenIds, Ints]) -> tuple[TokenIds, Ints]:
        """Return pairs of texts `(T, 2)`, token ids and their types, and the length of each pair, `(P,)`.

        Each side is the concatenated token ids of P texts, special tokens included, and the length of each.
        """
        layout, (first, last) = self.layout, self.layout.alone
        special = np.array([*layout.before, *layout.between, *layout.after], np.int64)
        source = np.concatenate([special, left[0].astype(np.int64), right[0].astype(np.int64)])
        starts_P5 = np.zeros((len(left[1]), 5), np.int64)
        lengths_P5 = np.zeros_like(starts_P5)
        lengths_P5[:, [0, 2, 4]] = len(layout.before), len(layout.between), len(layout.after)
        starts_P5[:, [2, 4]] = len(layout.before), len(layout.before) + len(layout.between)
        for column, lengths_P, offset in ((1, left[1], len(special)), (3, right[1], len(special) + len(left[0]))):
            starts_P5[:, column] = offset + np.cumsum(lengths_P) - lengths_P + first
            lengths_P5[:, column] = np.maximum(0, lengths_P - first - last)
        room = self.max_length - layout.special_tokens
        lengths_P5[:, 1], lengths_P5[:, 3] = _truncate(lengths_P5[:, 1], lengths_P5[:, 3], room)
        ids_T = source[flat_ranges(starts_P5.ravel(), lengths_P5.ravel())]
        types_T = np.repeat(np.tile(np.array(layout.types), len(lengths_P5)), lengths_P5.ravel())
        return np.column_stack([ids_T, types_T]), lengths_P5.sum(axis=1)

    def of_items(self, tokens: Tokens, left: Ints, right: Ints) -> tuple[TokenIds, Ints]:
        """Return the pairs of these items, as `join` does."""
        return self.join(tokens.take(left), tokens.take(right))

    def batch(self, batch: Batch, tokens: Tokens) -> Batch:
        """Return a batch whose items are the pairs to score; `pair_Bk` is the index of each document's pair."""
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


def _truncate(left_P: Ints, right_P: Ints, room: int) -> tuple[Ints, Ints]:
    """Return the lengths of two texts that fit: the longer one is cut until both are equally long, then both.

    An odd token goes to the longer text, of equally long ones to the right, as in the tokenizers library. Texts that
    are longer than `max_length` by themselves count as equally long, since no more of them is stored.
    """
    short_P, long_P = np.minimum(left_P, right_P), np.maximum(left_P, right_P)
    long_P = np.minimum(long_P, np.maximum(short_P, room - short_P))
    over = short_P + long_P > room
    short_P, long_P = np.where(over, room // 2, short_P), np.where(over, room - room // 2, long_P)
    swap = left_P > right_P
    return np.where(swap, long_P, short_P), np.where(swap, short_P, long_P)


def _with_negatives(batch: Batch, count: int) -> Batch:
    """Give each row the positives of the `count` rows that follow it, -1 for known positives of its anchor."""
    rows, items = len(batch), len(batch.items_N)
    anchor_B, positive_B = batch.anchor_B.numpy(), batch.positive_B.numpy()
    following = (np.arange(rows)[:, None] + 1 + np.arange(min(count, rows - 1))) % rows
    found_Bn = positive_B[following]
    known = batch.known_E2.numpy()
    is_positive_Bn = np.isin(anchor_B[:, None] * items + found_Bn, known[:, 0] * items + known[:, 1])
    is_positive_Bn |= (found_Bn == anchor_B[:, None]) | (found_Bn == positive_B[:, None])
    if batch.group_N is not None:
        group_N = batch.group_N.numpy()
        is_positive_Bn |= group_N[found_Bn] == group_N[anchor_B][:, None]
    more_Bn = torch.from_numpy(np.where(is_positive_Bn, -1, found_Bn))
    return replace(batch, negatives_Bn=torch.cat([batch.negatives_Bn, more_Bn], 1))

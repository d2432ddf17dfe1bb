"""The micro-batch engine: encodes each distinct item of a batch once, without paying for padding or for memory.

Shapes: N distinct items, T tokens of all of them in a row, n items of one micro-batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune.config.types import CountFromZero, PositiveInt
from finetune.data.arrays import Ints
from finetune.models.cutting import cheapest, fill
from finetune.models.packing import upload
from finetune.models.text import TextEncoder
from finetune.training import budget, memory

if TYPE_CHECKING:
    from finetune.data.tokens import Tokens


class Engine:
    """Encodes items in micro-batches of like length, of at most `token_budget` tokens each.

    The graphs of as many micro-batches as fit into `activation_mb` are kept for the backward pass; the others are
    computed again in it, with the same random numbers: gradient caching (Gao et al. 2021,
    https://arxiv.org/abs/2101.06983) as far as it is needed. When memory runs out, both are halved and the step is
    taken again. None of this changes the loss: the embeddings come back in the order of the items.

    For an encoder that has to pad, another micro-batch costs about as much as `call_cost` more padded tokens: it is
    worth it where it saves more padding. `compile` has the backbone compiled by torch before a run.
    """

    def __init__(
        self,
        token_budget: PositiveInt | Literal["auto"] = "auto",
        activation_mb: CountFromZero | Literal["auto"] = "auto",
        call_cost: CountFromZero = 128,
        compile: bool = False,
    ) -> None:
        self.token_budget = token_budget
        self.activation_mb = activation_mb
        self.call_cost = call_cost
        self.compile = compile
        self._budget: budget.Budget | None = None
        self._longest = 0  # tokens of an item of the last step
        self.recomputed_share = 0.0  # of the tokens of the last step, 0 to 1

    def encode(self, encoder: TextEncoder, ids_T: Tensor, lengths_N: Ints, rows_n: Ints | None = None) -> Tensor:
        """Embed items given as one row of token ids and the length of each; returns `(N, D)` with gradients.

        `rows_n` asks for some of the items only, `(n, D)` in that order. `lengths_N` stays on the CPU: cutting by
        length must not wait for the device.
        """
        rows_n = np.arange(len(lengths_N)) if rows_n is None else rows_n
        self._longest = int(lengths_N[rows_n].max())
        while True:
            try:
                return self._encode(encoder, ids_T, lengths_N, rows_n)
            except (RuntimeError, MemoryError) as error:
                if not memory.is_shortage(error):
                    raise
                self.halve(error)

    def halve(self, error: BaseException) -> None:
        """Compute and keep half as much at once from now on, because memory ran out for what was encoded last.

        Raises:
            BaseException: `error`, when a single item was too much already.
        """
        assert self._budget is not None
        self._budget.halve(self._longest, error)

    def _encode(self, encoder: TextEncoder, ids_T: Tensor, lengths_N: Ints, rows_n: Ints) -> Tensor:
        starts_N = np.cumsum(lengths_N) - lengths_N
        # Longest first: what they keep of each token is the most that the next, which are shorter, can keep.
        cuts = list(self.cut(lengths_N[rows_n], encoder))[::-1]
        lookup = encoder.lookup()
        kept = memory.Kept(encoder.parameters())
        limit, kept_tokens = self.budget(encoder).kept, 0
        parts: list[Tensor] = []
        for cut in cuts:
            rows = rows_n[cut]
            lengths = lengths_N[rows]
            ids, count = _tokens(ids_T, starts_N[rows], lengths), int(lengths.sum())
            # What the first keeps is not known before; with any limit but none it is worth to find out.
            if limit and kept.bytes + count * kept.bytes / max(1, kept_tokens) <= limit:
                with kept.counted(ids_T.device):
                    parts.append(encoder(ids, lengths, lookup))
                kept_tokens += count
            else:
                parts.append(cast(Tensor, checkpoint(encoder, ids, lengths, lookup, use_reentrant=False)))
        self.recomputed_share = 1 - kept_tokens / int(lengths_N[rows_n].sum())
        return torch.cat(parts)[upload(np.argsort(np.concatenate(cuts)), ids_T.device)]

    @torch.inference_mode()
    def embed(self, encoder: TextEncoder, tokens: Tokens, items: Ints) -> Iterator[tuple[Ints, Tensor]]:
        """Embed any number of items for evaluation: yields (positions in `items`, their embeddings), longest first.

        Longest first, so that a device that is too small says so at once and the time left is not underestimated.
        """
        device = next(encoder.parameters()).device
        for rows in reversed(list(self.cut(tokens.lengths[items], encoder))):
            ids_T, lengths_n = tokens.take(items[rows])
            yield rows, encoder(upload(ids_T.astype(np.int64), device), lengths_n)

    def cut(self, lengths_N: Ints, encoder: TextEncoder) -> Iterator[Ints]:
        """Cut items into micro-batches, shortest first: yields the positions of each."""
        order_N, most = np.argsort(lengths_N, kind="stable"), self.budget(encoder).tokens
        sorted_N = lengths_N[order_N]
        bounds = fill(sorted_N, most) if encoder.packs else cheapest(sorted_N, most, self.call_cost)
        yield from np.split(order_N, bounds)

    def padding_share(self, lengths_N: Ints, encoder: TextEncoder) -> float:
        """Return the share of padded positions, 0 to 1, that encoding these items costs."""
        if encoder.packs:
            return 0.0
        padded = sum(len(rows) * int(lengths_N[rows].max()) for rows in self.cut(lengths_N, encoder))
        return 1 - float(lengths_N.sum()) / padded

    def budget(self, encoder: TextEncoder) -> budget.Budget:
        """Return the budget of this run, found when it is first asked for."""
        if self._budget is None:
            tokens, kept_mb = (None if value == "auto" else value for value in (self.token_budget, self.activation_mb))
            self._budget = budget.find(encoder, tokens, kept_mb)
        return self._budget


def _tokens(ids_T: Tensor, starts_n: Ints, lengths_n: Ints) -> Tensor:
    """Return the tokens of items that begin at `starts_n`, one after the other."""
    first_n = np.cumsum(lengths_n) - lengths_n
    return ids_T[upload(np.arange(lengths_n.sum()) + np.repeat(starts_n - first_n, lengths_n), ids_T.device)]

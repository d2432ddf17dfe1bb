"""The micro-batch engine: encodes each distinct item of a batch once, without paying for padding or for memory.

Shapes: N distinct items, M of them no texts, T tokens of all texts in a row, n items of one micro-batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune.config.types import CountFromZero, PositiveInt
from finetune.data.arrays import Ints
from finetune.encoding import budget, memory
from finetune.models.encoder import Encoder
from finetune.models.micro_batching import optimal_cuts, pack_greedy, split
from finetune.models.packing import upload
from finetune.runs.failure_causes import is_out_of_memory

if TYPE_CHECKING:
    from finetune.data.batching.non_text import NonText
    from finetune.data.tokens.token_store import Tokens
    from finetune.encoding.collectives import Collectives

Bools = npt.NDArray[np.bool_]
_ALL = slice(None)


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
        embed_precision: Literal["32-true", "bf16-mixed"] = "32-true",
    ) -> None:
        self.token_budget = token_budget
        self.activation_mb = activation_mb
        self.call_cost = call_cost
        self.compile = compile
        self.embed_precision = embed_precision
        self._budget: budget.Budget | None = None
        self._halved = False
        self._longest = 0  # tokens of an item of the last step
        self.recomputed_share = 0.0  # of the tokens of the last step, 0 to 1

    def encode(
        self,
        encoder: Encoder,
        ids_T: Tensor,
        lengths_N: Ints,
        rows_n: Ints | None = None,
        other_M: Tensor | None = None,
        alike: Collectives | None = None,
    ) -> Tensor:
        """Embed texts, given as one row of token ids and the length of each, and after them other items.

        Returns `(N, D)` with gradients. `rows_n` asks for some of the items only, `(n, D)` in that order. `lengths_N`
        stays on the CPU: cutting by length must not wait for the device. `alike` are processes that all have to make as
        many micro-batches, and recompute the same of them; each has as many items.
        """
        others = 0 if other_M is None else len(other_M)
        rows_n = np.arange(len(lengths_N) + others) if rows_n is None else rows_n
        costs_N = np.concatenate([lengths_N, np.full(others, encoder.other_cost)])
        self._longest = int(costs_N[rows_n].max())
        while True:
            try:
                return self._encode(encoder, ids_T, lengths_N, rows_n, other_M, costs_N, alike)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or alike is not None:
                    raise
                self.halve(error)

    def halve(self, error: BaseException) -> None:
        """Compute and keep half as much at once from now on, because memory ran out for what was encoded last.

        Raises:
            BaseException: `error`, when a single item was too much already.
        """
        assert self._budget is not None
        self._budget.halve(self._longest, error)
        self._halved = True

    def state_dict(self) -> dict[str, int]:
        """Return the budget if it was halved: a run that goes on has to cut its batches as before."""
        return {"tokens": self._budget.tokens, "kept": self._budget.kept} if self._budget and self._halved else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take back a budget that was halved."""
        if state:
            self._budget, self._halved = budget.Budget(**state), True

    def _encode(
        self,
        encoder: Encoder,
        ids_T: Tensor,
        lengths_N: Ints,
        rows_n: Ints,
        other_M: Tensor | None,
        costs_N: Ints,
        alike: Collectives | None,
    ) -> Tensor:
        starts_N = np.cumsum(lengths_N) - lengths_N
        # Longest first: what they keep of each token is the most that the next, which are shorter, can keep.
        cuts = list(self.cut(costs_N[rows_n], encoder, rows_n >= len(lengths_N)))[::-1]
        if alike is not None:
            cuts = split(cuts, alike.largest(len(cuts)))
        lookup = encoder.lookup()
        kept = memory.SavedTensorCounter(encoder.parameters(), lookup.storages if lookup is not None else frozenset())
        limit, kept_tokens = self.budget(encoder).kept, 0
        parts: list[Tensor] = []
        for cut in cuts:
            rows = rows_n[cut]
            count = int(costs_N[rows].sum())
            inputs: tuple[Any, ...]
            if other_M is not None and rows[0] >= len(lengths_N):
                inputs = (other_M[upload(rows - len(lengths_N), other_M.device)],)
            else:
                inputs = _tokens(ids_T, starts_N[rows], lengths_N[rows]), lengths_N[rows], lookup
            # What the first keeps is not known before; with any limit but none it is worth to find out.
            is_too_much = not limit or kept.bytes + count * kept.bytes / max(1, kept_tokens) > limit
            if not (is_too_much if alike is None else alike.largest(is_too_much)):
                with kept.counted(inputs[0].device):
                    parts.append(encoder(*inputs))
                kept_tokens += count
            else:
                parts.append(cast(Tensor, checkpoint(encoder, *inputs, use_reentrant=False)))
        self.recomputed_share = 1 - kept_tokens / int(costs_N[rows_n].sum())
        return torch.cat(parts)[upload(np.argsort(np.concatenate(cuts)), parts[0].device)]

    @torch.inference_mode()
    def embed(
        self,
        encoder: Encoder,
        tokens: Tokens,
        items: Ints,
        others: NonText | None = None,
        most: int | None = None,
        part: slice = _ALL,
    ) -> Iterator[tuple[Ints, Tensor]]:
        """Embed any number of items for evaluation: yields (positions in `items`, their embeddings), longest first.

        Longest first, so that a device that is too small says so at once and the time left is not underestimated.
        `most` are the tokens of a micro-batch, if not as many as in training; `part` is which of them are computed.
        """
        device = next(encoder.parameters()).device
        is_text_N = items < len(tokens)
        costs_N = np.full(len(items), encoder.other_cost)
        costs_N[is_text_N] = tokens.lengths[items[is_text_N]]
        lookup = encoder.lookup()
        for rows in list(self.cut(costs_N, encoder, ~is_text_N, most))[::-1][part]:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.embed_precision == "bf16-mixed"):
                if is_text_N[rows[0]]:
                    ids_T, lengths_n = tokens.take(items[rows])
                    found = encoder(upload(ids_T.astype(np.int64), device), lengths_n, lookup)
                else:
                    assert others is not None
                    found = encoder(upload(others.take(items[rows]), device))
            yield rows, found.float()

    def cut(
        self, lengths_N: Ints, encoder: Encoder, other_N: Bools | None = None, most: int | None = None
    ) -> Iterator[Ints]:
        """Cut items into micro-batches of at most so many tokens, shortest first: yields the positions of each.

        `other_N` says which are no texts; these come last, and by themselves.
        """
        most = most or self.budget(encoder).tokens
        is_text_N = np.full(len(lengths_N), True) if other_N is None else ~other_N
        for places, packs in ((np.flatnonzero(is_text_N), encoder.packs), (np.flatnonzero(~is_text_N), True)):
            if len(places):
                order = np.argsort(lengths_N[places], kind="stable")
                sorted_n = lengths_N[places][order]
                bounds = pack_greedy(sorted_n, most) if packs else optimal_cuts(sorted_n, most, self.call_cost)
                yield from np.split(places[order], bounds)

    def padding_share(self, lengths_N: Ints, encoder: Encoder) -> float:
        """Return the share of padded positions, 0 to 1, that encoding these items costs."""
        if encoder.packs or not len(lengths_N):
            return 0.0
        padded = sum(len(rows) * int(lengths_N[rows].max()) for rows in self.cut(lengths_N, encoder))
        return 1 - float(lengths_N.sum()) / padded

    def budget(self, encoder: Encoder) -> budget.Budget:
        """Return the budget of this run, found when it is first asked for."""
        if self._budget is None:
            tokens, kept_mb = (None if value == "auto" else value for value in (self.token_budget, self.activation_mb))
            self._budget = budget.find(encoder, tokens, kept_mb)
        return self._budget


def _tokens(ids_T: Tensor, starts_n: Ints, lengths_n: Ints) -> Tensor:
    """Return the tokens of items that begin at `starts_n`, one after the other."""
    first_n = np.cumsum(lengths_n) - lengths_n
    return ids_T[upload(np.arange(lengths_n.sum()) + np.repeat(starts_n - first_n, lengths_n), ids_T.device)]

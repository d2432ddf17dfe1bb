"""The micro-batch engine: encodes each distinct item of a batch once, within a memory budget and with little padding.

From a batch to the embeddings, in `Engine.encode`:

1. The items are sorted by length and cut into micro-batches of at most `token_budget` tokens (`Engine.cut`).
2. The encoder computes one micro-batch after the other. The activations of the first ones are kept for the backward
   pass, up to a budget; the others are freed and computed again in it, by `torch.utils.checkpoint`.
3. The embeddings are put back into the order of the items.

The result is one tensor with one autograd graph, as if all items had been computed at once. In `Engine.embed`, for an
evaluation, there are no gradients, and step 3 is left to the caller.

Shapes: N distinct items, M of them not texts, T tokens of all texts in one row, n items of one micro-batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune.config.types import CountFromZero, PositiveInt
from finetune.data.arrays import Ints
from finetune.encoding import memory
from finetune.models.encoder import Encoder
from finetune.models.micro_batching import optimal_cuts, pack_greedy, split
from finetune.models.packing import upload
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.runs.failure_causes import is_out_of_memory

if TYPE_CHECKING:
    from finetune.data.tokens.token_store import Tokens
    from finetune.encoding.collectives import Collectives


class NonTextItems(Protocol):
    """Items that are not texts, which are loaded when a micro-batch needs them."""

    def take(self, items_M: Ints) -> npt.NDArray[np.float32]:
        """Return the items with these numbers as an encoder takes them, `(M, ...)`."""
        ...


Bools = npt.NDArray[np.bool_]
_ALL = slice(None)


class Engine:
    """Encodes items in micro-batches of similar length, of at most `token_budget` tokens each.

    The activations of as many micro-batches as fit into `activation_mb` are kept for the backward pass; the others are
    computed again in it, with the same random numbers: gradient caching (Gao et al. 2021,
    https://arxiv.org/abs/2101.06983), as far as it is needed. When memory runs out, both budgets are halved and the
    step is repeated. The loss does not depend on any of this.

    For an encoder that has to pad, `call_cost` is the cost of one more micro-batch in padded tokens: a cut is made if
    it saves more padding than that. With `compile` torch compiles the backbone before a run.
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
        self._budget: memory.Budget | None = None
        self._is_halved = False
        self._longest = 0  # tokens of the longest item of the last step
        self.recomputed_share = 0.0  # of the tokens of the last step, 0 to 1

    def encode(
        self,
        encoder: Encoder,
        ids_T: Tensor,
        lengths_N: Ints,
        items_n: Ints | None = None,
        other_M: Tensor | None = None,
        in_step: Collectives | None = None,
    ) -> Tensor:
        """Return the embeddings `(N, D)` with gradients of texts and, after them, other items.

        The texts are given as one row of token ids and the length of each; `lengths_N` is on the CPU, so that cutting
        does not wait for the device. With `items_n` only these items are encoded, `(n, D)` in that order.
        `in_step` are processes that have to compute the same number of micro-batches and recompute the same of them;
        each has the same number of items.
        """
        others = 0 if other_M is None else len(other_M)
        if items_n is None:
            items_n = np.arange(len(lengths_N) + others)
        costs_N = np.concatenate([lengths_N, np.full(others, encoder.other_cost)])
        self._longest = int(costs_N[items_n].max())
        while True:
            try:
                return self._encode(encoder, ids_T, lengths_N, items_n, other_M, costs_N, in_step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or in_step is not None:
                    raise
                self.halve(error)

    def _encode(
        self,
        encoder: Encoder,
        ids_T: Tensor,
        lengths_N: Ints,
        items_n: Ints,
        other_M: Tensor | None,
        costs_N: Ints,
        in_step: Collectives | None,
    ) -> Tensor:
        cuts = self._cuts_for_step(encoder, costs_N[items_n], items_n >= len(lengths_N), in_step)
        starts_N = np.cumsum(lengths_N) - lengths_N
        token_embedding = encoder.token_embedding()
        shared = token_embedding.storages if token_embedding is not None else frozenset()
        saved = memory.SavedTensorCounter(encoder.parameters(), shared)
        limit = self.budget(encoder).kept
        kept_tokens = 0
        embeddings: list[Tensor] = []
        for cut in cuts:
            items = items_n[cut]
            tokens = int(costs_N[items].sum())
            inputs: tuple[Any, ...]  # the arguments of `Encoder.forward`
            if other_M is not None and items[0] >= len(lengths_N):
                inputs = (other_M[upload(items - len(lengths_N), other_M.device)],)
            else:
                inputs = _tokens(ids_T, starts_N[items], lengths_N[items]), lengths_N[items], token_embedding
            # The activations of the first micro-batch are unknown before it is computed: any limit but 0 keeps it.
            expected = saved.bytes + tokens * saved.bytes / max(1, kept_tokens)
            recompute = not limit or expected > limit
            if in_step is not None:
                recompute = bool(in_step.all_reduce_max(recompute))
            if recompute:
                embeddings.append(cast(Tensor, checkpoint(encoder, *inputs, use_reentrant=False)))
            else:
                with saved.counted(inputs[0].device):
                    embeddings.append(encoder(*inputs))
                kept_tokens += tokens
        self.recomputed_share = 1 - kept_tokens / int(costs_N[items_n].sum())
        in_order_n = np.argsort(np.concatenate(cuts))
        return torch.cat(embeddings)[upload(in_order_n, embeddings[0].device)]

    def _cuts_for_step(
        self, encoder: Encoder, costs_n: Ints, is_other_n: Bools, in_step: Collectives | None
    ) -> list[Ints]:
        """Return the positions of each micro-batch, longest first; as many as in the processes of `in_step`.

        Longest first: the activations per token of a micro-batch are then an upper bound for those of the next.
        """
        cuts = list(self.cut(costs_n, encoder, is_other_n))[::-1]
        if in_step is not None:
            cuts = split(cuts, in_step.all_reduce_max(len(cuts)))
        return cuts

    @torch.inference_mode()
    def embed(
        self,
        encoder: Encoder,
        tokens: Tokens,
        items: Ints,
        others: NonTextItems | None = None,
        token_budget: int | None = None,
        share: slice = _ALL,
        token_embedding: SharedGradEmbedding | None = None,
    ) -> Iterator[tuple[Ints, Tensor]]:
        """Embed any number of items for an evaluation; yields (positions in `items`, their embeddings in fp32).

        The longest items come first: memory runs out at once if at all, and the time left is not underestimated.
        `token_budget` limits a micro-batch, as in training without it; `share` selects some of the micro-batches.
        `token_embedding` is shared by several calls, while the weights do not change.
        """
        device = next(encoder.parameters()).device
        is_text_N = items < len(tokens)
        costs_N = np.full(len(items), encoder.other_cost)
        costs_N[is_text_N] = tokens.lengths[items[is_text_N]]
        if token_embedding is None:
            token_embedding = encoder.token_embedding()
        cuts = list(self.cut(costs_N, encoder, ~is_text_N, token_budget))[::-1]
        for positions in cuts[share]:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.embed_precision == "bf16-mixed"):
                if is_text_N[positions[0]]:
                    ids_T, lengths_n = tokens.take(items[positions])
                    emb_nD = encoder(upload(ids_T.astype(np.int64), device), lengths_n, token_embedding)
                else:
                    assert others is not None
                    emb_nD = encoder(upload(others.take(items[positions]), device))
            yield positions, emb_nD.float()

    def cut(
        self, lengths_N: Ints, encoder: Encoder, is_other_N: Bools | None = None, token_budget: int | None = None
    ) -> Iterator[Ints]:
        """Cut items into micro-batches of at most `token_budget` tokens; yields the positions of each, shortest first.

        Items that are not texts, as `is_other_N` says, come last and in micro-batches of their own.
        """
        token_budget = token_budget or self.budget(encoder).tokens
        if is_other_N is None:
            is_other_N = np.full(len(lengths_N), False)
        for positions, packs in ((np.flatnonzero(~is_other_N), encoder.packs), (np.flatnonzero(is_other_N), True)):
            if not len(positions):
                continue
            by_length = positions[np.argsort(lengths_N[positions], kind="stable")]
            if packs:
                bounds = pack_greedy(lengths_N[by_length], token_budget)
            else:
                bounds = optimal_cuts(lengths_N[by_length], token_budget, self.call_cost)
            yield from np.split(by_length, bounds)

    def padding_share(self, lengths_N: Ints, encoder: Encoder) -> float:
        """Return the share of padding, 0 to 1, among the positions that are computed for these items."""
        if encoder.packs or not len(lengths_N):
            return 0.0
        positions = 0
        for cut in self.cut(lengths_N, encoder):
            positions += len(cut) * int(lengths_N[cut].max())
        return 1 - float(lengths_N.sum()) / positions

    def budget(self, encoder: Encoder) -> memory.Budget:
        """Return the budget of this run, which is determined at the first call."""
        if self._budget is None:
            tokens = None if self.token_budget == "auto" else self.token_budget
            kept_mb = None if self.activation_mb == "auto" else self.activation_mb
            self._budget = memory.find_budget(encoder, tokens, kept_mb)
        return self._budget

    def halve(self, error: BaseException) -> None:
        """Halve the budget, because memory ran out for what was encoded last.

        Raises:
            BaseException: `error`, if a single item was already too large.
        """
        assert self._budget is not None
        self._budget.halve(self._longest, error)
        self._is_halved = True

    def state_dict(self) -> dict[str, int]:
        """Return the budget if it was halved: a resumed run has to cut its batches in the same way."""
        if self._budget is None or not self._is_halved:
            return {}
        return {"tokens": self._budget.tokens, "kept": self._budget.kept}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore a halved budget."""
        if state:
            self._budget, self._is_halved = memory.Budget(**state), True


def _tokens(ids_T: Tensor, starts_n: Ints, lengths_n: Ints) -> Tensor:
    """Return the tokens of texts in one row; the tokens of a text start at `starts_n` of `ids_T`."""
    first_n = np.cumsum(lengths_n) - lengths_n
    return ids_T[upload(np.arange(lengths_n.sum()) + np.repeat(starts_n - first_n, lengths_n), ids_T.device)]

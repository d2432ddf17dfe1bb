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

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune import devices
from finetune.config.types import CountFromZero, PositiveInt
from finetune.console import say
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
T = TypeVar("T")


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
        self._is_saved = False  # whether checkpoints have the budget
        # Of what was encoded last: the tokens of the longest item and of all, and the activations that are kept.
        self._longest = self._tokens = 0
        self._saved = memory.SavedTensorCounter([])
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
        encode = partial(self._encode, encoder, ids_T, lengths_N, items_n, other_M, costs_N, in_step)
        return encode() if in_step is not None else self.retry(encode, ids_T.device)

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
        self._longest, self._tokens, self._saved = int(costs_N[items_n].max()), int(costs_N[items_n].sum()), saved
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
        self.recomputed_share = 1 - kept_tokens / self._tokens
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
        is_text_N = items < len(tokens)
        costs_N = np.full(len(items), encoder.other_cost)
        costs_N[is_text_N] = tokens.lengths[items[is_text_N]]
        if token_embedding is None:
            token_embedding = encoder.token_embedding()
        cuts_of_all = list(self.cut(costs_N, encoder, ~is_text_N, token_budget))[::-1]
        cuts = deque(cuts_of_all[share])
        embed = partial(self._embed, encoder, tokens, others=others, token_embedding=token_embedding)
        while cuts:
            emb_nD = None
            try:
                emb_nD = embed(items[cuts[0]])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(cuts[0]) == 1:
                    raise memory.ran_out(int(costs_N[cuts[0]].max())) from error
            if emb_nD is None:  # outside of the handler, as in `retry`
                cuts = self._split(cuts, costs_N)
                devices.of(next(encoder.parameters()).device).release()
            else:
                yield cuts.popleft(), emb_nD.float()

    def _embed(
        self,
        encoder: Encoder,
        tokens: Tokens,
        items_n: Ints,
        others: NonTextItems | None,
        token_embedding: SharedGradEmbedding | None,
    ) -> Tensor:
        device = next(encoder.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.embed_precision == "bf16-mixed"):
            if items_n[0] < len(tokens):
                ids_T, lengths_n = tokens.take(items_n)
                return cast(Tensor, encoder(upload(ids_T.astype(np.int64), device), lengths_n, token_embedding))
            assert others is not None
            return cast(Tensor, encoder(upload(others.take(items_n), device)))

    def _split(self, cuts: deque[Ints], costs_N: Ints) -> deque[Ints]:
        """Return micro-batches of half the size, because memory ran out for the first of them."""
        used = int(costs_N[cuts[0]].sum())
        if self._budget is not None:
            self._budget.halve_tokens(used)
            self._is_saved = True
        say(f"Memory ran out: embeddings are computed in micro-batches of {used // 2} tokens.")
        return deque(half for cut in cuts for half in np.array_split(cut, 2)[::-1] if len(half))

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
            self._is_saved = devices.of(next(encoder.parameters()).device).has_own_memory
            tokens = None if self.token_budget == "auto" else self.token_budget
            kept_mb = None if self.activation_mb == "auto" else self.activation_mb
            self._budget = memory.find_budget(encoder, tokens, kept_mb)
        return self._budget

    def retry(self, compute: Callable[[], T], device: torch.device) -> T:
        """Return `compute()`; if memory runs out, halve the budget and repeat it, with the same random numbers.

        Raises:
            MemoryRanOut: nothing is left to halve.
        """
        on_device = devices.of(device)
        random = on_device.random_state()
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._check_can_halve(error)
            # Outside of the handler: the traceback of the error refers to all tensors of the attempt.
            self._halve()
            on_device.release()
            devices.set_random_state(random)

    def _check_can_halve(self, error: BaseException) -> None:
        if self._budget is None or (self._budget.tokens < self._longest and not self._budget.kept):
            raise memory.ran_out(self._longest) from error

    def _halve(self) -> None:
        assert self._budget is not None
        if self._budget.tokens >= self._longest:
            self._budget.halve_tokens(self._tokens)
        self._budget.halve_kept(self._saved.bytes or self._budget.kept)
        self._is_saved = True
        say(f"Memory ran out: the step is repeated with engine.token_budget={self._budget.tokens}.")

    def state_dict(self) -> dict[str, int]:
        """Return the budget if it was halved or depends on the free memory: a resumed run has to cut batches alike."""
        if self._budget is None or not self._is_saved:
            return {}
        return {"tokens": self._budget.tokens, "kept": self._budget.kept}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore a budget, as far as the settings of this run are not smaller."""
        if not state:
            return
        self._budget, self._is_saved = memory.Budget(**state), True
        if self.token_budget != "auto":
            self._budget.tokens = min(self._budget.tokens, self.token_budget)
        if self.activation_mb != "auto":
            self._budget.kept = min(self._budget.kept, self.activation_mb * memory.MB)


def _tokens(ids_T: Tensor, starts_n: Ints, lengths_n: Ints) -> Tensor:
    """Return the tokens of texts in one row; the tokens of a text start at `starts_n` of `ids_T`."""
    first_n = np.cumsum(lengths_n) - lengths_n
    return ids_T[upload(np.arange(lengths_n.sum()) + np.repeat(starts_n - first_n, lengths_n), ids_T.device)]

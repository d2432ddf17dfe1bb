"""How much an engine computes at once, and how much of it is kept for the backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finetune.console import say
from finetune.encoding import memory
from finetune.models.encoder import Encoder

# A GPU is busy from so many tokens on; a CPU is fastest while a micro-batch's widest activation stays in its cache.
_BUSY_GPU_TOKENS = 32_768
_CPU_CACHE_BYTES = 12 * memory.MB
_FEWEST_TOKENS = 256


@dataclass
class Budget:
    """`tokens` of one micro-batch, and `kept` bytes of activations over all of them."""

    tokens: int
    kept: int

    def halve(self, longest: int, error: BaseException) -> None:
        """Halve both, because memory ran out.

        Raises:
            BaseException: `error`, when a single item of `longest` tokens was too much already.
        """
        if self.tokens < longest and not self.kept:
            raise error
        self.tokens = max(1, self.tokens // 2)
        self.kept = self.kept // 2 if self.kept > memory.MB else 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"Memory ran out: the step is taken again with engine.token_budget={self.tokens}.")


def find(encoder: Encoder, tokens: int | None, kept_mb: int | None) -> Budget:
    """Return the budget for this encoder where it is now; `None` finds the number that suits the device."""
    device = next(encoder.parameters()).device
    free = memory.available(device)
    if kept_mb is None:
        # The optimizer's two moments and the gradients are still to come when the first step asks.
        weights = sum(p.nbytes for p in encoder.parameters() if p.requires_grad)
        kept_mb = max(0, free - 4 * weights) // (2 if device.type == "cuda" else 4) // memory.MB
    if tokens is None:
        tokens = _most_tokens(encoder, device, free)
    return Budget(tokens, kept_mb * memory.MB)


def _most_tokens(encoder: Encoder, device: torch.device, free: int) -> int:
    if device.type == "cpu":
        return max(_FEWEST_TOKENS, _CPU_CACHE_BYTES // (4 * encoder.widest))
    # Four bytes, a dozen tensors of the hidden and three of the widest size in every layer; a quarter of what is free.
    per_token = 4 * encoder.depth * (12 * encoder.hidden + 3 * encoder.widest)
    return min(_BUSY_GPU_TOKENS, max(_FEWEST_TOKENS, free // 4 // per_token))

"""A text encoder whose pooling leaves out the tokens of the prompt: `include_prompt: false` of its folder.

Shapes: T tokens of all texts in a row, D width.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from finetune.data.arrays import Ints, flat_ranges
from finetune.models.packing import Packing, upload
from finetune.models.text import TextEncoder


class PromptedTextEncoder(TextEncoder):
    """Attends to the first `prompt_tokens` tokens of each text, and does not pool them.

    Of a text that has no other tokens all are pooled.
    """

    pools_prompt: ClassVar[bool] = False
    prompt_tokens: int = 0

    def with_prompt_tokens(self, count: int) -> PromptedTextEncoder:
        """Return the same encoder, with the same weights, for texts whose prompt has this many tokens."""
        encoder = copy.copy(self)
        encoder.prompt_tokens = count
        return encoder

    def _embed(self, tokens_TD: Tensor, packing: Packing) -> Tensor:
        if not self.prompt_tokens:
            return super()._embed(tokens_TD, packing)
        skipped_N = np.where(packing.lengths > self.prompt_tokens, self.prompt_tokens, 0)
        lengths_N = packing.lengths - skipped_N
        starts_N = np.cumsum(packing.lengths) - packing.lengths
        kept_T = flat_ranges(starts_N + skipped_N, lengths_N)
        return super()._embed(tokens_TD[upload(kept_T, tokens_TD.device)], _Rest(lengths_N, skipped_N, packing.device))


class _Rest(Packing):
    """The sequences without their first tokens; the others keep their positions, which weight them in some poolings."""

    def __init__(self, lengths: Ints, skipped_N: Ints, device: torch.device) -> None:
        super().__init__(lengths, device)
        self._skipped_N = skipped_N

    def positions(self) -> Tensor:
        """Return the position of each token in the whole sequence, from 0: `(T,)`."""
        return super().positions() + upload(np.repeat(self._skipped_N, self.lengths), self.device)

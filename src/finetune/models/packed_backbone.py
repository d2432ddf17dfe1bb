"""Which backbones can run on packed sequences: found out by a try.

Most architectures of transformers hand their attention over to a registered function; whether one does, with its
positions and its windows, is seen soonest by computing the same texts both ways.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.models.attention import NAME, register
from finetune.models.fused_layer import fuse_layers, separate_layers
from finetune.models.packing import Packing
from finetune.models.shared_grad import SharedGradEmbedding

# oneDNN compiles its kernels for every new shape, so there are this many sizes between a power of two and the next.
_SIZES = 16


class PackedBackbone:
    """Calls a backbone on a row of packed tokens: T tokens in, their hidden states `(T, D)` out."""

    def __init__(self, backbone: Any, first_position: int) -> None:
        self._backbone = backbone
        self._first_position = first_position

    def __call__(
        self, words_TD: Tensor, packing: Packing, every: bool = False, lookup: SharedGradEmbedding | None = None
    ) -> list[Tensor]:
        """Return the last hidden states of token embeddings; of `every` layer, and before the first, that last.

        `lookup` is the step's own.
        """
        tokens, positions_T = len(words_TD), packing.positions() + self._first_position
        if words_TD.device.type == "cpu":
            # Rows of zeros that nothing reads: attention leaves them out, and everything else works row by row.
            filling = _filling(tokens)
            words_TD = nn.functional.pad(words_TD, (0, 0, 0, filling))
            positions_T = nn.functional.pad(positions_T, (0, filling), value=self._first_position)
        output = self._backbone(
            inputs_embeds=words_TD.unsqueeze(0),
            position_ids=positions_T.unsqueeze(0),
            packing=packing,
            output_hidden_states=every,
            lookup=lookup or SharedGradEmbedding(self._backbone.get_input_embeddings()),
        )
        return [states.squeeze(0)[:tokens] for states in states_of(output, every)]


def _filling(tokens: int) -> int:
    """Return how many rows fill a micro-batch of so many tokens up to the next of few sizes: 3 % in the mean."""
    step = max(1, (1 << tokens.bit_length() - 1) // _SIZES)
    return -tokens % step


def states_of(output: Any, every: bool) -> list[Tensor]:
    """Return the last hidden states of what a backbone returned; of `every` layer, and before the first, that last."""
    # The last of all states may lack the norm that follows the last layer.
    return [*(output.hidden_states[:-1] if every else ()), output.last_hidden_state]


@torch.no_grad()
def packed(backbone: Any, pad_id: int) -> PackedBackbone | None:
    """Switch the backbone to packed sequences, or return `None` and leave it as it is where that changes its result."""
    if not getattr(backbone, "_supports_attention_backend", False):
        return None
    before, training = backbone.config._attn_implementation, backbone.training
    ids_T, packing = _example(backbone, pad_id)
    backbone.eval()
    try:
        mask = packing.mask()
        ids_nt = packing.pad(ids_T).masked_fill(~mask, pad_id)
        expected_TD = packing.unpad(backbone(input_ids=ids_nt, attention_mask=mask.long()).last_hidden_state)
        register()
        backbone.set_attn_implementation(NAME)
        found = PackedBackbone(backbone, _first_position(backbone))
        for switch in (fuse_layers, separate_layers):  # a layer may look like BERT's and be more than that
            switch(backbone)
            states_TD = found(backbone.get_input_embeddings()(ids_T), packing)[-1]
            if torch.allclose(states_TD, expected_TD, rtol=1e-3, atol=1e-4 * float(expected_TD.abs().max())):
                return found
    except Exception:  # an architecture says no in a dozen ways, and all of them mean: padded
        pass
    finally:
        backbone.train(training)
    separate_layers(backbone)
    backbone.set_attn_implementation(before)
    return None


def _example(backbone: Any, pad_id: int) -> tuple[Tensor, Packing]:
    """Return three texts of any tokens but padding; one is longer than an attention window that is not too wide."""
    config = backbone.config
    window = min(getattr(config, "sliding_window", None) or 0, 256)
    longest = min(2 * window + 9, getattr(config, "max_position_embeddings", 512) - pad_id - 2)
    lengths = np.array([2, 5, longest])
    rows = backbone.get_input_embeddings().num_embeddings
    ids = np.arange(lengths.sum()) * 7919 % rows
    return torch.from_numpy(np.where(ids == pad_id, (pad_id + 1) % rows, ids)), Packing(lengths, torch.device("cpu"))


def _first_position(backbone: Any) -> int:
    # RoBERTa and its kin count positions from behind the padding token's.
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1

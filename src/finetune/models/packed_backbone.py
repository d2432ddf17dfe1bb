"""Runs a backbone on packed sequences, if a trial shows that this does not change its result.

Most architectures of transformers delegate attention to a registered function. Whether one does, including its
positions and windows, is tested by encoding the same texts packed and padded.
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

# oneDNN compiles its kernels for every new shape, so there are only this many from each power of two to the next.
_SHAPES_PER_DOUBLING = 16


class PackedBackbone:
    """Calls a backbone on a row of packed tokens: T tokens in, their hidden states `(T, D)` out."""

    def __init__(self, backbone: Any, first_position: int) -> None:
        self._backbone = backbone
        self._first_position = first_position

    def __call__(
        self,
        tokens_TD: Tensor,
        packing: Packing,
        all_layers: bool = False,
        token_embedding: SharedGradEmbedding | None = None,
    ) -> list[Tensor]:
        """Return the hidden states of token embeddings after the last layer.

        With `all_layers` those before the first layer and after each layer, in this order. `token_embedding` is shared
        by all calls of one step.
        """
        tokens, positions_T = len(tokens_TD), packing.positions() + self._first_position
        if packing.on_cpu:
            # Rows of zeros that are not used: attention skips them, and all other operations are row by row.
            padding = _padding_rows(tokens)
            tokens_TD = nn.functional.pad(tokens_TD, (0, 0, 0, padding))
            positions_T = nn.functional.pad(positions_T, (0, padding), value=self._first_position)
        else:
            packing.prepare()
        if token_embedding is None:
            token_embedding = SharedGradEmbedding(self._backbone.get_input_embeddings())
        output = self._backbone(
            inputs_embeds=tokens_TD.unsqueeze(0),
            position_ids=positions_T.unsqueeze(0),
            packing=packing,
            output_hidden_states=all_layers,
            token_embedding=token_embedding,
        )
        return [states.squeeze(0)[:tokens] for states in hidden_states(output, all_layers)]


def _padding_rows(tokens: int) -> int:
    """Return how many rows pad a micro-batch of this many tokens to the next of few shapes, 3 % on average."""
    step = max(1, (1 << tokens.bit_length() - 1) // _SHAPES_PER_DOUBLING)
    return -tokens % step


def hidden_states(output: Any, all_layers: bool) -> list[Tensor]:
    """Return the last hidden states of a backbone's output, with `all_layers` those of every layer before it."""
    last: Tensor = output.last_hidden_state
    if not all_layers:
        return [last]
    # The last of `hidden_states` may lack the norm after the last layer.
    return [*output.hidden_states[:-1], last]


@torch.no_grad()
def pack_backbone(backbone: Any, pad_id: int) -> PackedBackbone | None:
    """Switch a backbone to packed sequences; if that changes its result, return `None` and leave it unchanged."""
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
        packed = PackedBackbone(backbone, _first_position(backbone))
        for switch in (fuse_layers, separate_layers):  # a layer may look like that of BERT and differ from it
            switch(backbone)
            states_TD = packed(backbone.get_input_embeddings()(ids_T), packing)[-1]
            if torch.allclose(states_TD, expected_TD, rtol=1e-3, atol=1e-4 * float(expected_TD.abs().max())):
                return packed
    except Exception:  # an unsupported architecture raises any type: its texts are padded
        pass
    finally:
        backbone.train(training)
    separate_layers(backbone)
    backbone.set_attn_implementation(before)
    return None


def _example(backbone: Any, pad_id: int) -> tuple[Tensor, Packing]:
    """Return three texts without padding tokens; one is longer than the attention window, unless that is very wide."""
    config = backbone.config
    window = min(getattr(config, "sliding_window", None) or 0, 256)
    longest = min(2 * window + 9, getattr(config, "max_position_embeddings", 512) - pad_id - 2)
    lengths = np.array([2, 5, longest])
    rows = backbone.get_input_embeddings().num_embeddings
    ids = np.arange(lengths.sum()) * 7919 % rows
    return torch.from_numpy(np.where(ids == pad_id, (pad_id + 1) % rows, ids)), Packing(lengths, torch.device("cpu"))


def _first_position(backbone: Any) -> int:
    # RoBERTa and its variants count positions from after that of the padding token.
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1

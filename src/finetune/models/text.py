"""A text encoder: a transformers backbone, a pooling over its tokens, a head, unit length.

Shapes: N texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmptyText, PositiveInt
from finetune.data.arrays import Ints
from finetune.errors import CheckFailed, ModelError, Problem
from finetune.models.backbone import load_backbone
from finetune.models.dropout import replace_dropout
from finetune.models.encoder import Encoder
from finetune.models.head import HeadLayer, head_width, load_layers, new_head, projected
from finetune.models.layers import keep_layers
from finetune.models.packed_backbone import packed, states_of
from finetune.models.packing import Packing
from finetune.models.pooling import load_pooling
from finetune.models.resolve import resolve
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.checks import check_settings, has_unit_length
from finetune.models.st_format.config import read_st_config
from finetune.models.st_format.write import trained_settings, write
from finetune.models.tokenizer import check_vocabulary, load_tokenizer

_USE_OF_LEARNED_POOLING = (
    "# sentence-transformers does not know this pooling; finetune does:\n"
    "#     python train.py model.name=path/to/this/folder"
)


class TextEncoder(Encoder):
    """Token ids in, embeddings `(N, D)` in fp32 out.

    Raises:
        ModelError: the model cannot be had, is damaged, needs code of its own, or has no safetensors weights.
    """

    def __init__(
        self,
        name: NotEmptyText,
        pooling: Literal["auto", "mean", "cls", "max", "last", "weighted_mean", "gem", "attention"] = "auto",
        normalize: bool | Literal["auto"] = "auto",
        head: Literal["linear", "mlp"] | None = None,
        output_width: PositiveInt | None = None,
        keep_layers: PositiveInt | None = None,
        bidirectional: bool = False,
        dropout: Fraction | None = None,
        random_init: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__()
        found = read_st_config(resolve(name, self.files, allow_pickle))
        check_settings(found, name, pooling, head is not None or output_width is not None)
        self.name, self._found = name, found
        self.normalize = has_unit_length(found, normalize)
        # A cache of keys and values is for those who write a text on.
        self.backbone = load_backbone(
            found.backbone, name, dropout, random_init, {"use_cache": False}, allow_pickle=allow_pickle
        )
        _shape(self.backbone, name, keep_layers, bidirectional)
        self.tokenizer = load_tokenizer(found.backbone, name, found.transformer.lower_case)
        check_vocabulary(self.tokenizer, self.backbone.get_input_embeddings().num_embeddings, name)
        mode = pooling if pooling != "auto" else found.pooling or ("last" if _is_causal(self.backbone) else "mean")
        self.pooling = load_pooling(mode, self.hidden, found)
        if self.pooling.state_dict():
            self.use = _USE_OF_LEARNED_POOLING
        self._pooled = self.hidden * len(self.pooling.modes)
        self.head = nn.ModuleList(load_layers(found.layers, self._pooled, allow_pickle))
        self.head.extend(new_head(head_width(self.head, self._pooled), output_width, head))
        self.truncate = found.settings.truncate_dim
        _leave_out_unused(self.backbone)
        replace_dropout(self.backbone)
        self._packed = packed(self.backbone, self.pad_id)
        self._layers: list[int] = []

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        width = head_width(self.head, self._pooled)
        return min(width, self.truncate or width)

    @property
    def packs(self) -> bool:  # type: ignore[override]
        """Whether texts are computed without padding; if not, each call pads to its longest."""
        return self._packed is not None

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The token id that fills a row up; masked, so a tokenizer without one may use any."""
        return int(self.tokenizer.pad_token_id or 0)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, lookup: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed N texts given as one row of token ids and the length of each, on the CPU; fastest sorted by length.

        `lookup` is the step's own, where several calls make one step.
        """
        assert lengths_N is not None
        packing = Packing(lengths_N, values.device)
        if not (self._layers and self.training):
            return self._embedding(self.states(values, packing, lookup)[-1], packing)
        *states, last_TD = self.states(values, packing, lookup, every=True)
        chosen = [states[layer] for layer in self._layers] + [last_TD]
        return torch.stack([self._embedding(tokens_TD, packing) for tokens_TD in chosen], 1)

    def _embedding(self, tokens_TD: Tensor, packing: Packing) -> Tensor:
        return projected(self.pooling(tokens_TD, packing), self.head, self.normalize, self.truncate)

    def give_layers(self, layers: Sequence[int]) -> None:
        """In training return the embeddings of these layers too, `(N, L, D)`, the last layer's last."""
        if wrong := [layer for layer in layers if layer >= self.depth]:
            what = f"layer {wrong[0]} is not before the last of the {self.depth} layers of {self.name}."
            raise CheckFailed([Problem("loss.layers", what, f"Take some of 1 to {self.depth - 1}.")])
        self._layers = list(layers)

    def states(
        self, ids_T: Tensor, packing: Packing, lookup: SharedGradEmbedding | None = None, every: bool = False
    ) -> list[Tensor]:
        """Return the last hidden states of all tokens `(T, D)`; of `every` layer, and before the first, that last."""
        if self._packed is None:
            return padded_states(self.backbone, ids_T, packing, self.pad_id, every)
        lookup = lookup or self.lookup()
        return self._packed(lookup(ids_T), packing, every, lookup)

    def lookup(self) -> SharedGradEmbedding:
        """Return what looks up the tokens of one step."""
        return SharedGradEmbedding(self.backbone.get_input_embeddings())

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write a sentence-transformers folder; poolings that it does not know can be read by finetune only."""
        self.backbone.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        settings = trained_settings(self._found, self.normalize, prompts)
        transformer = replace(self._found.transformer, max_length=max_length)
        layers = cast(list[HeadLayer], list(self.head))
        write(folder, "Transformer", settings, transformer, self.normalize, self.pooling, self.hidden, layers)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps a text of up to {max_length} tokens to {self.width} dimensions ({self.pooling.mode} pooling)."


def padded_states(backbone: Any, ids_T: Tensor, packing: Packing, pad_id: int, every: bool) -> list[Tensor]:
    """Return the last hidden states `(T, D)` of texts that are padded to the longest; of `every` layer, that last."""
    if packing.lengths.min() == packing.longest:
        # No mask at all keeps attention on its fast path.
        ids_nt, mask_nt = ids_T.view(-1, packing.longest), None
    else:
        mask = packing.mask()
        ids_nt, mask_nt = packing.pad(ids_T).masked_fill(~mask, pad_id), mask.long()
    output = backbone(input_ids=ids_nt, attention_mask=mask_nt, output_hidden_states=every)
    return [packing.unpad(states) for states in states_of(output, every)]


def _shape(backbone: Any, name: str, layers: int | None, bidirectional: bool) -> None:
    if layers is not None:
        keep_layers(backbone, layers, name)
    if not bidirectional:
        return
    if not _is_causal(backbone):
        raise ModelError(
            f"model.bidirectional=true: every token of {name} sees all others already.",
            "Leave model.bidirectional=false; it is for decoders.",
        )
    # Kept in the saved config.json too, where transformers looks for it.
    backbone.config.is_causal = False
    for module in backbone.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def _is_causal(backbone: nn.Module) -> bool:
    return any(getattr(module, "is_causal", False) for module in backbone.modules())


def _leave_out_unused(backbone: nn.Module) -> None:
    # BERT's pooler head never reaches the loss: it would only cost optimizer memory and stop DDP.
    pooler = getattr(backbone, "pooler", None)
    if isinstance(pooler, nn.Module):
        pooler.requires_grad_(False)

"""A text encoder: a transformers backbone, a pooling over its tokens, a head, unit length.

Shapes: N texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmptyText, PositiveInt
from finetune.data.arrays import Ints
from finetune.errors import CheckFailed, ModelError, Problem
from finetune.models.backbone import freeze_unused, load_backbone
from finetune.models.backbone import keep_layers as remove_layers
from finetune.models.dropout import replace_dropout
from finetune.models.encoder import Encoder
from finetune.models.head import HeadLayer, apply_head, head_width, new_head
from finetune.models.packed_backbone import hidden_states, pack_backbone
from finetune.models.packing import Packing
from finetune.models.resolve import resolve
from finetune.models.sdpa import is_causal
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.config import check_text_config, is_normalized, read_st_config
from finetune.models.st_format.load import load_layers, load_pooling
from finetune.models.st_format.write import trained_settings, write
from finetune.models.tokenizer import check_vocabulary, load_tokenizer, save_tokenizer

_USE_OF_LEARNED_POOLING = (
    "# sentence-transformers does not support this pooling; finetune does:\n"
    "#     python train.py model.name=path/to/this/folder"
)


class TextEncoder(Encoder):
    """Token ids in, embeddings `(N, D)` in fp32 out.

    Raises:
        ModelError: the model is not found, is damaged, needs code of its own, or has no safetensors weights.
    """

    pools_prompt: ClassVar[bool] = True  # whether the pooling includes the tokens of a prompt

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
        st_config = read_st_config(resolve(name, self.files, allow_pickle))
        new_layers = head is not None or output_width is not None
        check_text_config(st_config, name, pooling, new_layers, self.pools_prompt)
        self.name, self._st_config = name, st_config
        self.normalize = is_normalized(st_config, normalize)
        # Only text generation needs a cache of keys and values.
        self.backbone = load_backbone(
            st_config.backbone, name, dropout, random_init, {"use_cache": False}, allow_pickle=allow_pickle
        )
        if keep_layers is not None:
            remove_layers(self.backbone, keep_layers, name)
        if bidirectional:
            _make_bidirectional(self.backbone, name)
        self.tokenizer = load_tokenizer(st_config.backbone, name, st_config.transformer.lower_case)
        check_vocabulary(self.tokenizer, self.backbone.get_input_embeddings().num_embeddings, name)
        mode: str = pooling
        if pooling == "auto":
            mode = st_config.pooling or _default_pooling(self.backbone)
        self.pooling = load_pooling(mode, self.hidden, st_config)
        if self.pooling.state_dict():
            self.use = _USE_OF_LEARNED_POOLING
        self._pooled_width = self.hidden * len(self.pooling.modes)
        self.head = nn.ModuleList(load_layers(st_config.layers, self._pooled_width, allow_pickle))
        self.head.extend(new_head(head_width(self.head, self._pooled_width), output_width, head))
        self.truncate = st_config.settings.truncate_dim
        freeze_unused(self.backbone, "pooler")
        replace_dropout(self.backbone)
        self._packed_backbone = pack_backbone(self.backbone, self.pad_id)
        self._output_layers: list[int] = []

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        width = head_width(self.head, self._pooled_width)
        return min(width, self.truncate or width)

    @property
    def packs(self) -> bool:  # type: ignore[override]
        """Whether texts are encoded without padding; if not, each call pads to its longest text."""
        return self._packed_backbone is not None

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The id of the padding token; it is masked, so a tokenizer without one may use any."""
        return int(self.tokenizer.pad_token_id or 0)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed N texts, given as one row of token ids and their lengths on the CPU; fastest if sorted by length.

        `token_embedding` is shared by all calls of one step.
        """
        assert lengths_N is not None
        packing = Packing(lengths_N, values.device)
        if not (self._output_layers and self.training):
            return self._embed(self.states(values, packing, token_embedding)[-1], packing)
        *states, last_TD = self.states(values, packing, token_embedding, all_layers=True)
        selected = [states[layer] for layer in self._output_layers] + [last_TD]
        return torch.stack([self._embed(tokens_TD, packing) for tokens_TD in selected], 1)

    def _embed(self, tokens_TD: Tensor, packing: Packing) -> Tensor:
        return apply_head(self.pooling(tokens_TD, packing), self.head, self.normalize, self.truncate)

    def set_output_layers(self, layers: Sequence[int]) -> None:
        """In training return the embeddings of these layers too, `(N, L, D)`, those of the last layer last."""
        for layer in layers:
            if layer >= self.depth:
                what = f"layer {layer} is not before the last of the {self.depth} layers of {self.name}."
                raise CheckFailed([Problem("loss.layers", what, f"Take some of 1 to {self.depth - 1}.")])
        self._output_layers = list(layers)

    def use_padded_backbone(self, backbone: nn.Module) -> None:
        """Compute with another implementation of the backbone, which takes padded texts."""
        self.backbone, self._packed_backbone = backbone, None

    def states(
        self,
        ids_T: Tensor,
        packing: Packing,
        token_embedding: SharedGradEmbedding | None = None,
        all_layers: bool = False,
    ) -> list[Tensor]:
        """Return the hidden states of all tokens `(T, D)` after the last layer.

        With `all_layers` those before the first layer and after each layer, in this order.
        """
        if self._packed_backbone is None:
            return padded_states(self.backbone, ids_T, packing, self.pad_id, all_layers)
        if token_embedding is None:
            token_embedding = self.token_embedding()
        return self._packed_backbone(token_embedding(ids_T), packing, all_layers, token_embedding)

    def token_embedding(self) -> SharedGradEmbedding:
        """Return the embedding lookup for the tokens of one step."""
        return SharedGradEmbedding(self.backbone.get_input_embeddings())

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write a sentence-transformers folder; learned poolings can only be loaded by finetune."""
        self.backbone.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder)
        settings = trained_settings(self._st_config, self.normalize, prompts)
        transformer = replace(self._st_config.transformer, max_length=max_length)
        layers = cast(list[HeadLayer], list(self.head))
        write(folder, "Transformer", settings, transformer, self.normalize, self.pooling, self.hidden, layers)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps a text of up to {max_length} tokens to {self.width} dimensions ({self.pooling.mode} pooling)."


def padded_states(backbone: Any, ids_T: Tensor, packing: Packing, pad_id: int, all_layers: bool) -> list[Tensor]:
    """Return the same as `TextEncoder.states`, computed with texts padded to the longest."""
    ids_nt, mask_nt = packing.pad_ids(ids_T, pad_id)
    if mask_nt is None and is_causal(backbone):
        mask_nt = torch.ones_like(ids_nt)  # without a mask, decoders search the positions for packed sequences
    output = backbone(input_ids=ids_nt, attention_mask=mask_nt, output_hidden_states=all_layers)
    return [packing.unpad(states) for states in hidden_states(output, all_layers)]


def _make_bidirectional(backbone: Any, name: str) -> None:
    if not is_causal(backbone):
        raise ModelError(
            f"model.bidirectional=true: every token of {name} already attends to all others.",
            "Leave model.bidirectional=false; it is for decoders.",
        )
    # Also in the saved config.json, which transformers reads.
    backbone.config.is_causal = False
    for module in backbone.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def _default_pooling(backbone: nn.Module) -> str:
    return "last" if is_causal(backbone) else "mean"

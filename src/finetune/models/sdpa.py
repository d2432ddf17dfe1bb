"""Attention in models that pad, without waiting for a GPU.

To find out whether a batch has padding at all, transformers reads its mask: once per micro-batch the host would wait
until the device has computed everything before. Here a mask is only given where there is padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SDPA = "finetune_sdpa"  # torch's attention
EAGER = "finetune_eager"  # attention in plain operators, of models that have no other


def avoid_synchronization(backbone: Any) -> None:
    """Let a model of transformers compute the same without reading masks and token ids, which would wait for a GPU."""
    implementation = backbone.config._attn_implementation
    if implementation == "sdpa":
        _register()
        backbone.set_attn_implementation(SDPA)
    elif implementation == "eager" and not backbone._can_set_attn_implementation():
        _register()
        backbone.config._attn_implementation = EAGER  # selects the mask only
    # Each call without a mask would search the token ids for padding.
    backbone.warn_if_padding_and_no_attention_mask = _no_warning


def is_causal(backbone: nn.Module) -> bool:
    """Whether tokens attend to earlier tokens only."""
    return any(getattr(module, "is_causal", False) for module in backbone.modules())


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(SDPA, sdpa_attention_forward)
    AttentionMaskInterface.register(SDPA, _sdpa_mask)
    AttentionMaskInterface.register(EAGER, _eager_mask)


def _sdpa_mask(**settings: Any) -> Tensor | None:
    from transformers.masking_utils import sdpa_mask

    mask: Tensor | None = sdpa_mask(**_without_reading(settings))
    return mask


def _eager_mask(**settings: Any) -> Tensor | None:
    from transformers.masking_utils import eager_mask

    mask: Tensor | None = eager_mask(**_without_reading(settings))
    return mask


def _without_reading(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a mask function, so that on a GPU it does not search a mask for padding."""
    if settings.get("attention_mask") is None or torch.device(settings.get("device", "cpu")).type != "cuda":
        return settings
    return settings | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}


def _no_warning(*_: Any) -> None:
    """Replaces `PreTrainedModel.warn_if_padding_and_no_attention_mask`."""

"""Weights that are quantised: they can be read by few, and trained by none; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.models.resolve import backbone_in, tensor_headers

_KEYS = ("quantization_config", "compression_config")
# Of tensors that only quantised layers have: packed numbers, their scales, what bitsandbytes keeps of a weight.
_PACKED = re.compile(r"\.(qweight|qzeros|weight_packed|weight_scale_inv|SCB|absmax|quant_map|quant_state\.[\w.]+)$")
_NOT_FLOATS = re.compile(r"^(I|U|F8|F6|F4|F4_|E)\w*$")


def check_not_quantised(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """Check that the weights of a model are numbers that training can change.

    Raises:
        ModelError: they are quantised; it says with what, and where the original may be.
    """
    parts = [config, *(part for key in ("text_config", "vision_config") if isinstance(part := config.get(key), dict))]
    said = next((part[key] for part in parts for key in _KEYS if isinstance(part.get(key), dict)), None)
    method = _method(said) if said is not None else _by_weights(folder)
    if method is None:
        return
    base = _base(folder, config)
    original = f", as {base}" if base else " (its card usually names it)"
    raise ModelError(
        f"model.name={name}: its weights are quantised ({method}), and quantised weights cannot be trained.",
        f"Use the model that it was made from, with weights in fp32, bf16 or fp16{original}.",
    )


def _method(said: Mapping[str, Any]) -> str:
    method = str(said.get("quant_method") or ("bitsandbytes" if _loads(said) else "an unnamed method"))
    bits = said.get("bits") or said.get("w_bit") or _loads(said)
    form = said.get("format") or said.get("quant_type")
    return ", ".join([method, *([f"{bits} bits"] if bits else []), *([form] if isinstance(form, str) else [])])


def _loads(said: Mapping[str, Any]) -> int | None:
    return 4 if said.get("load_in_4bit") else 8 if said.get("load_in_8bit") else None


def _by_weights(folder: Path) -> str | None:
    """Return what the weights show of it where the config says nothing."""
    for tensor, header in tensor_headers(backbone_in(folder)):
        if _PACKED.search(tensor):
            return f"tensors such as {tensor}"
        if tensor.endswith(".weight") and _NOT_FLOATS.match(str(header.get("dtype"))):
            return f"{header.get('dtype')} numbers such as {tensor}"
    return None


def _base(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the model that a folder says it was made from."""
    import yaml

    try:
        front = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
        base = front.get("base_model")
        base = base[0] if isinstance(base, list) else base
    except (OSError, ValueError, LookupError, AttributeError, yaml.YAMLError):  # a card is anybody's text
        base = None
    base = base or config.get("_name_or_path")
    return base if isinstance(base, str) and base and not base.startswith(("/", ".")) else None

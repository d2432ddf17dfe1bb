"""Checks of a model's weights from the headers of its safetensors files: complete, and not quantized; no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.models.resolve import backbone_folder, missing_weights

_QUANTIZATION_KEYS = ("quantization_config", "compression_config")
# Tensors that only quantized layers have: packed numbers, their scales, the state of bitsandbytes.
_PACKED = re.compile(r"\.(qweight|qzeros|weight_packed|weight_scale_inv|SCB|absmax|quant_map|quant_state\.[\w.]+)$")
_NOT_FLOATS = re.compile(r"^(I|U|F8|F6|F4|F4_|E)\w*$")


def check_weights(folder: Path, name: str, required: bool = True) -> None:
    """Check by their headers that the safetensors files of a folder are complete, and that its tokenizer is JSON.

    Raises:
        ModelError: a file is truncated or damaged; there are no safetensors weights, and they are `required`.
    """
    files = sorted(folder.rglob("*.safetensors"))
    if required and not files:
        raise missing_weights(name)
    tokenizer = backbone_folder(folder) / "tokenizer.json"
    try:
        if tokenizer.is_file():
            json.loads(tokenizer.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"model.name={name}: its tokenizer cannot be read (tokenizer.json is cut off or damaged)."
        raise ModelError(what, "Get the model again.") from error
    for file in files:
        if not _is_complete(file):
            what = f"model.name={name}: {file.relative_to(folder)} is cut off or damaged."
            raise ModelError(what, "Get the model again.")


def _is_complete(file: Path) -> bool:
    try:
        length, header = _read_header(file)
        ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
        return bool(header) and file.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Return the length in bytes of the header of a safetensors file, and the header; empty if the file ends before it.

    Raises:
        ValueError: it is not the JSON of a header.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length >= file.stat().st_size:
            return length, {}
        header = json.loads(opened.read(length))
    if not isinstance(header, dict) or not all(isinstance(tensor, dict) for tensor in header.values()):
        raise ValueError("its header is not an object of objects")
    return length, header


def tensor_headers(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name, `dtype` and `shape` of each tensor in the safetensors files of a folder; skips damaged files."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            _, header = _read_header(file)
        except (OSError, ValueError):
            continue  # check_weights reports it
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, tensor


def check_not_quantized(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """Check that the weights of a model are floating-point numbers, which can be trained.

    Raises:
        ModelError: they are quantized; it has the method, and the original model if the folder names it.
    """
    quantization = _quantization_config(config)
    if quantization is not None:
        method: str | None = _describe_method(quantization)
    else:
        method = _quantized_tensors(folder)
    if method is None:
        return
    base = _base_model(folder, config)
    original = f", as {base}" if base else " (its card usually names it)"
    raise ModelError(
        f"model.name={name}: its weights are quantized ({method}), and quantized weights cannot be trained.",
        f"Use the model that it was made from, with weights in fp32, bf16 or fp16{original}.",
    )


def _quantization_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    parts = [config, config.get("text_config"), config.get("vision_config")]
    for part in parts:
        if not isinstance(part, Mapping):
            continue
        for key in _QUANTIZATION_KEYS:
            if isinstance(part.get(key), dict):
                found: Mapping[str, Any] = part[key]
                return found
    return None


def _describe_method(quantization: Mapping[str, Any]) -> str:
    loaded_bits = None  # of bitsandbytes, whose oldest configs do not name it
    if quantization.get("load_in_4bit"):
        loaded_bits = 4
    elif quantization.get("load_in_8bit"):
        loaded_bits = 8
    default = "bitsandbytes" if loaded_bits else "an unnamed method"
    words = [str(quantization.get("quant_method") or default)]
    bits = quantization.get("bits") or quantization.get("w_bit") or loaded_bits
    if bits:
        words.append(f"{bits} bits")
    number_format = quantization.get("format") or quantization.get("quant_type")
    if isinstance(number_format, str):
        words.append(number_format)
    return ", ".join(words)


def _quantized_tensors(folder: Path) -> str | None:
    """Return an example of a quantized tensor in the weights, None if there is none."""
    for tensor, header in tensor_headers(backbone_folder(folder)):
        if _PACKED.search(tensor):
            return f"tensors such as {tensor}"
        if tensor.endswith(".weight") and _NOT_FLOATS.match(str(header.get("dtype"))):
            return f"{header.get('dtype')} numbers such as {tensor}"
    return None


def _base_model(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the name of the model that a folder was made from, by its model card or config; None if unknown."""
    base = _base_in_card(folder) or config.get("_name_or_path")
    if isinstance(base, str) and base and not base.startswith(("/", ".")):
        return base
    return None


def _base_in_card(folder: Path) -> Any:
    import yaml

    try:
        metadata = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
        base = metadata.get("base_model")
        if isinstance(base, list):
            return base[0]
        return base
    except (OSError, ValueError, LookupError, AttributeError, yaml.YAMLError):  # a card is free text
        return None

"""What the `config.json` of a model says without loading it: its width, and how many tokens it can read; no torch.

Learned positions are the rows of a table, so texts cannot be longer than it. Relative positions (T5), rotations (RoPE)
and biases (ALiBi) have no table and no limit. Which one an architecture uses is read from the headers of its
safetensors files and from its source text in transformers.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.models.resolve import backbone_folder
from finetune.models.st_format.json_files import is_int
from finetune.models.weight_files import tensor_headers

_WIDTH_KEYS = ("hidden_size", "d_model", "n_embd", "dim")

# The names of position tables; images, entities and layouts have tables of their own, next to that of tokens.
_TABLE = re.compile(r"(^|\.)((char_)?position_embeddings?|embed_positions|positions_embed|wpe)\.weights?(\.\d+)?$")
_OTHER_TABLE = re.compile(r"(^|[._])(vision|visual|image|entity)")
# Keys that only exist in architectures with buffers of that length, except for those with relative positions.
_LENGTH_KEYS = ("n_positions", "max_seq_len")

_MAKES_TABLE = re.compile(r"Embedding\w*\(\s*config\.max_position_embeddings")
_HAS_PADDING_ROW = re.compile(r"position_embeddings\w* = [\w.]*Embedding\([^=]*?padding_idx")
_COUNTS_FROM_PADDING = re.compile(r"padding_idx ?\+ ?1|create_position_ids_from_input_ids")
_PADDING_ROW = re.compile(r"self\.padding_idx = (\d+)")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of the backbone in a folder; an empty one if it is not an object.

    Raises:
        ModelError: it is not JSON.
    """
    try:
        config = json.loads((backbone_folder(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.name={folder}: its config.json cannot be read ({error}).", "Get it again.") from error
    return config if isinstance(config, dict) else {}


def backbone_width(config: Mapping[str, Any]) -> int | None:
    """Return the width of the hidden states of a backbone, None if its config.json does not have it."""
    for key in _WIDTH_KEYS:
        if key in config:
            return config[key] if is_int(config[key]) else None
    return None


def max_tokens(config: Mapping[str, Any], folder: Path | None = None) -> int | None:
    """Return how many tokens a model with this `config.json` can read; None if there is no limit.

    `folder` has its weights; without them a model is assumed to use a table of positions if its architecture has one.
    """
    outer_type = str(config.get("model_type"))
    text_config = config.get("text_config")
    if isinstance(text_config, dict) and text_config:
        config = text_config  # of a text and an image tower
    source = _source_text(str(config.get("model_type"))) or _source_text(outer_type)
    rows = _table_rows(folder) if folder is not None else None
    limits = []
    if rows:
        limits = [config.get("max_position_embeddings"), rows]
    elif rows is None and _MAKES_TABLE.search(source):
        limits = [config.get("max_position_embeddings")]
    if "relative_attention_num_buckets" not in config:
        limits += [config.get(key) for key in _LENGTH_KEYS]
    valid = [limit for limit in limits if is_int(limit) and limit > 0]
    if not valid:
        return None
    return min(valid) - _unused_rows(config, source)


def _table_rows(folder: Path) -> int | None:
    """Return the number of rows of the position table in the weights, 0 if there is none; None without weights."""
    headers = list(tensor_headers(backbone_folder(folder)))
    if not headers:
        return None
    rows = []
    for name, header in headers:
        shape = header.get("shape")
        is_table = _TABLE.search(name) and not _OTHER_TABLE.search(name)
        if is_table and isinstance(shape, list) and shape and is_int(shape[0]):
            rows.append(shape[0])
    return min(rows, default=0)


def _unused_rows(config: Mapping[str, Any], source: str) -> int:
    """Return how many rows belong to no token: RoBERTa and its variants start after the row of the padding token."""
    if not (_HAS_PADDING_ROW.search(source) and _COUNTS_FROM_PADDING.search(source)):
        return 0
    fixed = _PADDING_ROW.search(source)
    if fixed:
        return 1 + int(fixed[1])
    padding = config.get("pad_token_id")
    return 1 + padding if is_int(padding) else 1


@functools.cache
def _source_text(model_type: str) -> str:
    """Return the source text of an architecture of transformers, empty if there is none of this name.

    That of a part, such as `clip_text_model`, is in the file of the whole.
    """
    # It comes from a config.json, so it may be a pattern, a path out of the folder, or too long for a file name.
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,99}", model_type):
        return ""
    spec = importlib.util.find_spec("transformers")
    if spec is None:
        return ""
    parts = model_type.replace("-", "_").split("_")
    for count in range(len(parts), 0, -1):
        for folder in spec.submodule_search_locations or []:
            for file in Path(folder).glob(f"models/*/modeling_{'_'.join(parts[:count])}.py"):
                return file.read_text(encoding="utf-8")
    return ""

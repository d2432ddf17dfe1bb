"""How many tokens a model has positions for: by its weights, its config, and the source text of its architecture.

Learned positions are rows of a table, and end with it. Relative ones (T5), rotations (RoPE) and biases (ALiBi) have no
table, and no end. No torch is imported: of weights only the headers of safetensors files are read.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.models.resolve import backbone_in, tensor_headers
from finetune.models.st_format.values import is_int

# What tables of positions are called; images, entities and layouts have tables of their own, next to that of tokens.
_TABLE = re.compile(r"(^|\.)((char_)?position_embeddings?|embed_positions|positions_embed|wpe)\.weights?(\.\d+)?$")
_OF_OTHERS = re.compile(r"(^|[._])(vision|visual|image|entity)")
# Keys that only architectures have whose buffers end there, besides those with relative positions.
_HARD_KEYS = ("n_positions", "max_seq_len")

_MAKES_TABLE = re.compile(r"Embedding\w*\(\s*config\.max_position_embeddings")
_HAS_PADDING_ROW = re.compile(r"position_embeddings\w* = [\w.]*Embedding\([^=]*?padding_idx")
_COUNTS_FROM_PADDING = re.compile(r"padding_idx ?\+ ?1|create_position_ids_from_input_ids")
_PADDING_ROW = re.compile(r"self\.padding_idx = (\d+)")


def longest(config: Mapping[str, Any], folder: Path | None = None) -> int | None:
    """Return the most tokens that a model with this `config.json` can read; None if there is no limit.

    `folder` has its weights; without them a model whose architecture has a table of positions is taken to use it.
    """
    outer = str(config.get("model_type"))
    text = config.get("text_config")
    config = text if isinstance(text, dict) and text else config  # of two towers, the one that reads texts
    source = _source(str(config.get("model_type"))) or _source(outer)
    rows = _rows(folder) if folder is not None else None
    limits = [config.get("max_position_embeddings")]
    if rows:
        limits.append(rows)
    elif rows == 0 or not _MAKES_TABLE.search(source):
        limits = []
    if "relative_attention_num_buckets" not in config:
        limits += [config.get(key) for key in _HARD_KEYS]
    found = [limit for limit in limits if is_int(limit) and limit > 0]
    return min(found) - _offset(config, source) if found else None


def _rows(folder: Path) -> int | None:
    """Return the rows of the table of positions in a model's weights, 0 if there is none; None without weights."""
    headers = list(tensor_headers(backbone_in(folder)))
    shapes = [header.get("shape") for name, header in headers if _TABLE.search(name) and not _OF_OTHERS.search(name)]
    tables = [shape[0] for shape in shapes if isinstance(shape, list) and shape and is_int(shape[0])]
    return min(tables, default=0) if headers else None


def _offset(config: Mapping[str, Any], source: str) -> int:
    """Return how many rows no token ever has: RoBERTa and its kin count from behind the padding token's row."""
    if not (_HAS_PADDING_ROW.search(source) and _COUNTS_FROM_PADDING.search(source)):
        return 0
    fixed = _PADDING_ROW.search(source)
    if fixed:
        return 1 + int(fixed[1])
    padding = config.get("pad_token_id")
    return 1 + (padding if is_int(padding) else 0)


@functools.cache
def _source(model_type: str) -> str:
    """Return the source text of an architecture of transformers, empty if there is none of this name.

    That of a part, such as `clip_text_model`, is in the file of the whole.
    """
    # It comes from a config.json, so it may be a pattern, a path out of the folder, or too long for a file name.
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,99}", model_type):
        return ""
    spec = importlib.util.find_spec("transformers")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    parts = model_type.replace("-", "_").split("_")
    for count in range(len(parts), 0, -1):
        for folder in folders:
            for file in Path(folder).glob(f"models/*/modeling_{'_'.join(parts[:count])}.py"):
                return file.read_text(encoding="utf-8")
    return ""

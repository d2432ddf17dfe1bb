"""Write a trained text encoder as a sentence-transformers folder with safetensors and a model card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finetune.models.text import TextEncoder
from finetune.runs.atomic import explain

# The names that every sentence-transformers since 2.0 knows; newer ones read them as aliases.
_MODULES = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]


def save(
    encoder: TextEncoder, folder: Path, max_length: int, card: str, prompts: Mapping[str, str] | None = None
) -> None:
    """Save `encoder` to `folder`, whole or not at all; `card` becomes its README.md.

    `prompts` are what texts were trained to begin with, by name (`query`, `document`).

    Raises:
        RunError: the disk is full or cannot be written; a folder that was there before still is.
    """
    partial, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "old"))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        _write(encoder, partial, max_length, card, prompts or {})
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise explain(_as_os_error(error), f"save the model to {folder}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _as_os_error(error: OSError | SafetensorError) -> OSError:
    # safetensors reports a refusal of the system only in its text: "... (os error 28)".
    code = re.search(r"(?:code: |os error )(\d+)", str(error))
    return error if isinstance(error, OSError) else OSError(int(code[1]) if code else 0, str(error))


def _write(encoder: TextEncoder, folder: Path, max_length: int, card: str, prompts: Mapping[str, str]) -> None:
    folder.mkdir(parents=True)
    encoder.backbone.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    modules = _MODULES if encoder.normalize else _MODULES[:2]
    _write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _write_json(
        folder / "config_sentence_transformers.json",
        {"similarity_fn_name": "cosine" if encoder.normalize else "dot", "prompts": dict(prompts)},
    )
    _write_json(folder / "1_Pooling" / "config.json", _pooling(encoder))
    if encoder.normalize:
        (folder / "2_Normalize").mkdir()
    (folder / "README.md").write_text(card, encoding="utf-8")
    # safetensors writes for its owner only; a model is made to be handed on, like the files beside it.
    for weights in folder.glob("*.safetensors"):
        weights.chmod((folder / "README.md").stat().st_mode)


def _pooling(encoder: TextEncoder) -> dict[str, Any]:
    return {
        "word_embedding_dimension": encoder.width,
        "pooling_mode_cls_token": encoder.pooling == "cls",
        "pooling_mode_mean_tokens": encoder.pooling == "mean",
        "pooling_mode_max_tokens": encoder.pooling == "max",
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""The tokenizer of a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.errors import ModelError, first_line


def load_tokenizer(folder: Path, name: str) -> Any:
    """Return the fast tokenizer in `folder`, which messages call `name`.

    Raises:
        ModelError: it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as error:  # damage is answered with a dozen kinds
        raise ModelError(
            f"model.name={name}: its tokenizer cannot be read ({first_line(error)}).",
            "The folder must hold tokenizer.json, as save_pretrained writes it.",
        ) from error
    # The length is the run's (data.max_length); tokenizers would warn about texts that are cut on purpose.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer

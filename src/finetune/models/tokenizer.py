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
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none, and whoever pads masks it
    # The length is the run's (data.max_length); tokenizers would warn about texts that are cut on purpose.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def load_plain_tokenizer(folder: Path, name: str) -> Any:
    """Return the tokenizer in `folder` without the tokens that it puts around a text.

    Raises:
        ModelError: it cannot be read.
    """
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise ModelError(
            f"model.name={name}: its tokenizer cannot be read ({first_line(error)}).",
            "The folder must hold tokenizer.json, as save_pretrained writes it.",
        ) from error
    backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    backend.no_truncation()
    backend.no_padding()
    return PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]


def marks(tokenizer: Any, texts: int) -> tuple[list[list[int]], list[int]]:
    """Return the tokens that stand before, between and behind so many texts, and the types of all those parts.

    The types go on with those of the texts: before, first text, between, second text, ..., behind.
    """
    word = next(token for token in ("a", "1", ".") if tokenizer(token, add_special_tokens=False)["input_ids"])
    inner = tokenizer(word, add_special_tokens=False)["input_ids"]
    found = tokenizer(*[word] * texts, return_token_type_ids=True)
    ids, types = found["input_ids"], found.get("token_type_ids") or [0] * len(found["input_ids"])
    parts: list[list[int]] = []
    kinds: list[int] = []
    start = 0
    for _ in range(texts):
        place = next(i for i in range(start, len(ids)) if ids[i : i + len(inner)] == inner)
        parts.append(ids[start:place])
        kinds += [types[start] if place > start else 0, types[place]]
        start = place + len(inner)
    return [*parts, ids[start:]], [*kinds, types[start] if start < len(ids) else 0]


def check_vocabulary(tokenizer: Any, backbone: Any, name: str) -> None:
    """Check that a tokenizer and a backbone belong together.

    Raises:
        ModelError: the tokenizer knows more tokens than the backbone.
    """
    known, rows = len(tokenizer), backbone.get_input_embeddings().num_embeddings
    if known > rows:
        raise ModelError(
            f"model.name={name}: its tokenizer knows {known} tokens, its backbone has embeddings for {rows}.",
            "The tokenizer belongs to another model: take both from one folder.",
        )

"""The tokenizer of a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.errors import ModelError, first_line


def load_tokenizer(folder: Path, name: str, lower_case: bool = False) -> Any:
    """Return the fast tokenizer in `folder`, which messages call `name`; `lower_case` lowers texts before it.

    Raises:
        ModelError: it cannot be read, or has no token to pad with.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as error:  # damage is answered with a dozen kinds
        raise ModelError(
            f"model.name={name}: its tokenizer cannot be read ({first_line(error)}).",
            "The folder must hold tokenizer.json, as save_pretrained writes it.",
        ) from error
    if tokenizer.pad_token is None:
        # Decoders have none, and padding is always masked; sentence-transformers does not load a model without one.
        others = (tokenizer.eos_token, tokenizer.sep_token, tokenizer.unk_token, tokenizer.bos_token)
        tokenizer.pad_token = next((token for token in others if token is not None), None)
    if lower_case:
        _lower_first(tokenizer.backend_tokenizer)
    # The length is the run's (data.max_length); tokenizers would warn about texts that are cut on purpose.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _lower_first(backend: Any) -> None:
    """Have a tokenizer lower texts before anything else, as sentence-transformers does for `do_lower_case`."""
    from tokenizers.normalizers import Lowercase, Sequence

    there = backend.normalizer
    steps = [*there] if isinstance(there, Sequence) else [there] if there is not None else []  # type: ignore[misc]
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps])


def load_plain_tokenizer(folder: Path, name: str, lower_case: bool = False) -> Any:
    """Return the tokenizer in `folder` without the tokens that it puts around a text; `lower_case` lowers texts first.

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
    if lower_case:
        _lower_first(backend)
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


def check_vocabulary(tokenizer: Any, rows: int, name: str) -> None:
    """Check that a tokenizer and a table of `rows` token embeddings belong together.

    Raises:
        ModelError: the tokenizer knows more tokens than the table.
    """
    # The highest id counts: a vocabulary may have gaps.
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise ModelError(
            f"model.name={name}: its tokenizer gives ids up to {highest}, but there are embeddings for {rows} tokens.",
            "The tokenizer belongs to another model: take both from one folder.",
        )

"""The tokenizer in a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.errors import ModelError, first_line
from finetune.models.st_format.json_files import read_json, write_json


def load_tokenizer(folder: Path, name: str, lower_case: bool = False) -> Any:
    """Return the fast tokenizer in `folder`, which error messages call `name`; `lower_case` lowercases texts first.

    Raises:
        ModelError: it cannot be read, or has no token to pad with.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as error:  # many types, depending on the damage
        raise ModelError(
            f"model.name={name}: its tokenizer cannot be read ({first_line(error)}).",
            "The folder must contain tokenizer.json, as save_pretrained writes it.",
        ) from error
    if tokenizer.pad_token is None:
        # Decoders have none, and padding is always masked; sentence-transformers does not load a model without one.
        tokenizer.pad_token = _substitute_pad_token(tokenizer)
    if lower_case:
        _add_lowercase(tokenizer.backend_tokenizer)
    # data.max_length applies; the tokenizer would warn about texts that are truncated on purpose.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer into `folder` such that transformers 4, which optimum needs, can read it too.

    transformers 5 has renamed a class and a setting, and reads both under either name.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(path, settings)


def _substitute_pad_token(tokenizer: Any) -> str | None:
    for token in (tokenizer.eos_token, tokenizer.sep_token, tokenizer.unk_token, tokenizer.bos_token):
        if token is not None:
            return str(token)
    return None


def _add_lowercase(backend: Any) -> None:
    """Lowercase texts before any other normalization, as sentence-transformers does for `do_lower_case`."""
    from tokenizers.normalizers import Lowercase, Sequence

    normalizer = backend.normalizer
    steps: list[Any] = []
    if isinstance(normalizer, Sequence):
        steps = list(normalizer)  # type: ignore[call-overload]
    elif normalizer is not None:
        steps = [normalizer]
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps])


def load_plain_tokenizer(folder: Path, name: str, lower_case: bool = False) -> Any:
    """Return the tokenizer in `folder` without special tokens; `lower_case` lowercases texts first.

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
            "The folder must contain tokenizer.json, as save_pretrained writes it.",
        ) from error
    backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    backend.no_truncation()
    backend.no_padding()
    if lower_case:
        _add_lowercase(backend)
    return PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]


def special_tokens(tokenizer: Any, texts: int) -> tuple[list[list[int]], list[int]]:
    """Return the special tokens before, between and after this number of texts, and the token type of every part.

    The types include those of the texts: before, first text, between, second text, ..., after.
    """
    word = _plain_word(tokenizer)
    word_ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    encoded = tokenizer(*[word] * texts, return_token_type_ids=True)
    ids = encoded["input_ids"]
    types = encoded.get("token_type_ids") or [0] * len(ids)
    parts: list[list[int]] = []
    part_types: list[int] = []
    start = 0
    for _ in range(texts):
        position = _find(word_ids, ids, start)
        parts.append(ids[start:position])
        part_types.append(types[start] if position > start else 0)
        part_types.append(types[position])
        start = position + len(word_ids)
    parts.append(ids[start:])
    part_types.append(types[start] if start < len(ids) else 0)
    return parts, part_types


def _plain_word(tokenizer: Any) -> str:
    """Return a word with at least one token."""
    for word in ("a", "1", "."):
        if tokenizer(word, add_special_tokens=False)["input_ids"]:
            return word
    raise ValueError("the tokenizer returns no tokens for any word")


def _find(part: list[int], ids: list[int], start: int) -> int:
    """Return the first position from `start` on at which `ids` contain `part`."""
    for position in range(start, len(ids)):
        if ids[position : position + len(part)] == part:
            return position
    raise ValueError("the tokens of a word change when special tokens are added")


def check_vocabulary(tokenizer: Any, rows: int, name: str) -> None:
    """Check that a tokenizer matches a table of `rows` token embeddings.

    Raises:
        ModelError: the tokenizer has ids beyond the table.
    """
    # Not the number of tokens: ids may have gaps.
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise ModelError(
            f"model.name={name}: its tokenizer gives ids up to {highest}, but there are embeddings for {rows} tokens.",
            "The tokenizer belongs to another model: take both from one folder.",
        )

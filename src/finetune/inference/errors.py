"""Errors about a model in the words of a caller who has no config."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import ModelError

_OPTION = re.compile(r"\bmodel\.(?=\w+=)")  # model.keep_layers=4


@contextmanager
def without_config_keys() -> Iterator[None]:
    """Raise errors about a model without the keys of a training's config, which the caller does not have."""
    try:
        yield
    except ModelError as error:
        what, advice = error.what, error.advice
        if "model.allow_pickle" in advice:
            advice = "Save the model as safetensors, for example with save_pretrained."
        what, advice = (_OPTION.sub("", text.replace("model.name=", "")) for text in (what, advice))
        raise ModelError(what, advice) from error.__cause__


@contextmanager
def with_name(folder: Path, name: str) -> Iterator[None]:
    """Raise errors about the model in a folder with the name that the caller gave it."""
    try:
        yield
    except ModelError as error:
        what, advice = (text.replace(str(folder), name) for text in (error.what, error.advice))
        raise ModelError(what, advice) from error.__cause__

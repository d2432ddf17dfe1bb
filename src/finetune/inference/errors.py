"""Errors about a model in the words of a caller who has no config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from finetune.errors import ModelError


@contextmanager
def without_config_keys() -> Iterator[None]:
    """Raise errors about a model without the keys of a training's config, which the caller does not have."""
    try:
        yield
    except ModelError as error:
        advice = error.advice.replace("model.name=", "")
        if "model.allow_pickle" in advice:
            advice = "Save the model as safetensors, for example with save_pretrained."
        raise ModelError(error.what.replace("model.name=", ""), advice) from error.__cause__

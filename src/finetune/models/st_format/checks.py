"""What a sentence-transformers folder says, against what `model` asks of it; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from finetune.errors import ModelError
from finetune.models.st_format.config import LAYER_WEIGHTS, PICKLED_LAYER_WEIGHTS, StConfig


def check_settings(found: StConfig, name: str, pooling: str, new_head: bool) -> None:
    """Check that what a folder of a text encoder says goes with the settings of `model`.

    Raises:
        ModelError: it does not.
    """
    check_head(found, name, new_head)
    if found.kind and found.pooling is None and pooling == "auto":
        what = f"model.name={name}: the modules that it names have no Pooling, so they give no embedding of a text."
        raise ModelError(what, "Use another model, or say how to pool its tokens, as model.pooling=mean.")


def check_head(found: StConfig, name: str, new_head: bool) -> None:
    """Check that a new head does not come after embeddings that are cut.

    Raises:
        ModelError: it does.
    """
    if new_head and found.settings.truncate_dim:
        what = f"model.name={name}: its embeddings are cut to {found.settings.truncate_dim} dimensions (truncate_dim),"
        advice = "Leave model.head and model.output_width at null, or remove truncate_dim from its"
        raise ModelError(f"{what} and nothing can come after that.", f"{advice} config_sentence_transformers.json.")


def check_nothing_after(found: StConfig, name: str) -> None:
    """Check that a folder has no module after its backbone but a normalisation, and cuts its embeddings to no width.

    Raises:
        ModelError: it has.
    """
    if found.pooling or found.layers:
        kind = "Pooling" if found.pooling else found.layers[0].kind
        what = f"model.name={name}: its {kind} module comes after {found.kind}, where it is not supported."
        raise ModelError(what, "Use a model without it.")
    if found.settings.truncate_dim:
        what = f"model.name={name}: truncate_dim = {found.settings.truncate_dim} is not supported for this model=."
        raise ModelError(what, "Use another model, or remove it from config_sentence_transformers.json.")


def check_layer_weights(found: StConfig, allow_pickle: bool) -> None:
    """Check that the layers of a folder have weights that are read.

    Raises:
        ModelError: some have none, or only pickled ones.
    """
    for layer in found.layers:
        names = [LAYER_WEIGHTS, PICKLED_LAYER_WEIGHTS] if allow_pickle else [LAYER_WEIGHTS]
        if layer.kind in ("Dense", "LayerNorm") and not any((layer.folder / name).is_file() for name in names):
            raise without_layer_weights(layer.kind, layer.folder)


def without_layer_weights(kind: str, folder: Path) -> ModelError:
    """Return what is to be said of a layer without weights that are read."""
    return ModelError(
        f"{folder}: this {kind} has no safetensors weights (only pickles or nothing), and pickles are not read.",
        "If you trust it, set model.allow_pickle=true: only tensors are made of the pickle.",
    )


def has_unit_length(found: StConfig, asked: bool | Literal["auto"]) -> bool:
    """Return whether embeddings are to have unit length, as `asked` or as the folder says.

    Raises:
        ModelError: the folder compares them by what is neither a cosine nor a dot product.
    """
    if asked != "auto":
        return asked
    similarity = found.settings.similarity
    if similarity == "manhattan" or (similarity == "euclidean" and not found.normalize):
        raise ModelError(
            f"model.name={found.backbone}: its embeddings are compared by their {similarity} distance"
            " (similarity_fn_name), which is not supported.",
            "Set model.normalize=true to train and compare by the cosine, or false by the dot product.",
        )
    return found.normalize is not False

"""Loading a model: `get_model` for one that is ready, `build_model` for one that is to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.inference.devices import Device
from finetune.inference.embedder import Dtype
from finetune.inference.locate import locate
from finetune.inference.model import Model
from finetune.inference.quantize import Precision


def get_model(
    model: Any,
    dimensions: int | None = None,
    precision: Precision = "float32",
    device: Device | Sequence[Device] | None = None,
    *,
    dtype: Dtype = "float32",
    max_length: int | None = None,
) -> Model:
    """Return a model to use: that of a run, in a folder, on the hub, or in an artifact.

    `model` is a run, its path or its name below outputs, a folder, a hub id, or the path of a zip that `save_artifact`
    wrote. Adapters (LoRA) are merged into their base model. `dimensions` and `precision` are the defaults of `encode`.
    `device` is one device, several (`["cuda:0", "cuda:1"]`), or None for the fastest one. `dtype` is that of the matrix
    products. Texts are cut to `max_length` tokens, by default to the maximum length of the model.

    Raises:
        ModelError: there is no model, the run has none yet, or it has something that is not supported.
        ArtifactError: the zip is damaged.
        FinetuneError: there are fewer dimensions, or no such device.

    Example:
        >>> from finetune.inference.load import get_model
        >>> model = get_model("sentence-transformers/all-MiniLM-L6-v2", dimensions=128, device="cpu")
        >>> model.encode(["a red cat"], normalize=True).shape
        (1, 128)
    """
    return Model(locate(model), dimensions, precision, device, dtype, max_length)

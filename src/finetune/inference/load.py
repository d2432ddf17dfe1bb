"""Loading a model: `get_model` for one that is ready, `build_model` for one that is to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.errors import FinetuneError
from finetune.inference.locate import locate
from finetune.inference.quantize import Precision, checked_precision

if TYPE_CHECKING:
    from finetune.inference.devices import Device
    from finetune.inference.embedder import Dtype
    from finetune.inference.model import Model


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
    wrote: its files are checked and extracted into the cache once, and afterwards only its list of files, with their
    checksums, is read. Adapters (LoRA) are merged into their base model. `dimensions` and `precision` are the
    defaults of `encode`.
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
    checked_precision(precision)
    location = locate(model)  # before torch is imported, which takes seconds
    from finetune.inference.model import Model

    return Model(location, dimensions, precision, device, dtype, max_length)


def build_model(
    model: Any, device: Device | None = None, *, dtype: Dtype = "float32", max_length: int | None = None, **options: Any
) -> Model:
    """Return a base model as a training starts with it, to try it before it is tuned.

    `model` is a folder or a hub id, see `describe_models`. `options` are the keys of the config group `model`, such as
    `pooling`, `normalize`, `head`, `output_width`, `keep_layers`; new layers have random weights. In contrast to
    `get_model` embeddings get unit length wherever they are compared by their cosine, as in a training.

    Raises:
        ModelError: there is no model, it has something that is not supported, or no such option.
        FinetuneError: there is no such device.

    Example:
        >>> from finetune.inference.load import build_model
        >>> model = build_model("sentence-transformers/all-MiniLM-L6-v2", device="cpu", keep_layers=2, output_width=96)
        >>> model.encode(["a red cat"]).shape
        (1, 96)
    """
    if isinstance(device, list | tuple):
        what = "build_model takes one device: the weights of new layers would differ between processes."
        raise FinetuneError(what, "Save the model first and use get_model, or name one device.")
    location = locate(model)
    from finetune.inference.model import Model

    return Model(location, None, "float32", device, dtype, max_length, options)

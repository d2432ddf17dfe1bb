"""A transformers model from a folder: its weights from safetensors only, in fp32, with no code of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.errors import ModelError, first_line
from finetune.models.quantized import check_not_quantised
from finetune.models.resolve import read_config, without_weights

_DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "dropout_rate",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


def load_backbone(
    folder: Path,
    name: str,
    dropout: float | None = None,
    random_init: bool = False,
    settings: Mapping[str, Any] | None = None,
    auto: str = "AutoModel",
    allow_pickle: bool = False,
) -> Any:
    """Return the model in `folder`, which messages call `name`.

    `settings` replace those of its config.json; `auto` is the class of transformers that finds the model's.
    `allow_pickle` reads weights that are pickled where there are no others, by an unpickler that makes tensors only.

    Raises:
        ModelError: it cannot be read, needs code of its own, has no safetensors weights, or they are another model's.
    """
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not random_init:
        check_not_quantised(folder, name, read_config(folder))
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if dropout is not None:
            _set_dropout(config, dropout, name)
        for key, value in (settings or {}).items():
            setattr(config, key, value)
        if auto == "AutoModel" and _has_decoder(config):
            auto = "AutoModelForTextEncoding"  # the half that reads
        found = getattr(transformers, auto)
        if random_init:
            return found.from_config(config, dtype=torch.float32, trust_remote_code=False)
        # fp32 master weights, always said: transformers would take whatever the file was saved in.
        model, report = found.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=None if allow_pickle else True,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except ModelError:
        raise
    except Exception as error:
        raise _explain(error, folder, name) from error
    _refuse_strange(model, report, name)
    model.made_anew = sorted(report["missing_keys"])  # weights that are random still
    return model


def _has_decoder(config: Any) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    # Where the half that reads has been saved by itself, its config says that there is no other.
    half = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel")
    return half or bool(config.is_encoder_decoder)


def _set_dropout(config: Any, dropout: float, name: str) -> None:
    parts = [config, *(getattr(config, part) for part in ("text_config", "vision_config") if hasattr(config, part))]
    keys = [(part, key) for part in parts for key in _DROPOUT_KEYS if hasattr(part, key)]
    if not keys:
        raise ModelError(
            f"model.dropout={dropout}: the model {name} ({config.model_type}) has no dropout to set.",
            "Leave model.dropout=null.",
        )
    for part, key in keys:
        setattr(part, key, dropout)


def _refuse_strange(model: nn.Module, report: Mapping[str, Any], name: str) -> None:
    """Refuse weights of another model, in whose place transformers would draw random numbers.

    A pooler or a classifier that a checkpoint never had is made anew, as everybody does.
    """
    missing = [key for key in report["missing_keys"] if key.split(".")[0] not in ("pooler", "classifier", "score")]
    weights = sum(1 for _ in model.parameters())
    if report["mismatched_keys"] or len(missing) > weights // 4:
        example = next(iter([key[0] for key in report["mismatched_keys"]] or missing))
        raise ModelError(
            f"model.name={name}: its weights are not those of a {type(model).__name__}, as its config.json says"
            f" ({len(missing) or len(report['mismatched_keys'])} of {weights} are missing or of another shape, such as"
            f" {example}).",
            "The folder holds the checkpoint of one architecture and the config of another: take both from one model.",
        )


def _explain(error: Exception, folder: Path, name: str) -> ModelError:
    text = str(error)
    if "trust_remote_code" in text:
        return ModelError(
            f"model.name={name} needs Python code of its own from the hub, which is never run.",
            "Take a model of an architecture that transformers itself knows.",
        )
    if "timm" in text and isinstance(error, ImportError):
        return ModelError(f"model.name={name} is a model of timm.", "pip install 'finetune[timm]'")
    if "size mismatch" in text or "mismatched" in text:
        return ModelError(
            f"model.name={name}: its weights are of other shapes than its config.json says.",
            "The folder holds the checkpoint of one architecture and the config of another: take both from one model.",
        )
    if not list(folder.glob("*.safetensors")):
        return without_weights(name)
    return ModelError(
        f"model.name={name} cannot be read: {first_line(error)}",
        "The folder may be incomplete or damaged: get it again.",
    )

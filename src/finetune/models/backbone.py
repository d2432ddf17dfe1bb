"""A transformers model from a folder: its weights from safetensors in fp32, without code of its own; and its layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.errors import ModelError, first_line
from finetune.models.model_config import read_config
from finetune.models.resolve import missing_weights
from finetune.models.sdpa import avoid_synchronization
from finetune.models.weight_files import check_not_quantized

_DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "dropout_rate",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
_LAYER_COUNT_KEYS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_NEW_IN_TRAINING = ("pooler", "classifier", "score")  # modules that a checkpoint may lack
_MIXED_FOLDER = (
    "The folder holds the checkpoint of one architecture and the config of another: take both from one model."
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
    """Return the model in `folder`, which error messages call `name`.

    `settings` replace those of its config.json; `auto` is the class of transformers that selects the model's class.
    `allow_pickle` reads pickled weights where there are no others, by an unpickler that makes tensors only.

    Raises:
        ModelError: it cannot be read, needs code of its own, has no safetensors weights, or weights that do not match.
    """
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not random_init:
        check_not_quantized(folder, name, read_config(folder))
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if dropout is not None:
            _set_dropout(config, dropout, name)
        for key, value in (settings or {}).items():
            setattr(config, key, value)
        if auto == "AutoModel" and _has_decoder(config):
            auto = "AutoModelForTextEncoding"  # the encoder alone
        auto_class = getattr(transformers, auto)
        if random_init:
            model = auto_class.from_config(config, dtype=torch.float32, trust_remote_code=False)
            avoid_synchronization(model)
            return model
        # fp32 master weights, set explicitly: the default of transformers is the dtype of the file.
        model, report = auto_class.from_pretrained(
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
        raise _load_error(error, folder, name) from error
    _check_weights_match(model, report, name)
    avoid_synchronization(model)
    model.newly_initialized = sorted(report["missing_keys"])
    return model


def _has_decoder(config: Any) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    # Where the encoder was saved by itself, its config says that there is no decoder.
    encoder_only = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel")
    return encoder_only or bool(config.is_encoder_decoder)


def _set_dropout(config: Any, dropout: float, name: str) -> None:
    parts = [config]
    parts += [getattr(config, part) for part in ("text_config", "vision_config") if hasattr(config, part)]
    keys = [(part, key) for part in parts for key in _DROPOUT_KEYS if hasattr(part, key)]
    if not keys:
        raise ModelError(
            f"model.dropout={dropout}: the model {name} ({config.model_type}) has no dropout to set.",
            "Leave model.dropout=null.",
        )
    for part, key in keys:
        setattr(part, key, dropout)


def _check_weights_match(model: nn.Module, report: Mapping[str, Any], name: str) -> None:
    """Check that the weights are of this architecture; transformers would replace others by random numbers.

    A pooler or a classifier that a checkpoint does not have is initialized, as is common.

    Raises:
        ModelError: they are not.
    """
    missing = [key for key in report["missing_keys"] if key.split(".")[0] not in _NEW_IN_TRAINING]
    mismatched = [key[0] for key in report["mismatched_keys"]]
    count = sum(1 for _ in model.parameters())
    if mismatched or len(missing) > count // 4:
        example = mismatched[0] if mismatched else missing[0]
        raise ModelError(
            f"model.name={name}: its weights are not those of a {type(model).__name__}, the class in its config.json"
            f" ({len(missing) or len(mismatched)} of {count} are missing or have another shape, such as {example}).",
            _MIXED_FOLDER,
        )


def _load_error(error: Exception, folder: Path, name: str) -> ModelError:
    text = str(error)
    if "trust_remote_code" in text:
        return ModelError(
            f"model.name={name} needs Python code of its own from the hub, which is never run.",
            "Use a model of an architecture that transformers itself supports.",
        )
    if "timm" in text and isinstance(error, ImportError):
        return ModelError(f"model.name={name} is a model of timm.", "pip install 'finetune[timm]'")
    if "size mismatch" in text or "mismatched" in text:
        return ModelError(f"model.name={name}: the shapes of its weights do not match its config.json.", _MIXED_FOLDER)
    if not list(folder.glob("*.safetensors")):
        return missing_weights(name)
    return ModelError(
        f"model.name={name} cannot be read: {first_line(error)}",
        "The folder may be incomplete or damaged: get it again.",
    )


def layers_of(backbone: nn.Module, name: str) -> nn.ModuleList:
    """Return the layers of a backbone, the one nearest to its input first.

    Raises:
        ModelError: it has no list of layers of one class.
    """
    stacks = []
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(layer) for layer in module}) == 1:
            stacks.append(module)
    if not stacks:
        raise ModelError(
            f"model.name={name}: a {type(backbone).__name__} has no layers that can be counted.",
            'Use patterns of parameter names instead, as in tuning.freeze=["*embeddings*"].',
        )
    return max(stacks, key=len)


def keep_layers(backbone: Any, count: int, name: str) -> None:
    """Remove all layers except the first `count`.

    Raises:
        ModelError: it has fewer.
    """
    layers = layers_of(backbone, name)
    if count > len(layers):
        raise ModelError(
            f"model.keep_layers={count} is more than the {len(layers)} layers of {name}.",
            f"Set {len(layers)} or less.",
        )
    del layers[count:]
    config = backbone.config
    for key in _LAYER_COUNT_KEYS:
        if hasattr(config, key):
            setattr(config, key, count)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]


def freeze_unused(backbone: nn.Module, *names: str) -> None:
    """Freeze these modules, whose output is not used: they would take optimizer memory, and DDP would fail."""
    for name in names:
        module = getattr(backbone, name, None)
        if isinstance(module, nn.Module):
            module.requires_grad_(False)

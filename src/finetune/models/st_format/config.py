"""What a sentence-transformers folder says: which modules follow on each other, and with what settings; no torch.

Every key of its JSON files is honoured or refused by its name (`folder_settings.py` has those of the settings files).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from finetune.errors import ModelError
from finetune.models.st_format.module_types import module_kind
from finetune.models.st_format.settings import (
    ModelSettings,
    TransformerSettings,
    read_model_settings,
    read_transformer_settings,
)
from finetune.models.st_format.values import check_keys, count, flag, fraction, read_json, refused

# What sentence-transformers calls our poolings; of the last two it knows nothing.
POOLINGS = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
    "gem": "gem",
    "attention": "attention",
}
# As flags, which every version reads; of several the embeddings follow on each other in this order.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_WEIGHTS = LAYER_WEIGHTS = "model.safetensors"
PICKLED_LAYER_WEIGHTS = "pytorch_model.bin"
# Activations of torch.nn without weights or settings, which the config of a dense layer may name.
_ACTIVATIONS = (
    *("Identity", "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU"),
    *("LogSigmoid", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign"),
    *("Tanh", "Tanhshrink"),
)
_TORCH = ("torch.nn", "torch.nn.modules", "torch.nn.modules.activation", "torch.nn.modules.linear")

_POOLING_KEYS = {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *FLAGS}

# For what kind of encoder a folder is read: texts, images, both, a table of token embeddings, pairs of texts.
Use = Literal["text", "image", "text_image", "static", "pairs"]
_BACKBONES: dict[str, tuple[str, ...]] = {
    "text": ("Transformer",),
    "image": ("Transformer",),
    "text_image": ("CLIPModel", "Transformer"),
    "static": ("StaticEmbedding", "Transformer"),
    "pairs": ("Transformer",),
}
_LAYER_KEYS = {
    "Dense": {
        "in_features",
        "out_features",
        "bias",
        "activation_function",
        "module_input_name",
        "module_output_name",
        "use_residual",
    },
    "LayerNorm": {"dimension"},
    "Dropout": {"dropout"},
    "Normalize": {"module_input_name", "module_output_name"},
}
_WIDTHS = {"Dense": ("in_features", "out_features"), "LayerNorm": ("dimension",)}


class Layer(NamedTuple):
    """A module after the pooling: its kind, such as `Dense`, its folder, and its `config.json`."""

    kind: str
    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class StConfig:
    """What a folder says of itself; nothing if it is a plain transformers folder.

    `backbone` is the folder of the backbone and `kind` its module, `pooling` the modes of ours that are concatenated
    (`cls+mean`) and `pooling_folder` where they are, `layers` what follows, without a last normalisation. `normalize`
    says whether embeddings have unit length, or are compared by their cosine; None if nothing does.
    """

    backbone: Path
    kind: str = ""
    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    pooling: str | None = None
    pooling_folder: Path | None = None
    layers: Sequence[Layer] = ()
    normalize: bool | None = None
    settings: ModelSettings = field(default_factory=ModelSettings)


def read_st_config(folder: Path, use: Use = "text") -> StConfig:
    """Read `modules.json` and all that it names, for an encoder of kind `use`.

    Raises:
        ModelError: it is damaged, or says what cannot be honoured.
    """
    if not (folder / "modules.json").is_file():
        return StConfig(folder)
    try:
        return _read(folder, use)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model.name={folder}: its modules.json or what it names is damaged ({type(error).__name__}: {error}).",
            "Get the model again.",
        ) from error


def declared_width(found: StConfig, width: int | None, pooling: str = "auto") -> int | None:
    """Return the width of the embeddings, of a backbone of `width`; None if it is not known.

    `pooling` is the setting of the encoder: the folder's own with `auto`.
    """
    modes = found.pooling if pooling == "auto" else pooling
    for layer in found.layers:
        width = layer.config["out_features"] if layer.kind == "Dense" else width
    if not any(layer.kind == "Dense" for layer in found.layers) and width and modes:
        width *= modes.count("+") + 1
    truncated = found.settings.truncate_dim
    return min(width, truncated) if width and truncated else width


def _read(folder: Path, use: Use) -> StConfig:
    settings = read_model_settings(folder, pairs=use == "pairs")
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [_kind_of(module, folder) for module in modules]
    names = [module["name"] for module in modules if "name" in module]
    if len(set(names)) < len(names):
        raise ValueError("two modules have one name")
    places = [_place(folder, str(module["path"])) for module in modules]
    if not kinds or kinds[0] not in _BACKBONES[use]:
        raise _unexpected(folder, use, modules[0]["type"] if modules else "no module")
    backbone, rest = places[0], list(zip(kinds[1:], places[1:], strict=True))
    transformer = TransformerSettings()
    if kinds[0] != "StaticEmbedding":
        # A table that is distilled from a model of texts is made of what that model says.
        transformer = read_transformer_settings(backbone, "text" if use == "static" else use)
    if use == "pairs":
        return StConfig(backbone, kinds[0], transformer, settings=settings)
    pooling, pooling_folder = None, None
    if rest and rest[0][0] == "Pooling":
        pooling_folder = rest.pop(0)[1]
        pooling = _pooling_in(pooling_folder / "config.json")
    layers = [_layer(kind, place, folder) for kind, place in rest]
    normalize = settings.similarity in (None, "cosine")
    if layers and layers[-1].kind == "Normalize":
        layers, normalize = layers[:-1], True
    return StConfig(backbone, kinds[0], transformer, pooling, pooling_folder, layers, normalize, settings)


def _kind_of(module: Mapping[str, Any], folder: Path) -> str:
    place = folder / "modules.json"
    check_keys(place, module, {"idx", "name", "path", "type", "kwargs"})
    if module.get("kwargs"):
        raise refused(place, f"kwargs of {module['type']}", module["kwargs"], "Use a model that needs none.")
    return module_kind(module["type"], folder)


def _place(folder: Path, path: str) -> Path:
    place = folder / path
    if not place.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the path {path!r} leads out of the folder")
    return place


def _unexpected(folder: Path, use: Use, kind: str) -> ModelError:
    advice = f"Use a model whose first module is {' or '.join(_BACKBONES[use])}"
    if kind.endswith(".StaticEmbedding") and use == "text":
        advice += ", or model=static for this one"
    if kind.endswith(".CLIPModel") and use == "text":
        advice += ", or model=clip for this one"
    what = f"model.name={folder}: its first module is {kind}, which this model= does not read."
    return ModelError(what, advice + ".")


def _pooling_in(path: Path) -> str:
    config = json.loads(path.read_text(encoding="utf-8"))
    check_keys(path, config, _POOLING_KEYS)
    if config.get("include_prompt", True) is not True:
        advice = "Use another model; where its prompts are never used, remove the key: it changes nothing then."
        raise refused(path, "include_prompt", config["include_prompt"], advice)
    # Written as names since sentence-transformers 5.4, as one flag per mode before.
    flagged = [mode for key, mode in FLAGS.items() if flag(path, key, config.get(key))]
    modes = config.get("pooling_mode") or flagged or "mean"
    modes = [modes] if isinstance(modes, str) else list(modes)
    for mode in modes:
        if mode not in POOLINGS:
            raise refused(path, "pooling_mode", mode, f"Supported: {', '.join(POOLINGS)}.")
    return "+".join(POOLINGS[mode] for mode in modes)


def _layer(kind: str, place: Path, folder: Path) -> Layer:
    if kind not in _LAYER_KEYS:
        raise ModelError(
            f"model.name={folder}: its module {place.name or '.'} ({kind}) is not where it can be trained.",
            "Use a model with one backbone, then one pooling, then dense layers and the like.",
        )
    path = place / "config.json"
    config = read_json(path)
    check_keys(path, config, _LAYER_KEYS[kind])
    for key in ("module_input_name", "module_output_name"):
        # What works on tokens, as a ColBERT's dense layer, is before any pooling.
        if config.get(key) not in (None, "sentence_embedding"):
            raise refused(path, key, config[key], "Use a model whose layers work on the pooled embedding.")
    package, _, activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")
    if activation not in _ACTIVATIONS or package not in _TORCH:
        advice = f"Use a model with one of torch.nn's {', '.join(_ACTIVATIONS)}."
        raise refused(path, "activation_function", config["activation_function"], advice)
    for key in _WIDTHS.get(kind, ()):
        if count(path, key, config.get(key)) is None:
            raise ValueError(f"{place.name}: its config.json has no {key}")
    for key in ("bias", "use_residual"):
        if key in config:
            flag(path, key, config[key])
    if "dropout" in config:
        fraction(path, "dropout", config["dropout"])
    return Layer(kind, place, config)

"""`modules.json` and the config of each module in it: which are supported, with which keys; no torch.

A module type is matched by its full dotted name, old or new. Any other name is a class of another library, whatever it
is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from finetune.errors import ModelError
from finetune.models.st_format.json_files import (
    check_keys,
    read_count,
    read_flag,
    read_fraction,
    read_json,
    unsupported,
)

_BASE, _DENSE = "sentence_transformers.base.modules", "sentence_transformers.sentence_transformer.modules"
_OLD = "sentence_transformers.models"  # before 5.4; later versions read it as an alias

# Where sentence-transformers 6 defines each supported module.
_DEFINED = {
    "Transformer": f"{_BASE}.transformer",
    "CLIPModel": f"{_DENSE}.clip_model",
    "StaticEmbedding": f"{_DENSE}.static_embedding",
    "Pooling": f"{_DENSE}.pooling",
    "Dense": f"{_BASE}.dense",
    "LayerNorm": f"{_DENSE}.layer_norm",
    "Dropout": f"{_DENSE}.dropout",
    "Normalize": f"{_BASE}.normalize",
}
_MOVED = {f"{_DENSE}.normalize.Normalize": "Normalize"}  # its place in 5.4 to 5.6


def _dotted_names(name: str, module: str) -> list[str]:
    package = module.rpartition(".")[0]
    return [f"{module}.{name}", f"{package}.{name}", f"{_DENSE}.{name}", f"{_OLD}.{name}", f"{_OLD}.{name}.{name}"]


TYPES = {dotted: name for name, module in _DEFINED.items() for dotted in _dotted_names(name, module)} | _MOVED

# The pooling modes of sentence-transformers and our names for them; the last two are our own.
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
# The same as flags, which every version reads; with several flags the embeddings are concatenated in this order.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_KEYS = {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *POOLING_FLAGS}
POOLING_WEIGHTS = LAYER_WEIGHTS = "model.safetensors"
PICKLED_LAYER_WEIGHTS = "pytorch_model.bin"

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
_WIDTH_KEYS = {"Dense": ("in_features", "out_features"), "LayerNorm": ("dimension",)}
# The activations of torch.nn without parameters or arguments, which the config of a dense layer may name.
_ACTIVATIONS = (
    *("Identity", "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU"),
    *("LogSigmoid", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign"),
    *("Tanh", "Tanhshrink"),
)
_ACTIVATION_PACKAGES = ("torch.nn", "torch.nn.modules", "torch.nn.modules.activation", "torch.nn.modules.linear")


class Module(NamedTuple):
    """An entry of `modules.json`: its kind, such as `Dense`, its folder, and its full dotted type."""

    kind: str
    folder: Path
    dotted: str


class Layer(NamedTuple):
    """A module after the pooling: its kind, such as `Dense`, its folder, and its `config.json`."""

    kind: str
    folder: Path
    config: Mapping[str, Any]


def read_modules(folder: Path) -> list[Module]:
    """Read `modules.json`.

    Raises:
        ModelError: a module is not supported.
        ValueError: two modules have the same name, or a path leads out of the folder.
    """
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [_entry_kind(entry, folder) for entry in entries]
    names = [entry["name"] for entry in entries if "name" in entry]
    if len(set(names)) < len(names):
        raise ValueError("two modules have one name")
    folders = [_module_folder(folder, str(entry["path"])) for entry in entries]
    types = [entry["type"] for entry in entries]
    return [Module(*columns) for columns in zip(kinds, folders, types, strict=True)]


def module_kind(dotted: str, folder: object) -> str:
    """Return which supported module a dotted type names, such as `Dense`.

    Raises:
        ModelError: it is none of them.
    """
    kind = TYPES.get(dotted)
    if kind is not None:
        return kind
    advice = f"Use a model made of these modules of sentence-transformers: {', '.join(_DEFINED)}."
    if dotted.startswith("sentence_transformers."):
        raise ModelError(f"model.name={folder}: its module {dotted} cannot be trained.", advice)
    raise ModelError(
        f"model.name={folder}: its module {dotted} is code from outside sentence-transformers, which is never run.",
        advice,
    )


def saved_type(kind: str) -> str:
    """Return the dotted type to save a module under: the one that every sentence-transformers since 2.0 reads."""
    return f"{_OLD}.{kind}"


def _entry_kind(entry: Mapping[str, Any], folder: Path) -> str:
    path = folder / "modules.json"
    check_keys(path, entry, {"idx", "name", "path", "type", "kwargs"})
    if entry.get("kwargs"):
        raise unsupported(path, f"kwargs of {entry['type']}", entry["kwargs"], "Use a model that needs none.")
    return module_kind(entry["type"], folder)


def _module_folder(folder: Path, path: str) -> Path:
    module_folder = folder / path
    if not module_folder.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the path {path!r} leads out of the folder")
    return module_folder


class PoolingConfig(NamedTuple):
    """The config of a Pooling module: its modes under our names, joined by `+`; whether a prompt is pooled."""

    modes: str
    include_prompt: bool


def read_pooling(folder: Path) -> PoolingConfig:
    """Return the config of a Pooling module.

    Raises:
        ModelError: its config is not supported.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    check_keys(path, config, _POOLING_KEYS)
    include_prompt = "include_prompt" not in config or read_flag(path, "include_prompt", config["include_prompt"])
    # Written as names since sentence-transformers 5.4, as one flag per mode before.
    flagged = [mode for key, mode in POOLING_FLAGS.items() if read_flag(path, key, config.get(key))]
    modes = config.get("pooling_mode") or flagged or "mean"
    modes = [modes] if isinstance(modes, str) else list(modes)
    for mode in modes:
        if mode not in POOLINGS:
            raise unsupported(path, "pooling_mode", mode, f"Supported: {', '.join(POOLINGS)}.")
    return PoolingConfig("+".join(POOLINGS[mode] for mode in modes), include_prompt)


def read_layer(module: Module, folder: Path) -> Layer:
    """Return a module after the pooling with its config; `folder` is that of the whole model.

    Raises:
        ModelError: the module is not supported there, or its config is not.
        ValueError: its config has no width.
    """
    kind = module.kind
    if kind not in _LAYER_KEYS:
        raise ModelError(
            f"model.name={folder}: its module {module.folder.name or '.'} ({kind}) is not where it can be trained.",
            "Use a model with one backbone, then one pooling, then dense layers and the like.",
        )
    path = module.folder / "config.json"
    config = read_json(path)
    check_keys(path, config, _LAYER_KEYS[kind])
    for key in ("module_input_name", "module_output_name"):
        # A layer on token embeddings, such as a ColBERT's dense layer, comes before any pooling.
        if config.get(key) not in (None, "sentence_embedding"):
            raise unsupported(path, key, config[key], "Use a model whose layers work on the pooled embedding.")
    _check_activation(path, config)
    for key in _WIDTH_KEYS.get(kind, ()):
        if read_count(path, key, config.get(key)) is None:
            raise ValueError(f"{module.folder.name}: its config.json has no {key}")
    for key in ("bias", "use_residual"):
        if key in config:
            read_flag(path, key, config[key])
    if "dropout" in config:
        read_fraction(path, "dropout", config["dropout"])
    return Layer(kind, module.folder, config)


def _check_activation(path: Path, config: Mapping[str, Any]) -> None:
    package, _, activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")
    if activation not in _ACTIVATIONS or package not in _ACTIVATION_PACKAGES:
        advice = f"Use a model with one of torch.nn's {', '.join(_ACTIVATIONS)}."
        raise unsupported(path, "activation_function", config["activation_function"], advice)

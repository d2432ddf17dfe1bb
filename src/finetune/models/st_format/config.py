"""A sentence-transformers folder as one `StConfig`, and checks of it against the settings of `model`; no torch.

Every key of its JSON files is supported, or raises with its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from finetune.errors import ModelError
from finetune.models.st_format.json_files import unsupported
from finetune.models.st_format.modules import (
    LAYER_WEIGHTS,
    PICKLED_LAYER_WEIGHTS,
    Layer,
    Module,
    read_layer,
    read_modules,
    read_pooling,
)
from finetune.models.st_format.settings import (
    EncoderKind,
    ModelSettings,
    TransformerSettings,
    read_model_settings,
    read_transformer_settings,
)

# The first module that a folder may have, for each kind of encoder.
_BACKBONES: dict[str, tuple[str, ...]] = {
    "text": ("Transformer",),
    "image": ("Transformer",),
    "text_image": ("CLIPModel", "Transformer"),
    "static": ("StaticEmbedding", "Transformer"),
    "pairs": ("Transformer",),
}


@dataclass(frozen=True)
class StConfig:
    """The configuration of a sentence-transformers folder; all defaults if it is a plain transformers folder.

    `backbone` is the folder of the first module and `kind` its kind. `pooling` has the modes that are concatenated,
    under our names (`cls+mean`), and `pooling_folder` the folder of that module; with `include_prompt` the tokens of a
    prompt are pooled too. `layers` are the modules after it, without a final Normalize; `unit_length` is whether there
    is one. `normalize` is whether embeddings have unit length or are compared by their cosine; None for a plain
    transformers folder.
    """

    backbone: Path
    kind: str = ""
    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    pooling: str | None = None
    pooling_folder: Path | None = None
    include_prompt: bool = True
    layers: Sequence[Layer] = ()
    normalize: bool | None = None
    unit_length: bool = False
    settings: ModelSettings = field(default_factory=ModelSettings)


def read_st_config(folder: Path, encoder_kind: EncoderKind = "text") -> StConfig:
    """Read `modules.json` and all files that belong to it, for an encoder of this kind.

    Raises:
        ModelError: a file is damaged, or contains something that is not supported.
    """
    if not (folder / "modules.json").is_file():
        return StConfig(folder)
    try:
        return _read(folder, encoder_kind)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model.name={folder}: its modules.json or a file that it names is damaged"
            f" ({type(error).__name__}: {error}).",
            "Get the model again.",
        ) from error


def _read(folder: Path, encoder_kind: EncoderKind) -> StConfig:
    settings = read_model_settings(folder, pairs=encoder_kind == "pairs")
    modules = read_modules(folder)
    if not modules or modules[0].kind not in _BACKBONES[encoder_kind]:
        raise _unsupported_backbone(folder, encoder_kind, modules)
    backbone, *rest = modules
    transformer = TransformerSettings()
    if backbone.kind != "StaticEmbedding":
        # A static table can be distilled from a text model, whose settings apply then.
        transformer_kind = "text" if encoder_kind == "static" else encoder_kind
        transformer = read_transformer_settings(backbone.folder, transformer_kind)
    if encoder_kind == "pairs":
        return StConfig(backbone.folder, backbone.kind, transformer, settings=settings)
    pooling, pooling_folder, include_prompt = None, None, True
    if rest and rest[0].kind == "Pooling":
        pooling_folder = rest.pop(0).folder
        pooling, include_prompt = read_pooling(pooling_folder)
    layers = [read_layer(module, folder) for module in rest]
    unit_length = bool(layers) and layers[-1].kind == "Normalize"
    if unit_length:
        layers = layers[:-1]
    return StConfig(
        backbone=backbone.folder,
        kind=backbone.kind,
        transformer=transformer,
        pooling=pooling,
        pooling_folder=pooling_folder,
        include_prompt=include_prompt,
        layers=layers,
        normalize=unit_length or settings.similarity in (None, "cosine"),
        unit_length=unit_length,
        settings=settings,
    )


def _unsupported_backbone(folder: Path, encoder_kind: EncoderKind, modules: Sequence[Module]) -> ModelError:
    found = modules[0].dotted if modules else "no module"
    advice = f"Use a model whose first module is {' or '.join(_BACKBONES[encoder_kind])}"
    if found.endswith(".StaticEmbedding") and encoder_kind == "text":
        advice += ", or model=static for this one"
    if found.endswith(".CLIPModel") and encoder_kind == "text":
        advice += ", or model=clip for this one"
    what = f"model.name={folder}: its first module is {found}, which this model= does not support."
    return ModelError(what, advice + ".")


def embedding_width(st_config: StConfig, backbone_width: int | None, pooling: str = "auto") -> int | None:
    """Return the width of the embeddings, given that of the backbone; None if it is unknown.

    `pooling` is the setting of the encoder; `auto` is the pooling of the folder.
    """
    width = backbone_width
    dense = [layer for layer in st_config.layers if layer.kind == "Dense"]
    modes = st_config.pooling if pooling == "auto" else pooling
    if dense:
        width = dense[-1].config["out_features"]
    elif width and modes:
        width *= modes.count("+") + 1
    truncated = st_config.settings.truncate_dim
    if width and truncated:
        return min(width, truncated)
    return width


def check_text_config(st_config: StConfig, name: str, pooling: str, new_head: bool, pools_prompt: bool = True) -> None:
    """Check the configuration of a text encoder against the settings of `model`.

    `pools_prompt` is whether the encoder pools the tokens of a prompt.

    Raises:
        ModelError: they do not go together.
    """
    check_new_head(st_config, name, new_head)
    if st_config.pooling_folder is not None and pools_prompt and not st_config.include_prompt:
        advice = "Use another model; where its prompts are never used, remove the key: it changes nothing then."
        raise unsupported(st_config.pooling_folder / "config.json", "include_prompt", False, advice)
    if st_config.kind and st_config.pooling is None and pooling == "auto":
        what = f"model.name={name}: its modules.json has no Pooling, so it gives no embedding of a text."
        raise ModelError(what, "Use another model, or set how to pool its tokens, as in model.pooling=mean.")


def check_new_head(st_config: StConfig, name: str, new_head: bool) -> None:
    """Check that no new head follows truncated embeddings.

    Raises:
        ModelError: one does.
    """
    if new_head and st_config.settings.truncate_dim:
        what = (
            f"model.name={name}: its embeddings are truncated to {st_config.settings.truncate_dim} dimensions"
            " (truncate_dim), and no head can follow that."
        )
        advice = "Leave model.head and model.output_width at null, or remove truncate_dim from its"
        raise ModelError(what, f"{advice} config_sentence_transformers.json.")


def check_backbone_only(st_config: StConfig, name: str) -> None:
    """Check that a folder has no module after its backbone except Normalize, and does not truncate embeddings.

    Raises:
        ModelError: it does.
    """
    if st_config.pooling or st_config.layers:
        kind = "Pooling" if st_config.pooling else st_config.layers[0].kind
        what = f"model.name={name}: its {kind} module after {st_config.kind} is not supported."
        raise ModelError(what, "Use a model without it.")
    truncated = st_config.settings.truncate_dim
    if truncated:
        what = f"model.name={name}: truncate_dim = {truncated} is not supported for this model=."
        raise ModelError(what, "Use another model, or remove it from config_sentence_transformers.json.")


def check_layer_weights(st_config: StConfig, allow_pickle: bool) -> None:
    """Check that the layers of a folder have weights in a format that is read.

    Raises:
        ModelError: some have none, or only pickled ones.
    """
    names = [LAYER_WEIGHTS]
    if allow_pickle:
        names.append(PICKLED_LAYER_WEIGHTS)
    for layer in st_config.layers:
        has_weights = any((layer.folder / name).is_file() for name in names)
        if layer.kind in ("Dense", "LayerNorm") and not has_weights:
            raise missing_layer_weights(layer)


def missing_layer_weights(layer: Layer) -> ModelError:
    """Return the error for a layer without weights in a format that is read."""
    return ModelError(
        f"{layer.folder}: this {layer.kind} has no safetensors weights (only pickles or nothing), and pickles are not"
        " read.",
        "If you trust it, set model.allow_pickle=true: only tensors are made of the pickle.",
    )


def is_normalized(st_config: StConfig, setting: bool | Literal["auto"]) -> bool:
    """Return whether embeddings get unit length: `setting`, or what the folder says if that is `auto`.

    Raises:
        ModelError: the folder compares embeddings neither by cosine nor by dot product.
    """
    if setting != "auto":
        return setting
    similarity = st_config.settings.similarity
    if similarity == "manhattan" or (similarity == "euclidean" and not st_config.normalize):
        raise ModelError(
            f"model.name={st_config.backbone}: its embeddings are compared by their {similarity} distance"
            " (similarity_fn_name), which is not supported.",
            "Set model.normalize=true to train and compare by the cosine, or false by the dot product.",
        )
    return st_config.normalize is not False

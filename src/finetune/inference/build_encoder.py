"""The encoder in a folder, as sentence-transformers would load it, and the settings that go with it.

Training normalizes embeddings where they are compared by their cosine, and pools the tokens of decoders differently;
here everything is as the folder declares it, so that vectors equal those of sentence-transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.arguments import is_whole_number
from finetune.config.suggest import did_you_mean
from finetune.errors import ModelError
from finetune.inference.errors import without_config_keys
from finetune.models.encoder import Encoder
from finetune.models.kinds import Kind, kind_of_folder
from finetune.models.model_config import max_tokens, read_config
from finetune.models.resolve import backbone_folder
from finetune.models.st_format.config import StConfig, read_st_config
from finetune.models.st_format.json_files import read_json

_NO_LIMIT = 1_000_000  # tokens of a text where neither model nor tokenizer has a limit
_TOKENIZER_LIMIT = 10**9  # transformers writes a larger number where there is no limit


@dataclass(frozen=True)
class InferenceSettings:
    """What a folder says about the use of its model.

    `prompts` are by name; `similarity` is cosine, dot, euclidean or manhattan; `truncate_dim` the number of dimensions
    that are used, None for all; `max_length` in tokens, None if it reads no texts; `activation` the name of the module
    of torch.nn that turns the logits of a cross-encoder into scores.
    """

    kind: Kind
    prompts: Mapping[str, str]
    default_prompt: str = ""
    similarity: str = "cosine"
    truncate_dim: int | None = None
    max_length: int | None = None
    include_prompt: bool = True
    activation: str = "Sigmoid"


def build_encoder(
    folder: Path, max_length: int | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Encoder, InferenceSettings]:
    """Return the encoder in a folder in fp32 on the CPU, ready for inference, and its settings.

    Texts are cut to `max_length` tokens, by default to the maximum length of the folder. With `options`, the arguments
    of the encoder's class, it is as a training starts with it.

    Raises:
        ModelError: there is no model, it is damaged, has something that is not supported, or cannot read texts of
            `max_length`; its class has no such option.
    """
    with without_config_keys():
        encoder, settings = _build(folder, options)
    if max_length is None or settings.max_length is None:
        return encoder, settings
    limit = max_tokens(read_config(folder), folder) if settings.kind in ("text", "pairs", "text_image") else None
    if not is_whole_number(max_length, most=limit):
        advice = f"Set 1 to {limit}." if limit else "Set at least 1."
        raise ModelError(f"max_length={max_length!r}: {folder} reads {limit or 'any number of'} tokens.", advice)
    return encoder, replace(settings, max_length=max_length)


def _build(folder: Path, options: Mapping[str, Any] | None) -> tuple[Encoder, InferenceSettings]:
    kind = kind_of_folder(folder)
    if kind in ("two_towers", "points", "vectors"):
        max_length = _tower_length(folder) if kind == "two_towers" else None
        return _OWN[kind](folder), InferenceSettings(kind, {}, max_length=max_length)
    st_config = read_st_config(folder, kind)  # type: ignore[arg-type]
    encoder_class, as_saved = _CLASSES[kind](st_config)
    settings = _settings(kind, folder, st_config)
    if options is not None:
        _check_options(encoder_class, options)
        return encoder_class(str(folder), **options), replace(settings, truncate_dim=None)
    encoder: Any = encoder_class(str(folder), **as_saved)
    # Dimensions are cut after the last normalization, as sentence-transformers does.
    if hasattr(encoder, "truncate"):
        encoder.truncate = None
    return encoder, settings


def _check_options(encoder_class: type[Encoder], options: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(encoder_class).parameters if name not in ("name", "allow_pickle")]
    for name in options:
        if name not in known:
            advice = did_you_mean(name, known) or f"Its options are {', '.join(known)}."
            raise ModelError(f"a {encoder_class.__name__} has no option {name!r}.", advice)


def _settings(kind: Kind, folder: Path, st_config: StConfig) -> InferenceSettings:
    own = st_config.settings
    return InferenceSettings(
        kind=kind,
        prompts=own.prompts,
        default_prompt=own.default_prompt,
        similarity=own.similarity or "cosine",
        truncate_dim=own.truncate_dim,
        max_length=None if kind == "image" else max_length_of(kind, folder, st_config),
        include_prompt=st_config.include_prompt,
        activation=_activation(folder, st_config),
    )


def max_length_of(kind: Kind, folder: Path, st_config: StConfig) -> int:
    """Return how many tokens of a text are used: the limit of the folder, of its tokenizer, or of its positions."""
    if kind == "static":
        tokenizer = read_json(st_config.backbone / "tokenizer.json")
        return int((tokenizer.get("truncation") or {}).get("max_length") or _NO_LIMIT)
    config = read_config(folder)
    limits = [st_config.transformer.max_length]
    if limits[0] is None:
        text_config = config.get("text_config") if kind == "text_image" else config
        limits = [_tokenizer_limit(st_config.backbone), (text_config or {}).get("max_position_embeddings")]
    limits.append(max_tokens(config, folder))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=_NO_LIMIT)


def _tokenizer_limit(folder: Path) -> int | None:
    limit = read_json(folder / "tokenizer_config.json").get("model_max_length")
    return int(limit) if isinstance(limit, int | float) and limit < _TOKENIZER_LIMIT else None


def _tower_length(folder: Path) -> int:
    return max_length_of("text", folder / "text", read_st_config(folder / "text"))


def _activation(folder: Path, st_config: StConfig) -> str:
    """Return the activation of a cross-encoder: that of its folder if it is one of torch.nn, else a sigmoid."""
    config = read_json(backbone_folder(folder) / "config.json")
    named = [
        st_config.settings.extra.get("activation_fn"),
        (config.get("sentence_transformers") or {}).get("activation_fn"),
        config.get("sbert_ce_default_activation_function"),
    ]
    for name in named:
        if isinstance(name, str) and name.startswith("torch.nn."):
            return name.rpartition(".")[2]
    return "Sigmoid"


def _text(st_config: StConfig) -> tuple[type[Encoder], dict[str, Any]]:
    from finetune.inference.prompted_text import PromptedTextEncoder
    from finetune.models.text import TextEncoder

    encoder_class = TextEncoder if st_config.include_prompt else PromptedTextEncoder
    pooling = "auto" if st_config.kind else _plain_pooling(st_config.backbone)
    return encoder_class, {"pooling": pooling, "normalize": st_config.unit_length}


def _plain_pooling(folder: Path) -> str:
    """Return the pooling that sentence-transformers chooses for a folder without modules."""
    config = read_json(folder / "config.json")
    architecture = str((config.get("architectures") or [""])[0])
    return "last" if architecture.endswith("ForCausalLM") and config.get("is_causal", True) else "mean"


def _image(st_config: StConfig) -> tuple[type[Encoder], dict[str, Any]]:
    from finetune.models.image import ImageEncoder

    return ImageEncoder, {"normalize": st_config.unit_length}


def _text_image(st_config: StConfig) -> tuple[type[Encoder], dict[str, Any]]:
    from finetune.models.text_image import TextImageEncoder

    return TextImageEncoder, {"normalize": st_config.unit_length}


def _static(st_config: StConfig) -> tuple[type[Encoder], dict[str, Any]]:
    from finetune.models.static import StaticEncoder

    normalize = st_config.unit_length
    if not st_config.kind:  # a folder of model2vec
        normalize = bool(read_json(st_config.backbone / "config.json").get("normalize"))
    return StaticEncoder, {"init": "table", "normalize": normalize}


def _pairs(_: StConfig) -> tuple[type[Encoder], dict[str, Any]]:
    from finetune.models.cross_encoder import CrossEncoder

    return CrossEncoder, {}


def _two_towers(folder: Path) -> Encoder:
    from finetune.models.text_image import TwoTowers

    return TwoTowers.load(str(folder))


def _points(folder: Path) -> Encoder:
    from finetune.models.points import PointEncoder

    return PointEncoder(str(folder))


def _vectors(folder: Path) -> Encoder:
    from finetune.models.vectors import VectorEncoder

    return VectorEncoder(str(folder))


# The class for each kind, and the settings with which it is as its folder declares it.
_CLASSES: Mapping[str, Callable[[StConfig], tuple[type[Encoder], dict[str, Any]]]] = {
    "text": _text,
    "image": _image,
    "text_image": _text_image,
    "static": _static,
    "pairs": _pairs,
}
_OWN: Mapping[str, Callable[[Path], Encoder]] = {"two_towers": _two_towers, "points": _points, "vectors": _vectors}

"""The layout of sentence-transformers' folders: which modules follow on each other, and with what settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import ModelError

if TYPE_CHECKING:
    from finetune.models.head import Dense
    from finetune.models.pooling import Pooling

# What sentence-transformers calls our poolings; of the last two it knows nothing.
_POOLINGS = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "lasttoken": "last",
    "weightedmean": "weighted_mean",
    "gem": "gem",
    "attention": "attention",
}
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_BACKBONES = ("Transformer", "CLIPModel", "StaticEmbedding")
POOLING_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Declared:
    """What a folder says of itself; nothing if it is a plain transformers folder.

    `backbone` is the folder of the backbone, `pooling` a mode of ours and `pooling_folder` where it stands, `dense` the
    folders of dense layers, `normalize` whether embeddings have unit length, or are compared by their cosine,
    `prompts` what texts begin with, by name.
    """

    backbone: Path
    pooling: str | None = None
    pooling_folder: Path | None = None
    dense: Sequence[Path] = ()
    normalize: bool | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)


def declared(folder: Path) -> Declared:
    """Read `modules.json` and what it names.

    Raises:
        ModelError: it is damaged, or has modules that would be lost.
    """
    if not (folder / "modules.json").is_file():
        return Declared(folder)
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model.name={folder}: its modules.json or what it names is damaged ({type(error).__name__}: {error}).",
            "Get the model again.",
        ) from error


def declared_width(folder: Path) -> int | None:
    """Return the width that the last dense layer of a folder gives embeddings, `None` if it has none."""
    dense = declared(folder).dense
    if not dense:
        return None
    return int(json.loads((dense[-1] / "config.json").read_text(encoding="utf-8"))["out_features"])


def _read(folder: Path) -> Declared:
    own = folder / "config_sentence_transformers.json"
    settings = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    found: dict[str, Any] = {"backbone": folder, "dense": [], "normalize": settings.get("similarity_fn_name") != "dot"}
    for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind in _BACKBONES:
            found["backbone"] = path
        elif kind == "Pooling":
            found |= {"pooling": _pooling_in(path / "config.json"), "pooling_folder": path}
        elif kind == "Dense":
            found["dense"].append(path)
        elif kind == "Normalize":
            found["normalize"] = True
        else:
            raise ModelError(
                f"model.name={folder}: this model has a {kind} module, which cannot be trained.",
                "Take a model of a transformer, a pooling, dense layers and a normalisation.",
            )
    return Declared(**found, prompts={name: text for name, text in (settings.get("prompts") or {}).items() if text})


def _pooling_in(path: Path) -> str:
    config = json.loads(path.read_text(encoding="utf-8"))
    # Written as one name since sentence-transformers 6, as one flag per mode before.
    mode = config.get("pooling_mode") or "+".join(
        _FLAGS.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True
    )
    if mode not in _POOLINGS:
        raise ModelError(
            f"{path}: the pooling {mode!r} is not known.",
            f"Set model.pooling to one of {', '.join(_POOLINGS.values())}.",
        )
    return _POOLINGS[mode]


def write(
    folder: Path,
    backbone: str,
    max_length: int | None,
    prompts: Mapping[str, str],
    normalize: bool,
    pooling: Pooling | None = None,
    width: int = 0,
    dense: Sequence[Dense] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write everything but the backbone, which is `backbone` to sentence-transformers (`Transformer`, ...).

    `width` is that of what is pooled; `more` are further settings of the backbone.
    """
    modules = [("", backbone)]
    if pooling is not None:
        modules.append((f"{len(modules)}_Pooling", "Pooling"))
        _write_pooling(folder / modules[-1][0], pooling, width)
    for layer in dense:
        modules.append((f"{len(modules)}_Dense", "Dense"))
        layer.save(folder / modules[-1][0])
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir()
    # The names that every sentence-transformers since 2.0 knows; newer ones read them as aliases.
    named = enumerate(modules)
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in named
        ],
    )
    if max_length is not None:
        settings = {"max_seq_length": max_length, "do_lower_case": False, **(more or {})}
        write_json(folder / "sentence_bert_config.json", settings)
    write_json(
        folder / "config_sentence_transformers.json",
        {"similarity_fn_name": "cosine" if normalize else "dot", "prompts": dict(prompts)},
    )


def _write_pooling(folder: Path, pooling: Pooling, width: int) -> None:
    theirs = next(name for name, ours in _POOLINGS.items() if ours == pooling.mode)
    # As flags, which every version reads; what has none is for finetune alone.
    flags: dict[str, Any] = {flag: theirs == name for flag, name in _FLAGS.items()}
    known = any(flags.values())
    write_json(
        folder / "config.json", {"word_embedding_dimension": width, **(flags if known else {"pooling_mode": theirs})}
    )
    if weights := pooling.state_dict():
        from safetensors.torch import save_file

        save_file(weights, folder / POOLING_WEIGHTS)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read; makes the folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

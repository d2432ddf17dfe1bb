"""Write the layout of a sentence-transformers folder around a backbone that is saved already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.models.head import HeadLayer
from finetune.models.pooling import Pooling
from finetune.models.st_format.config import StConfig
from finetune.models.st_format.json_files import write_json
from finetune.models.st_format.modules import LAYER_WEIGHTS, POOLING_FLAGS, POOLING_WEIGHTS, POOLINGS, saved_type
from finetune.models.st_format.settings import MODEL_FILE, TRANSFORMER_FILES, ModelSettings, TransformerSettings

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the names that sentence-transformers tries for a document


def write(
    folder: Path,
    backbone: str,
    settings: ModelSettings,
    transformer: TransformerSettings | None = None,
    normalize: bool = True,
    pooling: Pooling | None = None,
    width: int = 0,
    layers: Sequence[HeadLayer] = (),
) -> None:
    """Write everything except the backbone, whose module in sentence-transformers is `backbone` (`Transformer`, ...).

    `width` is that of the tokens that are pooled. `layers` follow the pooling; with `normalize` a Normalize is last.
    """
    modules = [("", backbone)]
    if pooling is not None:
        modules.append((f"{len(modules)}_Pooling", "Pooling"))
        _write_pooling(folder / modules[-1][0], pooling, width)
    for layer in layers:
        modules.append((f"{len(modules)}_{layer.kind}", layer.kind))
        _write_layer(folder / modules[-1][0], layer)
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir()
    _write_modules(folder, modules)
    if transformer is not None:
        content = {"max_seq_length": transformer.max_length, "do_lower_case": transformer.lower_case}
        write_json(folder / TRANSFORMER_FILES[0], {**content, **transformer.extra})
    write_json(folder / MODEL_FILE, _settings_content(settings))


def write_cross_encoder(
    folder: Path, prompts: Mapping[str, str], settings: ModelSettings, transformer: TransformerSettings
) -> None:
    """Write the files of a CrossEncoder of sentence-transformers, except the backbone and its tokenizer."""
    write_json(folder / MODEL_FILE, {"model_type": "CrossEncoder", "prompts": dict(prompts), **settings.extra})
    if transformer.lower_case or settings.extra.get("activation_fn"):
        # No other file keeps the lower case: many tokenizers of transformers recreate their normalizer from their own
        # settings. Without modules.json sentence-transformers ignores the activation.
        _write_modules(folder, [("", "Transformer")])
        content = {"transformer_task": "sequence-classification", "do_lower_case": transformer.lower_case}
        write_json(folder / TRANSFORMER_FILES[0], content)


def _write_modules(folder: Path, modules: Sequence[tuple[str, str]]) -> None:
    """Write `modules.json` of these (path, kind)."""
    entries = []
    for i, (path, kind) in enumerate(modules):
        entries.append({"idx": i, "name": str(i), "path": path, "type": saved_type(kind)})
    write_json(folder / "modules.json", entries)


def _settings_content(settings: ModelSettings) -> dict[str, Any]:
    content: dict[str, Any] = {"similarity_fn_name": settings.similarity, "prompts": dict(settings.prompts)}
    if settings.default_prompt_name is not None:
        content["default_prompt_name"] = settings.default_prompt_name
    if settings.truncate_dim is not None:
        content["truncate_dim"] = settings.truncate_dim
    return content | dict(settings.extra)


def trained_settings(st_config: StConfig, normalize: bool, prompts: Mapping[str, str]) -> ModelSettings:
    """Return the settings to save for a model that started from a folder and was trained with these prompts."""
    original = st_config.settings
    saved_prompts = _saved_prompts(original, prompts)
    default = original.default_prompt_name
    if not _keeps_default_prompt(original, prompts, saved_prompts):
        default = None
    similarity = _saved_similarity(st_config, normalize)
    return replace(original, prompts=saved_prompts, default_prompt_name=default, similarity=similarity)


def _saved_similarity(st_config: StConfig, normalize: bool) -> str:
    """Return the similarity function to save: the one of the folder where it still ranks embeddings the same way."""
    original = st_config.settings.similarity
    if original in ("dot", "euclidean") and normalize and st_config.normalize:
        return original
    return "cosine" if normalize else "dot"


def _saved_prompts(original: ModelSettings, trained: Mapping[str, str]) -> dict[str, str]:
    """Return the prompts to save for a model that was `trained` with its prompts.

    The prompts that sentence-transformers applies by default must be those of the training: prompts for queries and
    documents that the original model had and the training did not use become empty. Prompts that are only applied on
    request are kept.
    """
    prompts = {**original.prompts, **trained}
    if "query" in original.prompts:
        prompts["query"] = trained.get("query", "")
    for name in _DOCUMENT_PROMPTS:
        if name in original.prompts:
            prompts[name] = trained.get("document", "")
    return prompts


def _keeps_default_prompt(original: ModelSettings, trained: Mapping[str, str], saved: Mapping[str, str]) -> bool:
    """Whether the training used the default prompt of the original model, and it is saved under the same name."""
    name, text = original.default_prompt_name, original.default_prompt
    return name is not None and text != "" and text in trained.values() and saved.get(name) == text


def _write_pooling(folder: Path, pooling: Pooling, width: int) -> None:
    names = {ours: theirs for theirs, ours in POOLINGS.items()}
    modes = [names[mode] for mode in pooling.modes]
    content: dict[str, Any] = {"word_embedding_dimension": width}
    if modes == [mode for mode in POOLING_FLAGS.values() if mode in modes]:
        # Every version reads flags, which have a fixed order.
        content |= {flag: mode in modes for flag, mode in POOLING_FLAGS.items()}
    else:
        content["pooling_mode"] = modes if len(modes) > 1 else modes[0]
    write_json(folder / "config.json", content)
    weights = pooling.state_dict()
    if weights:
        from safetensors.torch import save_file

        save_file(weights, folder / POOLING_WEIGHTS)


def _write_layer(folder: Path, layer: HeadLayer) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    write_json(folder / "config.json", layer.config())
    weights = {name: weight.contiguous() for name, weight in layer.state_dict().items()}
    if weights:
        save_file(weights, folder / LAYER_WEIGHTS)

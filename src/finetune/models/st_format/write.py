"""Write the layout of a sentence-transformers folder around a backbone that is saved already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.models.st_format.config import FLAGS, POOLING_WEIGHTS, POOLINGS, StConfig
from finetune.models.st_format.module_types import written_type
from finetune.models.st_format.settings import MODEL_FILE, TRANSFORMER_FILES, ModelSettings, TransformerSettings

if TYPE_CHECKING:
    from finetune.models.head import HeadLayer
    from finetune.models.pooling import Pooling

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # what sentence-transformers may put in front of a document


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
    """Write everything but the backbone, which is `backbone` to sentence-transformers (`Transformer`, ...).

    `width` is that of the tokens that are pooled; `layers` come after the pooling, and `normalize` is the last of them.
    """
    modules = [("", backbone)]
    if pooling is not None:
        modules.append((f"{len(modules)}_Pooling", "Pooling"))
        _write_pooling(folder / modules[-1][0], pooling, width)
    for layer in layers:
        modules.append((f"{len(modules)}_{layer.kind}", layer.kind))
        layer.save(folder / modules[-1][0])
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir()
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": written_type(kind)}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    if transformer is not None:
        said = {"max_seq_length": transformer.max_length, "do_lower_case": transformer.lower_case}
        write_json(folder / TRANSFORMER_FILES[0], {**said, **transformer.kept})
    write_json(folder / MODEL_FILE, _said(settings))


def write_cross_encoder(
    folder: Path, prompts: Mapping[str, str], settings: ModelSettings, transformer: TransformerSettings
) -> None:
    """Write what sentence-transformers' CrossEncoder reads besides the backbone and its tokenizer."""
    write_json(folder / MODEL_FILE, {"model_type": "CrossEncoder", "prompts": dict(prompts), **settings.kept})
    if transformer.lower_case:
        # Nothing else keeps it: many tokenizers of transformers make their normalizer again from settings of their own.
        write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": written_type("Transformer")}])
        said = {"transformer_task": "sequence-classification", "do_lower_case": True}
        write_json(folder / TRANSFORMER_FILES[0], said)


def _said(settings: ModelSettings) -> dict[str, Any]:
    found: dict[str, Any] = {"similarity_fn_name": settings.similarity, "prompts": dict(settings.prompts)}
    if settings.default_prompt_name is not None:
        found["default_prompt_name"] = settings.default_prompt_name
    if settings.truncate_dim is not None:
        found["truncate_dim"] = settings.truncate_dim
    return found | dict(settings.kept)


def _saved_similarity(found: StConfig, normalize: bool) -> str:
    """Return the similarity function to save: the folder's own where it still says the same."""
    own = found.settings.similarity
    if own in ("dot", "euclidean") and normalize and found.normalize:
        return own
    return "cosine" if normalize else "dot"


def trained_settings(found: StConfig, normalize: bool, trained: Mapping[str, str]) -> ModelSettings:
    """Return the settings to save of a model made from a folder, with the prompts that it was `trained` with."""
    prompts, default = _trained_prompts(found.settings, trained)
    similarity = _saved_similarity(found, normalize)
    return replace(found.settings, prompts=prompts, default_prompt_name=default, similarity=similarity)


def _trained_prompts(own: ModelSettings, trained: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """Return the prompts to save, and the name of the default one, of a model that was `trained` with its prompts.

    What sentence-transformers puts in front by itself must be what the model was trained with: prompts that the model
    had for queries and documents, or for every text, and that training did not use, are not applied any more. Those
    that are applied on request only are kept.
    """
    prompts = {**own.prompts, **trained}
    for name in ("query", *_DOCUMENT_PROMPTS):
        if name in own.prompts:
            prompts[name] = trained.get("query" if name == "query" else "document", "")
    default = own.default_prompt_name
    used = default is not None and own.default_prompt != "" and own.default_prompt in trained.values()
    return prompts, default if used and prompts.get(default or "") == own.default_prompt else None


def _write_pooling(folder: Path, pooling: Pooling, width: int) -> None:
    modes = [next(theirs for theirs, ours in POOLINGS.items() if ours == mode) for mode in pooling.modes]
    # As flags where these say all of it, which every version reads; what has none is for finetune alone.
    flags: dict[str, Any] = {flag: mode in modes for flag, mode in FLAGS.items()}
    as_flags = [mode for mode in FLAGS.values() if mode in modes] == modes
    names: dict[str, Any] = {"pooling_mode": modes if len(modes) > 1 else modes[0]}
    write_json(folder / "config.json", {"word_embedding_dimension": width, **(flags if as_flags else names)})
    if weights := pooling.state_dict():
        from safetensors.torch import save_file

        save_file(weights, folder / POOLING_WEIGHTS)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read; makes the folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

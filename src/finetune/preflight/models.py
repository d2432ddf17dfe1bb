"""The encoders that a config names, looked at without loading them: folders, widths, what they read; no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from finetune.config.losses import loss_nodes, nodes_of
from finetune.config.targets import class_variable
from finetune.errors import CheckFailed, ModelError, Problem
from finetune.models.positions import longest
from finetune.models.quantized import check_not_quantised
from finetune.models.resolve import check_weights, find_here, read_config, resolve, width_of
from finetune.models.st_format.checks import (
    check_head,
    check_layer_weights,
    check_nothing_after,
    check_settings,
    has_unit_length,
)
from finetune.models.st_format.config import StConfig, Use, declared_width, read_st_config
from finetune.models.st_format.settings import ModelSettings

if TYPE_CHECKING:
    from finetune.data.items import Items


@dataclass(frozen=True)
class PretrainedRef:
    """A pretrained model that a config names: where, how, and what its folder must hold; what that says, if here."""

    key: str
    name: str
    files: tuple[str, ...]
    node: Mapping[str, Any]
    layout: Use = "text"
    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    declared: StConfig | None = None


def inspect_models(cfg: DictConfig) -> tuple[list[PretrainedRef], list[Problem]]:
    """Return the models that are named, and what is wrong with them as far as their folders are on this machine."""
    found: list[PretrainedRef] = []
    problems: list[Problem] = []
    for named in _named(cfg):
        try:
            model = _found(named)
            _check_folder(model)
        except ModelError as error:
            problems.append(Problem(_place(named), error.what, error.advice))
            continue
        problems += _too_wide(model)
        found.append(model)
    return found, problems


def models_of(cfg: DictConfig) -> list[PretrainedRef]:
    """Return the models that a checked config names.

    Raises:
        ModelError: a folder is not there any more.
    """
    return list(map(_found, _named(cfg)))


def fetch(cfg: DictConfig) -> None:
    """Download what is not on this machine yet, and check it then.

    Raises:
        ModelError: it cannot be downloaded.
        CheckFailed: what was downloaded cannot be used as asked.
    """
    absent = [named for named in _named(cfg) if _folder(named) is None]
    for named in absent:
        _check_weights(named, resolve(named.name, named.files, _allows_pickle(named)))
    if not absent:
        return
    models, problems = inspect_models(cfg)
    if problems := [*problems, *check_lengths(cfg, models)]:
        raise CheckFailed(problems)


def check_lengths(cfg: DictConfig, models: list[PretrainedRef]) -> list[Problem]:
    """Return why a model cannot read texts as long as asked."""
    problems = []
    for model in models:
        weights = None if model.node.get("random_init") else model.folder
        limit = longest(model.config, weights) if "tokenizer.json" in model.files else None
        if limit is not None and cfg.data.max_length > limit:
            what = f"{model.name} can read {limit} tokens, not {cfg.data.max_length}."
            problems.append(Problem("data.max_length", what, f"Set data.max_length={limit} or less."))
    return problems


def width(cfg: DictConfig, models: list[PretrainedRef]) -> int | None:
    """Return the width of the embeddings, `None` if it cannot be told without loading the model."""
    if cfg.model.get("output_width"):
        return int(cfg.model.output_width)
    inside = [model for model in models if model.key.startswith("model")]
    return _width(inside[0]) if len(inside) == 1 and inside[0].key == "model" else None


def check_teachers(models: list[PretrainedRef], embedding_width: int | None) -> list[Problem]:
    """Return why the model cannot learn to embed as a teacher does."""
    problems = []
    for model in models:
        there = _width(model) if model.key.endswith(".teacher") else None
        if there and embedding_width and there != embedding_width:
            what = f"{model.name} has {there} dimensions, and the model {embedding_width}."
            wider = f"Take a teacher of {embedding_width} dimensions, or a wider model."
            advice = f"Set model.output_width={there}." if there < embedding_width else wider
            problems.append(Problem(model.key, what, advice))
    return problems


def model_notes(cfg: DictConfig, models: list[PretrainedRef], training: bool = True) -> Iterator[str]:
    """Yield a sentence about what a model was trained with and this run does not use: its prompts, its length."""
    for model in models:
        if model.declared is None or not model.key.startswith("model"):
            continue
        if cfg.data.get("prompts") is None:
            yield from _prompt_notes(model.name, model.declared.settings, training)
        own = model.declared.transformer.max_length
        if own is not None and cfg.data.max_length > own:
            yield (
                f"{model.name} was made for texts of {own} tokens (max_seq_length), and data.max_length="
                f"{cfg.data.max_length}: it may be worse at longer ones."
            )


def _prompt_notes(name: str, own: ModelSettings, training: bool) -> Iterator[str]:
    document = own.prompts.get("document") or own.prompts.get("passage") or own.prompts.get("corpus")
    sides = {"anchor": own.prompts.get("query") or own.default_prompt, "positive": document or own.default_prompt}
    if not any(sides.values()):
        return
    asked = ", ".join(f"{side}: {json.dumps(text, ensure_ascii=False)}" for side, text in sides.items() if text)
    saved = " The model that is trained without them is saved without them." if training else ""
    yield f"{name} has prompts of its own, which are not used here.{saved} To use them: 'data.prompts={{{asked}}}'"


def check_reads(cfg: DictConfig, items: Items) -> list[Problem]:
    """Return why the model cannot read these items."""
    from finetune.data.items import PLURALS

    reads = cast(tuple[str, ...], class_variable(cfg.model, "reads", "model") or ("text",))
    there = [part.modality for part in items.parts if len(part.values)]
    if strange := [modality for modality in there if modality not in reads]:
        can = " and ".join(PLURALS[modality] for modality in PLURALS if modality in reads)
        what = f"there are {PLURALS[strange[0]]} among the items, and model={choice(cfg)} reads {can}."
        advice = "Choose other columns (data.columns=...), or a model that reads them: `finetune models`."
        return [Problem("data.modality", what, advice)]
    return []


def check_scores(cfg: DictConfig, fitting: Callable[[], str]) -> list[Problem]:
    """Return why the loss does not go with a model that scores pairs; `fitting` tells which losses do."""
    if not class_variable(cfg.model, "scores_pairs", "model"):
        return []
    wrong = [key for key, node in loss_nodes(cfg) if not class_variable(node, "takes_scores", "loss")]
    if not wrong:
        return []
    what = f"model={choice(cfg)} scores pairs of texts, and this loss works on embeddings."
    advice = f"These losses take scores: {fitting()}."
    return [Problem(key, what, advice) for key in wrong]


def choice(cfg: DictConfig) -> str:
    """Return what was chosen as the model, for a message."""
    return str(cfg.hydra.runtime.choices.get("model") or cfg.model["_target_"])


def _named(cfg: DictConfig) -> Iterator[PretrainedRef]:
    yield from _inside("model", cast(dict[str, Any], OmegaConf.to_container(cfg.model, resolve=True)))
    for key, loss in loss_nodes(cfg):
        for place, node in nodes_of(key, loss):
            for setting in ("teacher", "guide"):
                if isinstance(node.get(setting), str) and node[setting] != "???":
                    yield PretrainedRef(f"{place}.{setting}", node[setting], ("config.json", "tokenizer.json"), {})


def _allows_pickle(model: PretrainedRef) -> bool:
    return bool(model.node.get("allow_pickle"))


def _folder(model: PretrainedRef) -> Path | None:
    return find_here(model.name, model.files, _allows_pickle(model))


def _found(named: PretrainedRef) -> PretrainedRef:
    folder = _folder(named)
    config = read_config(folder) if folder and "config.json" in named.files else {}
    return replace(
        named, folder=folder, config=config, declared=read_st_config(folder, named.layout) if folder else None
    )


def _check_folder(model: PretrainedRef) -> None:
    """Check what a folder says of itself and whether its weights are whole.

    Raises:
        ModelError: the model cannot be trained as asked.
    """
    if model.folder is None or model.declared is None:
        return
    node, found = model.node, model.declared
    new_head = node.get("head") is not None or node.get("output_width") is not None
    if model.layout == "text":
        check_settings(found, model.name, node.get("pooling", "auto"), new_head)
    if model.layout == "image":
        check_head(found, model.name, new_head)
    if model.layout == "text_image" or found.kind == "StaticEmbedding":
        check_nothing_after(found, model.name)
    if model.layout != "pairs":
        has_unit_length(found, node.get("normalize", "auto"))
    check_layer_weights(found, _allows_pickle(model))
    if not node.get("random_init"):
        check_not_quantised(model.folder, model.name, model.config)
    _check_weights(model, model.folder)


def _check_weights(model: PretrainedRef, folder: Path) -> None:
    if not model.node.get("random_init"):
        needs_safetensors = "config.json" in model.files and not _allows_pickle(model)
        check_weights(folder, model.name, needed=needs_safetensors)


def _inside(key: str, node: Any) -> Iterator[PretrainedRef]:
    if not isinstance(node, dict):
        return
    if "_target_" in node and isinstance(node.get("name"), str):
        files = cast(tuple[str, ...], class_variable(node, "files", "model") or ("config.json", "tokenizer.json"))
        layout = cast(Use, class_variable(node, "layout", "model") or "text")
        yield PretrainedRef(key, node["name"], files, node, layout)
    for name, inner in node.items():
        yield from _inside(f"{key}.{name}", inner)


def _place(model: PretrainedRef) -> str:
    return f"{model.key}.name" if model.node else model.key


def _width(model: PretrainedRef) -> int | None:
    # Poolings and dense layers of a sentence-transformers folder change it.
    there = width_of(model.config)
    return declared_width(model.declared, there, str(model.node.get("pooling", "auto"))) if model.declared else there


def _too_wide(model: PretrainedRef) -> Iterator[Problem]:
    asked = model.node.get("output_width")
    there = _width(model) if model.layout in ("text", "image") else width_of(model.config)
    if asked and there and asked > there:
        what = f"{asked} dimensions are more than the {there} that the embeddings of {model.name} have."
        yield Problem(f"{model.key}.output_width", what, f"Take {there} or less: a wider embedding would hold no more.")

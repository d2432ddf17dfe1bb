"""Checks of the pretrained models that a config names, without loading them: folders, widths, modalities; no torch.

Everything is read from source text (class variables of an encoder), JSON files and the headers of weight files.
"""

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
from finetune.models.model_config import backbone_width, max_tokens, read_config
from finetune.models.resolve import TEXT_FILES, find_local, missing_offline, resolve
from finetune.models.st_format.config import (
    StConfig,
    check_backbone_only,
    check_layer_weights,
    check_new_head,
    check_text_config,
    embedding_width,
    is_normalized,
    read_st_config,
)
from finetune.models.st_format.settings import EncoderKind, ModelSettings
from finetune.models.weight_files import check_not_quantized, check_weights

if TYPE_CHECKING:
    from finetune.data.items import Items


@dataclass(frozen=True)
class PretrainedRef:
    """A pretrained model that a config names.

    `key` is where in the config, `name` the path or hub id, `files` what its folder must contain, and `node` the config
    of the encoder (empty for a teacher, which is only a name). `folder`, `config` (its `config.json`) and `st_config`
    are those on this machine; `folder` and `st_config` are None before it is downloaded.
    """

    key: str
    name: str
    files: tuple[str, ...]
    node: Mapping[str, Any]
    layout: EncoderKind = "text"
    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    st_config: StConfig | None = None

    @property
    def allows_pickle(self) -> bool:
        """Whether pickled weights are read."""
        return bool(self.node.get("allow_pickle"))

    @property
    def random_init(self) -> bool:
        """Whether only its configuration is used, and its weights are initialized randomly."""
        return bool(self.node.get("random_init"))

    @property
    def name_key(self) -> str:
        """The key of its name in the config."""
        return f"{self.key}.name" if self.node else self.key

    def local_folder(self) -> Path | None:
        """Return its folder on this machine, None if it is not there."""
        return find_local(self.name, self.files, self.allows_pickle)

    def embedding_width(self) -> int | None:
        """Return the width of its embeddings, None if it is unknown."""
        width = backbone_width(self.config)
        if self.st_config is None:
            return width
        # Poolings and dense layers of a sentence-transformers folder change it.
        return embedding_width(self.st_config, width, str(self.node.get("pooling", "auto")))


def inspect_models(cfg: DictConfig) -> tuple[list[PretrainedRef], list[Problem]]:
    """Return the models that a config names, and the problems of those whose folders are on this machine."""
    models: list[PretrainedRef] = []
    problems: list[Problem] = []
    for ref in _refs(cfg):
        try:
            model = _read_folder(ref)
            _check_folder(model)
        except ModelError as error:
            problems.append(Problem(ref.name_key, error.what, error.advice))
            continue
        problems += _output_width_problems(model)
        models.append(model)
    return models, problems


def models_of(cfg: DictConfig) -> list[PretrainedRef]:
    """Return the models that a checked config names.

    Raises:
        ModelError: a folder does not exist any more.
    """
    return [_read_folder(ref) for ref in _refs(cfg)]


def offline_problems(cfg: DictConfig) -> list[Problem]:
    """Return a problem for each model that is not on this machine and cannot be downloaded: HF_HUB_OFFLINE is set.

    To be called for a config whose models have no other problems.
    """
    problems = []
    for ref in _refs(cfg):
        error = None if ref.local_folder() else missing_offline(ref.name, ref.files)
        if error is not None:
            problems.append(Problem(ref.name_key, error.what, error.advice))
    return problems


def download_missing(cfg: DictConfig) -> None:
    """Download the models that are not on this machine, and check them.

    Raises:
        ModelError: a download failed.
        CheckFailed: a downloaded model does not go with the config.
    """
    missing = [ref for ref in _refs(cfg) if ref.local_folder() is None]
    for ref in missing:
        _check_weights(ref, resolve(ref.name, ref.files, ref.allows_pickle))
    if not missing:
        return
    models, problems = inspect_models(cfg)
    problems += check_lengths(cfg, models)
    if problems:
        raise CheckFailed(problems)


def check_lengths(cfg: DictConfig, models: list[PretrainedRef]) -> list[Problem]:
    """Return a problem for each model that cannot read texts of `data.max_length`."""
    problems = []
    for model in models:
        if "tokenizer.json" not in model.files:
            continue
        limit = max_tokens(model.config, None if model.random_init else model.folder)
        if limit is not None and cfg.data.max_length > limit:
            what = f"{model.name} can read {limit} tokens, not {cfg.data.max_length}."
            problems.append(Problem("data.max_length", what, f"Set data.max_length={limit} or less."))
    return problems


def width(cfg: DictConfig, models: list[PretrainedRef]) -> int | None:
    """Return the width of the embeddings of the model in training, None if only loading the model would show it."""
    if cfg.model.get("output_width"):
        return int(cfg.model.output_width)
    inside = [model for model in models if model.key.startswith("model")]
    if len(inside) == 1 and inside[0].key == "model":
        return inside[0].embedding_width()
    return None


def check_teachers(models: list[PretrainedRef], student_width: int | None) -> list[Problem]:
    """Return a problem for each teacher whose embeddings have another width than those of the model."""
    problems = []
    for model in models:
        if not model.key.endswith(".teacher"):
            continue
        teacher_width = model.embedding_width()
        if teacher_width and student_width and teacher_width != student_width:
            what = f"{model.name} has {teacher_width} dimensions, and the model {student_width}."
            advice = f"Use a teacher of {student_width} dimensions, or a wider model."
            if teacher_width < student_width:
                advice = f"Set model.output_width={teacher_width}."
            problems.append(Problem(model.key, what, advice))
    return problems


def model_notes(cfg: DictConfig, models: list[PretrainedRef], training: bool = True) -> Iterator[str]:
    """Yield a sentence about each setting that a model was trained with and this run does not use: prompts, length."""
    for model in models:
        if model.st_config is None or not model.key.startswith("model"):
            continue
        if cfg.data.get("prompts") is None:
            yield from _prompt_notes(model.name, model.st_config.settings, training)
        own_length = model.st_config.transformer.max_length
        if own_length is not None and cfg.data.max_length > own_length:
            yield (
                f"{model.name} was trained for texts of up to {own_length} tokens (max_seq_length), but"
                f" data.max_length={cfg.data.max_length}: it may be worse on longer ones."
            )


def _prompt_notes(name: str, own: ModelSettings, training: bool) -> Iterator[str]:
    prompts = own.prompts
    query = prompts.get("query") or own.default_prompt
    document = prompts.get("document") or prompts.get("passage") or prompts.get("corpus") or own.default_prompt
    settings = []
    for side, text in (("anchor", query), ("positive", document)):
        if text:
            settings.append(f"{side}: {json.dumps(text, ensure_ascii=False)}")
    if not settings:
        return
    saved = " The model that is trained without them is saved without them." if training else ""
    setting = ", ".join(settings)
    yield f"{name} has prompts of its own, which are not used here.{saved} To use them: 'data.prompts={{{setting}}}'"


def check_reads(cfg: DictConfig, items: Items) -> list[Problem]:
    """Return a problem if the model cannot read the modality of these items."""
    from finetune.data.items import PLURALS

    reads = cast(tuple[str, ...], class_variable(cfg.model, "reads", "model") or ("text",))
    for part in items.parts:
        if len(part.values) and part.modality not in reads:
            supported = " and ".join(PLURALS[modality] for modality in PLURALS if modality in reads)
            what = f"there are {PLURALS[part.modality]} among the items, and model={choice(cfg)} reads {supported}."
            advice = "Choose other columns (data.columns=...), or a model that reads them: `finetune models`."
            return [Problem("data.modality", what, advice)]
    return []


def check_scores(cfg: DictConfig, losses_with_scores: Callable[[], str]) -> list[Problem]:
    """Return a problem for each loss on embeddings, if the model scores pairs; the function lists other losses."""
    if not class_variable(cfg.model, "scores_pairs", "model"):
        return []
    keys = [key for key, node in loss_nodes(cfg) if not class_variable(node, "takes_scores", "loss")]
    if not keys:
        return []
    what = f"model={choice(cfg)} scores pairs of texts, and this loss works on embeddings."
    advice = f"These losses take scores: {losses_with_scores()}."
    return [Problem(key, what, advice) for key in keys]


def choice(cfg: DictConfig) -> str:
    """Return the choice of `model`, for a message."""
    return str(cfg.hydra.runtime.choices.get("model") or cfg.model["_target_"])


def _refs(cfg: DictConfig) -> Iterator[PretrainedRef]:
    yield from _refs_in("model", cast(dict[str, Any], OmegaConf.to_container(cfg.model, resolve=True)))
    for loss_key, loss in loss_nodes(cfg):
        for key, node in nodes_of(loss_key, loss):
            for setting in ("teacher", "guide"):
                name = node.get(setting)
                if isinstance(name, str) and name != "???":
                    yield PretrainedRef(f"{key}.{setting}", name, TEXT_FILES, {})


def _refs_in(key: str, node: Any) -> Iterator[PretrainedRef]:
    """Yield the model that a node of the config names, and those of the nodes inside it."""
    if not isinstance(node, dict):
        return
    if "_target_" in node and isinstance(node.get("name"), str):
        files = cast(tuple[str, ...], class_variable(node, "files", "model") or TEXT_FILES)
        layout = cast(EncoderKind, class_variable(node, "layout", "model") or "text")
        yield PretrainedRef(key, node["name"], files, node, layout)
    for name, inner in node.items():
        yield from _refs_in(f"{key}.{name}", inner)


def _read_folder(ref: PretrainedRef) -> PretrainedRef:
    """Return a reference with the content of its folder, unchanged if that is not on this machine."""
    folder = ref.local_folder()
    if folder is None:
        return ref
    config = read_config(folder) if "config.json" in ref.files else {}
    return replace(ref, folder=folder, config=config, st_config=read_st_config(folder, ref.layout))


def _check_folder(model: PretrainedRef) -> None:
    """Check a folder against the settings of `model`, and its weights.

    Raises:
        ModelError: the model cannot be trained with these settings.
    """
    if model.folder is None or model.st_config is None:
        return
    node, st_config = model.node, model.st_config
    new_head = node.get("head") is not None or node.get("output_width") is not None
    if model.layout == "text":
        check_text_config(st_config, model.name, node.get("pooling", "auto"), new_head)
    if model.layout == "image":
        check_new_head(st_config, model.name, new_head)
    if model.layout == "text_image" or st_config.kind == "StaticEmbedding":
        check_backbone_only(st_config, model.name)
    if model.layout != "pairs":
        is_normalized(st_config, node.get("normalize", "auto"))
    check_layer_weights(st_config, model.allows_pickle)
    if not model.random_init:
        check_not_quantized(model.folder, model.name, model.config)
    _check_weights(model, model.folder)


def _check_weights(model: PretrainedRef, folder: Path) -> None:
    if not model.random_init:
        required = "config.json" in model.files and not model.allows_pickle
        check_weights(folder, model.name, required=required)


def _output_width_problems(model: PretrainedRef) -> Iterator[Problem]:
    output_width = model.node.get("output_width")
    available = backbone_width(model.config)
    if model.layout in ("text", "image"):
        available = model.embedding_width()
    if output_width and available and output_width > available:
        what = f"{output_width} dimensions are more than the {available} that the embeddings of {model.name} have."
        advice = f"Set {available} or less: a wider embedding would contain no more information."
        yield Problem(f"{model.key}.output_width", what, advice)

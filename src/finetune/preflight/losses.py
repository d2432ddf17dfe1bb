"""The options of a config group, and checks of losses against the data, before a run.

Everything is read from source text (class variables of a loss) and config files: torch is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import composer
from finetune.config.hydra_errors import display_path, to_problem
from finetune.config.key_locations import find_config_file, folders_of
from finetune.config.losses import loss_nodes, nodes_of
from finetune.config.targets import class_variable
from finetune.data.schema.sample_values import suggested_min_score
from finetune.errors import CheckFailed, Problem
from finetune.losses.constraints import (
    dimension_problems,
    grade_problems,
    score_range_problems,
    score_scale_problems,
    soft_margin_problems,
)
from finetune.preflight.metric_learning import metric_problems, needs_classes, width_problems

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset

# What each data layout has, in the words of `Loss.learns_from`; negatives depend on the rows.
_AVAILABLE = {
    "pairs": {"pairs"},
    "triplets": {"pairs"},
    "several positives": {"pairs"},
    "scored pairs": {"scores"},
    "judgments": {"pairs", "scores", "lists"},
    "scored lists": {"pairs", "scores", "lists"},
    "labelled": {"pairs", "labels"},
}
_DESCRIPTIONS = {
    "pairs": "positive pairs",
    "negatives": "negatives next to the positives",
    "scores": "a score for each pair",
    "lists": "several scored documents per query",
    "labels": "a class for each item",
}


def describe(group: str, config_dir: Path | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield the name and a one-line description of each option of a config group, and what a loss learns from."""
    for name, file, node in _options(group, config_dir):
        learns_from = _describe_needs(_needs(node)) if group == "loss" else ""
        yield name, _description(file), learns_from


def _description(file: Path) -> str:
    """Return the second line of the comment at the top of a config file; the first one is how to select it."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    for text in comment[1:]:
        if text:
            return text
    return ""


def loss_problems(cfg: DictConfig, dataset: Dataset) -> list[Problem]:
    """Return a problem for each loss that cannot learn from its rows, with the losses that can."""
    problems: list[Problem] = []
    losses = loss_nodes(cfg)  # one for each source, or one for all
    for source, layout in enumerate(dataset.layouts):
        if layout not in _AVAILABLE:
            continue
        loss_key, loss = losses[source % len(losses)]
        rows = dataset.rows_of(source)
        available = set(_AVAILABLE[layout])
        if (rows.negatives >= 0).any() or cfg.negatives or cfg.model.get("negatives"):
            # Mined, or a cross-encoder's, which are the positives of other rows.
            available.add("negatives")
        for key, node in nodes_of(loss_key, loss):
            problems += _needs_problems(key, node, layout, available, cfg, rows.score)
            problems += _score_problems(key, node, rows.score)
            problems += metric_problems(key, node, cfg, dataset, source)
    return list(dict.fromkeys(problems))


def loss_settings(key: str, loss: Mapping[str, Any], width: int | None) -> Iterator[Problem]:
    """Yield problems of the settings of a loss, also with the `width` of the embeddings if that is known."""
    for node_key, node in nodes_of(key, loss):
        if width is not None:
            yield from width_problems(node_key, node, width)
        if not _is_built_in(node):
            continue
        if width is not None:
            yield from dimension_problems(node_key, node.get("dimensions") or [], width)
        yield from soft_margin_problems(node_key, node.get("negatives", ""), node.get("soft", False))
        if {"lowest", "highest"} <= node.keys():
            yield from score_range_problems(node_key, node["lowest"], node["highest"])


def _is_built_in(node: Mapping[str, Any]) -> bool:
    # In user code the same settings may have another meaning.
    return str(node["_target_"]).startswith("finetune.losses.")


def _needs(node: Mapping[str, Any]) -> set[str]:
    if needs_classes(node):
        return {"labels"}
    learns_from = class_variable(node, "learns_from", "loss")
    return set(learns_from) if isinstance(learns_from, tuple) else set()


def _describe_needs(needs: set[str]) -> str:
    return " or ".join(text for need, text in _DESCRIPTIONS.items() if need in needs)


def _needs_problems(
    key: str, node: Mapping[str, Any], layout: str, available: set[str], cfg: DictConfig, score: Any
) -> Iterator[Problem]:
    needs = _needs(node)
    if needs and not needs & available:
        name = _loss_name(node, cfg)
        if layout == "scored pairs" and needs == {"pairs"}:
            yield _min_score_problem(name, score, available)
            return
        rows = "labelled items" if layout == "labelled" else layout
        what = f"loss={name} learns from {_describe_needs(needs)}, and these are {rows}."
        yield Problem(key, what, f"These losses work with them: {_fitting(available)}.")
    elif node.get("negatives") == "given" and "negatives" not in available:
        what = "the negatives of each row are to be used, and there are none."
        yield Problem(f"{key}.negatives", what, "Name their columns in data.columns, or take them from the batch.")


def _loss_name(node: Mapping[str, Any], cfg: DictConfig) -> str:
    choice = cfg.hydra.runtime.choices.get("loss")  # None if the whole node was given on the command line
    if choice and node["_target_"] == cfg.loss["_target_"]:
        return str(choice)
    return str(node["_target_"]).rpartition(".")[2]


def _min_score_problem(name: str, score: Any, available: set[str]) -> Problem:
    low, high = _score_range(score) or (0, 1)
    what = f"these are scored pairs, and loss={name} learns from positive pairs."
    advice = (
        f"Set the score from which a pair is positive, as in data.min_score={suggested_min_score(low, high):g}; the"
        f" other pairs are left out. These losses learn from scores: {_fitting(available)}."
    )
    return Problem("data.min_score", what, advice)


def _score_problems(key: str, node: Mapping[str, Any], score: Any) -> Iterator[Problem]:
    score_range = _score_range(score)
    if score_range is None or not _is_built_in(node):
        return
    low, high = score_range
    yield from grade_problems(key, node.get("weighting", "none"), low, high)
    yield from score_scale_problems(key, node, low, high)


def _score_range(score: Any) -> tuple[float, float] | None:
    """Return the lowest and the highest score, None if there is none; rows of some sources have no score."""
    import numpy as np

    if score is None or np.isnan(score).all():
        return None
    return float(np.nanmin(score)), float(np.nanmax(score))


def _fitting(available: set[str]) -> str:
    return ", ".join(name for name, _, node in _options("loss") if _needs(node) & available)


def losses_that_take_scores() -> str:
    """Return the names of the losses that take scores of pairs, for a message."""
    return ", ".join(name for name, _, node in _options("loss") if class_variable(node, "takes_scores", "loss"))


def _options(group: str, config_dir: Path | None = None) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Yield the name, file and node of each option of a config group."""
    with composer(config_dir) as compositor:
        folders = folders_of(compositor.compose([]))
        names = sorted(compositor.options(group))
    for name in names:
        file = find_config_file(f"{group}/{name}", folders)
        if file is None:
            continue
        try:
            node = OmegaConf.load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CheckFailed([to_problem(error, display_path(file), folders)]) from error
        content = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
        yield name, file, cast(dict[str, Any], content)

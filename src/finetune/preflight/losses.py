"""What there is to choose by name, and which losses can learn from which data; imports nothing that is heavy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import composer
from finetune.config.hydra_errors import display_path, to_problem
from finetune.config.key_locations import find_config_file, folders_of
from finetune.config.losses import loss_nodes, nodes_of
from finetune.config.targets import class_variable
from finetune.data.schema.sample_values import right_from
from finetune.errors import CheckFailed, Problem
from finetune.losses.constraints import no_grades, no_range, off_scale, soft_over_all, too_wide
from finetune.preflight.metric_learning import by_class, metric_problems, other_width

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset

# What the rows of each layout say, in the words of `Loss.learns_from`; whether there are negatives the rows tell.
_OFFERS = {
    "pairs": {"pairs"},
    "triplets": {"pairs"},
    "several positives": {"pairs"},
    "scored pairs": {"scores"},
    "judgments": {"pairs", "scores", "lists"},
    "scored lists": {"pairs", "scores", "lists"},
    "labelled": {"pairs", "labels"},
}
_IN_WORDS = {
    "pairs": "right pairs",
    "negatives": "negatives beside the positives",
    "scores": "a score for each pair",
    "lists": "several scored documents a query",
    "labels": "a class for each item",
}


def describe(group: str, config_dir: Path | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield name, one line, and for a loss what it learns from, of everything that can be chosen in a group."""
    for name, file, node in _options(group, config_dir):
        lines = file.read_text(encoding="utf-8").splitlines()
        comment = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        # The first is how to choose it; what it is stands behind an empty one.
        line = next((text for text in comment[1:] if text), "")
        yield name, line, _in_words(_needs(node)) if group == "loss" else ""


def loss_problems(cfg: DictConfig, dataset: Dataset) -> list[Problem]:
    """Return why the losses cannot learn from these rows: what they need, what is there, and which losses fit."""
    problems: list[Problem] = []
    for place, (layout, (key, node)) in enumerate(zip(dataset.layouts, cycle(loss_nodes(cfg)), strict=False)):
        if layout not in _OFFERS:
            continue
        rows = dataset.rows_of(place)
        given = (rows.negatives >= 0).any() or cfg.model.get("negatives")  # a cross-encoder takes some of other rows
        offers = _OFFERS[layout] | ({"negatives"} if given else set())
        for place_of, inner in nodes_of(key, node):
            problems += _unfit(place_of, inner, layout, offers, cfg, rows.score)
            problems += _out_of_range(place_of, inner, rows.score)
            problems += metric_problems(place_of, inner, cfg, dataset, place)
    return list(dict.fromkeys(problems))


def loss_settings(key: str, loss: Mapping[str, Any], width: int | None) -> Iterator[Problem]:
    """Yield what is wrong between settings of a loss, and with the `width` of the embeddings, if that is known."""
    for place, node in nodes_of(key, loss):
        if width is not None:
            yield from other_width(place, node, width)
        if not _is_ours(node):
            continue
        if width is not None:
            yield from too_wide(place, node.get("dimensions") or [], width)
        yield from soft_over_all(place, node.get("negatives", ""), node.get("soft", False))
        if {"lowest", "highest"} <= node.keys():
            yield from no_range(place, node["lowest"], node["highest"])


def _is_ours(node: Mapping[str, Any]) -> bool:
    # In a loss of somebody's own the same words may mean something else.
    return str(node["_target_"]).startswith("finetune.losses.")


def _needs(node: Mapping[str, Any]) -> set[str]:
    if by_class(node):
        return {"labels"}
    found = class_variable(node, "learns_from", "loss")
    return set(found) if isinstance(found, tuple) else set()


def _in_words(needs: set[str]) -> str:
    return " or ".join(words for need, words in _IN_WORDS.items() if need in needs)


def _unfit(
    key: str, node: Mapping[str, Any], layout: str, offers: set[str], cfg: DictConfig, score: Any
) -> Iterator[Problem]:
    needs = _needs(node)
    chosen = cfg.hydra.runtime.choices.get("loss")  # none where the whole node was given on the command line
    is_chosen = chosen and node["_target_"] == cfg.loss["_target_"]
    name = chosen if is_chosen else str(node["_target_"]).rpartition(".")[2]
    if needs and not needs & offers:
        if layout == "scored pairs" and needs == {"pairs"}:
            what = f"these are scored pairs, and loss={name} learns from right pairs."
            example = f"data.min_score={right_from(*(_ends(score) or (0, 1))):g}"
            advice = f"Say from which score on a pair is right, as in {example}; the others are left out."
            yield Problem("data.min_score", what, f"{advice} These learn from scores: {_fitting(offers)}.")
        else:
            rows = "labelled items" if layout == "labelled" else layout
            what = f"loss={name} learns from {_in_words(needs)}, and these are {rows}."
            yield Problem(key, what, f"These losses fit: {_fitting(offers)}.")
    elif node.get("negatives") == "given" and "negatives" not in offers:
        what = "the negatives shall be those given with each row, and there are none."
        yield Problem(f"{key}.negatives", what, "Name their columns in data.columns, or take them from the batch.")


def _out_of_range(key: str, node: Mapping[str, Any], score: Any) -> Iterator[Problem]:
    ends = _ends(score)
    if ends is None or not _is_ours(node):
        return
    low, high = ends
    yield from no_grades(key, node.get("weighting", "none"), low, high)
    yield from off_scale(key, node, low, high)


def _ends(score: Any) -> tuple[float, float] | None:
    """Return the lowest and the highest of the scores, None if there are none; rows of some sources have no score."""
    import numpy as np

    if score is None or np.isnan(score).all():
        return None
    return float(np.nanmin(score)), float(np.nanmax(score))


def _fitting(offers: set[str]) -> str:
    return ", ".join(name for name, _, node in _options("loss") if _needs(node) & offers)


def losses_that_take_scores() -> str:
    """Return the names of the losses that work on the scores of pairs, for a message."""
    return ", ".join(name for name, _, node in _options("loss") if class_variable(node, "takes_scores", "loss"))


def _options(group: str, config_dir: Path | None = None) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Yield name, file and node of everything that can be chosen in a group."""
    with composer(config_dir) as compositor:
        folders = folders_of(compositor.compose([]))
        names = sorted(compositor.options(group))
    for name in names:
        if file := find_config_file(f"{group}/{name}", folders):
            try:
                node = OmegaConf.load(file)
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise CheckFailed([to_problem(error, display_path(file), folders)]) from error
            plain = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
            yield name, file, cast(dict[str, Any], plain)

"""What can be wrong between losses and miners of pytorch-metric-learning, the data and the model; told before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from finetune.config.losses import facts_of, loss_nodes, nodes_of
from finetune.errors import Problem
from finetune.losses.pml_rules import META_CLASSES, UNMINED

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset

_WRAPPER = "finetune.losses.metric_learning.MetricLearning"


def by_class(node: Mapping[str, Any]) -> bool:
    """Whether the loss in a node has to know the class of each item, since it keeps something for each."""
    inner = node.get("loss")
    if not isinstance(inner, Mapping):
        return False
    return (
        "class_count" in facts_of(inner).values() or inner.get("num_classes") is not None or _name(node) in META_CLASSES
    )


def miner_problems(cfg: DictConfig) -> Iterator[Problem]:
    """Yield why the losses of a config take no miner, if it has one."""
    if not cfg.miner:
        return
    found = [node for key, run in loss_nodes(cfg) for _, node in nodes_of(key, run) if node["_target_"] == _WRAPPER]
    if not found:
        chosen = cfg.hydra.runtime.choices.get("loss") or cfg.loss["_target_"].rpartition(".")[2]
        what = f"miners choose pairs for losses of pytorch-metric-learning, and loss={chosen} is none of them."
        yield Problem("miner", what, "Set miner=none, or take one of those: `finetune losses` lists them.")
    for name in sorted({_name(node) for node in found} & UNMINED):
        what = f"{name} looks at all of a batch and takes nothing from a miner."
        yield Problem("miner", what, "Set miner=none, or take another loss.")


def other_width(key: str, node: Mapping[str, Any], width: int) -> Iterator[Problem]:
    """Yield the problem of a width in a node that is not that of the embeddings."""
    for name, fact in facts_of(node).items():
        if fact == "width" and node.get(name, width) != width:
            what = f"the model's embeddings have a width of {width}, not {node[name]}."
            yield Problem(f"{key}.{name}", what, "Leave it out.")


def metric_problems(
    key: str, node: Mapping[str, Any], cfg: DictConfig, dataset: Dataset, place: int
) -> Iterator[Problem]:
    """Yield what is wrong between a loss of pytorch-metric-learning and the rows of one source."""
    if node["_target_"] != _WRAPPER:
        return
    rows = place if cfg.data.one_source_per_batch else None
    count, told = len(dataset.classes(rows)), node["loss"].get("num_classes")
    if told is not None and told < count:
        what = f"the data has {count} classes, more than {told}."
        yield Problem(f"{key}.loss.num_classes", what, "Leave it out.")
    if memory := node.get("memory", 0):
        if not count and not _chained(dataset, rows):
            what = "items of earlier batches are compared by their class, and nothing says that of these."
            yield Problem(f"{key}.memory", what, "Take labelled items, data.transitive=true, or memory=0.")
        needed = _items_of_a_batch(cfg, dataset, place)
        if memory < needed:
            what = f"a batch can have {needed} items, more than {memory}."
            yield Problem(f"{key}.memory", what, f"Set {key}.memory={8 * needed}, for some batches.")


def _chained(dataset: Dataset, place: int | None) -> bool:
    """Whether all pairs of these rows are within groups whose members are right for each other."""
    from finetune.data.known_positives import KnownPositives

    left, right = KnownPositives.edges(dataset.rows_of(place))
    group = dataset.known.group
    return group is not None and bool(((group[left] >= 0) & (group[left] == group[right])).all())


def _items_of_a_batch(cfg: DictConfig, dataset: Dataset, place: int) -> int:
    labelled = dataset.layouts[place] == "labelled" and cfg.data.encode_once
    return int(cfg.data.batch_size * (1 if labelled else 2 + dataset.rows_of(place).negatives.shape[1]))


def _name(node: Mapping[str, Any]) -> str:
    return str(node["loss"]["_target_"]).rpartition(".")[2]

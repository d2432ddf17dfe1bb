"""Checks of losses and miners of pytorch-metric-learning against the data and the model, before a run.

Everything is read from source text and the config: neither torch nor pytorch-metric-learning is imported.
"""

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


def needs_classes(node: Mapping[str, Any]) -> bool:
    """Whether the loss in a node needs the class of each item, because it has parameters for each class."""
    loss = node.get("loss")
    if not isinstance(loss, Mapping):
        return False
    if "class_count" in facts_of(loss).values() or loss.get("num_classes") is not None:
        return True
    return _class_name(node) in META_CLASSES


def miner_problems(cfg: DictConfig) -> Iterator[Problem]:
    """Yield problems of a miner with losses that do not use one."""
    if not cfg.miner:
        return
    names = set()
    for key, loss in loss_nodes(cfg):
        for _, node in nodes_of(key, loss):
            if node["_target_"] == _WRAPPER:
                names.add(_class_name(node))
    if not names:
        choice = cfg.hydra.runtime.choices.get("loss") or cfg.loss["_target_"].rpartition(".")[2]
        what = f"miners choose pairs for losses of pytorch-metric-learning, and loss={choice} is not one of them."
        yield Problem("miner", what, "Set miner=none, or use one of those: `finetune losses` lists them.")
    for name in sorted(names & UNMINED):
        what = f"{name} uses the whole batch, without a miner."
        yield Problem("miner", what, "Set miner=none, or use another loss.")


def width_problems(key: str, node: Mapping[str, Any], width: int) -> Iterator[Problem]:
    """Yield a problem for each width in a node that is not that of the embeddings."""
    for name, fact in facts_of(node).items():
        if fact == "width" and node.get(name, width) != width:
            what = f"the model's embeddings have a width of {width}, not {node[name]}."
            yield Problem(f"{key}.{name}", what, "Leave it out.")


def metric_problems(
    key: str, node: Mapping[str, Any], cfg: DictConfig, dataset: Dataset, source: int
) -> Iterator[Problem]:
    """Yield problems of a loss of pytorch-metric-learning with the rows of one source."""
    if node["_target_"] != _WRAPPER:
        return
    rows = source if cfg.data.one_source_per_batch else None
    class_count, setting = len(dataset.classes(rows)), node["loss"].get("num_classes")
    if setting is not None and setting < class_count:
        what = f"the data has {class_count} classes, more than {setting}."
        yield Problem(f"{key}.loss.num_classes", what, "Leave it out.")
    memory = node.get("memory", 0)
    if not memory:
        return
    if not class_count and not _all_pairs_in_groups(dataset, rows):
        what = "items of earlier batches are compared by their class, and these items have none."
        yield Problem(f"{key}.memory", what, "Use labelled items, data.transitive=true, or memory=0.")
    needed = _max_items_per_batch(cfg, dataset, source)
    if memory < needed:
        what = f"a batch can have {needed} items, more than {memory}."
        yield Problem(f"{key}.memory", what, f"Set {key}.memory={8 * needed}, for several batches.")


def _all_pairs_in_groups(dataset: Dataset, source: int | None) -> bool:
    """Whether all pairs of these rows are within groups whose members are positives of each other."""
    from finetune.data.known_positives import KnownPositives

    group = dataset.known.group
    if group is None:
        return False
    left, right = KnownPositives.edges(dataset.rows_of(source))
    return bool(((group[left] >= 0) & (group[left] == group[right])).all())


def _max_items_per_batch(cfg: DictConfig, dataset: Dataset, source: int) -> int:
    items_per_row = 2 + dataset.rows_of(source).negatives.shape[1]
    if dataset.layouts[source] == "labelled" and cfg.data.encode_once:
        items_per_row = 1
    return int(cfg.data.batch_size * items_per_row)


def _class_name(node: Mapping[str, Any]) -> str:
    return str(node["loss"]["_target_"]).rpartition(".")[2]

"""Classification and clustering of embeddings: by nearest neighbors, by a linear probe, and by k-means.

Shapes: N items to classify, M items whose class is known, C classes, D embedding width, k neighbors.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finetune.config.types import Built, NotEmpty, Positive, PositiveInt
from finetune.errors import FinetuneError
from finetune.evaluation.clusters import k_means
from finetune.evaluation.evaluator import Embed, Evaluator, Search, Texts, check_finite, sample_rows
from finetune.evaluation.metric_values import ArrayInputs, measure, named_metrics
from finetune.evaluation.result import Floats, Ints, Result
from finetune.evaluation.search import top_k
from finetune.evaluation.truncation_quantization import normalize
from finetune.metrics import Accuracy, VMeasure

Embeddings = NDArray[np.float32]

_EXAMPLE = np.array([0, 0, 1, 1])  # classes of a few items, with which metrics are tried

if TYPE_CHECKING:
    from finetune.data.holdout.eval_data import LabelledItems


class Classification(Evaluator):
    """Accuracy of predicting the classes of items; the arguments are documented in their config file."""

    evaluates: ClassVar[str] = "labelled items"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    metric_inputs: ClassVar[tuple[str, ...]] = ("preds", "target")
    metric_package: ClassVar[str] = "torchmetrics.classification"

    def __init__(
        self,
        metrics: Annotated[list[str | Built], NotEmpty()],
        by: Annotated[list[Literal["neighbours", "linear"]], NotEmpty()],
        neighbours: PositiveInt,
        strength: Positive,
        known: PositiveInt | None,
        items: PositiveInt | None,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.metrics = named_metrics(metrics, [Accuracy], ArrayInputs({"preds": _EXAMPLE, "target": _EXAMPLE}))
        self.by = by
        self.neighbours = neighbours
        self.strength = strength
        self.known = known
        self.items = items

    def evaluate(
        self, eval_data: LabelledItems, embed: Embed, texts: Texts | None = None, search: Search = top_k
    ) -> Result:
        """Fit on the items whose class is known, and predict the classes of the others.

        Raises:
            FinetuneError: there are no items to predict, fewer than two known classes, or an embedding is not finite.
        """
        start = time.monotonic()
        known, queried = np.flatnonzero(eval_data.known), np.flatnonzero(~eval_data.known)
        known, queried = known[sample_rows(len(known), self.known)], queried[sample_rows(len(queried), self.items)]
        label_M = eval_data.label[known]
        if not len(queried) or len(np.unique(label_M)) < 2:
            what = f"{eval_data.name}: classification needs known items of at least two classes, and others to predict."
            raise FinetuneError(what, "Give more labeled items.")
        emb_ND = check_finite(embed(eval_data.items[np.concatenate([known, queried])]))
        known_MD, query_ND = emb_ND[: len(known)], emb_ND[len(known) :]
        per_item: dict[str, Floats] = {}
        for method in self.by:
            if method == "neighbours":
                name = f"{self.neighbours} neighbours"
                predicted_N = knn_predict(known_MD, label_M, query_ND, self.neighbours, search)
            else:
                name = method
                predicted_N = linear_probe_predict(known_MD, label_M, query_ND, self.strength)
            inputs = ArrayInputs({"preds": predicted_N, "target": eval_data.label[queried]})
            for metric, values_N in measure(self.metrics, inputs).items():
                per_item[f"{metric} {name}"] = values_N
        counts = {"items": len(queried), "items to learn from": len(known)}
        return _result(eval_data, queried, per_item, counts, start, self.bootstrap_samples)


class Clustering(Evaluator):
    """The V-measure of as many clusters as there are classes; the arguments are documented in their config file."""

    evaluates: ClassVar[str] = "labelled items"
    metric_names: ClassVar[tuple[str, ...]] = ("V-measure",)
    metric_inputs: ClassVar[tuple[str, ...]] = ("preds", "target", "data", "labels")
    metric_package: ClassVar[str] = "torchmetrics.clustering"

    def __init__(
        self,
        metrics: Annotated[list[str | Built], NotEmpty()],
        items: PositiveInt | None,
        tries: PositiveInt,
        bootstrap_samples: PositiveInt,
        data: dict[str, Any] | None,
    ) -> None:
        super().__init__(bootstrap_samples, data)
        self.metrics = named_metrics(metrics, [VMeasure], _inputs(_EXAMPLE, _EXAMPLE, np.eye(4, 3, dtype=np.float32)))
        self.items = items
        self.tries = tries

    def evaluate(
        self, eval_data: LabelledItems, embed: Embed, texts: Texts | None = None, search: Search = top_k
    ) -> Result:
        """Cluster the held-out items, and compare the clusters with their classes.

        Raises:
            FinetuneError: they are of a single class, or an embedding is not finite.
        """
        start = time.monotonic()
        rows = np.flatnonzero(~eval_data.known)
        rows = rows[sample_rows(len(rows), self.items)]
        classes = len(np.unique(eval_data.label[rows]))
        if classes < 2:
            what = f"{eval_data.name}: the items are of {classes} class{'' if classes == 1 else 'es'}."
            raise FinetuneError(what, "Clusters are compared with at least two classes.")
        emb_ND = check_finite(embed(eval_data.items[rows]))
        cluster_N = k_means(emb_ND, classes, 0, self.tries)
        per_item = measure(self.metrics, _inputs(cluster_N, eval_data.label[rows], emb_ND))
        return _result(eval_data, rows, per_item, {"items": len(rows)}, start, self.bootstrap_samples)


def _inputs(cluster_N: Ints, label_N: Ints, emb_ND: Embeddings) -> ArrayInputs:
    """Return the arguments of metrics that compare clusters with classes, and of those that compare embeddings."""
    return ArrayInputs({"preds": cluster_N, "target": label_N, "data": emb_ND, "labels": cluster_N})


def _result(
    eval_data: LabelledItems,
    rows: Ints,
    per_item: dict[str, Floats],
    counts: dict[str, int],
    start: float,
    samples: int,
) -> Result:
    return Result(
        name=eval_data.name,
        headline=next(iter(per_item)),
        per_query=per_item,
        queries=eval_data.items[rows],
        counts={**counts, "classes": len(np.unique(eval_data.label[rows]))},
        bootstrap_samples=samples,
        seconds=time.monotonic() - start,
    )


def knn_predict(known_MD: Embeddings, class_M: Ints, query_ND: Embeddings, k: int, search: Search = top_k) -> Ints:
    """Return the most frequent class of the k nearest known items `(N,)`, by cosine; the nearest one of ties."""
    _, index_Nk = search(normalize(query_ND), normalize(known_MD), k)
    vote_Nk = class_M[index_Nk]
    # Count the neighbors of the same class as each neighbor; argmax returns the first maximum, the nearest one.
    same_Nk = (vote_Nk[:, :, None] == vote_Nk[:, None, :]).sum(2)
    predicted_N: Ints = vote_Nk[np.arange(len(vote_Nk)), same_Nk.argmax(1)]
    return predicted_N


def linear_probe_predict(known_MD: Embeddings, class_M: Ints, query_ND: Embeddings, strength: float) -> Ints:
    """Return the class by multinomial logistic regression `(N,)`, with an L2 penalty of `1 / (2 strength)`.

    The objective is that of scikit-learn's LogisticRegression with C=strength: the sum of the losses, and no penalty on
    the bias.
    """
    classes, place_M = np.unique(class_M, return_inverse=True)
    features_MD = torch.as_tensor(known_MD, dtype=torch.float64)
    target_M = torch.as_tensor(place_M.reshape(-1))
    probe = nn.Linear(features_MD.shape[1], len(classes), dtype=torch.float64)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(
        probe.parameters(), max_iter=500, tolerance_grad=1e-7, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        cross_entropy = nn.functional.cross_entropy(probe(features_MD), target_M, reduction="sum")
        value = (cross_entropy + (probe.weight**2).sum() / (2 * strength)) / len(features_MD)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        class_N = probe(torch.as_tensor(query_ND, dtype=torch.float64)).argmax(1).numpy()
    return np.asarray(classes[class_N], np.int64)

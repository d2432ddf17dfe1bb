"""Classes told from embeddings: by the nearest neighbours, and by a linear probe.

Shapes: N items to be told, M items whose class is known, C classes, D width, k neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finetune.evaluation.search import top_k
from finetune.evaluation.truncation_quantization import normalize

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def knn_predict(known_MD: Floats, class_M: Ints, asked_ND: Floats, k: int) -> Ints:
    """The class of most of the k nearest known items, by cosine; of equally many, that of the nearer one."""
    _, index_Nk = top_k(normalize(asked_ND), normalize(known_MD), k)
    vote_Nk = class_M[index_Nk]
    # How many of the neighbours have the same class as each of them; the first of the most is the nearest.
    same_Nk = (vote_Nk[:, :, None] == vote_Nk[:, None, :]).sum(2)
    told_N: Ints = vote_Nk[np.arange(len(vote_Nk)), same_Nk.argmax(1)]
    return told_N


def linear_probe_predict(known_MD: Floats, class_M: Ints, asked_ND: Floats, strength: float) -> Ints:
    """The class by multinomial logistic regression with an L2 penalty, `1 / (2 strength)` times the squared weights.

    The objective is scikit-learn's LogisticRegression with C=strength: the sum of the losses, the bias not penalised.
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
        wrong = nn.functional.cross_entropy(probe(features_MD), target_M, reduction="sum")
        value = (wrong + (probe.weight**2).sum() / (2 * strength)) / len(features_MD)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = probe(torch.as_tensor(asked_ND, dtype=torch.float64)).argmax(1).numpy()
    return np.asarray(classes[found], np.int64)

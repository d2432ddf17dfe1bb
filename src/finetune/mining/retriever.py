"""What finds candidates: the interface of all retrievers, and their results.

Shapes: Q anchors, M documents, P pairs, K hits, D width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.data.arrays import Ints

Floats = NDArray[np.float32]
Role = Literal["query", "document"]


class Hits(NamedTuple):
    """The best documents of each anchor, best first: `scores (Q, K)` and item numbers `items (Q, K)`.

    Padded with -inf and -1. Of equal scores the smaller item number is first.
    """

    scores: Floats
    items: Ints


class Embed(Protocol):
    """Returns the vectors `(N, D)` of items; their dot product is the similarity of the model.

    `role` says which prompt belongs in front of a text, if the items do not have theirs already. A large result may be
    a memory map.
    """

    def __call__(self, items_N: Ints, role: Role) -> Floats:
        """Return the vectors `(N, D)` of these items."""
        ...


class Retriever(Protocol):
    """Ranks the documents for each anchor; `name` is shown to the user.

    Results depend on nothing but the arguments of the call: neither on earlier calls nor on how anchors are divided
    into calls.
    """

    name: str

    def search(self, anchors_Q: Ints, documents_M: Ints, k: int) -> Hits:
        """Return the `k` best of the documents (ascending item numbers) for each anchor."""
        ...

    def score(self, anchors_P: Ints, documents_P: Ints) -> Floats:
        """Return the score of each pair of items `(P,)`, as `search` returns it."""
        ...

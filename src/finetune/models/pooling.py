"""From token embeddings to one embedding per text.

Shapes: n texts, T tokens of all of them in a row, D width.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from finetune.errors import ModelError
from finetune.models.packing import Packing

MODES = ("mean", "cls", "max")


def pool(tokens_TD: Tensor, packing: Packing, mode: str) -> Tensor:
    """Pool the token embeddings `(T, D)` of n packed texts to `(n, D)` in fp32.

    `mean`, `cls` and `max` are those of Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084.
    """
    tokens_TD = tokens_TD.float()
    if mode == "cls":
        return tokens_TD[packing.bounds[:-1]]
    lengths_n = packing.bounds.diff().long()
    if mode == "max":
        return torch.segment_reduce(tokens_TD, "max", lengths=lengths_n, unsafe=True)  # checking waits for a GPU
    sum_nD = tokens_TD.new_zeros(len(packing.lengths), tokens_TD.shape[1]).index_add(0, packing.owners(), tokens_TD)
    return sum_nD / lengths_n.unsqueeze(1)


def pooling_of(folder: Path) -> str | None:
    """Return the pooling that a sentence-transformers folder declares, `None` if it is a plain transformers folder.

    Raises:
        ModelError: the folder has modules that would be lost (a dense layer, several poolings).
    """
    if not (folder / "modules.json").is_file():
        return None
    try:
        return _declared(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model.name={folder}: its modules.json or what it names is damaged ({type(error).__name__}: {error}).",
            "Get the model again.",
        ) from error


def _declared(folder: Path) -> str | None:
    mode = None
    for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            mode = _mode_in(folder / module["path"] / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise ModelError(
                f"model.name={folder}: this model has a {kind} module, which cannot be trained yet.",
                "Take a model of a transformer, a pooling and a normalisation.",
            )
    return mode


def _mode_in(path: Path) -> str:
    config = json.loads(path.read_text(encoding="utf-8"))
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max"}
    # Written as one name since sentence-transformers 6, as one flag per mode before.
    mode = config.get("pooling_mode") or "+".join(
        names.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True
    )
    if mode not in MODES:
        raise ModelError(
            f"{path}: the pooling {mode!r} is not known.", f"Set model.pooling to one of {', '.join(MODES)}."
        )
    return str(mode)

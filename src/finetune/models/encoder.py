"""What every encoder is: items in, embeddings out; a saved folder out.

Shapes: N items, T tokens of all texts in a row, D width.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finetune.data.arrays import Ints
from finetune.data.batching.pair_collator import Pairing
from finetune.errors import CheckFailed, ModelError, Problem
from finetune.models.attention import register_uncompiled
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.config import Use


class Encoder(nn.Module):
    """Items in, embeddings `(N, D)` in fp32 out.

    `reads` says of what the items may be (`finetune.data.items.Modality`); it and the other class variables are read
    from the source text before a run. A subclass has a `name` (what it was made from), a `width` (D), and a `backbone`
    where it is built around one.
    """

    reads: ClassVar[tuple[str, ...]] = ("text",)
    files: ClassVar[tuple[str, ...]] = ("config.json", "tokenizer.json")  # what a folder that it is made from must hold
    layout: ClassVar[Use] = "text"  # which modules a sentence-transformers folder that it is made from may have
    scores_pairs: ClassVar[bool] = False  # True: an item is a pair of texts, and its "embedding" (N, 1) is its score
    packs: bool = True  # texts are computed without padding; if not, each call pads to its longest
    pad_id: int = 0
    tokenizer: Any = None  # None: it reads no texts
    other_cost: int = 1  # what an item that is no text costs, in tokens of the widest layer
    use: str = ""  # how to use a saved folder, in Python, for its card; empty: as sentence-transformers does
    name: str
    normalize: bool

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        raise NotImplementedError

    @property
    def widest(self) -> int:
        """How many numbers the widest layer makes of a token."""
        return int(getattr(self._config(), "intermediate_size", None) or 4 * self.hidden)

    @property
    def hidden(self) -> int:
        """How many numbers stand for a token between two layers."""
        return int(getattr(self._config(), "hidden_size", None) or self.width)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return int(getattr(self._config(), "num_hidden_layers", None) or 12)

    def _config(self) -> Any:
        return getattr(getattr(self, "backbone", None), "config", None)

    def backbones(self) -> list[Any]:
        """Return the pretrained models inside."""
        return [self.backbone] if hasattr(self, "backbone") else []

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, lookup: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed N texts, given as one row of token ids `(T,)` and the length of each; or N other items, `(N, ...)`.

        The lengths are on the CPU; it is fastest when they are sorted. `lookup` is the step's own, where several calls
        make one step.
        """
        raise NotImplementedError

    def lookup(self) -> SharedGradEmbedding | None:
        """Return what looks up the tokens of one step, if it reads texts."""
        return None

    def give_layers(self, layers: Sequence[int]) -> None:
        """In training return the embeddings of these layers too, 1 is the first: `(N, L, D)`, the last layer's last.

        Raises:
            CheckFailed: there are no such layers.
        """
        if layers:
            what = f"a {type(self).__name__} gives the embeddings of its last layer only."
            raise CheckFailed([Problem("loss.layers", what, "Take a text encoder, or another loss.")])

    def prepare(self, values: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Return items that are no texts, as `data.modalities.load` gives them, as numbers `(N, ...)`.

        `random` is there in training only: what is drawn with it makes each look at an item another one.
        """
        del random
        return np.asarray(values, np.float32)

    def pairing(self, max_length: int) -> Pairing | None:
        """Return how two texts become one sequence of at most `max_length` tokens, if it scores pairs."""
        del max_length
        return None

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write the model into an empty folder, from which `name=<folder>` of the same class loads it again.

        `max_length` is in tokens; `prompts` are what texts were trained to begin with, by name (`query`, `document`).
        """
        raise NotImplementedError

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card: what goes in, what comes out."""
        raise NotImplementedError

    def compile_backbone(self, device: torch.device) -> None:
        """Have torch compile the backbone for `device`, once for all shapes, when it is first called.

        Raises:
            ModelError: the device is a CPU, and there is no C++ compiler.
        """
        if device.type == "cpu":
            if not any(map(shutil.which, ("g++", "clang++", "c++"))):
                raise ModelError(
                    "engine.compile=true needs a C++ compiler on a CPU, and there is none.",
                    "Install one (g++ or clang++), or leave engine.compile=false: on a CPU it gains little.",
                )
            register_uncompiled()
        for inner in self.backbones():
            inner.compile(dynamic=True)

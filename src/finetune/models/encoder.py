"""The base class of encoders: items in, embeddings out; saved to a folder.

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
from finetune.models.st_format.settings import EncoderKind


class Encoder(nn.Module):
    """Items in, embeddings `(N, D)` in fp32 out.

    `reads` lists the modalities of its items (`finetune.data.items.Modality`); it and the other class variables are
    read from the source text before a run. A subclass has a `name` (the model it was made from), a `width` (D), and a
    `backbone` if it is built around one.
    """

    reads: ClassVar[tuple[str, ...]] = ("text",)
    files: ClassVar[tuple[str, ...]] = ("config.json", "tokenizer.json")  # required in the folder it is made from
    layout: ClassVar[EncoderKind] = "text"  # decides which modules such a sentence-transformers folder may have
    scores_pairs: ClassVar[bool] = False  # True: an item is a pair of texts, and its "embedding" (N, 1) is its score
    packs: bool = True  # texts are encoded without padding; if False, each call pads to its longest text
    pad_id: int = 0
    tokenizer: Any = None  # None: it reads no texts
    other_cost: int = 1  # the cost of an item that is not a text, in tokens of the widest layer
    use: str = ""  # Python code for the model card that uses a saved folder; empty: that of sentence-transformers
    name: str
    normalize: bool

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        raise NotImplementedError

    @property
    def widest(self) -> int:
        """The width of the widest layer, per token."""
        return int(getattr(self._config(), "intermediate_size", None) or 4 * self.hidden)

    @property
    def hidden(self) -> int:
        """The width of the hidden states, per token."""
        return int(getattr(self._config(), "hidden_size", None) or self.width)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return int(getattr(self._config(), "num_hidden_layers", None) or 12)

    def _config(self) -> Any:
        """Return the config of the backbone, None if there is none."""
        return getattr(getattr(self, "backbone", None), "config", None)

    def backbones(self) -> list[Any]:
        """Return the pretrained models inside."""
        if hasattr(self, "backbone"):
            return [self.backbone]
        return []

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed N texts, given as one row of token ids `(T,)` and their lengths; or N other items, `(N, ...)`.

        The lengths are on the CPU; sorted ones are fastest. `token_embedding` is shared by all calls of one step.
        """
        raise NotImplementedError

    def token_embedding(self) -> SharedGradEmbedding | None:
        """Return the embedding lookup for the tokens of one step, `None` if it has none to share."""
        return None

    def set_output_layers(self, layers: Sequence[int]) -> None:
        """In training return the embeddings of these layers too, from 1 on: `(N, L, D)`, those of the last layer last.

        Raises:
            CheckFailed: it does not have these layers.
        """
        if layers:
            what = f"a {type(self).__name__} returns the embeddings of its last layer only."
            raise CheckFailed([Problem("loss.layers", what, "Use a text encoder, or another loss.")])

    def prepare(self, values: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Convert items that are not texts, as `data.modalities.load` returns them, to numbers `(N, ...)`.

        `random` is given in training only, for augmentation.
        """
        del random
        return np.asarray(values, np.float32)

    def pairing(self, max_length: int) -> Pairing | None:
        """Return how to join two texts to at most `max_length` tokens; `None` if it does not score pairs."""
        del max_length
        return None

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write the model into an empty folder, from which `name=<folder>` of the same class loads it again.

        `max_length` is in tokens; `prompts` are those of the training, by name (`query`, `document`).
        """
        raise NotImplementedError

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card about its inputs and outputs."""
        raise NotImplementedError

    def compile_backbone(self, device: torch.device) -> None:
        """Compile the backbone for `device` on its first call, once for all shapes.

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

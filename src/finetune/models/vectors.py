"""An adapter for existing embeddings: a small network that changes them.

Shapes: N vectors, V numbers of each, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from finetune.config.types import CountFromZero, Fraction, PositiveInt
from finetune.data.arrays import Ints
from finetune.errors import ModelError
from finetune.models import checkpoint
from finetune.models.encoder import Encoder
from finetune.models.head import apply_head, new_head
from finetune.models.shared_grad import SharedGradEmbedding


class VectorEncoder(Encoder):
    """Vectors `(N, V)` in, embeddings `(N, D)` in fp32 out.

    Each of `layers` is a residual block with one hidden layer, which initially adds zero: training starts from the
    unchanged embeddings.
    """

    reads: ClassVar[tuple[str, ...]] = ("vector",)
    files: ClassVar[tuple[str, ...]] = ("finetune.json",)
    use = (
        "from finetune.models.vectors import VectorEncoder\n\n"
        'encoder = VectorEncoder("path/to/this/folder").eval()\nembeddings = encoder(vectors)  # float32 (N, V)'
    )

    def __init__(
        self,
        name: str | None = None,
        input_width: PositiveInt | Literal["auto"] = "auto",
        hidden_width: PositiveInt = 512,
        layers: CountFromZero = 1,
        output_width: PositiveInt | None = None,
        normalize: bool = True,
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.name = name or "a new adapter"
        settings: dict[str, Any] = {"input_width": input_width, "hidden_width": hidden_width, "layers": layers}
        settings |= {"output_width": output_width, "normalize": normalize}
        if name is not None:
            settings = checkpoint.read_settings(name, type(self).__name__)
            if input_width not in ("auto", settings["input_width"]):
                raise ModelError(
                    f"model.name={name} takes vectors of {settings['input_width']} numbers, not {input_width}.",
                    "Use vectors of the model that it was trained with.",
                )
        if settings["input_width"] == "auto":
            raise ModelError("model.input_width=auto: there are no vectors to read it from.", "Set their length.")
        self.settings, self.normalize = settings, settings["normalize"]
        width = settings["input_width"]
        self.blocks = nn.ModuleList(_Block(width, settings["hidden_width"], dropout) for _ in range(settings["layers"]))
        self.head = nn.ModuleList(new_head(width, settings["output_width"], None))
        if name is not None:
            checkpoint.load(name, self)

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        return int(self.settings["output_width"] or self.settings["input_width"])

    @property
    def widest(self) -> int:
        """The width of the widest layer, per vector."""
        return max(int(self.settings["hidden_width"]), int(self.settings["input_width"]))

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed vectors `(N, V)`."""
        for block in self.blocks:
            values = block(values)
        return apply_head(values, self.head, self.normalize)

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write settings and weights into a folder."""
        checkpoint.save(folder, self, self.settings)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps a vector of {self.settings['input_width']} numbers to {self.width} dimensions."


class _Block(nn.Module):
    """x + W2 gelu(W1 norm(x)), with W2 initially zero (He et al. 2016, https://arxiv.org/abs/1603.05027)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, vectors_NV: Tensor) -> Tensor:
        added: Tensor = self.down(self.dropout(nn.functional.gelu(self.up(self.norm(vectors_NV)))))
        return vectors_NV + added

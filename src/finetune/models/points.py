"""A PointNet-style encoder of point clouds, which are sampled from meshes.

Shapes: N clouds, P points of each, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmpty, NotNegative, PositiveInt
from finetune.data.arrays import Ints
from finetune.models import checkpoint
from finetune.models.encoder import Encoder
from finetune.models.head import apply_head
from finetune.models.shared_grad import SharedGradEmbedding

_POINTS = 1024


class PointEncoder(Encoder):
    """Clouds `(N, P, 3)` in, embeddings `(N, D)` in fp32 out, independent of the order of the points.

    The same network of `point_widths` is applied to each point, its maximum over all points represents the cloud, and
    layers of `head_widths` follow. `align` learns a 3 x 3 matrix that transforms each cloud first (T-Net). Layer norm
    replaces batch norm, so that an embedding does not depend on the other items of its batch.

    Source: Qi et al. 2017, https://arxiv.org/abs/1612.00593.
    """

    reads: ClassVar[tuple[str, ...]] = ("mesh",)
    files: ClassVar[tuple[str, ...]] = ("finetune.json",)
    other_cost = _POINTS
    use = (
        "from finetune.models.points import PointEncoder\n\n"
        'encoder = PointEncoder("path/to/this/folder").eval()\nembeddings = encoder(clouds)  # float32 (N, points, 3)'
    )

    def __init__(
        self,
        name: str | None = None,
        point_widths: Annotated[Sequence[PositiveInt], NotEmpty()] = (64, 128, 1024),
        head_widths: Sequence[PositiveInt] = (512,),
        output_width: PositiveInt = 256,
        align: bool = True,
        normalize: bool = True,
        dropout: Fraction = 0.0,
        turn: NotNegative = 0.0,
        jitter: NotNegative = 0.0,
        drop_points: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.name = name or "a new PointNet"
        settings: dict[str, Any] = {"point_widths": [*point_widths], "head_widths": [*head_widths]}
        settings |= {"output_width": output_width, "align": align, "normalize": normalize}
        if name is not None:
            settings = checkpoint.read_settings(name, type(self).__name__)
        self.settings, self.normalize = settings, settings["normalize"]
        self.turn, self.jitter, self.drop_points = turn, jitter, drop_points
        self.align = _Cloud(settings["point_widths"], [256, 9], 0.0) if settings["align"] else None
        if self.align is not None:
            for last in self.align.head[-1].parameters():
                nn.init.zeros_(last)  # starts as the identity
        self.cloud = _Cloud(settings["point_widths"], [*settings["head_widths"], settings["output_width"]], dropout)
        if name is not None:
            checkpoint.load(name, self)

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        return int(self.settings["output_width"])

    @property
    def widest(self) -> int:
        """The width of the widest layer, per point."""
        return int(max(self.settings["point_widths"]))

    def prepare(self, values: Sequence[Any], random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """Return clouds `(N, P, 3)`; in training randomly rotated, jittered, and with dropped points."""
        clouds_NP3 = np.asarray(values, np.float32)
        if random is None:
            return clouds_NP3
        if self.turn:
            angles_N = random.uniform(-self.turn, self.turn, len(clouds_NP3))
            clouds_NP3 = clouds_NP3 @ _rotations(angles_N)
        if self.jitter:
            clouds_NP3 = clouds_NP3 + random.normal(0, self.jitter, clouds_NP3.shape).astype(np.float32)
        if self.drop_points:
            # The number of points stays the same: a dropped one moves to the first.
            dropped = random.random(clouds_NP3.shape[:2]) < self.drop_points
            clouds_NP3 = np.where(dropped[:, :, None], clouds_NP3[:, :1], clouds_NP3)
        return clouds_NP3.astype(np.float32)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed clouds `(N, P, 3)`."""
        if self.align is not None:
            transform_N33 = self.align(values).view(-1, 3, 3) + torch.eye(3, device=values.device)
            values = values @ transform_N33.to(values.dtype)
        return apply_head(self.cloud(values), nn.ModuleList(), self.normalize)

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write settings and weights into a folder."""
        checkpoint.save(folder, self, self.settings)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps a cloud of points, at the origin and of radius 1, to {self.width} dimensions."


class _Cloud(nn.Module):
    """Points `(N, P, 3)` in, features of each cloud `(N, last of head_widths)` out."""

    def __init__(self, point_widths: Sequence[int], head_widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        widths = [3, *point_widths]
        self.points = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU())
            for before, after in pairwise(widths)
        )
        widths = [point_widths[-1], *head_widths]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(dropout)]
        # The last linear layer is the output: no norm, activation or dropout after it.
        self.head = nn.Sequential(*layers[:-3])

    def forward(self, points_NP3: Tensor) -> Tensor:
        features = points_NP3
        for layer in self.points:
            features = layer(features)
        cloud: Tensor = self.head(features.amax(1))
        return cloud


def _rotations(angles_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the rotations by these angles (radians) around the vertical axis, y, `(N, 3, 3)`."""
    cosine, sine = np.cos(angles_N), np.sin(angles_N)
    zero, one = np.zeros_like(angles_N), np.ones_like(angles_N)
    rows = [[cosine, zero, sine], [zero, one, zero], [-sine, zero, cosine]]
    return np.moveaxis(np.array(rows), 2, 0).astype(np.float32)

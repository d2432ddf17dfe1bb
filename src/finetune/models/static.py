"""A static encoder: a table of token embeddings, their mean, and nothing else; hundreds of times as fast.

Shapes: N texts, T tokens, V tokens of the vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from finetune.config.types import NotEmptyText, NotNegative, PositiveInt
from finetune.console import Bar
from finetune.data.arrays import Ints
from finetune.data.tokens.tokenize import no_truncation
from finetune.errors import ModelError, first_line
from finetune.models import checkpoint
from finetune.models.encoder import Encoder
from finetune.models.head import projected
from finetune.models.packing import Packing
from finetune.models.resolve import resolve
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.checks import check_nothing_after, has_unit_length
from finetune.models.st_format.config import Use, read_st_config
from finetune.models.st_format.write import trained_settings, write
from finetune.models.text import TextEncoder
from finetune.models.tokenizer import check_vocabulary, load_plain_tokenizer, marks

_WEIGHTS = "embedding.weight"  # as sentence-transformers names the table
_MODEL2VEC = "embeddings"  # as model2vec does


class StaticEncoder(Encoder):
    """Token ids in, embeddings `(N, D)` in fp32 out: the mean of the tokens' own, which no other token changes.

    `init` is where the table comes from: `table`, the folder's own (a sentence-transformers StaticEmbedding, or a table
    that model2vec made); `distil`, what a text encoder makes of each token by itself, brought to `output_width` by its
    principal components and made the shorter the commoner the token (Tulkens and van Dongen 2024,
    https://github.com/MinishLab/model2vec; `common` is a of Arora et al. 2017, a / (a + p)); `random`, for training
    from scratch with the tokenizer of the folder.

    Raises:
        ModelError: there is no such table, or no tokenizer.
    """

    files: ClassVar[tuple[str, ...]] = ("tokenizer.json",)
    layout: ClassVar[Use] = "static"

    def __init__(
        self,
        name: NotEmptyText,
        init: Literal["auto", "table", "distil", "random"] = "auto",
        output_width: PositiveInt | None = None,
        common: NotNegative = 1.0e-4,
        normalize: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        found = read_st_config(resolve(name, self.files), self.layout)
        self.name, self.normalize, self._found = name, has_unit_length(found, normalize), found
        self.tokenizer = load_plain_tokenizer(found.backbone, name, found.transformer.lower_case)
        table_VD = None if init in ("distil", "random") else _table_in(found.backbone, name)
        if table_VD is None and found.kind == "StaticEmbedding" and init == "auto":
            raise ModelError(
                f"model.name={name}: its table has no safetensors weights.", "Save it again as safetensors."
            )
        if table_VD is not None:
            check_nothing_after(found, name)
            check_vocabulary(self.tokenizer, len(table_VD), name)
        if init == "table" and table_VD is None:
            raise ModelError(f"model.name={name} holds no table of token embeddings.", "Take model.init=distil.")
        if table_VD is None and init != "random":
            table_VD = _distilled(name, output_width or 256, common)
        elif table_VD is None:
            table_VD = torch.randn(len(self.tokenizer), output_width or 256) * (output_width or 256) ** -0.5
        elif output_width not in (None, table_VD.shape[1]):
            raise ModelError(
                f"model.output_width={output_width}: the table of {name} has {table_VD.shape[1]} dimensions.",
                "Leave model.output_width=null, or distil another one (model.init=distil).",
            )
        self.embedding = nn.Embedding(len(table_VD), table_VD.shape[1], _weight=table_VD)

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        return int(self.embedding.embedding_dim)

    @property
    def widest(self) -> int:
        """How many numbers the widest layer makes of a token: there is but one."""
        return self.width

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The token id that fills a row up; nothing is."""
        return 0

    def lookup(self) -> SharedGradEmbedding:
        """Return what looks up the tokens of one step."""
        return SharedGradEmbedding(self.embedding)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, lookup: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed N texts given as one row of token ids and the length of each; a text without tokens is zero."""
        assert lengths_N is not None
        packing = Packing(lengths_N, values.device)
        tokens_TD = (lookup or self.lookup())(values).float()
        sum_ND = tokens_TD.new_zeros(len(lengths_N), self.width).index_add(0, packing.owners(), tokens_TD)
        return projected(sum_ND / packing.bounds.diff().clamp(min=1).unsqueeze(1), nn.ModuleList(), self.normalize)

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write a sentence-transformers folder, whose tokenizer cuts texts at `max_length` as the training did."""
        from safetensors.torch import save_file

        save_file({_WEIGHTS: self.embedding.weight.detach().contiguous()}, folder / checkpoint.WEIGHTS)
        with no_truncation(self.tokenizer):
            self.tokenizer.backend_tokenizer.enable_truncation(max_length)
            self.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        settings = trained_settings(self._found, self.normalize, prompts)
        # A table that was distilled from a model whose embeddings are cut has a width of its own.
        write(folder, "StaticEmbedding", replace(settings, truncate_dim=None), normalize=self.normalize)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps a text to {self.width} dimensions, the mean of what its tokens stand for."


def _table_in(folder: Path, name: str) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    file = folder / checkpoint.WEIGHTS
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as weights:
            found = next((key for key in (_WEIGHTS, _MODEL2VEC) if key in weights.keys()), None)  # noqa: SIM118
            if found is None:
                return None
            table_VD: Tensor = weights.get_tensor(found).float()
            # model2vec may keep one row for several tokens, and how much each token counts apart.
            if found == _MODEL2VEC and "mapping" in weights.keys():  # noqa: SIM118
                table_VD = table_VD[weights.get_tensor("mapping").long()]
            if found == _MODEL2VEC and "weights" in weights.keys():  # noqa: SIM118
                table_VD = table_VD * weights.get_tensor("weights").float().unsqueeze(1)
            return table_VD
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"model.name={name}: its weights cannot be read ({first_line(error)}).", "Get the folder again."
        ) from error


@torch.no_grad()
def _distilled(name: str, width: int, common: float) -> Tensor:
    """Return what the text encoder `name` makes of each token of its vocabulary, `(V, width)`."""
    teacher = TextEncoder(name, dropout=0.0).eval()
    rows = teacher.backbone.get_input_embeddings().num_embeddings
    first, last = (torch.tensor(mark, dtype=torch.long) for mark in marks(teacher.tokenizer, 1)[0])
    parts = []
    with Bar("distilling the vocabulary", len(teacher.tokenizer), "tokens") as bar:
        for ids in torch.arange(min(rows, len(teacher.tokenizer))).split(1024):  # type: ignore[no-untyped-call]
            texts_n = torch.cat([first.expand(len(ids), -1), ids.unsqueeze(1), last.expand(len(ids), -1)], 1)
            packing = Packing(np.full(len(ids), texts_n.shape[1]), ids.device)
            parts.append(teacher.pooling(teacher.states(texts_n.flatten(), packing)[-1], packing))
            bar.update(int(ids[-1]) + 1)
    table_VD = torch.cat(parts)
    if width > table_VD.shape[1]:
        raise ModelError(
            f"model.output_width={width} is more than the {table_VD.shape[1]} dimensions of {name}.",
            f"Take {table_VD.shape[1]} or less.",
        )
    centred_VD = table_VD - table_VD.mean(0)
    _, vectors_DD = torch.linalg.eigh(centred_VD.T @ centred_VD)
    kept_VD: Tensor = centred_VD @ vectors_DD.flip(1)[:, :width]
    # Tokens stand in a vocabulary about as often as they occur: by Zipf, the r-th has a share of 1 / r.
    rank_V = torch.arange(1, len(kept_VD) + 1)
    share_V = (1 / rank_V) / (1 / rank_V).sum()
    if not common:
        return kept_VD
    return kept_VD * (common / (common + share_V)).unsqueeze(1)

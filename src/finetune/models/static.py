"""A static encoder: the mean of token embeddings from a table; hundreds of times as fast as a transformer.

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
from finetune.models.head import apply_head
from finetune.models.packing import Packing
from finetune.models.resolve import resolve
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.config import check_backbone_only, is_normalized, read_st_config
from finetune.models.st_format.settings import EncoderKind
from finetune.models.st_format.write import trained_settings, write
from finetune.models.text import TextEncoder
from finetune.models.tokenizer import check_vocabulary, load_plain_tokenizer, special_tokens

_WEIGHTS = "embedding.weight"  # as sentence-transformers names the table
_MODEL2VEC = "embeddings"  # as model2vec does
_DEFAULT_WIDTH = 256


class StaticEncoder(Encoder):
    """Token ids in, embeddings `(N, D)` in fp32 out: the mean of token embeddings without context.

    `init` is the source of the table: `table` is that of the folder (a StaticEmbedding of sentence-transformers, or a
    table of model2vec); `distil` embeds each token by itself with a text encoder, projects to `output_width` principal
    components, and scales frequent tokens down (Tulkens and van Dongen 2024, https://github.com/MinishLab/model2vec;
    `common` is a of Arora et al. 2017, a / (a + p)); `random` trains from scratch with the tokenizer of the folder.
    `auto` is `table` where the folder has one, else `distil`.

    Raises:
        ModelError: there is no such table, or no tokenizer.
    """

    files: ClassVar[tuple[str, ...]] = ("tokenizer.json",)
    layout: ClassVar[EncoderKind] = "static"

    def __init__(
        self,
        name: NotEmptyText,
        init: Literal["auto", "table", "distil", "random"] = "auto",
        output_width: PositiveInt | None = None,
        common: NotNegative = 1.0e-4,
        normalize: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        st_config = read_st_config(resolve(name, self.files), self.layout)
        self.name, self.normalize, self._st_config = name, is_normalized(st_config, normalize), st_config
        self.tokenizer = load_plain_tokenizer(st_config.backbone, name, st_config.transformer.lower_case)
        table_VD = self._read_table(init, output_width) if init in ("auto", "table") else None
        width = output_width or _DEFAULT_WIDTH
        if table_VD is None and init == "random":
            table_VD = torch.randn(len(self.tokenizer), width) * width**-0.5
        elif table_VD is None:
            table_VD = _distill(name, width, common)
        self.embedding = nn.Embedding(len(table_VD), table_VD.shape[1], _weight=table_VD)

    def _read_table(self, init: str, output_width: int | None) -> Tensor | None:
        """Return the table of the folder; None if there is none and `init` allows another."""
        name = self.name
        table_VD = _table_in(self._st_config.backbone, name)
        if table_VD is None:
            if init == "table":
                raise ModelError(f"model.name={name} has no table of token embeddings.", "Set model.init=distil.")
            if self._st_config.kind == "StaticEmbedding":
                raise ModelError(
                    f"model.name={name}: its table has no safetensors weights.", "Save it again as safetensors."
                )
            return None
        check_backbone_only(self._st_config, name)
        check_vocabulary(self.tokenizer, len(table_VD), name)
        if output_width not in (None, table_VD.shape[1]):
            raise ModelError(
                f"model.output_width={output_width}: the table of {name} has {table_VD.shape[1]} dimensions.",
                "Leave model.output_width=null, or distil another one (model.init=distil).",
            )
        return table_VD

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        return int(self.embedding.embedding_dim)

    @property
    def widest(self) -> int:
        """The width of the only layer, per token."""
        return self.width

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The id of the padding token; nothing is padded."""
        return 0

    def token_embedding(self) -> SharedGradEmbedding:
        """Return the embedding lookup for the tokens of one step."""
        return SharedGradEmbedding(self.embedding)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Embed N texts, given as one row of token ids and their lengths; a text without tokens is zero."""
        assert lengths_N is not None
        packing = Packing(lengths_N, values.device)
        if token_embedding is None:
            token_embedding = self.token_embedding()
        tokens_TD = token_embedding(values).float()
        sum_ND = tokens_TD.new_zeros(len(lengths_N), self.width).index_add(0, packing.owners(), tokens_TD)
        mean_ND = sum_ND / packing.bounds.diff().clamp(min=1).unsqueeze(1)
        return apply_head(mean_ND, nn.ModuleList(), self.normalize)

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write a sentence-transformers folder, whose tokenizer truncates texts to `max_length` as the training did."""
        from safetensors.torch import save_file

        save_file({_WEIGHTS: self.embedding.weight.detach().contiguous()}, folder / checkpoint.WEIGHTS)
        with no_truncation(self.tokenizer):
            self.tokenizer.backend_tokenizer.enable_truncation(max_length)
            self.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        settings = trained_settings(self._st_config, self.normalize, prompts)
        # A table distilled from a model with truncated embeddings has a width of its own.
        write(folder, "StaticEmbedding", replace(settings, truncate_dim=None), normalize=self.normalize)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It maps a text to {self.width} dimensions, the mean of the embeddings of its tokens."


def _table_in(folder: Path, name: str) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    file = folder / checkpoint.WEIGHTS
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as weights:
            names = set(weights.keys())
            if _WEIGHTS in names:
                table_VD: Tensor = weights.get_tensor(_WEIGHTS).float()
                return table_VD
            if _MODEL2VEC not in names:
                return None
            table_VD = weights.get_tensor(_MODEL2VEC).float()
            # model2vec may share a row between several tokens, and store the weight of each token separately.
            if "mapping" in names:
                table_VD = table_VD[weights.get_tensor("mapping").long()]
            if "weights" in names:
                table_VD = table_VD * weights.get_tensor("weights").float().unsqueeze(1)
            return table_VD
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"model.name={name}: its weights cannot be read ({first_line(error)}).", "Get the folder again."
        ) from error


@torch.no_grad()
def _distill(name: str, width: int, common: float) -> Tensor:
    """Return the embedding of each token of its vocabulary by the text encoder `name`, `(V, width)`."""
    teacher = TextEncoder(name, dropout=0.0).eval()
    rows = teacher.backbone.get_input_embeddings().num_embeddings
    before, after = special_tokens(teacher.tokenizer, 1)[0]
    first, last = torch.tensor(before, dtype=torch.long), torch.tensor(after, dtype=torch.long)
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
            f"Set {table_VD.shape[1]} or less.",
        )
    centered_VD = table_VD - table_VD.mean(0)
    _, vectors_DD = torch.linalg.eigh(centered_VD.T @ centered_VD)
    projected_VD: Tensor = centered_VD @ vectors_DD.flip(1)[:, :width]
    if not common:
        return projected_VD
    # Vocabularies are roughly sorted by frequency; by Zipf's law the r-th token has a frequency proportional to 1 / r.
    rank_V = torch.arange(1, len(projected_VD) + 1)
    frequency_V = (1 / rank_V) / (1 / rank_V).sum()
    return projected_VD * (common / (common + frequency_V)).unsqueeze(1)

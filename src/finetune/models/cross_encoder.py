"""A cross-encoder: scores how well two texts match; for reranking, and as a teacher.

Shapes: N pairs, T tokens of all pairs in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune.config.types import CountFromZero, Fraction, NotEmptyText, PositiveInt
from finetune.data.arrays import Ints
from finetune.data.batching.pair_collator import Pairing, SpecialTokenLayout
from finetune.models.backbone import keep_layers as remove_layers
from finetune.models.backbone import load_backbone
from finetune.models.dropout import replace_dropout
from finetune.models.encoder import Encoder
from finetune.models.packing import Packing
from finetune.models.resolve import resolve
from finetune.models.sdpa import is_causal
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.config import read_st_config
from finetune.models.st_format.settings import EncoderKind
from finetune.models.st_format.write import write_cross_encoder
from finetune.models.tokenizer import check_vocabulary, load_tokenizer, save_tokenizer, special_tokens


class CrossEncoder(Encoder):
    """Pairs of texts in, one score of each `(N, 1)` in fp32 out: a logit, without bounds.

    `negatives` is the number of positives of other rows that each anchor is scored with, where the data has no scores.

    Source: Nogueira and Cho 2019, https://arxiv.org/abs/1901.04085.

    Raises:
        ModelError: the model is not found, is damaged, returns more than one score, or has no safetensors weights.
    """

    scores_pairs: ClassVar[bool] = True
    layout: ClassVar[EncoderKind] = "pairs"
    packs = False
    normalize = False
    use = (
        "from sentence_transformers import CrossEncoder\n\n"
        'model = CrossEncoder("path/to/this/folder")\n'
        'print(model.rank("what is asked", ["a text", "another text"]))'
    )

    def __init__(
        self,
        name: NotEmptyText,
        negatives: CountFromZero = 4,
        keep_layers: PositiveInt | None = None,
        dropout: Fraction | None = None,
        random_init: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__()
        self._st_config = read_st_config(resolve(name, self.files, allow_pickle), self.layout)
        folder = self._st_config.backbone
        self.name, self.negatives = name, negatives
        settings, auto = {"num_labels": 1, "use_cache": False}, "AutoModelForSequenceClassification"
        self.backbone = load_backbone(folder, name, dropout, random_init, settings, auto, allow_pickle)
        if keep_layers is not None:
            remove_layers(self.backbone, keep_layers, name)
        self.tokenizer = load_tokenizer(folder, name, self._st_config.transformer.lower_case)
        check_vocabulary(self.tokenizer, self.backbone.get_input_embeddings().num_embeddings, name)
        self._special_tokens = _special_token_layout(self.tokenizer)
        self._is_causal = is_causal(self.backbone)
        self._has_types = "token_type_ids" in self.tokenizer.model_input_names
        if self.backbone.config.pad_token_id is None:
            self.backbone.config.pad_token_id = self.pad_id  # decoders use it to find the last token of a text
        replace_dropout(self.backbone)

    @property
    def width(self) -> int:
        """One score."""
        return 1

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The id of the padding token."""
        return int(self.tokenizer.pad_token_id or 0)

    def pairing(self, max_length: int) -> Pairing:
        """Return how to join two texts to one sequence of at most `max_length` tokens."""
        return Pairing(self._special_tokens, max_length, self.negatives)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, token_embedding: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Score N pairs, given as one row of token ids and types `(T, 2)` and their lengths on the CPU."""
        assert lengths_N is not None
        packing = Packing(lengths_N, values.device)
        ids_nt, mask_nt = packing.pad_ids(values[:, 0], self.pad_id)
        if mask_nt is None and self._is_causal:
            mask_nt = torch.ones_like(ids_nt)  # without a mask, decoders search the positions for packed sequences
        inputs = {"input_ids": ids_nt, "attention_mask": mask_nt}
        if self._has_types:
            inputs["token_type_ids"], _ = packing.pad_ids(values[:, 1], 0)
        score_N1: Tensor = self.backbone(**inputs).logits
        return score_N1.float()

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write a folder that the CrossEncoder of sentence-transformers loads."""
        self.backbone.save_pretrained(folder)
        self.tokenizer.model_max_length = max_length  # read by sentence-transformers
        save_tokenizer(self.tokenizer, folder)
        write_cross_encoder(folder, prompts, self._st_config.settings, self._st_config.transformer)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It scores how well two texts match, of up to {max_length} tokens together."


def _special_token_layout(tokenizer: Any) -> SpecialTokenLayout:
    (before, between, after), types = special_tokens(tokenizer, 2)
    before_single, after_single = special_tokens(tokenizer, 1)[0]
    single = len(before_single), len(after_single)
    return SpecialTokenLayout(before, between, after, tuple(types), single)  # type: ignore[arg-type]

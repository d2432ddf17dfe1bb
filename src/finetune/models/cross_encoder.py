"""A cross-encoder: reads two texts at once and says how well they fit; for reranking, and for teaching.

Shapes: N pairs, T tokens of all pairs in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from finetune.config.types import CountFromZero, Fraction, NotEmptyText, PositiveInt
from finetune.data.arrays import Ints
from finetune.data.batching.pair_collator import Pairing, SpecialTokenLayout
from finetune.models.backbone import load_backbone
from finetune.models.dropout import replace_dropout
from finetune.models.encoder import Encoder
from finetune.models.layers import keep_layers as leave_out_layers
from finetune.models.packing import Packing
from finetune.models.resolve import resolve
from finetune.models.shared_grad import SharedGradEmbedding
from finetune.models.st_format.config import Use, read_st_config
from finetune.models.st_format.write import write_cross_encoder
from finetune.models.tokenizer import check_vocabulary, load_tokenizer, marks


class CrossEncoder(Encoder):
    """Pairs of texts in, one score of each `(N, 1)` in fp32 out: a logit, without bounds.

    `negatives` is how many positives of other rows a row is scored for beside its own, where the data has no scores.

    Source: Nogueira and Cho 2019, https://arxiv.org/abs/1901.04085.

    Raises:
        ModelError: the model cannot be had, is damaged, gives more than one score, or has no safetensors weights.
    """

    scores_pairs: ClassVar[bool] = True
    layout: ClassVar[Use] = "pairs"
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
        self._found = read_st_config(resolve(name, self.files, allow_pickle), self.layout)
        folder = self._found.backbone
        self.name, self.negatives = name, negatives
        settings, auto = {"num_labels": 1, "use_cache": False}, "AutoModelForSequenceClassification"
        self.backbone = load_backbone(folder, name, dropout, random_init, settings, auto, allow_pickle)
        if keep_layers is not None:
            leave_out_layers(self.backbone, keep_layers, name)
        self.tokenizer = load_tokenizer(folder, name, self._found.transformer.lower_case)
        check_vocabulary(self.tokenizer, self.backbone.get_input_embeddings().num_embeddings, name)
        (before, between, behind), types = marks(self.tokenizer, 2)
        alone = marks(self.tokenizer, 1)[0]
        self.frame = SpecialTokenLayout(before, between, behind, tuple(types), (len(alone[0]), len(alone[1])))  # type: ignore[arg-type]
        self._typed = "token_type_ids" in self.tokenizer.model_input_names
        if self.backbone.config.pad_token_id is None:
            self.backbone.config.pad_token_id = self.pad_id  # where decoders look for a text's last token
        replace_dropout(self.backbone)

    @property
    def width(self) -> int:
        """One score."""
        return 1

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The token id that fills a row up."""
        return int(self.tokenizer.pad_token_id or 0)

    def pairing(self, max_length: int) -> Pairing:
        """Return how two texts become one sequence of at most `max_length` tokens."""
        return Pairing(self.frame, max_length, self.negatives)

    def forward(
        self, values: Tensor, lengths_N: Ints | None = None, lookup: SharedGradEmbedding | None = None
    ) -> Tensor:
        """Score N pairs given as one row of token ids and types `(T, 2)` and the length of each, on the CPU."""
        assert lengths_N is not None
        packing = Packing(lengths_N, values.device)
        there_nt = packing.mask()
        padded_nt2 = packing.pad(values)
        inputs = {
            "input_ids": padded_nt2[..., 0].masked_fill(~there_nt, self.pad_id),
            "attention_mask": there_nt.long(),
        }
        if self._typed:
            inputs["token_type_ids"] = padded_nt2[..., 1].masked_fill(~there_nt, 0)
        score_N1: Tensor = self.backbone(**inputs).logits
        return score_N1.float()

    def save(self, folder: Path, max_length: int, prompts: Mapping[str, str]) -> None:
        """Write a folder that sentence-transformers' CrossEncoder loads."""
        self.backbone.save_pretrained(folder)
        self.tokenizer.model_max_length = max_length  # where sentence-transformers looks for it
        self.tokenizer.save_pretrained(folder)
        write_cross_encoder(folder, prompts, self._found.settings, self._found.transformer)

    def about(self, max_length: int) -> str:
        """Return one sentence for the model card."""
        return f"It scores how well two texts fit, of up to {max_length} tokens together."

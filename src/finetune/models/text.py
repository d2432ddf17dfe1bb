"""A text encoder: a transformers backbone, a pooling over its tokens, unit length.

Shapes: N texts, T tokens, D width.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finetune.config.types import Fraction, NotEmptyText
from finetune.data.arrays import Ints
from finetune.errors import ModelError, first_line
from finetune.models.attention import register_uncompiled
from finetune.models.dropout import replace_dropout
from finetune.models.locate import locate
from finetune.models.lookup import Lookup
from finetune.models.packed import packed
from finetune.models.packing import Packing
from finetune.models.pooling import pool, pooling_of
from finetune.models.tokenizer import load_tokenizer

_DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


class TextEncoder(nn.Module):
    """Token ids in, embeddings `(N, D)` in fp32 out.

    Raises:
        ModelError: the model cannot be had, is damaged, needs code of its own, or has no safetensors weights.
    """

    def __init__(
        self,
        name: NotEmptyText,
        pooling: Literal["auto", "mean", "cls", "max"] = "auto",
        normalize: bool = True,
        dropout: Fraction | None = None,
        random_init: bool = False,
    ) -> None:
        super().__init__()
        folder = locate(name)
        declared = pooling_of(folder)
        self.name = name
        self.pooling = pooling if pooling != "auto" else declared or "mean"
        self.normalize = normalize
        self.backbone = _load_backbone(folder, name, dropout, random_init)
        self.tokenizer = load_tokenizer(folder, name)
        self._check_vocabulary()
        self._leave_out_unused()
        replace_dropout(self.backbone)
        self._packed = packed(self.backbone, self.pad_id)

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding."""
        return int(self.backbone.config.hidden_size)

    @property
    def packs(self) -> bool:
        """Whether texts are computed without padding; if not, each call pads to its longest."""
        return self._packed is not None

    @property
    def pad_id(self) -> int:
        """The token id that fills a row up; masked, so a tokenizer without one may use any."""
        return int(self.tokenizer.pad_token_id or 0)

    def forward(self, ids_T: Tensor, lengths_N: Ints, lookup: Lookup | None = None) -> Tensor:
        """Embed N texts given as one row of token ids and the length of each, on the CPU; fastest sorted by length.

        `lookup` is the step's own, where several calls make one step.
        """
        packing = Packing(lengths_N, ids_T.device)
        if self._packed is None:
            tokens_TD = self._padded(ids_T, packing)
        else:
            tokens_TD = self._packed((lookup or self.lookup())(ids_T), packing)
        emb_ND = pool(tokens_TD, packing, self.pooling)
        return nn.functional.normalize(emb_ND, dim=-1) if self.normalize else emb_ND

    def lookup(self) -> Lookup:
        """Return what looks up the tokens of one step."""
        return Lookup(self.backbone.get_input_embeddings())

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
        self.backbone.compile(dynamic=True)

    def _padded(self, ids_T: Tensor, packing: Packing) -> Tensor:
        if packing.lengths.min() == packing.longest:
            # No mask at all keeps attention on its fast path.
            ids_nt, mask_nt = ids_T.view(-1, packing.longest), None
        else:
            mask = packing.mask()
            ids_nt, mask_nt = packing.pad(ids_T).masked_fill(~mask, self.pad_id), mask.long()
        return packing.unpad(self.backbone(input_ids=ids_nt, attention_mask=mask_nt).last_hidden_state)

    def _check_vocabulary(self) -> None:
        known, rows = len(self.tokenizer), self.backbone.get_input_embeddings().num_embeddings
        if known > rows:
            raise ModelError(
                f"model.name={self.name}: its tokenizer knows {known} tokens, its backbone has embeddings for {rows}.",
                "The tokenizer belongs to another model: take both from one folder.",
            )

    def _leave_out_unused(self) -> None:
        # BERT's pooler head never reaches the loss: it would only cost optimizer memory and stop DDP.
        pooler = getattr(self.backbone, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)


def _load_backbone(folder: Path, name: str, dropout: float | None, random_init: bool) -> Any:
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if dropout is not None:
            _set_dropout(config, dropout, name)
        if random_init:
            return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)  # type: ignore[no-untyped-call]
        # fp32 master weights, always said: transformers would take whatever the file was saved in.
        return AutoModel.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except ModelError:
        raise
    except Exception as error:
        raise _explain(error, folder, name) from error


def _set_dropout(config: Any, dropout: float, name: str) -> None:
    keys = [key for key in _DROPOUT_KEYS if hasattr(config, key)]
    if not keys:
        raise ModelError(
            f"model.dropout={dropout}: the model {name} ({config.model_type}) has no dropout to set.",
            "Leave model.dropout=null.",
        )
    for key in keys:
        setattr(config, key, dropout)


def _explain(error: Exception, folder: Path, name: str) -> ModelError:
    text = str(error)
    if "trust_remote_code" in text:
        return ModelError(
            f"model.name={name} needs Python code of its own from the hub, which is never run.",
            "Take a model of an architecture that transformers itself knows.",
        )
    if not list(folder.glob("*.safetensors")):
        return ModelError(
            f"model.name={name} has no safetensors weights (only pickles or nothing), and pickles are not read.",
            "Convert it once where you trust it: AutoModel.from_pretrained(...).save_pretrained(folder).",
        )
    return ModelError(
        f"model.name={name} cannot be read: {first_line(error)}",
        "The folder may be incomplete or damaged: get it again.",
    )

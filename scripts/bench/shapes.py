"""Models of well-known shapes with random weights, made where they are needed: nothing has to be downloaded.

The tokenizer is that of MiniLM (WordPiece, 30,522 entries) for all of them. Random weights cost the same time as
trained ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_SPECIAL = {"pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "bos_token_id": None, "eos_token_id": None}
_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# The defaults of transformers' configs are bert-base-uncased and ModernBERT-base. BERT's dropout is 0.1, of attention
# too; ModernBERT has none.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("BertConfig", {}),
    "bert-base-no-dropout": ("BertConfig", _NO_DROPOUT),
    "modernbert-base": ("ModernBertConfig", _SPECIAL),
}


def make_model(shape: str, folder: Path, tokenizer: str = MINILM, tiny: bool = False) -> Path:
    """Write a model with random weights into a folder, with the tokenizer of another one; returns the folder.

    With `tiny` it has the same architecture with two narrow layers.
    """
    import torch
    import transformers

    from finetune.models.resolve import resolve

    name, settings = SHAPES[shape]
    config = getattr(transformers, name)(**settings, **(_TINY if tiny else {}))
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    source = resolve(tokenizer)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    return folder


def step_flops(folder: Path, lengths: Sequence[int]) -> float:
    """Return the FLOPs of one training step over texts of these many tokens: forward and backward, nothing recomputed.

    For each token 6 per weight of the layers' matrices, and 12 * width per attended token and layer: N and the
    attention term of appendix B of PaLM (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311). A token attends to
    all tokens of its text, in a layer with a window to at most as many as the window has. Padding does not count.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    matrices = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "pooler" not in name
    )
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "local_attention", None)
    attended = 0
    for kind in kinds:
        widest = window + 1 if kind == "sliding_attention" and window else max(lengths)
        attended += sum(length * min(length, widest) for length in lengths)
    return 6.0 * matrices * sum(lengths) + 12.0 * config.hidden_size * attended

"""Tiny models of the real classes with random weights, one for each kind of encoder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.conftest import WORDS, make_tiny_model


def tiny(kind: str, folder: Path) -> Path:
    """Write a model of this kind into a folder, with the tokenizer of the tiny BERT where it reads texts."""
    import transformers as t

    torch.manual_seed(0)
    if kind == "bert":
        return make_tiny_model(folder)
    if kind in _TEXTS:
        name, settings = _TEXTS[kind]
        make_tiny_model(folder)
        (folder / "model.safetensors").unlink()
        config = getattr(t, f"{name}Config")(vocab_size=vocabulary(folder), pad_token_id=0, **settings)
        model = t.T5EncoderModel(config) if kind == "t5" else getattr(t, f"{name}Model")(config)
        model.save_pretrained(folder)
        return folder
    if kind in _IMAGES:
        name, settings = _IMAGES[kind]
        getattr(t, f"{name}Model")(getattr(t, f"{name}Config")(**settings)).save_pretrained(folder)
        _processor(folder)
        return folder
    make_tiny_model(folder)
    (folder / "model.safetensors").unlink()
    text = {"vocab_size": vocabulary(folder), **_TEXT, "max_position_embeddings": 64}
    vision = {**_TEXT, "image_size": 32, "patch_size": 8}
    if kind == "clip":
        text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        model = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    else:
        model = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["model_input_names"] = ["input_ids"]  # as SigLIP's own tokenizer: no mask
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model.save_pretrained(folder)
    _processor(folder, "CLIPImageProcessor" if kind == "clip" else "SiglipImageProcessor")
    return folder


def vocabulary(folder: Path) -> int:
    """Return the size of the vocabulary of the tokenizer in a folder."""
    return len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])


def _processor(folder: Path, kind: str = "ViTImageProcessor") -> None:
    size = {"height": 32, "width": 32}
    settings = {"image_processor_type": kind, "size": size, "crop_size": size, "image_mean": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"image_std": [0.5] * 3}))


_TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_DECODER = _TEXT | {"num_key_value_heads": 1, "max_position_embeddings": 64}
_TEXTS = {
    "mpnet": ("MPNet", _TEXT | {"max_position_embeddings": 66}),
    "xlm-roberta": ("XLMRoberta", _TEXT | {"max_position_embeddings": 66}),
    "modernbert": ("ModernBert", _TEXT | {"max_position_embeddings": 64}),
    "deberta": (
        "DebertaV2",
        _TEXT | {"max_position_embeddings": 64, "relative_attention": True, "pos_att_type": ["p2c"]},
    ),
    "t5": ("T5", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}),
    "qwen3": ("Qwen3", _DECODER | {"head_dim": 16}),
    "llama": ("Llama", _DECODER),
}
_IMAGES = {
    "vit": ("ViT", _TEXT | {"image_size": 32, "patch_size": 8}),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
}
TEXTS = [" ".join(WORDS[:n]) for n in (1, 3, 9, 20)] + ["red cat 7", "old tree"]

"""Which kind of encoder a folder holds, read from its JSON files and the headers of its weights; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from finetune.errors import ModelError
from finetune.models.resolve import backbone_folder
from finetune.models.st_format.json_files import read_json
from finetune.models.st_format.modules import read_modules
from finetune.models.st_format.settings import MODEL_FILE, EncoderKind
from finetune.models.weight_files import tensor_headers

# The last three have folders that only finetune writes (`checkpoint.py`).
Kind = EncoderKind | Literal["two_towers", "points", "vectors"]

_OWN: dict[str, Kind] = {"ModuleDict": "two_towers", "PointEncoder": "points", "VectorEncoder": "vectors"}
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def kind_of_folder(folder: Path) -> Kind:
    """Return the kind of encoder in a folder.

    Raises:
        ModelError: there is no model in it, or none that is supported.
    """
    try:
        own = read_json(folder / "finetune.json")
        if own:
            return _own_kind(folder, str(own.get("encoder")))
        if read_json(folder / MODEL_FILE).get("model_type") == "CrossEncoder":
            return "pairs"
        is_sentence_transformer = (folder / "modules.json").is_file()
        if is_sentence_transformer:
            first = read_modules(folder)[0].kind
            if first != "Transformer":
                return "static" if first == "StaticEmbedding" else "text_image"
        return _kind_of_backbone(backbone_folder(folder), is_sentence_transformer)
    except (OSError, ValueError, LookupError, TypeError) as error:
        what = f"{folder}: a settings file of the model is damaged ({type(error).__name__}: {error})."
        raise ModelError(what, "Get the model again.") from error


def _own_kind(folder: Path, encoder: str) -> Kind:
    if encoder not in _OWN:
        raise ModelError(f"{folder} holds a {encoder}, which this version does not read.", "Use a newer finetune.")
    return _OWN[encoder]


def _kind_of_backbone(folder: Path, is_sentence_transformer: bool) -> Kind:
    """Return the kind of a folder of transformers or model2vec."""
    names = {name for name, _ in tensor_headers(folder)}
    if "embeddings" in names or names == {"embedding.weight"}:
        return "static"
    config = read_json(folder / "config.json")
    if not config:
        raise ModelError(
            f"{folder}: there is no model in this folder: it has no config.json.",
            "Give the folder that SentenceTransformer.save or a run wrote, or save_pretrained of model and tokenizer.",
        )
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith("ForSequenceClassification") and not is_sentence_transformer:
        return "pairs"
    if "vision_config" in config and "text_config" in config:
        return "text_image"
    if not any(any(folder.glob(name)) for name in _TOKENIZERS) and (folder / "preprocessor_config.json").is_file():
        return "image"
    return "text"

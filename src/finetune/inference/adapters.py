"""Adapters of PEFT (LoRA and the like): merged into their base model once, in a folder of the cache."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path

from finetune.data.cache.store import Cache
from finetune.errors import FinetuneError, ModelError, first_line
from finetune.models.digest import digest_of
from finetune.models.resolve import ADAPTER, backbone_folder, base_of_adapter, resolve

_WEIGHTS = "adapter_model.safetensors"
_FORMAT = 1  # of the cache entries: a new number makes all of them again


def merged_folder(folder: Path) -> Path:
    """Return the same folder, or if its backbone is an adapter one with the adapter merged into its base model.

    Raises:
        ModelError: the base model is not found, or the adapter does not fit it or has no safetensors weights.
        CacheUnavailable: the merged model cannot be written.
        ValueError, AttributeError: the settings of the adapter are damaged.
    """
    inside = backbone_folder(folder)
    if not (inside / ADAPTER).is_file():
        return folder
    name = base_of_adapter(inside)
    if name is None or not (inside / _WEIGHTS).is_file():
        what = f"{folder}: its adapter has no {_WEIGHTS}, or does not name its base model."
        raise ModelError(what, "Save it with save_pretrained of PEFT, as safetensors.")
    base = backbone_folder(resolve(name, files=()))
    key = hashlib.sha256(f"{_FORMAT} {digest_of(folder)} {digest_of(base)}".encode()).hexdigest()

    def merge(draft: Path) -> None:
        target = draft / "model"
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(ADAPTER, _WEIGHTS, ".*"))
        _merge(base, inside, target / inside.relative_to(folder), name)

    return Cache().entry("merged-model", key, merge) / "model"


def _merge(base: Path, adapter: Path, target: Path, name: str) -> None:
    """Write the merged backbone, and files of the base model that the adapter does not have, such as the tokenizer."""
    from finetune.models.backbone import load_backbone

    try:
        from peft import PeftModel
    except ImportError as error:
        raise FinetuneError(
            "A model with an adapter needs the package peft.", "pip install 'finetune[lora]'"
        ) from error
    backbone = load_backbone(base, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            merged = PeftModel.from_pretrained(backbone, adapter, use_safetensors=True).merge_and_unload()
    except Exception as error:  # PEFT raises many types for weights that do not fit
        what = f"{adapter}: this adapter does not fit {name} ({first_line(error)})."
        raise ModelError(what, "Take the base model that it was trained with.") from error
    merged.save_pretrained(target)
    for file in base.iterdir():
        is_setting = file.suffix in (".json", ".txt", ".model") and not file.name.endswith(".index.json")
        if file.is_file() and is_setting and not (target / file.name).exists():
            shutil.copy(file, target)

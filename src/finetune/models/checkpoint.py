"""The folder format of encoders that no other library supports: settings as JSON, weights as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from finetune.config.home import expand_home
from finetune.errors import ModelError, first_line
from finetune.models.st_format.json_files import write_json

SETTINGS = "finetune.json"
WEIGHTS = "model.safetensors"


def save(folder: Path, module: nn.Module, settings: Mapping[str, Any]) -> None:
    """Write settings and weights into a folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, {"encoder": type(module).__name__, **settings})
    save_file({name: weight.contiguous() for name, weight in module.state_dict().items()}, folder / WEIGHTS)


def read_settings(name: str, encoder: str) -> dict[str, Any]:
    """Return the settings that an encoder was saved with.

    Raises:
        ModelError: the folder has no encoder of this class.
    """
    folder = expand_home(name)
    try:
        settings = dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"model.name={name}: no model of finetune can be read from it ({first_line(error)}).",
            "Give the folder `model` of a run, or leave model.name=null for a new one.",
        ) from error
    kind = settings.pop("encoder", None)
    if kind != encoder:
        raise ModelError(f"model.name={name} holds a {kind}, not a {encoder}.", "Set the model= that it was made with.")
    return settings


def load(name: str, module: nn.Module) -> None:
    """Load the weights of a folder into a module.

    Raises:
        ModelError: they are damaged, or do not match.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(expand_home(name) / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"model.name={name}: its weights cannot be read ({first_line(error)}).",
            "The folder may be incomplete or damaged: get it again.",
        ) from error

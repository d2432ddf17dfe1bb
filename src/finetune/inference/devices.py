"""The devices that a user names, checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.devices import choose
from finetune.errors import FinetuneError

Device = str | torch.device


def find_devices(device: Device | Sequence[Device] | None) -> list[torch.device]:
    """Return the devices to compute on; None or "auto" is the fastest one that is available.

    Raises:
        FinetuneError: there is no such device on this machine.
    """
    if device is None or isinstance(device, str | torch.device):
        return [_find(device)]
    devices = [_find(each) for each in device]
    if not devices:
        raise FinetuneError("device is an empty list.", 'Name at least one device, as in device=["cuda:0", "cuda:1"].')
    return devices


def _find(device: Device | None) -> torch.device:
    if device is None or device == "auto":
        return choose("auto")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise FinetuneError(f"device={device!r} is not a device.", f"Choose one of {_available()}.") from error
    is_available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    has_index = found.type != "cuda" or (found.index or 0) < torch.cuda.device_count()
    if not is_available.get(found.type) or not has_index:
        raise FinetuneError(f"device={device!r}: this machine has no such device.", f"Choose one of {_available()}.")
    return found


def _available() -> str:
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return ", ".join(names)

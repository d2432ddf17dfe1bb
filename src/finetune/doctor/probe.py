"""`python -m finetune.doctor.probe`: prints as JSON what torch can compute on; it may crash or hang with a driver."""

from __future__ import annotations

import json
from typing import Any

import torch

from finetune import devices
from finetune.models.varlen import device_refusal


def facts() -> dict[str, Any]:
    """Return the facts about torch and its devices; `error` says why the GPUs cannot be used, empty if they can."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16": devices.of(torch.device("cpu")).has_bf16(),
        "available": torch.cuda.is_available(),
        "gpus": [],
        "error": "",
    }
    try:
        for number in range(torch.cuda.device_count() if found["available"] else 0):
            found["gpus"].append(_gpu(torch.device("cuda", number)))
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def _gpu(device: torch.device) -> dict[str, Any]:
    operations = devices.of(device)
    free, total = torch.cuda.mem_get_info(device)
    ones = torch.ones(256, 256, device=device)
    return {
        "name": operations.name(),
        "free": free,
        "total": total,
        "bf16": operations.has_bf16(),
        "flash": device_refusal(device),  # why texts are padded, None if they are not
        "works": float((ones @ ones)[0, 0]) == 256.0,
    }


if __name__ == "__main__":
    print(json.dumps(facts()))

"""The device that computes, found by the name of an accelerator."""

from __future__ import annotations

import torch


def device_of(accelerator: str) -> torch.device:
    """Return the first device of an accelerator; `auto` is the fastest that is available."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
